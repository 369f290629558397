"""The pump: bytes of unchanged streams, moved by one task."""

import os

import attrs
import pytest
import trio
import trio.testing

from ollama_proxy.backends.backend import BackendFailed, CallerLeft, Fault
from ollama_proxy.backends.pump import Pump
from ollama_proxy.backends.wire import Connection
from tests.fakes.sockets import stream_pair

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A piece as it is on the wire."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@attrs.define
class SocketTap:
    """A caller's end that passes bytes on unframed, and marks their end."""

    stream: trio.SocketStream

    @property
    def descriptor(self) -> int:
        """Where the pump writes."""
        return self.stream.socket.fileno()

    def frame(self, chunks: list[bytes], *, complete: bool) -> bytes:
        """The bytes, and a full stop."""
        return b"".join(chunks) + (b"." if complete else b"")

    async def flush(self, rest: bytes) -> None:
        """Wait for the reader."""
        await self.stream.send_all(rest)


@attrs.define
class Bench:
    """A running pump between a backend's and a caller's socket."""

    pump: Pump
    backend: trio.SocketStream
    connection: Connection
    tap: SocketTap
    caller: trio.SocketStream
    nursery: trio.Nursery


@pytest.fixture
async def bench(nursery: trio.Nursery):  # type: ignore[no-untyped-def] # noqa: ANN201 - pytest-trio's fixture
    pump = Pump(stall_timeout_s=60.0)
    async with stream_pair() as (backend, ours), stream_pair() as (out, caller):
        await nursery.start(pump.run)
        connection = Connection(ours)
        connection.feed(HEAD)
        yield Bench(pump, backend, connection, SocketTap(out), caller, nursery)


async def test_a_stream_is_moved_to_its_end(bench: Bench) -> None:
    """Each piece is passed on when it comes; after the last one the worker goes on."""
    got = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.pump.carry, bench.connection, bench.tap)
        for piece in (b"one", b"two"):
            await bench.backend.send_all(chunk(piece))
            got.append(await bench.caller.receive_some())
        await bench.backend.send_all(END)
        got.append(await bench.caller.receive_some())

    assert [b"one", b"two", b"."] == got
    assert bench.connection.is_reusable
    assert 0 == len(bench.pump)


async def test_a_slow_reader_gets_everything(bench: Bench) -> None:
    """What the caller's socket does not take at once is flushed by the worker, in order."""
    pieces = [bytes([i]) * 50000 for i in range(100)]
    got = bytearray()

    async def produce() -> None:
        for piece in pieces:
            await bench.backend.send_all(chunk(piece))
        await bench.backend.send_all(END)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.pump.carry, bench.connection, bench.tap)
        nursery.start_soon(produce)
        await trio.testing.wait_all_tasks_blocked()
        while len(got) < 100 * 50000 + 1:
            got += await bench.caller.receive_some(7000)

    assert b"".join(pieces) + b"." == bytes(got)


@pytest.mark.parametrize(
    ("ending", "fault"), [(b"", Fault.BROKE), (b"nonsense\r\n", Fault.GARBLED)]
)
async def test_a_broken_stream_is_handed_back(bench: Bench, ending: bytes, fault: Fault) -> None:
    """A backend that closes or talks nonsense fails its own stream, and no other."""

    async def end() -> None:
        await bench.backend.send_all(chunk(b"one") + ending)
        if not ending:
            await bench.backend.aclose()

    bench.nursery.start_soon(end)
    with pytest.raises(BackendFailed) as caught:
        await bench.pump.carry(bench.connection, bench.tap)

    assert fault is caught.value.fault
    assert 0 == len(bench.pump)


async def test_a_caller_that_left_ends_the_stream(bench: Bench) -> None:
    """The first byte for nobody tells the worker."""
    bench.caller.socket.close()
    bench.nursery.start_soon(bench.backend.send_all, chunk(b"one"))
    with pytest.raises(CallerLeft):
        await bench.pump.carry(bench.connection, bench.tap)

    assert 0 == len(bench.pump)


async def test_cancelling_takes_the_stream_out(bench: Bench) -> None:
    """A worker that is cancelled while parked is free at once, and its socket let go."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.pump.carry, bench.connection, bench.tap)
            await trio.testing.wait_all_tasks_blocked()
            during = len(bench.pump)
            scope.cancel()

    assert (1, 0) == (during, len(bench.pump))


async def test_a_silent_backend_is_given_up() -> None:
    """A stream in which nothing comes for the stall time-out fails."""
    pump = Pump(stall_timeout_s=0.02)
    async with (
        stream_pair() as (_backend, ours),
        stream_pair() as (out, _caller),
        trio.open_nursery() as nursery,
    ):
        await nursery.start(pump.run)
        connection = Connection(ours)
        connection.feed(HEAD)
        with pytest.raises(BackendFailed) as caught:
            await pump.carry(connection, SocketTap(out))
        nursery.cancel_scope.cancel()

    assert Fault.SILENT is caught.value.fault


async def test_what_came_while_we_did_not_run_is_no_silence(bench: Bench) -> None:
    """A process that was stopped looks at the clock and at its sockets: what waits there counts."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.pump.carry, bench.connection, bench.tap)
        await trio.testing.wait_all_tasks_blocked()
        os.write(bench.backend.socket.fileno(), chunk(b"one"))  # without letting the pump run
        bench.pump._give_up_silent(trio.current_time() + 3600)
        kept = len(bench.pump)
        got = await bench.caller.receive_some()
        nursery.cancel_scope.cancel()

    assert (1, b"one") == (kept, got)
