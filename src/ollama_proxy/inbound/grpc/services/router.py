"""ollama_proxy.OllamaProxy: the router's own service."""

import base64
from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.json_format import ParseDict

from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.job import Job
from ollama_proxy.engine.ledger import Change
from ollama_proxy.inbound.figures import (
    Values,
    decision_of,
    efficiency_of,
    figures_of,
    unknown_mode,
)
from ollama_proxy.inbound.grpc.pb import ollama_proxy_pb2 as pb
from ollama_proxy.inbound.grpc.rpc import Rpc
from ollama_proxy.inbound.grpc.services.asking import (
    Answer,
    Stats,
    ask_for_text,
    ask_for_vectors,
    job_for,
    sender_of,
)
from ollama_proxy.inbound.grpc.services.changes import Changes
from ollama_proxy.inbound.inventory import holders, names
from ollama_proxy.inbound.text import Sender, Wanted
from ollama_proxy.policy.modes import parse_mode
from ollama_proxy.policy.refusal import Refusal, RequestRefused

M = TypeVar("M")


class OllamaProxy:
    """Serves its methods; `methods_of` finds them by their names."""

    def __init__(self, dispatcher: Dispatcher, climate: Climate, changes: Changes) -> None:
        """Make ready."""
        self._dispatcher = dispatcher
        self._climate = climate
        self._changes = changes

    # -- texts -------------------------------------------------------------------------------------

    async def generate(self, request: pb.GenerateRequest, rpc: Rpc) -> pb.GenerateResponse:
        """Answer a prompt, whole."""
        wanted = _generation(request, stream=False)
        answer = await ask_for_text(self._dispatcher, rpc, wanted, _sender(request, rpc))
        return pb.GenerateResponse(response=answer.text, **_whole(answer))

    async def generate_stream(self, request: pb.GenerateRequest, rpc: Rpc) -> None:
        """Answer a prompt, piece by piece."""

        def piece(job: Job, text: str) -> pb.GenerateResponse:
            return pb.GenerateResponse(response=text, **({} if rpc.has_begun else _first(job)))

        wanted = _generation(request, stream=True)
        answer = await ask_for_text(self._dispatcher, rpc, wanted, _sender(request, rpc), piece)
        await rpc.send(pb.GenerateResponse(**_last(answer, rpc)))

    async def chat(self, request: pb.ChatRequest, rpc: Rpc) -> pb.ChatResponse:
        """Say what comes next, whole."""
        wanted = _chat(request, stream=False)
        answer = await ask_for_text(self._dispatcher, rpc, wanted, _sender(request, rpc))
        return pb.ChatResponse(message=_said(answer.text), **_whole(answer))

    async def chat_stream(self, request: pb.ChatRequest, rpc: Rpc) -> None:
        """Say what comes next, piece by piece."""

        def piece(job: Job, text: str) -> pb.ChatResponse:
            first = {} if rpc.has_begun else _first(job)
            return pb.ChatResponse(message=_said(text), **first)

        wanted = _chat(request, stream=True)
        answer = await ask_for_text(self._dispatcher, rpc, wanted, _sender(request, rpc), piece)
        await rpc.send(pb.ChatResponse(**_last(answer, rpc)))

    async def embed(self, request: pb.EmbedRequest, rpc: Rpc) -> pb.EmbedResponse:
        """Make a vector of each text."""
        sender = _sender(request, rpc)
        answer = await ask_for_vectors(
            self._dispatcher, rpc, request.model, list(request.input), sender
        )
        vectors = [pb.Embedding(values=vector) for vector in answer.vectors]
        return pb.EmbedResponse(
            embeddings=vectors, stats=_stats(answer.stats), **_first(answer.job)
        )

    # -- what is there -----------------------------------------------------------------------------

    async def list_models(self, request: pb.ListModelsRequest, rpc: Rpc) -> pb.ListModelsResponse:
        """List the models of all healthy backends."""
        stations = [s for s in self._dispatcher.stations.values() if s.spec.enabled and s.healthy]
        loaded = {s.spec.id: names(s, s.loaded or ()) for s in stations}
        return pb.ListModelsResponse(
            models=[
                pb.Model(name=name, backends=ids, loaded_on=[i for i in ids if name in loaded[i]])
                for name, ids in sorted(holders(stations).items())
            ]
        )

    async def list_backends(
        self,
        request: pb.ListBackendsRequest,
        rpc: Rpc,
    ) -> pb.ListBackendsResponse:
        """List every backend as it stands."""
        stations = self._dispatcher.stations.values()
        return pb.ListBackendsResponse(
            backends=[_told(figures_of(s, self._climate), pb.Backend()) for s in stations]
        )

    async def route(self, request: pb.RouteRequest, rpc: Rpc) -> pb.RouteResponse:
        """Explain what would be decided now; nothing is sent."""
        wanted = Wanted(
            model=request.model,
            prompt=request.prompt,
            messages=_messages(request.messages),
            options=_options(request.options),
            stream=request.stream,
        )
        job = job_for(rpc, wanted, _sender(request, rpc))
        decision = decision_of(self._dispatcher.explain(job))
        if isinstance(decision, Refusal):
            raise RequestRefused(decision)
        return _told(decision, pb.RouteResponse())

    # -- the machine -------------------------------------------------------------------------------

    async def get_efficiency(
        self,
        request: pb.GetEfficiencyRequest,
        rpc: Rpc,
    ) -> pb.EfficiencyState:
        """Tell the mode."""
        return _told(efficiency_of(self._climate, self._dispatcher), pb.EfficiencyState())

    async def set_efficiency(
        self,
        request: pb.SetEfficiencyRequest,
        rpc: Rpc,
    ) -> pb.EfficiencyState:
        """Set the mode."""
        mode = parse_mode(request.mode)
        if mode is None:
            raise RequestRefused(unknown_mode(request.mode))
        who = rpc.visitor
        self._dispatcher.ledger.change(
            Change(
                door="grpc",
                address=who.address or rpc.peer,
                key_name=who.name,
                what=f"mode {mode.value}",
            )
        )
        self._climate.choose_mode(mode)
        self._changes.tell()
        return _told(efficiency_of(self._climate, self._dispatcher), pb.EfficiencyState())

    async def watch_state(self, request: pb.WatchStateRequest, rpc: Rpc) -> None:
        """Tell what is the case, and again when that is something else."""
        told = None
        while True:
            change, state = self._changes.next, self._state()
            if state != told:
                await rpc.send(state)
                told = state
            await self._changes.after(change)

    def _state(self) -> pb.RouterState:
        climate = self._climate
        state = pb.RouterState(
            mode=climate.mode.value,
            effective_mode=climate.effective.mode.value,
            reason=climate.effective.reason,
            thermal_state=climate.state.value,
            hottest=climate.hottest,
            backends=[
                pb.BackendHealth(
                    id=id_,
                    enabled=station.spec.enabled,
                    healthy=station.spec.enabled and station.healthy,
                    last_error=station.last_error or "",
                )
                for id_, station in self._dispatcher.stations.items()
            ],
        )
        if climate.conditions.on_battery is not None:
            state.on_battery = climate.conditions.on_battery
        return state


# -- in --------------------------------------------------------------------------------------------


def _sender(request: Any, rpc: Rpc) -> Sender:  # noqa: ANN401 - whichever has annotations
    said = request.annotations
    wishes = {
        "target": said.target,
        "latency_critical": "true" if said.latency_critical else "",
        "power_efficient": "true" if said.prefer_power_efficiency else "",
        "max_latency_ms": repr(said.max_latency_ms) if said.max_latency_ms else "",
        "max_power_watts": repr(said.max_power_watts) if said.max_power_watts else "",
        "priority": said.priority,
        "media_type": said.media_type,
    }
    given = {wish: text for wish, text in wishes.items() if text}
    return sender_of(rpc, given, said.request_id)


def _options(options: pb.GenerateOptions) -> Values:
    """Those that were given; they have Ollama's names."""
    given = {field.name: value for field, value in options.ListFields()}
    return given | ({"stop": list(options.stop)} if options.stop else {})


def _generation(request: pb.GenerateRequest, *, stream: bool) -> Wanted:
    return Wanted(
        model=request.model,
        prompt=request.prompt,
        options=_options(request.options),
        stream=stream,
    )


def _messages(messages: Sequence[pb.ChatMessage]) -> list[Values]:
    made = []
    for message in messages:
        fields: Values = {"role": message.role or "user", "content": message.content}
        if message.images:
            fields["images"] = [base64.b64encode(image).decode() for image in message.images]
        made.append(fields)
    return made


def _chat(request: pb.ChatRequest, *, stream: bool) -> Wanted:
    return Wanted(
        model=request.model,
        messages=_messages(request.messages),
        options=_options(request.options),
        stream=stream,
    )


# -- out -------------------------------------------------------------------------------------------


def _told(values: Values, message: M) -> M:
    """Plain values as a message: its fields have their names, and None is no value."""
    ParseDict(values, message, ignore_unknown_fields=True)
    return message


def _said(text: str) -> pb.ChatMessage:
    return pb.ChatMessage(role="assistant", content=text)


def _first(job: Job) -> dict[str, Any]:
    """The fields that a call's first message has."""
    decision = job.decision
    assert decision is not None, "it was answered"  # noqa: S101 - by one that was chosen
    return {
        "backend": decision.backend,
        "request_id": job.request_id,
        "routing": pb.RoutingMetadata(
            backend=decision.backend,
            reason=decision.reason.value,
            estimated_power_watts=decision.watts,
            estimated_latency_ms=decision.predicted_s * 1000,
            alternatives=decision.alternatives,
            queue_ms=job.queue_s * 1000,
        ),
    }


def _end(answer: Answer) -> dict[str, Any]:
    """The fields that a call's last message has."""
    return {
        "stats": _stats(answer.stats),
        "finish_reason": answer.finish_reason,
        "done": True,
        "backend": _first(answer.job)["backend"],
        "request_id": answer.job.request_id,
    }


def _whole(answer: Answer) -> dict[str, Any]:
    return {**_first(answer.job), **_end(answer)}


def _last(answer: Answer, rpc: Rpc) -> dict[str, Any]:
    """The same; it is the first as well where the answer has no text."""
    return _end(answer) if rpc.has_begun else _whole(answer)


def _stats(stats: Stats) -> pb.GenerationStats:
    energy = stats.energy
    return pb.GenerationStats(
        time_to_first_token_ms=None if stats.first_s is None else stats.first_s * 1000,
        total_time_ms=stats.whole_s * 1000,
        tokens_generated=stats.answer_tokens,
        tokens_per_second=stats.tokens_per_s,
        energy_joules=None if energy is None else energy.joules,
        energy_source="" if energy is None else energy.grade.value,
        prompt_tokens=stats.prompt_tokens,
    )
