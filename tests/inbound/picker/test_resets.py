"""Envoy resets its streams as its requests end: that is no flood, however many they are."""

import pytest
from trio.testing import MockClock

from ollama_proxy.inbound.grpc.messages import Budget
from ollama_proxy.inbound.grpc.metadata import head_of_answer
from ollama_proxy.inbound.grpc.pb import ext_proc_v3_pb2 as pb
from ollama_proxy.inbound.grpc.wire import Opened, Wire, WireLimits
from tests.inbound.grpc.peer import Peer, talk
from tests.inbound.picker.envoy import CHAT, MODES, PROCESS, at_home, body, heads, node, refused


def test_ten_thousand_requests_that_were_answered() -> None:
    """Each is reset when its request has ended; nobody is told to calm down."""
    peer, wire = Peer(), Wire(WireLimits(), Budget(1 << 20))
    talk(peer, wire)
    for number in range(10_000):
        stream_id = peer.open(path=PROCESS)
        [opened] = [each for each in talk(peer, wire) if isinstance(each, Opened)]
        wire.begin(opened.call, head_of_answer([], gzip=False))
        talk(peer, wire)
        peer.h2.reset_stream(stream_id, 8)
        talk(peer, wire, now=number / 1000)
        wire.close(opened.call)
        del peer.heard[stream_id]

    assert (None, False, {}) == (peer.goodbye, wire.is_over, wire.calls)


@pytest.mark.parametrize("what", ["picked", "refused", "in line"])
async def test_the_picker_answers_before_it_is_left(what: str) -> None:
    """More of them than may be opened for nothing: after a pick, a refusal, or in line."""
    many = WireLimits().resets + 50
    async with at_home(node(), queue=4) as home:
        if what == "in line":
            await home.stream().ask()
        for _ in range(many):
            stream = home.stream()
            if what == "refused":
                refused(await stream.ask(b"{"))
            elif what == "picked":
                await stream.ask()
            else:
                config = pb.ProtocolConfiguration(request_body_mode=MODES.FULL_DUPLEX_STREAMED)
                told = [(":method", "POST"), (":path", CHAT), (":authority", "localhost")]
                await stream.say(request_headers=heads(told), protocol_config=config)
                await stream.say(request_body=pb.HttpBody(body=body(), end_of_stream=True))
                while not home.client.peer.heard[stream.id].headers:
                    await home.client.listen()
            await stream.reset()
            await home.settle()
        waiting = len(home.dispatcher.stations["npu"].line)

    assert (None, 0) == (home.client.peer.goodbye, waiting)


async def test_one_caller_of_envoys_ends_nobody_elses_request(autojump_clock: MockClock) -> None:
    """More than may be opened for nothing, taken back in the moment in which they come: others wait on."""
    async with at_home(node(slots=1)) as home:
        first, second = home.stream(), home.stream()
        await first.ask()
        held = await second.ask()
        for _ in range(WireLimits().resets + 50):
            gone = home.client.peer.open(path=PROCESS)
            home.client.peer.h2.reset_stream(gone, 8)
            await home.client.flush()
        await home.settle()
        await first.answer()
        await first.end()
        pointed = await second.hear()

    assert held.HasField("override_message_timeout")
    assert pointed.HasField("request_body")
    assert home.client.peer.goodbye is None
