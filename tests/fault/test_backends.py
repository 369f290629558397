"""A backend that misbehaves in every way: its caller gets a whole answer or is told that there is none."""

import json
from collections.abc import Callable

import attrs
import pytest
import trio

from tests.fakes.ollama import Behaviour, Then
from tests.fault.house import House
from tests.fault.outcome import PATHS, TOKENS, End, chat, end_of

HEAD = "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{framing}\r\n"
PIECE = 'data: {"choices":[{"index":0,"delta":{"content":" tok"}}]}\n\n'
WHOLE = '{"choices":[{"index":0,"message":{"role":"assistant","content":"tok"}}]}'
EVENTS = HEAD.format(kind="text/event-stream", framing="transfer-encoding: chunked\r\n")


def chunk(data: str) -> str:
    """One, as HTTP frames it."""
    return f"{len(data):x}\r\n{data}\r\n"


def sized(length: int) -> str:
    """The head of a whole answer that says how long it is."""
    return HEAD.format(kind="application/json", framing=f"content-length: {length}\r\n")


@attrs.frozen(kw_only=True)
class Fault:
    """What a backend does, and what its caller gets instead of a whole answer.

    Attributes:
        says: and nothing else.
        then: does this.
        stream: the caller asked for a stream.
        end: what becomes of it, where no other backend may answer.
        status: of the answer.
    """

    says: str = ""
    then: Then = Then.CLOSE
    stream: bool = True
    end: End = End.TOLD
    status: int = 502


BEGUN = EVENTS + chunk(PIECE) + chunk(PIECE)
FAULTS = {
    "closes at once": Fault(),
    "resets at once": Fault(then=Then.RESET),
    "ends its side at once": Fault(then=Then.HALF_CLOSE),
    "is silent": Fault(then=Then.HANG, status=504),
    "is silent within its head": Fault(says="HTTP/1.1 200 OK\r\nconte", then=Then.HANG, status=504),
    "is silent after its head": Fault(says=EVENTS, then=Then.HANG, status=504),
    "closes within its head": Fault(says="HTTP/1.1 200 OK\r\nconte"),
    "closes after its head": Fault(says=EVENTS),
    "is silent within its stream": Fault(says=BEGUN, then=Then.HANG, status=200),
    "closes within its stream": Fault(says=BEGUN, status=200),
    "resets within its stream": Fault(says=BEGUN, then=Then.RESET, status=200),
    "ends its side within its stream": Fault(says=BEGUN, then=Then.HALF_CLOSE, status=200),
    "closes within a chunk": Fault(says=BEGUN + "40\r\ndata: {", status=200),
    "gives a chunk a size that is none": Fault(says=BEGUN + "zz\r\n"),
    "gives a chunk a smaller size": Fault(says=BEGUN + "4\r\n" + PIECE + "\r\n"),
    "gives a chunk a larger size": Fault(
        says=BEGUN + chunk(PIECE).replace("\r\n", "0\r\n", 1) + "0\r\n\r\n", status=200
    ),
    "gives a chunk a huge size": Fault(says=BEGUN + "f" * 17 + "\r\n"),
    "says a length and closes before": Fault(says=sized(4000) + WHOLE, stream=False),
    "says a length and is silent before": Fault(
        says=sized(4000) + WHOLE, then=Then.HANG, stream=False, status=504
    ),
    "says two lengths": Fault(
        says=sized(10).replace("\r\n\r\n", "\r\ncontent-length: 20\r\n\r\n") + WHOLE, stream=False
    ),
    "says a length that is none": Fault(says=sized(0).replace(": 0", ": -5") + WHOLE, stream=False),
    "says a length and chunks": Fault(
        says=EVENTS.replace("\r\n\r\n", "\r\ncontent-length: 5\r\n\r\n") + chunk(PIECE)
    ),
    "says what is no HTTP": Fault(says="SSH-2.0-OpenSSH_9.6\r\n"),
    "says a head without an end": Fault(
        says="HTTP/1.1 200 OK\r\nx: " + "x" * (1 << 20), then=Then.HANG
    ),
    "says a head of many lines": Fault(
        says="HTTP/1.1 200 OK\r\n" + "x: y\r\n" * 200_000, then=Then.HANG
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_backend_that(
    house: House, fault: Fault, note: Callable[[str, float], None]
) -> None:
    """Its caller, who wants no other backend, is told in words; a stream that began ends with them."""
    await house.script("npu", behaviour="verbatim", verbatim=fault.says, then=fault.then)
    began = trio.current_time()
    answer = await house.ask(chat("npu", stream=fault.stream))
    took = trio.current_time() - began
    note("silence is given up" if fault.then is Then.HANG else "a failure is told", took)
    assert (fault.status, fault.end) == (answer.status, end_of(answer)), answer
    await house.until_log("npu")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_another_answers_for_a_backend_that(
    house: House, fault: Fault, note: Callable[[str, float], None]
) -> None:
    """Before the first byte the caller sees nothing of it; after it nothing is said twice."""
    await house.script("npu", behaviour="verbatim", verbatim=fault.says, then=fault.then)
    await house.script("cpu", tokens=TOKENS)
    began = trio.current_time()
    answer = await house.ask(chat(stream=fault.stream, x_power_efficient="true"))
    if fault.then is not Then.HANG:
        note("another takes over", trio.current_time() - began)
    has_begun = fault.status == 200
    assert (200, End.TOLD if has_begun else End.WHOLE) == (answer.status, end_of(answer)), answer
    assert (0 if has_begun else 1) == len(await house.log_of("cpu"))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
async def test_a_stream_that_breaks_off_says_so_in_each_dialect(
    house: House, path: str, reset: bool
) -> None:
    """The last thing that the caller reads is an error, and nothing that ends a whole answer."""
    await house.script(
        "npu", behaviour=Behaviour.DIE_MID_STREAM, after_tokens=5, tokens=TOKENS, reset=reset
    )
    answer = await house.ask(chat("npu", path=path))
    assert (200, End.TOLD) == (answer.status, end_of(answer, path)), answer


@pytest.mark.parametrize("path", PATHS)
async def test_a_trickle_is_an_answer(house: House, path: str) -> None:
    """Who gets it a few bytes at a time gets all of it."""
    await house.script("npu", behaviour=Behaviour.TRICKLE, trickle_bytes=40, tokens=TOKENS)
    answer = await house.ask(chat("npu", path=path))
    assert End.WHOLE is end_of(answer, path), answer


async def test_a_line_of_ten_megabytes_passes(house: House) -> None:
    """What is only passed on may be of any length, and costs its length once."""
    line = "data: " + json.dumps({"choices": [], "x": "y" * (10 << 20)}) + "\n\n"
    done = PIECE * TOKENS + "data: [DONE]\n\n"
    says = EVENTS + chunk(line) + chunk(done) + "0\r\n\r\n"
    await house.script("npu", behaviour="verbatim", verbatim=says)
    answer = await house.ask(chat("npu"))
    assert End.WHOLE is end_of(answer)
    assert len(line) + len(done) == len(answer.body)


async def test_a_line_too_long_to_translate_is_told(house: House) -> None:
    """Where it must be understood it is bounded: the caller is told, and the memory given back."""
    says = HEAD.format(kind="application/x-ndjson", framing="transfer-encoding: chunked\r\n")
    says += chunk('{"message":{"content":"' + "y" * (4 << 20))
    await house.script(
        "npu",
        unserved=["/v1/*"],
        behaviour="verbatim",
        verbatim=says,
        then=Then.HANG,
        misbehaves_at=["/api/chat"],
    )
    answer = await house.ask(chat("npu"))
    assert (502, End.TOLD) == (answer.status, end_of(answer)), answer


async def test_more_than_was_announced_is_nobodys(house: House) -> None:
    """Bytes after an answer are not taken for the next one's: who got them with it is told."""
    says = sized(len(WHOLE)) + WHOLE + sized(3) + "bad"
    await house.script("npu", behaviour="verbatim", verbatim=says, then=Then.HANG, times=1)
    async with house.connected() as client:
        first = await house.ask(chat("npu", stream=False), client)
        second = await house.ask(chat("npu", stream=False), client)
    assert (502, End.TOLD) == (first.status, end_of(first)), first
    assert (200, End.WHOLE) == (second.status, end_of(second)), second
