"""Text that is wanted, and tokens that come: what the doors that speak of both are promised."""

import json
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio

from ollama_proxy.engine.job import Head, Job
from ollama_proxy.inbound.text import (
    End,
    Sender,
    Wanted,
    make_job,
    make_vector_job,
)
from ollama_proxy.policy.ask import Call, Priority
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

SENDER = Sender(request_id="mine", door="it", arrived=1.0)


@attrs.define
class Ear:
    """A listener that notes what it hears."""

    heard: list[object] = attrs.field(factory=list)

    async def token(self, job: Job, text: str) -> None:  # noqa: ARG002 - as `Listener` has it
        """Note a token."""
        self.heard.append(text)

    async def end(self, job: Job, end: End) -> None:  # noqa: ARG002 - as above
        """Note the end."""
        self.heard.append(end)

    async def vectors(self, job: Job, vectors: Sequence[Sequence[float]]) -> None:  # noqa: ARG002 - as above
        """Note vectors."""
        self.heard.append(vectors)

    def refuse(self, job: Job, refusal: Refusal) -> None:  # noqa: ARG002 - as above
        """Note why not."""
        self.heard.append((refusal.code, refusal.message))

    def done(self, job: Job) -> None:  # noqa: ARG002 - as above
        """Note that it is over."""
        self.heard.append("done")


def body_of(job: Job) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(bytes(job.errand.body))
    return told


async def hear(job: Job, *pieces: bytes, status: int = 200) -> list[object]:
    """Give an answer in pieces; what its listener hears."""
    head = Head(status=status, headers=())
    await job.caller.begin(job, head, pieces[0], complete=len(pieces) == 1)
    for at, piece in enumerate(pieces[1:], 2):
        await job.caller.write(piece, complete=at == len(pieces))
    job.caller.done(job)
    listener: Ear = job.caller.listener  # type: ignore[attr-defined]  # every caller here has one
    return listener.heard


def text_job(**wanted: Any) -> Job:
    return make_job(Wanted(**({"model": "m", "prompt": "p"} | wanted)), SENDER, Ear())


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("line", [b'{"response":"\xff"}\n', b'{"message":' + b"[" * 100_000])
async def test_an_answer_that_is_no_text_is_a_failure_of_the_backend(
    line: bytes, status: int
) -> None:
    """It is told, whatever bytes they are, and nothing is raised."""
    heard = await hear(text_job(), line, status=status)

    assert [Code.BACKEND_FAILED] == [told[0] for told in heard if isinstance(told, tuple)]


def test_a_prompt_is_put_in_ollamas_words() -> None:
    """Options are passed as they are; a length in OpenAI's words is known, too."""
    job = text_job(options={"max_tokens": 5, "top_k": 3})

    assert Call.OLLAMA_GENERATE is job.ask.call
    assert {
        "model": "m",
        "stream": True,
        "prompt": "p",
        "options": {"num_predict": 5, "top_k": 3},
    } == body_of(job)
    assert 5 == job.ask.answer_limit


def test_a_conversation_is_a_chat() -> None:
    """With its messages untouched."""
    messages = [{"role": "user", "content": "hi"}]
    job = text_job(messages=messages, stream=False)

    assert (Call.OLLAMA_CHAT, False) == (job.ask.call, job.ask.stream)
    assert messages == body_of(job)["messages"]


def test_wishes_are_those_of_every_door() -> None:
    """In the same words, with the same faults."""
    sender = attrs.evolve(SENDER, wishes={"priority": "critical", "max_latency_ms": "400"})
    job = make_job(Wanted(model="m", prompt="p"), sender, Ear())

    assert (Priority.CRITICAL, 1.4) == (job.priority, job.deadline)
    with pytest.raises(RequestRefused) as caught:
        make_job(
            Wanted(model="m", prompt="p"), attrs.evolve(SENDER, wishes={"priority": "soon"}), Ear()
        )
    assert (Code.INVALID_REQUEST, "priority") == (
        caught.value.refusal.code,
        caught.value.refusal.param,
    )


@pytest.mark.parametrize("cut", [0, 1, 20, 40, 60, 10_000])
async def test_tokens_come_wherever_the_bytes_are_cut(cut: int) -> None:
    """Then the end, with what the server counted."""
    answer = (
        b'{"response":"Hel","done":false}\n{"response":"lo","done":false}\n'
        b'{"response":"","done":true,"done_reason":"length","prompt_eval_count":3,"eval_count":2}\n'
    )
    end = End(finish_reason="length", prompt_tokens=3, answer_tokens=2)

    assert ["Hel", "lo", end, "done"] == await hear(text_job(), answer[:cut], answer[cut:])


async def test_a_chats_tokens_are_its_messages() -> None:
    """A whole answer is one of them."""
    job = text_job(messages=[{"role": "user", "content": "hi"}], stream=False)
    answer = b'{"message":{"role":"assistant","content":"Hello"},"done":true,"done_reason":"stop"}'

    assert ["Hello", End(finish_reason="stop"), "done"] == await hear(job, answer)


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ((b'{"response":"a","done":false}\n', b'{"error":"out of memory"}\n'), Code.BACKEND_FAILED),
        ((b'{"response":"a","done":false}\n', b"<html>"), Code.BACKEND_FAILED),
        ((b'{"response":"a","done":false}\n', b""), Code.BACKEND_FAILED),
    ],
)
async def test_an_answer_that_breaks_off_is_refused_once(
    pieces: tuple[bytes, ...], code: Code
) -> None:
    """By what the server says, or because it says nothing more; later refusals are not heard."""
    job = text_job()
    heard = await hear(job, *pieces)
    job.caller.refuse(job, Refusal(Code.SHUTTING_DOWN, "late"))

    assert ["a", code, "done"] == [h[0] if isinstance(h, tuple) else h for h in heard]


@pytest.mark.parametrize(
    ("status", "code"), [(400, Code.INVALID_REQUEST), (500, Code.BACKEND_FAILED)]
)
async def test_a_backends_error_is_told_in_its_words(status: int, code: Code) -> None:
    """Whose fault it is, its status says."""
    heard = await hear(text_job(), b'{"error":', b'"no eyes"}', status=status)

    assert [(code, "no eyes"), "done"] == heard


async def test_vectors_come_together() -> None:
    """One for each input."""
    job = make_vector_job("m", ["a", "b"], SENDER, Ear())

    assert (Call.OLLAMA_EMBED, {"model": "m", "input": ["a", "b"]}) == (
        job.ask.call,
        body_of(job),
    )
    assert [[[1.0], [2.0]], "done"] == await hear(job, b'{"embeddings":[[1.0],', b"[2.0]]}")


async def test_vectors_that_are_none_are_refused() -> None:
    """Whatever came instead."""
    heard = await hear(make_vector_job("m", ["a"], SENDER, Ear()), b"{}")

    assert [Code.BACKEND_FAILED, "done"] == [h[0] if isinstance(h, tuple) else h for h in heard]


async def test_a_slow_listener_slows_whoever_writes() -> None:
    """Nothing is kept: the second token is not read before the first is taken."""
    taken = trio.Event()

    class Slow(Ear):
        async def token(self, job: Job, text: str) -> None:
            await taken.wait()
            await super().token(job, text)

    ear = Slow()
    job = make_job(Wanted(model="m", prompt="p"), SENDER, ear)
    with trio.move_on_after(0):
        await job.caller.begin(
            job, Head(status=200, headers=()), b'{"response":"a"}\n' * 5, complete=False
        )

    assert [] == ear.heard
