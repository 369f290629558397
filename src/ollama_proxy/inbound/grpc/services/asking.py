"""From a call to a job and back: the same for every service that asks for texts or vectors."""

import math
from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.job import Job
from ollama_proxy.inbound.answers import routing_headers
from ollama_proxy.inbound.grpc.rpc import Message, Rpc
from ollama_proxy.inbound.reading import RoutingHeaders
from ollama_proxy.inbound.text import (
    End,
    Sender,
    Wanted,
    make_job,
    make_vector_job,
)
from ollama_proxy.policy.energy import Spent, spent
from ollama_proxy.policy.lineage import trace_of
from ollama_proxy.policy.refusal import Refusal, RequestRefused

DOOR = "grpc"
Vectors = Sequence[Sequence[float]]


def sender_of(rpc: Rpc, wishes: Mapping[str, str], request_id: str = "") -> Sender:
    """Who asks, and what is wished: by fields, or else by metadata with the names of HTTP's headers.

    Args:
        rpc: the call; the time its caller waits is a deadline, if none is nearer.
        wishes: what the request's fields say.
        request_id: the caller's; empty: the metadata's, or made up.

    Raises:
        RequestRefused: some of it cannot be understood.
    """
    pairs = rpc.head.metadata
    if request_id:
        pairs = [pair for pair in pairs if pair[0] != b"x-request-id"]
        pairs.append((b"x-request-id", request_id.encode()))
    headers = RoutingHeaders(pairs)
    if headers.fault is not None:
        raise RequestRefused(headers.fault)
    given = {**headers.given, **wishes}
    if rpc.deadline < math.inf:
        left_ms = max(0.001, (rpc.deadline - rpc.arrived) * 1000)
        given["max_latency_ms"] = _nearer(given.get("max_latency_ms"), left_ms)
    return Sender(
        request_id=headers.request_id,
        door=DOOR,
        arrived=rpc.arrived,
        client=headers.client,
        key_name=rpc.visitor.name,
        wishes=given,
        trace=trace_of(pairs),
    )


def _nearer(wished: str | None, left_ms: float) -> str:
    """The nearer of two deadlines; one that makes no sense is for others to refuse."""
    try:
        is_nearer = wished is not None and not float(wished) > left_ms
    except ValueError:
        is_nearer = True
    return wished if is_nearer and wished is not None else repr(left_ms)


@attrs.frozen(kw_only=True)
class Stats:
    """What an answer took: seconds, joules; None where that is not known."""

    first_s: float | None
    whole_s: float
    queue_s: float
    prompt_tokens: int | None
    answer_tokens: int
    energy: Spent | None

    @property
    def tokens_per_s(self) -> float | None:
        """How fast it was written: a stream after its first token, another since its turn in line."""
        since_s = self.queue_s if self.first_s is None else self.first_s
        return self.answer_tokens / (self.whole_s - since_s) if self.whole_s > since_s else None


@attrs.frozen(kw_only=True)
class Answer:
    """A whole answer, or the end of one."""

    job: Job
    text: str
    vectors: Vectors
    finish_reason: str
    stats: Stats


@attrs.define(eq=False)
class _Ear:
    """Listens for one call. `on_token`: what to send for each; without it, they are kept."""

    rpc: Rpc
    on_token: Callable[[Job, str], Message] | None = None
    over: trio.Event = attrs.field(factory=trio.Event)
    refusal: Refusal | None = None
    texts: list[str] = attrs.field(factory=list)
    found: Vectors = ()
    ended: End | None = None
    tokens: int = 0

    async def token(self, job: Job, text: str) -> None:
        """See `Listener`. Sent here, by who brings it: a slow reader slows its backend."""
        self.tokens += 1
        if self.on_token is None:
            self.texts.append(text)
            return
        _tell_routing(self.rpc, job)
        await self.rpc.send(self.on_token(job, text))

    async def end(self, job: Job, end: End) -> None:
        """See `Listener`."""
        self.ended = end

    async def vectors(self, job: Job, vectors: Vectors) -> None:
        """See `VectorListener`."""
        self.found = vectors

    def refuse(self, job: Job, refusal: Refusal) -> None:
        """See `Listener`."""
        self.refusal = refusal

    def done(self, job: Job) -> None:
        """See `Listener`."""
        self.over.set()


def _tell_routing(rpc: Rpc, job: Job) -> None:
    if not rpc.has_begun:
        rpc.initial[:] = routing_headers(job)


async def ask_for_text(
    dispatcher: Dispatcher,
    rpc: Rpc,
    wanted: Wanted,
    sender: Sender,
    on_token: Callable[[Job, str], Message] | None = None,
) -> Answer:
    """Have a text written; with `on_token` each piece is sent as it comes.

    Raises:
        RequestRefused: there is no answer, or no more of it.
    """
    ear = _Ear(rpc, on_token)
    job = _made(rpc, sender, lambda: make_job(wanted, sender, ear))
    return await _ask(dispatcher, ear, job)


def job_for(rpc: Rpc, wanted: Wanted, sender: Sender) -> Job:
    """The job that a text would be, to ask what would become of it; nobody takes its answer.

    Raises:
        RequestRefused: some of it cannot be understood.
    """
    return make_job(wanted, sender, _Ear(rpc))


async def ask_for_vectors(
    dispatcher: Dispatcher, rpc: Rpc, model: str, inputs: Sequence[str], sender: Sender
) -> Answer:
    """Have vectors made of texts.

    Raises:
        RequestRefused: there is no answer.
    """
    ear = _Ear(rpc)
    job = _made(rpc, sender, lambda: make_vector_job(model, inputs, sender, ear))
    return await _ask(dispatcher, ear, job)


def _made(rpc: Rpc, sender: Sender, make: Callable[[], Job]) -> Job:
    # Also who is refused here is told by which name to look for it.
    rpc.initial[:] = [(b"x-request-id", sender.request_id.encode())]
    return make()


async def _ask(dispatcher: Dispatcher, ear: _Ear, job: Job) -> Answer:
    ear.rpc.is_job = True
    try:
        dispatcher.submit(job)
        await ear.over.wait()
    finally:
        # It has ended, and this does nothing; or nobody waits for it any more.
        dispatcher.withdraw(job)
    _tell_routing(ear.rpc, job)
    if ear.refusal is not None:
        raise RequestRefused(ear.refusal)
    end = ear.ended or End(finish_reason="stop")
    return Answer(
        job=job,
        text="".join(ear.texts),
        vectors=ear.found,
        finish_reason=end.finish_reason,
        stats=Stats(
            first_s=job.begun - job.arrived if job.begun is not None and job.ask.stream else None,
            whole_s=trio.current_time() - job.arrived,
            queue_s=job.queue_s,
            prompt_tokens=end.prompt_tokens,
            answer_tokens=ear.tokens if end.answer_tokens is None else end.answer_tokens,
            energy=spent(job.paid, is_final=False) if job.paid else None,
        ),
    )
