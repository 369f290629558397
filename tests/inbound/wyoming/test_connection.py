"""How long a client may keep a connection, and an answer, waiting."""

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.job import CallerLeft
from ollama_proxy.engine.ledger import Ledger
from ollama_proxy.inbound.wyoming.connection import Connection, WyomingSettings
from ollama_proxy.inbound.wyoming.memory import Memory
from ollama_proxy.inbound.wyoming.pen import Pen

SETTINGS = WyomingSettings(model="m", idle_s=300.0)


@pytest.mark.parametrize("begun", [b"", b'{"type":', b'{"type":"ping","data_length":9}\n'])
async def test_who_says_nothing_is_let_go(begun: bytes, autojump_clock: MockClock) -> None:
    """After a while, whatever has begun to come; the end is an orderly one."""
    ours, theirs = memory_stream_pair()
    connection = Connection(
        ours,
        Dispatcher(DispatchSettings(), Ledger()),
        SETTINGS,
        Memory(),
        is_draining=lambda: False,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.serve)
        await theirs.send_all(begun)
        assert b"" == await theirs.receive_some()

    assert trio.current_time() >= SETTINGS.idle_s


async def test_who_takes_nothing_is_gone(autojump_clock: MockClock) -> None:
    """Whoever waits to say something to them hears of it, and need not wait again."""
    ours, _theirs = lockstep_stream_pair()
    pen = Pen(ours, patience_s=30.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pen.write)
        for _ in range(2):
            with pytest.raises(CallerLeft):
                await pen.send(b"anybody?")

    assert pen.is_gone
    assert 30 <= trio.current_time() < 60


async def test_a_message_is_sent_whole_though_its_sender_was_cancelled() -> None:
    """Half a message would spoil all that come after it."""
    ours, theirs = lockstep_stream_pair()
    pen = Pen(ours, patience_s=30.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pen.write)
        with trio.CancelScope() as impatient:
            impatient.cancel()
            await pen.send(b"first")
        pen.post(b"second")
        heard = b""
        while len(heard) < len(b"firstsecond"):
            heard += await theirs.receive_some()
        nursery.cancel_scope.cancel()

    assert b"firstsecond" == heard
