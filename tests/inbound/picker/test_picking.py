"""A request of Envoy's becomes a job like any other, and the answer is where it goes."""

import gc
import json

import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.engine.dispatcher import DispatchSettings
from ollama_proxy.engine.job import Job, Stage
from ollama_proxy.engine.ledger import Outcome
from ollama_proxy.inbound.grpc.pb import ext_proc_v3_pb2 as pb
from ollama_proxy.inbound.picker.conversation import Conversation
from ollama_proxy.inbound.picker.desk import PickerSettings
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.refusal import Code
from tests.fleet import MODEL
from tests.inbound.picker.envoy import (
    CHAT,
    DESTINATION,
    LIMITS,
    MODES,
    Stream,
    at_home,
    body,
    changes,
    heads,
    node,
    refused,
)


async def test_a_request_is_sent_to_a_node() -> None:
    """The destination stands in the header and in the metadata, and the route is chosen anew."""
    async with at_home(node()) as home:
        answer = await home.stream().ask()
    response = answer.request_body.response
    told = answer.dynamic_metadata.fields["envoy.lb"].struct_value.fields[DESTINATION]

    assert "192.0.2.1:8001" == changes(response)[DESTINATION] == told.string_value
    assert response.clear_route_cache
    assert not response.HasField("body_mutation")


async def test_the_best_is_first_and_others_follow() -> None:
    """A list: where to go if the first does not answer."""
    async with at_home(node("npu", 8001), node("nvidia", 8002)) as home:
        answer = await home.stream().ask(None, ("x-latency-critical", "true"))

    assert "192.0.2.1:8002,192.0.2.1:8001" == changes(answer.request_body.response)[DESTINATION]


async def test_a_slot_is_taken_until_the_stream_ends() -> None:
    """From the pick on, however long the answer takes; then it is free, and the books have it once."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.ask()
        station = home.dispatcher.stations["npu"]
        before = station.in_flight
        answer = await stream.answer()
        during = station.in_flight
        await stream.end()
        await home.settle()
        after = station.in_flight
    [fact] = home.facts

    assert (1, 1, 0) == (before, during, after)
    assert (Outcome.SERVED, 200, "picker", "npu", MODEL) == (
        fact.outcome,
        fact.status,
        fact.door,
        fact.backend,
        fact.model,
    )
    assert ("npu", "only-candidate") == (
        changes(answer.response_headers.response)["x-backend-used"],
        changes(answer.response_headers.response)["x-routing-reason"],
    )


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_caller_who_leaves_frees_the_slot(how: str) -> None:
    """Envoy ends the stream before there was an answer."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.ask()
        await getattr(stream, how)()
        await home.settle()
        busy = home.dispatcher.stations["npu"].in_flight
    [fact] = home.facts

    assert (0, Outcome.LEFT) == (busy, fact.outcome)


async def test_who_waits_in_line_is_held(autojump_clock: MockClock) -> None:
    """Envoy is asked to wait longer, once; the destination comes when the slot is free."""
    async with at_home(node()) as home:
        first, second = home.stream(), home.stream()
        await first.ask()
        held = await second.ask()
        await first.answer()
        await first.end()
        pointed = await second.hear()

    assert held.WhichOneof("response") is None
    assert 3600 == held.override_message_timeout.seconds
    assert "192.0.2.1:8001" == changes(pointed.request_body.response)[DESTINATION]


async def test_a_short_wait_needs_no_word(autojump_clock: MockClock) -> None:
    """Its turn comes before Envoy grows impatient: the first that is said is where it goes."""
    async with at_home(node()) as home:
        first, second = home.stream(), home.stream()
        await first.ask()
        told = [(":method", "POST"), (":path", CHAT), (":authority", "localhost")]
        await second.say(request_headers=heads(told))
        await second.hear()
        await second.say(request_body=pb.HttpBody(body=body(), end_of_stream=True))
        await trio.sleep(0.04)
        await first.answer()
        await first.end()
        pointed = await second.hear()

    assert "192.0.2.1:8001" == changes(pointed.request_body.response)[DESTINATION]


async def test_a_request_leaves_nothing_to_the_collector() -> None:
    """What it was made of refers to one another only while it lasts: a collector's rounds are felt."""
    async with at_home(node()) as home:
        gc.collect()
        before = set(map(id, gc.get_objects()))  # other tests may have left some
        gc.disable()
        try:
            stream = home.stream()
            await stream.ask()
            await stream.answer()
            await stream.end()
            await home.settle()
            left = [
                each
                for each in gc.get_objects()
                if isinstance(each, Conversation | Job) and id(each) not in before
            ]
        finally:
            gc.enable()

    assert not left


async def test_nobody_is_held_longer_than_envoy_waits(autojump_clock: MockClock) -> None:
    """Before it gives up by itself, it is told why: the caller may try again."""
    settings = PickerSettings(limits=LIMITS, hold_s=100.0)
    async with at_home(node(), picker=settings) as home:
        await home.stream().ask()
        second = home.stream()
        await second.ask()
        status, told, headers = refused(await second.hear())
        [fact] = home.facts

    assert (429, "queue_full", "5") == (status, told["error"]["code"], headers["retry-after"])
    assert (Outcome.REFUSED, Stage.WAITING) == (fact.outcome, fact.stage)


async def test_a_deadline_that_passes_after_the_pick(autojump_clock: MockClock) -> None:
    """Is an immediate answer, for the stream may have begun elsewhere; the slot is free."""
    async with at_home(node(avg_latency_s=0.1)) as home:
        stream = home.stream()
        await stream.ask(None, ("x-max-latency-ms", "500"))
        status, told, headers = refused(await stream.hear())
        await home.settle()
        busy = home.dispatcher.stations["npu"].in_flight

    assert (504, "deadline_exceeded", "npu", 0) == (
        status,
        told["error"]["code"],
        headers["x-backend-used"],
        busy,
    )


async def test_an_alias_changes_the_body_and_its_length() -> None:
    """The node knows the model by another name."""
    npu = node(aliases={"small": MODEL})
    async with at_home(npu) as home:
        answer = await home.stream().ask(body("small"))
    response = answer.request_body.response
    sent = response.body_mutation.body

    assert MODEL == json.loads(sent)["model"]
    assert str(len(sent)) == changes(response)["content-length"]


async def test_keys_and_wishes_go_no_further() -> None:
    """A node gets its own key, never the caller's; nor cookies, nor what was said to us."""
    npu = node()
    npu.sets = ((b"authorization", b"Bearer node"),)
    given = [
        ("authorization", "Bearer caller"),
        ("x-api-key", "caller"),
        ("cookie", "c"),
        ("x-priority", "high"),
        ("x-forwarded-for", "192.0.2.7"),
        ("user-agent", "it"),
        (DESTINATION, "203.0.113.9:1"),
    ]
    async with at_home(npu) as home:
        answer = await home.stream().ask(None, *given)
    mutation = answer.request_body.response.header_mutation

    assert "Bearer node" == changes(answer.request_body.response)["authorization"]
    assert ["cookie", "x-api-key", "x-priority"] == sorted(mutation.remove_headers)


async def test_a_router_is_told_what_is_left_of_a_deadline(autojump_clock: MockClock) -> None:
    """As over HTTP: set over what the caller sent, which counts from before the line here."""
    async with at_home(node(type=BackendType.ROUTER)) as home:
        first, second = home.stream(), home.stream()
        await first.ask()
        arrived = trio.current_time()
        await second.ask(None, ("x-max-latency-ms", "60000"))
        await trio.sleep_until(arrived + 40)
        await first.answer()
        await first.end()
        response = (await second.hear()).request_body.response

    assert "20000.000" == changes(response)["x-max-latency-ms"]
    assert "x-max-latency-ms" not in response.header_mutation.remove_headers


async def test_a_router_is_told_in_our_words_what_was_wished_in_others(
    autojump_clock: MockClock,
) -> None:
    """The Gateway API's headers for it end here; what they came to goes along."""
    given = [("x-slo-ttft-ms", "60000"), ("x-gateway-inference-objective", "high")]
    async with at_home(node(type=BackendType.ROUTER)) as home:
        response = (await home.stream().ask(None, *given)).request_body.response

    told = changes(response)
    assert ("60000.000", "high") == (told["x-max-latency-ms"], told["x-priority"])
    assert {name for name, _ in given} == set(response.header_mutation.remove_headers)


async def test_a_callers_own_headers_are_not_said_again() -> None:
    """What goes along as it came stands there already, each value of it."""
    given = [("x-client-id", "it"), ("accept", "text/plain"), ("accept", "text/html")]
    async with at_home(node(type=BackendType.ROUTER)) as home:
        response = (await home.stream().ask(None, *given)).request_body.response

    assert {DESTINATION, "x-request-id"} == changes(response).keys()
    assert not response.header_mutation.remove_headers


async def test_full_duplex_answers_when_it_has_decided() -> None:
    """Nothing is said of the head before; then it, and the body piece by piece, with its end."""
    content = body(prompt="x" * 150_000)
    async with at_home(node()) as home:
        stream = home.stream()
        head, pieces = await duplex(stream, content)

    assert "192.0.2.1:8001" == changes(head.request_headers.response)[DESTINATION]
    assert head.request_headers.response.clear_route_cache
    told = [piece.request_body.response.body_mutation.streamed_response for piece in pieces]
    assert content == b"".join(piece.body for piece in told)
    assert [False, False, True] == [piece.end_of_stream for piece in told]


async def duplex(
    stream: Stream, content: bytes
) -> tuple[pb.ProcessingResponse, list[pb.ProcessingResponse]]:
    """A request as a gateway sends it; the head's answer and the body's."""
    config = pb.ProtocolConfiguration(request_body_mode=MODES.FULL_DUPLEX_STREAMED)
    told = [(":method", "POST"), (":path", "/v1/chat/completions"), (":authority", "localhost")]
    await stream.say(request_headers=heads(told), protocol_config=config)
    half = len(content) // 2
    await stream.say(request_body=pb.HttpBody(body=content[:half]))
    await stream.say(request_body=pb.HttpBody(body=content[half:]))
    await stream.say(request_body=pb.HttpBody(end_of_stream=True))
    head = await stream.hear()
    pieces = [await stream.hear()]
    while not pieces[-1].request_body.response.body_mutation.streamed_response.end_of_stream:
        pieces.append(await stream.hear())
    return head, pieces


async def test_no_node_has_the_model() -> None:
    """As at every other door, in the caller's dialect; it is a job that was refused."""
    async with at_home(node()) as home:
        status, told, headers = refused(await home.stream().ask(body("qwen2.5:1b")))
    [fact] = home.facts

    assert (404, "model_not_found") == (status, told["error"]["code"])
    assert "Did you mean" in told["error"]["message"]
    assert "application/json" == headers["content-type"]
    assert (Outcome.REFUSED, Code.MODEL_NOT_FOUND) == (fact.outcome, fact.code)


async def test_nobody_is_sent_to_two_nodes(autojump_clock: MockClock) -> None:
    """A second attempt would need a second request, which only Envoy could make."""
    settings = DispatchSettings(hedge_budget=1.0)
    nodes = node("npu", 8001), node("nvidia", 8002, avg_latency_s=0.1)
    async with at_home(*nodes, settings=settings) as home:
        stream = home.stream()
        await stream.ask(None, ("x-latency-critical", "true"), ("x-max-latency-ms", "60000"))
        await trio.sleep(30)
        busy = [station.in_flight for station in home.dispatcher.stations.values()]
        await stream.answer()

    assert [0, 1] == busy


async def test_a_node_knows_whose_child_its_work_is() -> None:
    """With traces, the request goes on with the attempt's own place in its caller's trace."""
    parent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    async with at_home(node(), traces=True) as home:
        answer = await home.stream().ask(None, ("traceparent", parent))
    told = changes(answer.request_body.response)["traceparent"]

    assert parent[:36] == told[:36]
    assert parent != told


async def test_a_bus_hears_who_was_sent_where() -> None:
    """As of any other request, and once."""
    async with at_home(node()) as home:
        await home.stream().ask(None, ("x-request-id", "mine"))

    assert [("mine", "npu")] == [(each.request_id, each.decision.backend) for each in home.routed]
