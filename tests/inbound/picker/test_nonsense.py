"""What no Envoy should say, and what no caller of it may: each is told, and nothing else suffers."""

import gzip
import tracemalloc

import pytest

from ollama_proxy.inbound.bounds import Bounds
from ollama_proxy.inbound.grpc.messages import Budget
from ollama_proxy.inbound.grpc.pb import ext_proc_v3_pb2 as pb
from ollama_proxy.inbound.picker import conversation
from ollama_proxy.policy.refusal import Code
from tests.fleet import MODEL
from tests.inbound.picker import envoy
from tests.inbound.picker.envoy import (
    CHAT,
    DESTINATION,
    LIMITS,
    MODES,
    at_home,
    body,
    changes,
    heads,
    node,
    refused,
)

HEAD = [(":method", "POST"), (":path", CHAT), (":authority", "localhost")]


@pytest.mark.parametrize(
    ("content", "more", "status", "code"),
    [
        (b"", (), 400, "invalid_request"),
        (b"{", (), 400, "invalid_request"),
        (b"[]", (), 400, "invalid_request"),
        (b"{}", (), 400, "invalid_request"),
        (gzip.compress(body()), (("content-encoding", "gzip"),), 415, "unsupported_media_type"),
        (body(), (("content-length", str(2 << 20)),), 413, "body_too_large"),
        (body(prompt="x" * (1 << 20)), (("content-length", "1"),), 413, "body_too_large"),
        (body(), (("x-priority", "vital"),), 400, "invalid_header"),
        (body(), (("x-target-backend", "gone"),), 400, "unknown_backend"),
        (body(), tuple((f"x-{n}", "1") for n in range(101)), 431, "headers_too_large"),
        (body(), (("x-a", "a" * (33 << 10)),), 431, "headers_too_large"),
        (body(), (("origin", "https://evil.example"),), 403, "forbidden"),
        (body(), (("content-type", "text/plain"),), 415, "unsupported_media_type"),
    ],
)
async def test_what_a_caller_may_not(
    content: bytes, more: tuple[tuple[str, str], ...], status: int, code: str
) -> None:
    """Is told as at the HTTP door, and booked once, as this door's."""
    async with at_home(node()) as home:
        stream = home.stream()
        if content:
            answer = await stream.ask(content, *more)
        else:
            await stream.say(request_headers=heads(HEAD, end=True))
            answer = await stream.hear()
        got, told, headers = refused(answer)
        booked = [(each.door, each.code.value) for each in home.turned]
        booked += [(fact.door, fact.code.value) for fact in home.facts if fact.code is not None]
        held = home.bounds.held

    assert (status, code) == (got, told["error"]["code"])
    assert [("picker", code)] == booked
    assert "x-request-id" in headers
    assert 0 == held


async def test_a_foreign_host() -> None:
    """A page with a rebound name reaches Envoy as well as it would reach us."""
    async with at_home(node()) as home:
        stream = home.stream()
        told = [(":method", "POST"), (":path", CHAT), (":authority", "evil.example")]
        await stream.say(request_headers=heads(told))
        status, content, _ = refused(await stream.hear())

    assert (403, "forbidden") == (status, content["error"]["code"])


async def test_a_body_that_grows_too_large() -> None:
    """Piece by piece; nothing of it is kept."""
    async with at_home(node()) as home:
        stream = home.stream()
        config = pb.ProtocolConfiguration(request_body_mode=MODES.FULL_DUPLEX_STREAMED)
        await stream.say(request_headers=heads(HEAD), protocol_config=config)
        for _ in range(LIMITS.max_body_bytes // (128 << 10) + 1):
            await stream.say(request_body=pb.HttpBody(body=b" " * (128 << 10)))
        status, content, _ = refused(await stream.hear())
        await home.settle()
        held = home.bounds.held

    assert (413, "body_too_large", 0) == (status, content["error"]["code"], held)


@pytest.mark.parametrize(
    "content",
    [b"{" * (1 << 19), body(x="x" * (1 << 19)), body("nobodys", x="x" * (1 << 19))],
    ids=["no job", "picked for", "refused"],
)
async def test_a_body_is_let_go_of_once_all_is_said(content: bytes) -> None:
    """A stream that stays open after that keeps nothing of it."""
    config = pb.ProtocolConfiguration(request_body_mode=MODES.FULL_DUPLEX_STREAMED)
    half = len(content) // 2
    async with at_home(node(slots=4), models=frozenset({MODEL})) as home:
        tracemalloc.start()
        for _ in range(4):
            stream = home.stream()
            await stream.say(request_headers=heads(HEAD), protocol_config=config)
            await stream.say(request_body=pb.HttpBody(body=content[:half]))
            await stream.say(request_body=pb.HttpBody(body=content[half:], end_of_stream=True))
            while not _is_last(await stream.hear()):
                continue
        await home.settle()
        held = tracemalloc.take_snapshot().statistics("filename")
        tracemalloc.stop()

    ours = [each.size for each in held if each.traceback[0].filename == conversation.__file__]
    assert sum(ours) < len(content)


def _is_last(answer: pb.ProcessingResponse) -> bool:
    piece = answer.request_body.response.body_mutation.streamed_response
    return answer.HasField("immediate_response") or piece.end_of_stream


async def test_a_message_that_is_too_large() -> None:
    """Larger than any body that may come: it is told so all the same, and not read to its end."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.say(request_headers=heads(HEAD))
        await stream.hear()
        length = (4 << 20).to_bytes(4, "big")
        home.client.peer.say(stream.id, b"\x00" + length + b"x")
        status, content, _ = refused(await stream.hear())
        heard = await home.client.ended(stream.id)
        [booked] = home.turned

    assert (413, "body_too_large", 0) == (status, content["error"]["code"], heard.status)
    assert ("picker", CHAT) == (booked.door, booked.path)


async def test_more_than_may_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the HTTP door, with which the bound is shared."""
    monkeypatch.setattr(Bounds, "hold", lambda *_: False)
    async with at_home(node()) as home:
        status, _, headers = refused(await home.stream().ask())

    assert (429, "1") == (status, headers["retry-after"])


async def test_more_than_may_be_received(monkeypatch: pytest.MonkeyPatch) -> None:
    """By all connections together: no fault of this body's, so it may come again."""
    monkeypatch.setattr(envoy, "Budget", lambda _: Budget(1 << 12))
    async with at_home(node()) as home:
        answer = await home.stream().ask(body(x="x" * (1 << 14)))
        status, content, headers = refused(answer)
        [booked] = home.turned

    assert (429, "queue_full", "1") == (status, content["error"]["code"], headers["retry-after"])
    assert Code.QUEUE_FULL is booked.code


@pytest.mark.parametrize(
    "said",
    [
        [{"request_headers": heads(HEAD)}, {"request_headers": heads(HEAD)}],
        [{"request_body": pb.HttpBody(body=b"{}", end_of_stream=True)}],
        [{}],
        [
            {"request_headers": heads(HEAD)},
            {"request_body": pb.HttpBody(body=body(), end_of_stream=True)},
            {"request_body": pb.HttpBody(body=body(), end_of_stream=True)},
        ],
    ],
    ids=["two heads", "no head", "no phase", "two bodies"],
)
async def test_messages_out_of_order(said: list[dict[str, object]]) -> None:
    """End the stream, and say why; a request that was picked for is let go of."""
    async with at_home(node()) as home:
        stream = home.stream()
        for each in said:
            await stream.say(**each)
        heard = await home.client.ended(stream.id)
        await home.settle()
        busy = home.dispatcher.stations["npu"].in_flight

    assert (3, 0) == (heard.status, busy)


@pytest.mark.parametrize("missing", [":path", ":method"])
async def test_a_head_without(missing: str) -> None:
    """Path or method: no request at all."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.say(request_headers=heads([pair for pair in HEAD if pair[0] != missing]))
        status, content, _ = refused(await stream.hear())

    assert (400, "invalid_request") == (status, content["error"]["code"])


async def test_an_answer_to_nothing() -> None:
    """Passes: another filter's, before we were asked."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.say(response_headers=heads([(":status", "200")]))
        head = await stream.hear()
        await stream.say(response_body=pb.HttpBody(body=b"{}", end_of_stream=True))
        content = await stream.hear()
        await stream.say(response_trailers=pb.HttpTrailers())
        trailers = await stream.hear()

    assert ["response_headers", "response_body", "response_trailers"] == [
        each.WhichOneof("response") for each in (head, content, trailers)
    ]


async def test_who_only_watches_is_sent_home() -> None:
    """Its words would be ignored, and nothing would be picked."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.say(request_headers=heads(HEAD), observability_mode=True)
        heard = await home.client.ended(stream.id)

    assert (0, b"") == (heard.status, heard.data)


@pytest.mark.parametrize("mode", [MODES.NONE, MODES.STREAMED, MODES.BUFFERED_PARTIAL, MODES.GRPC])
async def test_a_filter_that_does_not_show_the_body(mode: int) -> None:
    """Whoever runs it is told what to write instead."""
    async with at_home(node()) as home:
        status, content, _ = refused(await home.stream().ask(mode=mode))

    assert (501, True) == (status, "request_body_mode" in content["error"]["message"])


@pytest.mark.parametrize(
    ("method", "path", "goes"),
    [
        ("GET", "/v1/models", True),
        ("GET", "/v1/models/a", True),
        ("HEAD", "/api/tags", True),
        ("GET", "/api/version", True),
        ("GET", "/backends", False),
        ("POST", "/api/pull", False),
        ("DELETE", "/api/delete", False),
        ("POST", "/api/show", False),
    ],
)
async def test_what_is_no_inference(method: str, path: str, goes: bool) -> None:
    """A list comes from any node that is well, and takes no slot; the rest is not for nodes."""
    given = [(DESTINATION, "203.0.113.9:1"), ("authorization", "Bearer secret")]
    async with at_home(node()) as home:
        answer = await home.stream().ask(b"", *given, method=method, path=path)
        busy = home.dispatcher.stations["npu"].in_flight
    response = answer.request_headers.response

    assert 0 == busy
    if goes:
        assert "192.0.2.1:8001" == changes(response)[DESTINATION]
        assert "authorization" in response.header_mutation.remove_headers
    else:
        assert 404 == answer.immediate_response.status.code


@pytest.mark.parametrize("mode", [MODES.BUFFERED, MODES.FULL_DUPLEX_STREAMED])
async def test_a_list_that_is_asked_for_with_a_body(mode: int) -> None:
    """Nobody forbids it: it passes, unread."""
    async with at_home(node()) as home:
        stream = home.stream()
        told = [(":method", "GET"), (":path", "/api/tags"), (":authority", "localhost")]
        config = pb.ProtocolConfiguration(request_body_mode=mode)  # type: ignore[arg-type]  # a number is one
        await stream.say(request_headers=heads(told), protocol_config=config)
        await stream.hear()
        await stream.say(request_body=pb.HttpBody(body=b"{}", end_of_stream=True))
        answer = await stream.hear()
    piece = answer.request_body.response.body_mutation.streamed_response

    assert "request_body" == answer.WhichOneof("response")
    assert (mode == MODES.FULL_DUPLEX_STREAMED) is (piece.body == b"{}" and piece.end_of_stream)


async def test_trailers_of_no_answer() -> None:
    """The request that was picked for goes on waiting for its answer."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.ask()
        await stream.say(response_trailers=pb.HttpTrailers())
        await stream.hear()
        await home.settle()
        busy = home.dispatcher.stations["npu"].in_flight

    assert 1 == busy


async def test_a_list_with_no_node_there() -> None:
    """503, and the caller may try again."""
    async with at_home() as home:
        answer = await home.stream().ask(b"", method="GET", path="/v1/models")
        status, _, headers = refused(answer)

    assert (503, "5") == (status, headers["retry-after"])
