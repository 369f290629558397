"""compute.v1.ComputeService, for clients of earlier routers: what they may ask, in their numbers."""

import time
from collections.abc import Mapping
from typing import Any, cast

from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.job import Job
from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.figures import latest, listed, state_of, status_of, watts_of
from ollama_proxy.inbound.grpc.pb import compute_v1_pb2 as pb
from ollama_proxy.inbound.grpc.rpc import Rpc
from ollama_proxy.inbound.grpc.services.asking import (
    Stats,
    ask_for_text,
    ask_for_vectors,
    sender_of,
)
from ollama_proxy.inbound.text import Sender, Wanted
from ollama_proxy.policy.ask import Call

_JOULES_PER_WH = 3600.0
_FLOAT_DIGITS = 6  # what a float of 32 bits holds: 0.7 was meant, not 0.699999988
_STATUS = {"ok": "healthy"}


class ComputeService:
    """Serves its methods; `methods_of` finds them by their names."""

    def __init__(self, dispatcher: Dispatcher, climate: Climate) -> None:
        """Make ready."""
        self._dispatcher = dispatcher
        self._climate = climate

    async def generate(self, request: pb.GenerateRequest, rpc: Rpc) -> pb.GenerateResponse:
        """Answer a prompt, whole."""
        wanted = _wanted(request, stream=False)
        answer = await ask_for_text(self._dispatcher, rpc, wanted, _sender(request, rpc))
        return pb.GenerateResponse(
            response=answer.text,
            backend_used=_backend(answer.job),
            routing=_routing(answer.job),
            stats=_stats(answer.stats),
        )

    async def generate_stream(self, request: pb.GenerateRequest, rpc: Rpc) -> None:
        """Answer a prompt, piece by piece."""

        def piece(job: Job, text: str) -> pb.GenerateStreamResponse:
            backend = "" if rpc.has_begun else _backend(job)
            return pb.GenerateStreamResponse(token=text, backend_used=backend)

        wanted = _wanted(request, stream=True)
        answer = await ask_for_text(self._dispatcher, rpc, wanted, _sender(request, rpc), piece)
        backend = "" if rpc.has_begun else _backend(answer.job)
        await rpc.send(
            pb.GenerateStreamResponse(done=True, backend_used=backend, stats=_stats(answer.stats))
        )

    async def embed(self, request: pb.EmbedRequest, rpc: Rpc) -> pb.EmbedResponse:
        """Make a vector of a text."""
        sender = _sender(request, rpc)
        answer = await ask_for_vectors(self._dispatcher, rpc, request.model, [request.text], sender)
        return pb.EmbedResponse(
            embedding=answer.vectors[0] if answer.vectors else (),
            backend_used=_backend(answer.job),
            routing=_routing(answer.job),
        )

    async def list_backends(
        self,
        request: pb.ListBackendsRequest,
        rpc: Rpc,
    ) -> pb.ListBackendsResponse:
        """List the backends, or those of one type or kind of hardware."""
        wanted = request.type_filter.strip().lower()
        return pb.ListBackendsResponse(
            backends=[
                self._info(station)
                for station in self._dispatcher.stations.values()
                if wanted in {"", station.spec.type.value, station.spec.hardware.value}
            ]
        )

    async def health_check(
        self, request: pb.HealthCheckRequest, rpc: Rpc
    ) -> pb.HealthCheckResponse:
        """Tell how many backends are well."""
        status = status_of(self._dispatcher)
        return pb.HealthCheckResponse(
            status=_STATUS.get(status, status),
            backend_health={id_: state_of(s) for id_, s in self._dispatcher.stations.items()},
            timestamp_unix=int(time.time()),
        )

    def _info(self, station: Station) -> pb.BackendInfo:
        spec = station.spec
        first = latest(speeds.first_s for speeds in station.estimates.subjects.values())
        embeds = not station.unserved & {Call.OLLAMA_EMBED, Call.OPENAI_EMBEDDING}
        total = station.requests_total
        return pb.BackendInfo(
            id=spec.id,
            type=spec.type.value,
            name=spec.name or spec.id,
            hardware=spec.hardware.value,
            status=pb.BackendStatus(state=state_of(station), message=station.last_error or ""),
            capabilities=pb.BackendCapabilities(
                generate=True, embed=embeds, stream=True, models=listed(station.models) or ()
            ),
            metrics=pb.BackendMetrics(
                avg_latency_ms=round((spec.avg_latency_s if first is None else first.value) * 1000),
                error_rate=station.errors_total / total if total else 0.0,
                power_watts=cast("float", watts_of(station, self._climate)["value"]),
                loaded_models=listed(station.loaded) or (),
            ),
        )


def _sender(request: Any, rpc: Rpc) -> Sender:  # noqa: ANN401 - whichever has annotations
    said = request.annotations
    custom: Mapping[str, str] = said.custom
    wishes = {
        "target": said.target,
        "latency_critical": "true" if said.latency_critical else "",
        "power_efficient": "true" if said.prefer_power_efficiency else "",
        "max_latency_ms": str(said.max_latency_ms) if said.max_latency_ms else "",
        "max_power_watts": str(said.max_power_watts) if said.max_power_watts else "",
        "priority": custom.get("priority", ""),
        "media_type": custom.get("media_type", ""),
    }
    given = {wish: text for wish, text in wishes.items() if text}
    return sender_of(rpc, given, custom.get("request_id", ""))


def _wanted(request: pb.GenerateRequest, *, stream: bool) -> Wanted:
    said = request.options
    options: dict[str, object] = {}
    for field, value in said.ListFields():
        name = "num_ctx" if field.name == "context_length" else field.name
        options[name] = round(value, _FLOAT_DIGITS) if isinstance(value, float) else value
    if said.stop:
        options["stop"] = list(said.stop)
    return Wanted(model=request.model, prompt=request.prompt, options=options, stream=stream)


def _backend(job: Job) -> str:
    return job.decision.backend if job.decision is not None else ""


def _routing(job: Job) -> pb.RoutingMetadata | None:
    decision = job.decision
    if decision is None:
        return None
    return pb.RoutingMetadata(
        backend=decision.backend,
        reason=decision.reason.value,
        estimated_power_watts=decision.watts,
        estimated_latency_ms=round(decision.predicted_s * 1000),
        alternatives=decision.alternatives,
    )


def _stats(stats: Stats) -> pb.GenerationStats:
    return pb.GenerationStats(
        time_to_first_token_ms=round((stats.first_s or 0.0) * 1000),
        total_time_ms=round(stats.whole_s * 1000),
        tokens_generated=stats.answer_tokens,
        tokens_per_second=stats.tokens_per_s or 0.0,
        energy_wh=stats.energy.joules / _JOULES_PER_WH if stats.energy is not None else 0.0,
    )
