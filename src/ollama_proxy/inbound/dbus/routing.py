"""What is decided for requests, for a bus."""

from collections import deque
from itertools import islice

import attrs
import trio

from ollama_proxy.bus.message import Call, CallRefused
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.job import Job
from ollama_proxy.engine.ledger import Fact, Outcome
from ollama_proxy.engine.news import Routed
from ollama_proxy.inbound.dbus.efficiency import VERSION
from ollama_proxy.inbound.dbus.interface import read_interfaces
from ollama_proxy.inbound.dbus.tree import INVALID_ARGS, NAME, Body, Exported
from ollama_proxy.inbound.dbus.values import Variant, plain_of, record_of, text_of
from ollama_proxy.inbound.figures import Values, barred_of, decision_of
from ollama_proxy.inbound.reading import make_request_id
from ollama_proxy.inbound.text import End, Sender, Wanted, make_job
from ollama_proxy.policy.ask import WISH_NAMES
from ollama_proxy.policy.refusal import Refusal, RequestRefused

KEPT = 256
_ASKED = ("model", "prompt", "stream")


@attrs.define
class Records:
    """How many requests ended how, and what was decided last."""

    ended: dict[Outcome, int] = attrs.field(factory=lambda: dict.fromkeys(Outcome, 0))
    routed: deque[Routed] = attrs.field(factory=lambda: deque(maxlen=KEPT))

    def count(self, fact: Fact) -> None:
        """One has ended."""
        self.ended[fact.outcome] += 1

    def keep(self, routed: Routed) -> None:
        """One was given to a backend."""
        self.routed.append(routed)


def export_routing(dispatcher: Dispatcher, records: Records) -> Exported:
    """The object of that name."""

    def gauges() -> dict[str, object]:
        stations = dispatcher.stations.values()
        ended = {outcome.value: number for outcome, number in records.ended.items()}
        return {
            "Stats": record_of({"requests": sum(ended.values()), **ended}),
            "QueueDepths": {
                s.spec.id: {p.name.lower(): n for p, n in sorted(s.line.depths.items())}
                for s in stations
            },
            "InFlight": sum(station.in_flight for station in stations),
        }

    async def recent_decisions(call: Call) -> Body:
        (count,) = call.body
        now = trio.current_time()
        newest = islice(reversed(records.routed), count)
        return ([record_of(_told(routed, now)) for routed in newest],)

    async def explain(call: Call) -> Body:
        explanation = dispatcher.explain(_job(call.body[0]))
        decision = decision_of(explanation)
        if isinstance(decision, Refusal):
            refused = {"code": decision.code.value, "message": decision.message}
            decision = {"refused": refused, "candidates": barred_of(explanation)}
        return (record_of(decision),)

    (interface,) = read_interfaces(NAME + ".Routing")
    return Exported(
        interface=interface,
        constants={"Version": VERSION},
        gauges=gauges,
        methods={"RecentDecisions": recent_decisions, "Explain": explain},
    )


def _told(routed: Routed, now: float) -> Values:
    decision = routed.decision
    return {
        "request_id": text_of(routed.request_id),
        "model": routed.model,
        "priority": routed.priority.label,
        "backend": decision.backend,
        "reason": decision.reason.value,
        "alternatives": decision.alternatives,
        "predicted_ttft_ms": decision.predicted_s * 1000,
        "predicted_watts": decision.watts,
        "s_ago": round(now - routed.at, 3),
    }


def _job(request: dict[str, Variant]) -> Job:
    """A job of what is asked, never to be submitted: so it means here what it means elsewhere."""
    given = {name: plain_of(variant) for name, variant in request.items()}
    if unknown := sorted(given.keys() - {*_ASKED, *WISH_NAMES}):
        known = ", ".join((*_ASKED, *sorted(WISH_NAMES)))
        raise CallRefused(INVALID_ARGS, f"{unknown[0]}: is not one of {known}.")
    model, prompt, stream = given.get("model"), given.get("prompt", ""), given.get("stream", True)
    if not isinstance(model, str) or not isinstance(prompt, str) or not isinstance(stream, bool):
        raise CallRefused(INVALID_ARGS, "model and prompt are of type s, stream is of type b.")
    for wish in filter(given.__contains__, WISH_NAMES):
        if not isinstance(given[wish], str | int | float):
            raise CallRefused(INVALID_ARGS, f"{wish}: expected a text, a number or a truth.")
    sender = Sender(
        request_id=make_request_id(),
        door="dbus",
        arrived=trio.current_time(),
        wishes={
            wish: str(given[wish]).lower() if isinstance(given[wish], bool) else str(given[wish])
            for wish in WISH_NAMES
            if wish in given
        },
    )
    try:
        return make_job(Wanted(model=model, prompt=prompt, stream=stream), sender, _Nobody())
    except RequestRefused as refused:
        raise CallRefused(INVALID_ARGS, refused.refusal.message) from None


class _Nobody:
    """Listens to nothing: what is only explained is never answered."""

    async def token(self, job: Job, text: str) -> None:
        """See `Listener`."""

    async def end(self, job: Job, end: End) -> None:
        """See `Listener`."""

    def refuse(self, job: Job, refusal: Refusal) -> None:
        """See `Listener`."""

    def done(self, job: Job) -> None:
        """See `Listener`."""
