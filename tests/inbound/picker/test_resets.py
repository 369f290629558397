"""Envoy resets its streams as its requests end: that is no flood, however many they are."""

import pytest

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
