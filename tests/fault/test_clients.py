"""Clients that leave in every phase and in every manner, that stop reading, that say nonsense."""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import pytest
import trio

from tests.fakes.ollama import Behaviour
from tests.fault.house import House
from tests.fault.outcome import PATHS, End, chat, end_of
from tests.inbound.ends import Client
from tests.inbound.killers import HANDSHAKE, KILLERS, PREFACE, Pieces, websocket_frame
from tests.routers import MODEL

ENDLESS = {"tokens": 100_000, "interval_s": 0.005}
FAST = {"tokens": 1_000_000, "token_bytes": 2000}
SILENT = {"behaviour": "hang"}
SOCKET = (
    HANDSHAKE.replace(b"GET /ws", b"GET /v1/stream/ws").replace(b": x", b": localhost") + b"\r\n"
)
QUESTION = json.dumps({
    "request_id": "1",
    "model": MODEL,
    "prompt": "hi",
    "target": "npu",
}).encode()


# -- manners of leaving ----------------------------------------------------------------------------


async def close(client: Client) -> None:
    """Politely."""
    client.leave()


async def reset(client: Client) -> None:
    """At once."""
    client.reset()


async def half_close(client: Client) -> None:
    """By saying that nothing more will come; whoever does it is left, too."""
    await client.stream.send_eof()
    with contextlib.suppress(trio.BrokenResourceError):
        await client.read_all()


async def close_after_empty_lines(client: Client) -> None:
    """With what is no request after the request, which once hid the leaving."""
    await client.send(b"\r\n\r\n")
    client.leave()


Manner = Callable[[Client], Awaitable[None]]
MANNERS: list[Manner] = [close, reset, half_close, close_after_empty_lines]


# -- phases ----------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Phase:
    """How far a client came.

    Attributes:
        says: what it has said by then.
        script: how its backend behaves.
        calls: how many calls the backend has had of it.
        hears: it waits for that, at the least.
        door: where it is.
    """

    says: Pieces
    script: Mapping[str, object] = attrs.field(factory=dict)
    calls: int = 0
    hears: bytes = b""
    door: str = "http"

    async def reach(self, house: House, client: Client) -> None:
        """Come that far."""
        first, *rest = self.says
        await client.send(first)
        for piece in rest:
            await client.read_to(b"\r\n\r\n")
            await client.send(piece)
        if self.calls:
            await house.until_log("npu", self.calls)
        if self.hears:
            await client.read_to(self.hears)


WHOLE = chat("npu", stream=False)
STREAM = chat("npu")
PULL = (
    b"POST /api/pull HTTP/1.1\r\nhost: localhost\r\nx-target-backend: npu\r\n"
    b'content-type: application/json\r\ncontent-length: 19\r\n\r\n{"model":"library"}'
)
PHASES = {
    "within a request's line": Phase(says=(STREAM[:9],)),
    "within a head": Phase(says=(STREAM[:60],)),
    "within a body": Phase(says=(STREAM[:-10],)),
    "before the answer": Phase(says=(STREAM,), script=SILENT, calls=1),
    "before the whole answer": Phase(says=(WHOLE,), script=SILENT, calls=1),
    "within the answer": Phase(says=(STREAM,), script=ENDLESS, calls=1, hears=b" tok"),
    "within lines": Phase(
        says=(chat("npu", path="/api/chat"),), script=ENDLESS, calls=1, hears=b" tok"
    ),
    "after the answer": Phase(says=(STREAM,), calls=1, hears=b"[DONE]"),
    "within the head of another kind": Phase(says=(b"GET /backends HTTP/1.1\r\nhos",)),
    "within the body of another kind": Phase(says=(PULL[:-5],)),
    "within a pull": Phase(
        says=(PULL,), script={"behaviour": "hang", "misbehaves_at": ["/api/pull"]}, calls=1
    ),
    "within a handshake": Phase(says=(SOCKET[:60],)),
    "within a frame": Phase(says=(SOCKET, websocket_frame(1, QUESTION)[:-10])),
    "within a message": Phase(says=(SOCKET, websocket_frame(1, QUESTION[:5], is_final=False))),
    "before a socket's answer": Phase(
        says=(SOCKET, websocket_frame(1, QUESTION)), script=SILENT, calls=1
    ),
    "within a socket's answer": Phase(
        says=(SOCKET, websocket_frame(1, QUESTION)), script=ENDLESS, calls=1, hears=b" tok"
    ),
    "within gRPC's preface": Phase(says=(PREFACE[:10],), door="grpc"),
    "within gRPC's first frame": Phase(says=(PREFACE + b"\0\0\x06\x04",), door="grpc"),
}


# There are no empty lines between frames.
LEAVING = {
    f"{name}-{leave.__name__}": (phase, leave)
    for name, phase in PHASES.items()
    for leave in MANNERS
    if leave is not close_after_empty_lines or (phase.door == "http" and SOCKET not in phase.says)
}


@pytest.mark.parametrize(("phase", "leave"), LEAVING.values(), ids=LEAVING)
async def test_who_leaves(
    house: House, phase: Phase, leave: Manner, note: Callable[[str, float], None]
) -> None:
    """Nothing of it is left behind, and a backend that computed for it is told at once."""
    await house.script("npu", **phase.script)
    computes = bool(phase.calls and phase.script)
    async with house.connected(phase.door) as client:
        await phase.reach(house, client)
        if phase.calls and b"/api/pull" not in phase.says[0]:
            house.asked += 1
        left_s = _shared_now_s()
        await leave(client)
        if computes:
            log = await house.until_log("npu", client_left_s=True)
            note("a backend is freed", log[0]["client_left_s"] - left_s)


def _shared_now_s() -> float:
    """By the clock that all processes of the machine share."""
    import time  # noqa: PLC0415 - the only place: Trio's clock has a zero of its own

    return time.monotonic_ns() / 1e9


@asynccontextmanager
async def taken_slots(house: House) -> AsyncIterator[None]:
    """Both slots of a backend, by those who get no answer yet."""
    await house.script("npu", **ENDLESS)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            client = await stack.enter_async_context(house.connected())
            await client.send(STREAM)
            house.asked += 1
        await house.until_log("npu", 2)
        yield


@pytest.mark.parametrize("leave", MANNERS, ids=[each.__name__ for each in MANNERS])
async def test_who_leaves_the_line(house: House, leave: Manner) -> None:
    """Its place is free at once, and no backend hears of it."""
    async with taken_slots(house), house.connected() as client:
        await client.send(STREAM)
        house.asked += 1
        await _until_queued(house, 1)
        await leave(client)
        await _until_queued(house, 0)
        assert 2 == len(await house.log_of("npu"))


async def _until_queued(house: House, count: int) -> None:
    while sum((await house.standing("npu"))["queued"].values()) != count:  # noqa: ASYNC110 - it tells when asked
        await trio.sleep(0.01)


@pytest.mark.parametrize("path", PATHS)
async def test_who_stops_reading_is_left(house: House, path: str) -> None:
    """Its backend is freed, and what is unread of it costs no more than the kernel's buffers."""
    await house.script("npu", **FAST)
    async with house.connected(buffer_bytes=4096) as client:
        await client.send(chat("npu", path=path))
        house.asked += 1
        await client.read_to(b" tok")
        await house.until_log("npu", client_left_s=True)


async def test_who_stops_reading_harms_nobody_else(house: House) -> None:
    """Beside somebody who does not read, another has its answer from the other slot."""
    await house.script("npu", **FAST, times=0)
    async with house.connected(buffer_bytes=4096) as client:
        await client.send(STREAM)
        house.asked += 1
        await client.read_to(b" tok")
        answer = await house.ask(chat("cpu"))
        assert End.WHOLE is end_of(answer)
        await house.until_log("npu", client_left_s=True)


async def test_a_socket_that_stops_reading_is_left(house: House) -> None:
    """As a connection that does: its backend is freed."""
    await house.script("npu", **FAST)
    async with house.connected(buffer_bytes=4096) as client:
        await client.send(SOCKET)
        await client.read_to(b"\r\n\r\n")
        await client.send(websocket_frame(1, QUESTION))
        house.asked += 1
        await house.until_log("npu", client_left_s=True)


@pytest.mark.parametrize("pieces", KILLERS.values(), ids=KILLERS)
async def test_what_once_killed_a_server(house: House, pieces: Pieces) -> None:
    """One connection's bytes end that connection at most."""
    async with house.connected() as client:
        with contextlib.suppress(trio.BrokenResourceError):
            for piece in pieces:
                await client.send(piece)
            await client.stream.send_eof()
            await client.read_all()


async def test_five_hundred_leave_at_once(house: House) -> None:
    """Whatever each was waiting for, nothing is left of any."""
    await house.script("npu", behaviour=Behaviour.SLOW, delay_s=0.3, tokens=50, interval_s=0.01)
    async with AsyncExitStack() as stack:
        for number in range(500):
            client = await stack.enter_async_context(house.connected())
            await client.send(STREAM[: len(STREAM) - (number % 5) * 20])
            house.asked += number % 5 == 0
        await house.until_log("npu", 2)
