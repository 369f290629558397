"""What is learned of an answer that Envoy carries, and what its caller is told where there is none."""

import json

import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.engine.ledger import Outcome
from ollama_proxy.inbound.grpc.pb import ext_proc_v3_pb2 as pb
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.preempt import Started
from ollama_proxy.policy.refusal import Code
from tests.fleet import MODEL
from tests.inbound.picker.envoy import (
    DESTINATION,
    MODES,
    Stream,
    at_home,
    body,
    changes,
    heads,
    node,
    refused,
)

SSE = ("content-type", "text/event-stream")
LOCAL = "upstream_reset_before_response_started{remote_connection_failure}"


def told_by_envoy(endpoint: str, details: str = "via_upstream") -> dict[str, object]:
    """The attributes that it is asked for."""
    message = pb.ProcessingRequest()
    fields = message.attributes["envoy.filters.http.ext_proc"].fields
    fields["upstream.address"].string_value = endpoint
    fields["response.code_details"].string_value = details
    return {"attributes": dict(message.attributes)}


@pytest.mark.parametrize(
    ("status", "kind", "code", "said"),
    [
        (500, "application/json", 502, "backend_failed"),
        (503, "text/plain", 502, "backend_failed"),
        (401, "application/json", 502, "backend_failed"),
        (302, "text/html", 502, "backend_failed"),
        (429, "application/json", 429, "queue_full"),
        (404, "application/json", 404, "model_not_found"),
        (404, "text/plain", 503, "no_backend"),
        (405, "text/plain", 503, "no_backend"),
    ],
)
async def test_a_nodes_fault_is_told_as_everywhere(
    status: int, kind: str, code: int, said: str
) -> None:
    """In the router's words: what a node says of itself is not its caller's business."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.ask()
        answer = await stream.answer(status, ("content-type", kind))
        got, content, headers = refused(answer)
        [fact] = home.facts
        busy = home.dispatcher.stations["npu"].in_flight

    assert (code, said, "npu", 0) == (
        got,
        content["error"]["code"],
        headers["x-backend-used"],
        busy,
    )
    assert (Outcome.REFUSED, Code(said)) == (fact.outcome, fact.code)


async def test_a_callers_own_fault_passes() -> None:
    """A 400 of the node's is its answer; it counts as one that was served."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.ask()
        answer = await stream.answer(400, ("content-type", "application/json"))
        await stream.end()
        await home.settle()
        [fact] = home.facts

    assert "npu" == changes(answer.response_headers.response)["x-backend-used"]
    assert (Outcome.SERVED, 400) == (fact.outcome, fact.status)


async def test_a_node_that_is_not_there_counts_and_is_asked_at_once() -> None:
    """Envoy's own 503: the next probe need not be waited for."""
    async with at_home(node()) as home:
        station = home.dispatcher.stations["npu"]
        asked: list[bool] = []
        station.watch = lambda: asked.append(True)
        stream = home.stream()
        await stream.ask()
        told = told_by_envoy("192.0.2.1:8001", LOCAL)
        status, content, _ = refused(await stream.answer(503, **told))

    assert (502, "backend_failed", 1) == (status, content["error"]["code"], station.errors_total)
    assert [True] == asked


async def test_envoys_own_word_to_its_caller_is_nobodys_fault() -> None:
    """A 413 of its own, say: it passes, and no node is blamed."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.ask()
        answer = await stream.answer(413, **told_by_envoy("", "request_payload_too_large"))
        await home.settle()
        station = home.dispatcher.stations["npu"]
        [fact] = home.facts

    assert "response_headers" == answer.WhichOneof("response")
    assert (0, 0, Outcome.LEFT) == (station.errors_total, station.in_flight, fact.outcome)


@pytest.mark.parametrize("how", ["metadata", "attributes"])
async def test_an_answer_of_another_node(how: str) -> None:
    """Envoy went down the list: the first has failed, the second has the slot and the answer."""
    async with at_home(node("npu", 8001), node("nvidia", 8002)) as home:
        stream = home.stream()
        await stream.ask(None, ("x-latency-critical", "true"))
        if how == "metadata":
            message = pb.ProcessingRequest()
            lb = message.metadata_context.filter_metadata["envoy.lb"]
            lb.fields[f"{DESTINATION}-served"].string_value = "192.0.2.1:8001"
            told: dict[str, object] = {"metadata_context": message.metadata_context}
        else:
            told = told_by_envoy("192.0.2.1:8001")
        answer = await stream.answer(200, **told)
        npu, nvidia = (home.dispatcher.stations[each] for each in ("npu", "nvidia"))
        during = (npu.in_flight, nvidia.in_flight, nvidia.errors_total)
        await stream.end()
        await home.settle()
        [fact] = home.facts

    assert (1, 0, 1) == during
    assert ("npu", "failover") == (
        changes(answer.response_headers.response)["x-backend-used"],
        changes(answer.response_headers.response)["x-routing-reason"],
    )
    assert (Outcome.SERVED, "npu", (("nvidia", "npu"),)) == (
        fact.outcome,
        fact.backend,
        fact.failovers,
    )


async def pieces(stream: Stream, count: int, *, duplex: bool = False) -> list[bytes]:
    """An answer's pieces, and what comes back of each."""
    back = []
    end = json.dumps({"usage": {"prompt_tokens": 7, "completion_tokens": count}})
    texts = [*(f"data: {n}\n\n" for n in range(count - 1)), f"data: {end}\n\n", ""]
    for text in texts:
        piece = pb.HttpBody(body=text.encode(), end_of_stream=not text)
        await stream.say(response_body=piece)
        answer = await stream.hear()
        back.append(answer.response_body.response.body_mutation.streamed_response.body)
    return back if duplex else []


async def test_an_answer_of_which_little_is_known_is_read(autojump_clock: MockClock) -> None:
    """Envoy is asked for its bytes; they tell when it began, how long it is, and what it took."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.ask()
        answer = await stream.answer(200, SSE)
        await trio.sleep(1)
        await pieces(stream, 3)
        await stream.reset()
        await home.settle()
        speeds = home.dispatcher.stations["npu"].estimates.subjects[MODEL]
        [fact] = home.facts

    assert pb.ProcessingMode.STREAMED == answer.mode_override.response_body_mode
    assert (Outcome.SERVED, 3, 7, 3) == (
        fact.outcome,
        fact.tokens,
        fact.prompt_tokens,
        fact.answer_tokens,
    )
    assert speeds.heard_at == 1.0


async def test_a_whole_answer_is_not_read() -> None:
    """Its head tells when it was there."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.ask(body(stream=False))
        answer = await stream.answer(200, ("content-type", "application/json"))

    assert not answer.HasField("mode_override")


async def test_who_leaves_in_the_middle_of_what_is_read_is_known() -> None:
    """The bytes say that there was no end."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.ask()
        await stream.answer(200, SSE)
        await stream.say(response_body=pb.HttpBody(body=b"data: 1\n\n"))
        await stream.hear()
        await stream.end()
        await home.settle()
        [fact] = home.facts

    assert Outcome.LEFT is fact.outcome


async def test_full_duplex_gives_every_byte_back() -> None:
    """As it came, with its end."""
    async with at_home(node()) as home:
        stream = home.stream()
        config = pb.ProtocolConfiguration(
            request_body_mode=MODES.FULL_DUPLEX_STREAMED,
            response_body_mode=MODES.FULL_DUPLEX_STREAMED,
        )
        told = [(":method", "POST"), (":path", "/api/chat"), (":authority", "localhost")]
        await stream.say(request_headers=heads(told), protocol_config=config)
        await stream.say(request_body=pb.HttpBody(body=body(), end_of_stream=True))
        await stream.hear()
        await stream.hear()
        answer = await stream.answer(200, SSE)
        back = await pieces(stream, 3, duplex=True)
        await stream.end()
        await home.settle()
        [fact] = home.facts

    assert not answer.HasField("mode_override")
    assert [b"data: 0\n\n", b"data: 1\n\n"] == back[:2]
    assert (b"", Outcome.SERVED, 3) == (back[-1], fact.outcome, fact.tokens)


async def test_bytes_behind_a_failed_head_are_not_answered() -> None:
    """The refusal comes first: Envoy takes any other word for a mistake."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.ask()
        await stream.say(response_headers=heads([(":status", "500")]))
        await stream.say(response_body=pb.HttpBody(body=b"{}"))
        answer = await stream.hear()

    assert "immediate_response" == answer.WhichOneof("response")


async def test_at_the_routers_end_an_answer_goes_on_without_it() -> None:
    """The stream is closed well: Envoy asks no more, and breaks nothing off."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.ask()
        await stream.answer(200, SSE)
        home.dispatcher.stop()
        heard = await home.client.ended(stream.id)

    assert (0, None) == (heard.status, heard.reset or None)


async def test_a_router_that_drains_still_says_where_to() -> None:
    """Envoy has asked here already; it goes elsewhere by the connection's goodbye."""
    async with at_home(node()) as home:
        home.dispatcher.drain()
        answer = await home.stream().ask()

    assert DESTINATION in changes(answer.request_body.response)


async def test_best_effort_is_not_put_back_once_it_was_sent(autojump_clock: MockClock) -> None:
    """Envoy cannot be asked to wait again: the critical one waits for the slot instead."""
    async with at_home(node()) as home:
        station = home.dispatcher.stations["npu"]
        station.preempts = Started.STOP
        first, second = home.stream(), home.stream()
        await first.ask(None, ("x-priority", "best-effort"))
        held = await second.ask(None, ("x-priority", "critical"))
        await first.answer()
        await first.end()
        pointed = await second.hear()

    assert held.HasField("override_message_timeout")
    assert DESTINATION in changes(pointed.request_body.response)


@pytest.mark.parametrize(("status", "code"), [(503, 429), (429, 429), (504, 504)])
async def test_a_routers_refusal_is_no_failure(status: int, code: int) -> None:
    """It answers for its nodes, and is well itself; when to come again is told on."""
    async with at_home(node(type=BackendType.ROUTER)) as home:
        stream = home.stream()
        await stream.ask()
        got, _, headers = refused(await stream.answer(status, ("retry-after", "7")))
        errors = home.dispatcher.stations["npu"].errors_total

    assert (code, "7", 0) == (got, headers["retry-after"], errors)
