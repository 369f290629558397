"""Traces for OpenTelemetry: each request that ended becomes spans, which go to a collector aside.

Imported only where a collector is configured: it needs the extra `otel`. In the event loop a request
costs an entry in a list; spans are made and sent by the one thread of `Aside`. The SDK's own batch
processor was the alternative: its thread obeys no limiter, and what it drops nobody counts.

    SERVER    chat MODEL      one for each request: events `route`, `first token`, `end`
    ├─ INTERNAL  queue        its waits in line
    └─ CLIENT    chat MODEL   attempts at a backend: events `connect`, `first token`

Names are those of the GenAI semantic conventions (gen_ai.*) where they have one, else `ollama_proxy.*`.
No prompt, answer, key, address or client's name is in them.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import attrs
import trio
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from ollama_proxy.aside import Aside
from ollama_proxy.engine.journey import Journey, Leg, new_span
from ollama_proxy.engine.ledger import Fact, Outcome
from ollama_proxy.policy.ask import Call
from ollama_proxy.policy.refusal import Code

ROOM = 4096  # requests that may wait for the collector
BATCH = 256  # requests that are sent at once
TIMEOUT_S = 5.0  # for the collector to take a batch
MODEL_MAX = 120
_FAILED_FROM = 500
_NO_FAULT = frozenset({"served", "beaten", "preempted", "caller_left"})
_COMPLETIONS = frozenset({Call.OPENAI_COMPLETION, Call.OLLAMA_GENERATE})
Attributes = dict[str, str | bool | int | float]


@attrs.frozen
class Trip:
    """A request that ended at `ended` by the engine's clock, and at `wall_ns` by the wall's."""

    fact: Fact
    journey: Journey
    ended: float
    wall_ns: int

    def at(self, moment: float) -> int:
        """A moment of the engine's in nanoseconds since 1970."""
        return self.wall_ns - round((self.ended - moment) * 1e9)


class Traces:
    """Keeps traces. `run` sends them, and must be running for it."""

    def __init__(
        self, exporter: SpanExporter, *, version: str, status_at: Callable[[str, Code], int]
    ) -> None:
        """Begin with none.

        Args:
            exporter: sends spans; called in a thread.
            version: the router's.
            status_at: HTTP's for a refusal at a door.
        """
        self.aside = Aside(
            _Collector(exporter, _Artist(version, status_at)),
            name="the exporter of traces",
            things="traces",
            room=ROOM,
        )
        self.run = self.aside.run

    def record(self, fact: Fact) -> None:
        """Keep where a request has been."""
        if fact.journey is not None and fact.journey.is_kept:
            self.aside.put(Trip(fact, fact.journey, trio.current_time(), time.time_ns()), 1)


def open_exporter(endpoint: str) -> SpanExporter:
    """Sends to an OTLP collector over HTTP; a URL without a path has the usual one."""
    # It tells of each batch that was not taken; how many were lost is said by `Aside`.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    if urlsplit(endpoint).path in {"", "/"}:
        endpoint = endpoint.rstrip("/") + "/v1/traces"
    return OTLPSpanExporter(endpoint=endpoint, timeout=TIMEOUT_S)


@attrs.define(eq=False)
class _Collector:
    """Where trips go: as spans, to whoever collects them. As `aside.Outside`."""

    exporter: SpanExporter
    artist: "_Artist"

    def write(self, things: list[Trip]) -> None:
        """Send them."""
        while things:
            batch = things[:BATCH]
            spans = [span for trip in batch for span in self.artist.draw(trip)]
            if spans and self.exporter.export(spans) is not SpanExportResult.SUCCESS:
                raise OSError("the collector does not take them (observability.otlp_endpoint)")
            del things[: len(batch)]

    def close(self) -> None:
        """Let go of the connection."""
        self.exporter.shutdown()


class _Ids(IdGenerator):
    """Ids that were given before the spans were made: backends were told them."""

    trace = span = 0

    def generate_trace_id(self) -> int:
        """See `IdGenerator`."""
        return self.trace

    def generate_span_id(self) -> int:
        """See `IdGenerator`."""
        return self.span


class _Drawn(SpanProcessor):
    """Keeps the spans that ended."""

    def __init__(self) -> None:
        """Begin with none."""
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """See `SpanProcessor`."""
        self.spans.append(span)


class _Artist:
    """Makes spans of trips, in one thread at a time."""

    def __init__(self, version: str, status_at: Callable[[str, Code], int]) -> None:
        """Begin; OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME are heeded."""
        self._status_at = status_at
        self._ids, self._drawn = _Ids(), _Drawn()
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=_resource(version),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._drawn)
        self._tracer = provider.get_tracer("ollama_proxy", version)

    def draw(self, trip: Trip) -> Sequence[ReadableSpan]:
        """All spans of a request, its own last."""
        self._drawn.spans = []
        fact, journey = trip.fact, trip.journey
        name = f"{_operation(fact.call)} {fact.model[:MODEL_MAX]}"
        self._ids.trace, self._ids.span = journey.trace, journey.span
        own = self._tracer.start_span(
            name,
            _context(journey),
            kind=SpanKind.SERVER,
            attributes=self._of_fact(fact, journey),
            start_time=trip.at(journey.arrived),
        )
        within = trace.set_span_in_context(own)
        for begun, ended in journey.waits:
            at, until = trip.at(begun), trip.at(trip.ended if ended is None else ended)
            self._ids.span = new_span()
            self._tracer.start_span("queue", within, start_time=at).end(until)
        for leg in journey.legs:
            self._draw_leg(trip, leg, name, within)
        for choice in journey.choices:
            decision = choice.decision
            told: Attributes = {
                "ollama_proxy.backend": decision.backend,
                "ollama_proxy.reason": decision.reason.value,
                "ollama_proxy.alternatives": ",".join(decision.alternatives),
                "ollama_proxy.predicted_ms": round(decision.predicted_s * 1000, 3),
                "ollama_proxy.predicted_watts": decision.candidates[0].watts,
            }
            own.add_event("route", told, trip.at(choice.at))
        if fact.first_s is not None:
            own.add_event("first token", timestamp=trip.at(journey.arrived + fact.first_s))
        own.add_event("end", {"ollama_proxy.outcome": fact.outcome.value}, trip.at(trip.ended))
        if self._status(fact) >= _FAILED_FROM:
            own.set_status(Status(StatusCode.ERROR))
        own.end(trip.at(trip.ended))
        return self._drawn.spans

    def _draw_leg(self, trip: Trip, leg: Leg, name: str, within: Context) -> None:
        fact = trip.fact
        attributes = {
            **_of_request(fact, trip.journey),
            "gen_ai.provider.name": leg.provider,
            "ollama_proxy.backend": leg.backend,
            "ollama_proxy.hedge": leg.is_hedge,
        }
        # A rival that was beaten may still be on its way out.
        ending = leg.ending or "beaten"
        if ending == "served":
            attributes |= _of_answer(fact)
        else:
            attributes["error.type"] = ending
        self._ids.span = leg.span
        span = self._tracer.start_span(
            name,
            within,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=trip.at(leg.started),
        )
        if leg.connected is not None:
            kept = "fresh" if leg.is_fresh else "kept"
            span.add_event("connect", {"ollama_proxy.connection": kept}, trip.at(leg.connected))
        if leg.begun is not None:
            span.add_event("first token", timestamp=trip.at(leg.begun))
        if ending not in _NO_FAULT:
            span.set_status(Status(StatusCode.ERROR, ending))
        span.end(trip.at(trip.ended if leg.ended is None else leg.ended))

    def _status(self, fact: Fact) -> int:
        return (fact.status or 0) if fact.code is None else self._status_at(fact.door, fact.code)

    def _of_fact(self, fact: Fact, journey: Journey) -> Attributes:
        known: dict[str, str | bool | float | None] = {
            "ollama_proxy.request_id": fact.request_id,
            "ollama_proxy.door": fact.door,
            "ollama_proxy.call": fact.call.path,
            "ollama_proxy.priority": fact.priority.label,
            "ollama_proxy.backend": fact.backend,
            "ollama_proxy.reason": None if fact.reason is None else fact.reason.value,
            "ollama_proxy.outcome": fact.outcome.value,
            "ollama_proxy.queue_ms": round(fact.queue_s * 1000, 3),
            "ollama_proxy.deadline": None if fact.deadline is None else fact.deadline.value,
            "ollama_proxy.put_back": fact.put_back or None,
            "ollama_proxy.hedged": fact.hedged or None,
            "ollama_proxy.energy_j": None if fact.energy is None else fact.energy.joules,
            "ollama_proxy.energy_source": None if fact.energy is None else fact.energy.grade.value,
            "http.response.status_code": self._status(fact) or None,
            "gen_ai.provider.name": journey.legs[-1].provider if journey.legs else None,
            "error.type": "caller_left"
            if fact.outcome is Outcome.LEFT
            else None
            if fact.code is None
            else fact.code.value,
        }
        return {**_of_request(fact, journey), **_of_answer(fact), **_told(known)}


def _resource(version: str) -> Resource:
    """Who tells all this; the owner's environment may name it otherwise."""
    found = Resource.create({"service.version": version})
    if not str(found.attributes.get("service.name", "")).startswith("unknown_service"):
        return found
    return found.merge(Resource({"service.name": "ollama-proxy"}))


def _context(journey: Journey) -> Context:
    """Whose child it is; the environment's own context is nobody's business here."""
    parent = journey.parent
    if parent is None:
        return Context()
    remote = SpanContext(
        parent.trace,
        parent.span,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState.from_header([parent.state.decode("ascii")]),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(remote), Context())


def _operation(call: Call) -> str:
    if call.embeds:
        return "embeddings"
    return "text_completion" if call in _COMPLETIONS else "chat"


def _told(known: Mapping[str, str | bool | float | None]) -> Attributes:
    """What is known."""
    return {name: value for name, value in known.items() if value is not None}


def _of_request(fact: Fact, journey: Journey) -> Attributes:
    return _told({
        "gen_ai.operation.name": _operation(fact.call),
        "gen_ai.request.model": fact.model[:MODEL_MAX],
        "gen_ai.request.stream": fact.stream,
        "gen_ai.request.max_tokens": journey.answer_limit,
    })


def _of_answer(fact: Fact) -> Attributes:
    return _told({
        "gen_ai.usage.input_tokens": fact.prompt_tokens,
        "gen_ai.usage.output_tokens": fact.answer_tokens,
        "gen_ai.response.time_to_first_chunk": fact.first_s if fact.stream else None,
    })
