"""What the lane owes to whoever connects, over real sockets, byte by byte."""

import contextlib
import functools
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable

import hypothesis
import msgspec
import pytest
import trio
from hypothesis import strategies
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.engine.job import CallerLeft
from ollama_proxy.engine.ledger import Outcome
from ollama_proxy.inbound.lane import LaneLimits, call_of, is_inference
from ollama_proxy.policy.ask import Call
from tests.fakes.sockets import stream_pair
from tests.fleet import MODEL
from tests.inbound.ends import (
    BROKEN,
    CHAT,
    HOST,
    STREAM,
    WHOLE,
    Answer,
    Connection,
    Door,
    Pairs,
    becomes,
    chunked,
    post,
    post_chunked,
    scripted,
    verbatim,
)

MIB = 1 << 20
LIMITS = LaneLimits()
SMALL = LaneLimits(max_body_bytes=MIB)
BODY = msgspec.json.encode(WHOLE)


def head(*lines: bytes, path: bytes = b"/v1/chat/completions", host: bool = True) -> bytes:
    """A request's head of these lines, and a good body behind it."""
    hosts = [b"host: " + HOST.encode()] if host else []
    return b"\r\n".join([b"POST " + path + b" HTTP/1.1", *hosts, *lines, b"", b""]) + BODY


def sized(*lines: bytes, host: bool = True) -> bytes:
    """The same, with the body's length."""
    return head(b"content-length: %d" % len(BODY), *lines, host=host)


async def refused(connection: Connection, request: bytes) -> Answer:
    """Send what may be refused before it is read; read the answer, and that the server closes."""
    with contextlib.suppress(trio.BrokenResourceError):
        await connection.send(request)
    answer = await connection.read()
    assert "close" == answer.header("connection")
    assert await connection.is_let_go()
    connection.leave()
    return answer


async def assert_serves_on(door: Door) -> None:
    """Nothing is left of those before, and who connects now is served."""
    await door.assert_nothing_is_left()
    connection = await door.connect()
    assert 200 == (await connection.ask(post())).status
    connection.leave()
    await door.assert_nothing_is_left()


class TestFirstLine:
    """Which requests are the lane's."""

    @pytest.mark.parametrize("call", Call, ids=lambda call: call.path)
    def test_each_call_is_known_by_its_path(self, call: Call) -> None:
        """A query changes nothing, and the version is not judged here."""
        path = call.path.encode()

        found = [
            call_of(b"POST " + path + rest)
            for rest in (b" HTTP/1.1", b"?beta=true HTTP/1.0", b" HTTP/1.9")
        ]

        assert [call] * 3 == found

    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"GET /api/chat HTTP/1.1",
            b"post /api/chat HTTP/1.1",
            b"POST /api/chat/ HTTP/1.1",
            b"POST /api/%63hat HTTP/1.1",
            b"POST //api/chat HTTP/1.1",
            b"POST http://localhost/api/chat HTTP/1.1",
            b"POST /api/chat",
            b"POST /api/chat HTTP/2.0",
            b"POST  /api/chat HTTP/1.1",
            b"POST /api/chat HTTP/1.1 x",
            b"POST /api/chat#x HTTP/1.1",
        ],
    )
    def test_anything_else_is_not(self, line: bytes) -> None:
        """Other methods, paths, spellings, and lines that are none."""
        assert not is_inference(line + b"\r\n")

    def test_half_a_line_is_not_judged(self) -> None:
        """The path may go on."""
        assert not is_inference(b"POST /api/chat HTTP/1.1\r")


class TestAnswers:
    """Those that are served."""

    @pytest.mark.parametrize("call", Call, ids=lambda call: call.path)
    async def test_each_call_is_served_whole(self, call: Call) -> None:
        """Status, the contract's headers and no others, length, bytes."""
        backend = scripted().say('{"text":"hello"}')
        async with Door.open(backend) as door:
            connection = await door.connect()
            answer = await connection.ask(post(call.path, x_request_id="mine"))

        expected: Pairs = [
            (b"content-type", b"application/json"),
            (b"x-request-id", b"mine"),
            (b"x-queue-ms", b"0.000"),
            (b"x-backend-used", b"npu"),
            (b"x-routing-reason", b"only-candidate"),
            (b"x-estimated-latency-ms", b"800"),
            (b"x-estimated-power-w", b"3.0"),
            (b"x-alternatives", b""),
            (b"x-energy-j", b"0.000"),
            (b"x-energy-source", b"estimated"),
            (b"content-length", b"16"),
        ]
        assert (200, b'{"text":"hello"}') == (answer.status, answer.body)
        assert expected == [
            (name, b"0.000" if name in {b"x-queue-ms", b"x-energy-j"} else value)
            for name, value in answer.headers
        ]
        assert [BODY] == [errand.body for errand in backend.errands]

    @pytest.mark.parametrize(
        ("path", "kind", "body"),
        [
            (CHAT, "text/event-stream", b"data: hel\n\ndata: lo\n\n"),
            ("/api/chat", "application/x-ndjson", b"hel\nlo\n"),
        ],
        ids=["sse", "ndjson"],
    )
    async def test_a_stream_comes_in_chunks(self, path: str, kind: str, body: bytes) -> None:
        """Each dialect in its framing; proxies on the way are asked not to hold it back."""
        async with Door.open(scripted().say("hel").say("lo")) as door:
            connection = await door.connect()
            answer = await connection.ask(post(path, STREAM))
            again = await connection.ask(post(path, STREAM))

        assert (200, body, True) == (answer.status, answer.body, answer.complete)
        assert (kind, "chunked", "no", None, None) == tuple(
            map(
                answer.header,
                [
                    "content-type",
                    "transfer-encoding",
                    "x-accel-buffering",
                    "content-length",
                    "connection",
                ],
            )
        )
        assert body == again.body

    async def test_a_piece_is_sent_when_it_is_there(self) -> None:
        """The first reaches the client while the backend still thinks about the second."""
        backend = verbatim(b"data: a\n\n", b"data: b\n\n", waits=True)
        async with Door.open(backend) as door:
            connection = await door.connect()
            await connection.send(post(json=STREAM))
            early = await connection.read_to(b"data: a\n\n")
            said = backend.said
            backend.go.set()
            late = await connection.read_to(b"0\r\n\r\n")

        assert early.endswith(b"9\r\ndata: a\n\n")
        assert (1, b"\r\n9\r\ndata: b\n\n\r\n0\r\n\r\n") == (said, late)

    async def test_a_whole_answer_of_unknown_length_is_chunked(self) -> None:
        """It is no stream, so nobody is asked not to hold it back."""
        async with Door.open(verbatim(b'{"a":', b"1}")) as door:
            connection = await door.connect()
            answer = await connection.ask(post())

        assert (b'{"a":1}', True) == (answer.body, answer.complete)
        assert ("chunked", None) == (
            answer.header("transfer-encoding"),
            answer.header("x-accel-buffering"),
        )

    async def test_space_after_a_value_is_no_part_of_it(self) -> None:
        """As RFC 9110, 5.5 has it, and as other servers read the same request."""
        async with Door.open() as door:
            connection = await door.connect()
            answer = await connection.ask(post(extra=b"x-request-id: \t mine \t \r\n"))

            assert (200, "mine") == (answer.status, answer.header("x-request-id"))

    async def test_a_query_is_let_pass(self) -> None:
        """Anthropic's clients add one."""
        async with Door.open() as door:
            connection = await door.connect()
            answer = await connection.ask(post("/v1/messages?beta=true"))

        assert 200 == answer.status

    async def test_errors_tell_what_was_decided(self) -> None:
        """A refusal after a decision has the routing headers."""
        async with Door.open(scripted().refuse(500)) as door:
            connection = await door.connect()
            answer = await connection.ask(post(x_request_id="mine"))

        told = ["x-backend-used", "x-routing-reason", "x-alternatives", "x-request-id"]
        assert (502, "backend_failed") == (answer.status, answer.json["error"]["code"])
        assert ["npu", "only-candidate", "", "mine"] == [answer.header(name) for name in told]

    async def test_errors_without_a_decision_tell_the_request(self) -> None:
        """There is an id, and nothing that was not decided."""
        async with Door.open() as door:
            connection = await door.connect()
            answer = await connection.ask(post(json={"model": "nobody-has-it"}))

        assert (404, "model_not_found") == (answer.status, answer.json["error"]["code"])
        assert answer.header("x-request-id")
        assert answer.header("x-queue-ms")
        assert None is answer.header("x-backend-used")

    async def test_a_refusal_that_may_pass_says_when(self) -> None:
        """503 comes with Retry-After."""
        async with Door.open() as door:
            door.house.station().is_down("gone")
            connection = await door.connect()
            answer = await connection.ask(post())

        assert (503, "no_backend") == (answer.status, answer.json["error"]["code"])
        assert int(answer.header("retry-after") or 0) > 0

    async def test_the_tap_gives_the_bytes_a_write_would(self) -> None:
        """What the pump frames and writes is what a client of `write` reads."""
        async with Door.open() as door:
            connection = await door.connect()

            assert connection.lane.tap() is connection.lane
            connection.lane._chunked = True
            framed = connection.lane.frame([b"ab", b"", b"c"], complete=True)

        assert b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n" == framed


class TestConnections:
    """Several requests on one, and how it ends."""

    async def test_one_connection_serves_many(self) -> None:
        """One after the other, whole and streamed, errors between."""
        async with Door.open(scripted().say("{}")) as door:
            connection = await door.connect()
            statuses = [
                (await connection.ask(request)).status
                for request in [
                    post(),
                    post(json=STREAM),
                    post(body=b"nonsense"),
                    post(),
                    post(json={"model": "unknown"}),
                    post(),
                ]
            ]

        assert [200, 200, 400, 200, 404, 200] == statuses

    async def test_pipelined_requests_are_answered_in_order(self) -> None:
        """All of them, though they came in one piece."""
        async with Door.open(scripted().say("a").say("b")) as door:
            connection = await door.connect()
            requests = [
                post(json=STREAM if number % 2 else WHOLE, x_request_id=f"{number}")
                for number in range(20)
            ]
            await connection.send(b"".join(requests))
            answers = [await connection.read() for _ in requests]

        assert [f"{number}" for number in range(20)] == [a.header("x-request-id") for a in answers]
        assert [b"ab", b"data: a\n\ndata: b\n\n"] * 10 == [answer.body for answer in answers]

    async def test_a_request_may_be_cut_anywhere(self) -> None:
        """Wherever the network divides it, it is the same request."""
        request = b"\r\n" + post(x_request_id="mine")
        backend = scripted().say("{}")
        async with Door.open(backend) as door:
            connection = await door.connect()
            for at in range(1, len(request)):
                await connection.send(request[:at])
                await wait_all_tasks_blocked()
                answer = await connection.ask(request[at:])
                assert (200, "mine") == (answer.status, answer.header("x-request-id"))

        assert [BODY] * (len(request) - 1) == [errand.body for errand in backend.errands]

    async def test_a_chunked_request_may_be_cut_anywhere(self) -> None:
        """The same for each byte of the chunks' framing."""
        request = post_chunked(chunked(BODY, size=20, trailer=b"x-a: b\r\n"))
        backend = scripted().say("{}")
        async with Door.open(backend) as door:
            for at in range(1, len(request)):
                connection = await door.connect()
                await connection.send(request[:at])
                await wait_all_tasks_blocked()
                assert 200 == (await connection.ask(request[at:])).status
                connection.leave()

        assert {BODY} == {bytes(errand.body) for errand in backend.errands}

    async def test_a_request_may_come_byte_by_byte(self) -> None:
        """As slowly as that, within the time it has."""
        async with Door.open() as door:
            connection = await door.connect()
            for byte in post():
                await connection.send(bytes([byte]))
                await wait_all_tasks_blocked()
            answer = await connection.read()

        assert 200 == answer.status

    async def test_empty_lines_between_requests_are_ignored(self, mock_clock: MockClock) -> None:
        """RFC 9112, 2.2; and they do not make an idle connection a slow one."""
        async with Door.open() as door:
            connection = await door.connect()
            first = await connection.ask(b"\r\n\r\n" + post() + b"\r\n")
            await wait_all_tasks_blocked()
            mock_clock.jump(LIMITS.head_timeout_s + 1)
            await wait_all_tasks_blocked()
            second = await connection.ask(b"\r\n" + post())

        assert (200, 200) == (first.status, second.status)

    async def test_an_idle_connection_is_closed_in_silence(self, mock_clock: MockClock) -> None:
        """After its time, without an answer to a question nobody asked."""
        async with Door.open() as door:
            connection = await door.connect()
            answer = await connection.ask(post())
            await wait_all_tasks_blocked()
            mock_clock.jump(LIMITS.idle_timeout_s)

            assert 200 == answer.status
            assert await connection.is_let_go()
            await door.assert_nothing_is_left()

    async def test_empty_lines_do_not_keep_a_connection(self, mock_clock: MockClock) -> None:
        """One now and then kept it for as long as its client liked."""
        async with Door.open() as door:
            connection = await door.connect()
            assert 200 == (await connection.ask(post())).status
            for _ in range(2):
                await wait_all_tasks_blocked()
                mock_clock.jump(LIMITS.idle_timeout_s * 0.6)
                await connection.send(b"\r\n")

            assert await connection.is_let_go()
            await door.assert_nothing_is_left()

    async def test_close_is_heeded(self) -> None:
        """Who asks for it gets the answer, and the end; what is pipelined behind is not served."""
        backend = scripted().say("{}")
        async with Door.open(backend) as door:
            connection = await door.connect()
            answer = await connection.ask(post(connection="close") + post())

            assert (200, "close") == (answer.status, answer.header("connection"))
            assert await connection.is_let_go()
        assert 1 == len(backend.errands)

    @pytest.mark.parametrize("length", ["content-length: 0\r\n", ""])
    async def test_close_is_heeded_without_a_body(self, length: str) -> None:
        """The same where the request ends with its head, and llhttp has forgotten the header."""
        request = f"POST {CHAT} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{length}\r\n"
        async with Door.open() as door:
            answer = await refused(await door.connect(), request.encode())

        assert 400 == answer.status

    async def test_the_last_answer_can_be_read_by_who_sends_on(self) -> None:
        """Closing over unread bytes would reset the connection, and take the answer with it."""
        async with Door.open() as door:
            connection = await door.connect()
            await connection.send(post(connection="close"))
            await becomes(lambda: door.house.facts)
            await connection.send(b"x" * 100_000)

            answer = await connection.read()

            assert (200, True) == (answer.status, answer.complete)
            assert await connection.is_let_go()

    async def test_another_kind_of_request_is_handed_over(self) -> None:
        """With every byte of it that was read, the connection open and idle."""
        other = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" + post()
        async with Door.open() as door:
            connection = await door.connect()
            answer = await connection.ask(post() + other)
            await connection.ended.wait()

            assert 200 == answer.status
            assert (other, -1) == (connection.rest, connection.lane.descriptor)

    async def test_an_offer_to_upgrade_is_not_taken(self) -> None:
        """Java's client makes one with each first request, whatever the body's framing."""
        offer = (
            b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABk\r\n"
        )
        backend = scripted().say("{}")
        async with Door.open(backend) as door:
            connection = await door.connect()
            answers = [
                await connection.ask(post(extra=offer)),
                await connection.ask(post_chunked(chunked(BODY, size=10), extra=offer)),
            ]

        assert [200, 200] == [answer.status for answer in answers]
        assert [BODY, BODY] == [errand.body for errand in backend.errands]


class TestBodies:
    """However they are framed, they arrive as they were."""

    async def test_ten_mebibytes_arrive_as_they_were(self) -> None:
        """With a length, and in chunks."""
        filler = b"".join(b"%08x" % number for number in range(10 * MIB // 8))
        body = b'{"model":"%b","stream":false,"prompt":"%b"}' % (MODEL.encode(), filler)
        backend = scripted().say("{}")
        async with Door.open(backend) as door:
            connection = await door.connect()
            first = await connection.ask(post(body=body))
            second = await connection.ask(post_chunked(chunked(body, size=100_000)))

        assert (200, 200) == (first.status, second.status)
        assert all(body == errand.body for errand in backend.errands)
        assert 2 == len(backend.errands)

    async def test_no_room_is_made_for_what_is_only_announced(self) -> None:
        """Fifteen heads of 64 MiB each took 730 MiB, and no bound counted them."""
        async with Door.open() as door:
            connection = await door.connect()
            tracemalloc.start()
            try:
                await connection.send(post(body=b"{", content_length=str(64 * MIB)))
                await wait_all_tasks_blocked()
                assert tracemalloc.get_traced_memory()[1] < MIB
            finally:
                tracemalloc.stop()
            connection.leave()
            await door.assert_nothing_is_left()

    async def test_what_follows_a_chunked_body_is_no_part_of_it(self) -> None:
        """Neither trailers nor a pipelined request nor junk: smuggling begins there."""
        backend = scripted().say("{}")
        framed = chunked(BODY, size=10, trailer=b"x-target-backend: nowhere\r\n")
        async with Door.open(backend) as door:
            for behind in (b"", post(body=b"evil", x_priority="bad"), b"\0junk"):
                connection = await door.connect()
                answer = await connection.ask(post_chunked(framed) + behind)
                assert (200, "close") == (answer.status, answer.header("connection"))
                assert await connection.is_let_go()
                connection.leave()
            await assert_serves_on(door)

        assert [BODY] * 4 == [errand.body for errand in backend.errands]

    async def test_a_long_request_right_behind_a_chunked_one_is_not_taken_for_its_framing(
        self,
    ) -> None:
        """Its length counted as that of chunks with little in them: 400."""
        backend = verbatim(b"{", b"}", waits=True)
        behind = post(body=BODY + b" " * 200_000)
        async with Door.open(backend) as door:
            connection = await door.connect()
            await connection.send(post() + post_chunked(chunked(BODY, size=10)) + behind)
            await wait_all_tasks_blocked()
            backend.go.set()
            answers = [await connection.read(), await connection.read()]

        assert [200, 200] == [answer.status for answer in answers]

    @pytest.mark.parametrize("is_chunked", [False, True])
    async def test_who_expects_100_gets_it(self, is_chunked: bool) -> None:
        """Before the body is sent, once."""
        request = post_chunked(chunked(BODY, size=10)) if is_chunked else post()
        top, _, body = request.replace(b"host", b"expect: 100-Continue\r\nhost").partition(
            b"\r\n\r\n"
        )
        async with Door.open() as door:
            connection = await door.connect()
            await connection.send(top + b"\r\n\r\n")
            interim = await connection.read_to(b"\r\n\r\n")
            answer = await connection.ask(body)

        assert (b"HTTP/1.1 100 Continue\r\n\r\n", 200) == (interim, answer.status)

    async def test_who_did_not_wait_for_100_gets_none(self) -> None:
        """The body is there already."""
        async with Door.open() as door:
            connection = await door.connect()
            answer = await connection.ask(post(expect="100-continue"))

        assert 200 == answer.status

    async def test_no_100_before_a_refusal(self) -> None:
        """A body that is refused unread is not asked for."""
        async with Door.open(limits=SMALL) as door:
            request = head(b"content-length: %d" % (2 * MIB), b"expect: 100-continue")
            answer = await refused(await door.connect(), request.removesuffix(BODY))

        assert 413 == answer.status


class TestHttp10:
    """Old clients."""

    async def test_a_whole_answer_ends_the_connection(self) -> None:
        """Unless the client asks otherwise."""
        async with Door.open() as door:
            connection = await door.connect()
            answer = await connection.ask(post(version="1.0"))

            assert (200, b"{}", "close") == (
                answer.status,
                answer.body,
                answer.header("connection"),
            )
            assert await connection.is_let_go()

    async def test_keep_alive_is_kept(self) -> None:
        """Who asks for it is told that it is so."""
        async with Door.open() as door:
            connection = await door.connect()
            answers = [
                await connection.ask(post(version="1.0", connection="keep-alive")) for _ in range(3)
            ]

        assert [(200, "keep-alive")] * 3 == [(a.status, a.header("connection")) for a in answers]

    async def test_a_stream_ends_with_the_connection(self) -> None:
        """Chunks would be read as text."""
        async with Door.open(scripted().say("hel").say("lo")) as door:
            connection = await door.connect()
            answer = await connection.ask(post(json=STREAM, version="1.0", connection="keep-alive"))

        assert (b"data: hel\n\ndata: lo\n\n", "close") == (
            answer.body,
            answer.header("connection"),
        )
        assert (None, None) == (answer.header("transfer-encoding"), answer.header("content-length"))

    async def test_no_interim_answer(self) -> None:
        """HTTP/1.0 knows none, so the expectation is ignored."""
        top, _, body = post(version="1.0", expect="100-continue").partition(b"\r\n\r\n")
        async with Door.open() as door:
            connection = await door.connect()
            await connection.send(top + b"\r\n\r\n")
            await wait_all_tasks_blocked()
            answer = await connection.ask(body)

        assert 200 == answer.status


TOO_LONG = b"x-filler: " + b"x" * 33 * 1024
# What is refused before it is read, so that the connection closes: bytes, status, code, a word.
REFUSED_UNREAD: dict[str, tuple[bytes, int, str, str]] = {
    "no host": (sized(host=False), 400, "invalid_request", "Host"),
    "two hosts": (sized(b"Host: localhost"), 400, "invalid_request", "Host"),
    "empty host": (sized(b"host:", host=False), 403, "forbidden", "Host"),
    "foreign host": (sized(b"host: evil.example", host=False), 403, "forbidden", "Host"),
    "host 0.0.0.0": (sized(b"host: 0.0.0.0:8080", host=False), 403, "forbidden", "Host"),
    "foreign origin": (sized(b"origin: https://evil.example"), 403, "forbidden", "origin"),
    "null origin": (sized(b"origin: null"), 403, "forbidden", "origin"),
    "two origins": (
        sized(b"origin: https://evil.example", b"origin: https://friend.example"),
        403,
        "forbidden",
        "origin",
    ),
    "both framings": (sized(b"transfer-encoding: chunked"), 400, "invalid_request", "HTTP"),
    "both framings, the other way": (
        head(b"transfer-encoding: chunked", b"content-length: 5"),
        400,
        "invalid_request",
        "HTTP",
    ),
    "length of letters": (head(b"content-length: abc"), 400, "invalid_request", "HTTP"),
    "length with a sign": (head(b"content-length: +5"), 400, "invalid_request", "HTTP"),
    "negative length": (head(b"content-length: -5"), 400, "invalid_request", "HTTP"),
    "length of hex": (head(b"content-length: 0x5"), 400, "invalid_request", "HTTP"),
    "empty length": (head(b"content-length:"), 400, "invalid_request", "HTTP"),
    "listed lengths": (head(b"content-length: 5, 5"), 400, "invalid_request", "HTTP"),
    "repeated length": (sized(b"content-length: 5"), 400, "invalid_request", "HTTP"),
    "overflowing length": (
        head(b"content-length: " + b"9" * 40),
        400,
        "invalid_request",
        "HTTP",
    ),
    "length of 5000 zeros": (
        head(b"content-length: " + b"0" * 5000 + b"5"),
        400,
        "invalid_request",
        "Content-Length",
    ),
    "length over the limit": (
        head(b"content-length: %d" % (MIB + 1)),
        413,
        "body_too_large",
        "1 MiB",
    ),
    "length far over the limit": (
        head(b"content-length: " + b"9" * 18),
        413,
        "body_too_large",
        "1 MiB",
    ),
    "coding before chunked": (
        head(b"transfer-encoding: gzip, chunked"),
        501,
        "not_implemented",
        "chunked",
    ),
    "coding alone": (head(b"transfer-encoding: gzip"), 400, "invalid_request", "HTTP"),
    "coding after chunked": (
        head(b"transfer-encoding: chunked, gzip"),
        400,
        "invalid_request",
        "HTTP",
    ),
    "chunked twice": (
        head(b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
        400,
        "invalid_request",
        "",
    ),
    "chunked in HTTP/1.0": (
        head(b"transfer-encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0"),
        400,
        "invalid_request",
        "Transfer-Encoding",
    ),
    "gzip": (sized(b"content-encoding: gzip"), 415, "unsupported_media_type", "Encoding"),
    "fold": (sized(b"x-a: b", b" c"), 400, "invalid_request", "HTTP"),
    "bare LF": (sized(b"x-a: b\nx-c: d"), 400, "invalid_request", "HTTP"),
    "bare CR": (sized(b"x-a: b\rx-c: d"), 400, "invalid_request", "HTTP"),
    "NUL": (sized(b"x-a: b\0"), 400, "invalid_request", "HTTP"),
    "NUL in a name": (sized(b"x\0a: b"), 400, "invalid_request", "HTTP"),
    "no colon": (sized(b"nonsense"), 400, "invalid_request", "HTTP"),
    "space before the colon": (sized(b"x-a : b"), 400, "invalid_request", "HTTP"),
    "empty name": (sized(b": b"), 400, "invalid_request", "HTTP"),
    "HTTP/1.2": (sized().replace(b"HTTP/1.1", b"HTTP/1.2"), 400, "invalid_request", "HTTP"),
    "101 headers": (
        sized(*[b"x-%d: y" % number for number in range(99)]),
        431,
        "headers_too_large",
        "100",
    ),
    "long head": (sized(TOO_LONG), 431, "headers_too_large", "32 KiB"),
    "long head without an end": (
        b"POST /v1/chat/completions HTTP/1.1\r\n" + TOO_LONG * 3,
        431,
        "headers_too_large",
        "32 KiB",
    ),
    "chunk of no size": (post_chunked(b"xyz\r\n"), 400, "invalid_request", "HTTP"),
    "chunk of negative size": (post_chunked(b"-1\r\n"), 400, "invalid_request", "HTTP"),
    "chunk of hexadecimal size": (post_chunked(b"0x1\r\nx\r\n"), 400, "invalid_request", "HTTP"),
    "chunk longer than said": (
        post_chunked(b"1\r\nxx\r\n0\r\n\r\n"),
        400,
        "invalid_request",
        "HTTP",
    ),
    "chunk of overflowing size": (
        post_chunked(b"F" * 17 + b"\r\nx\r\n"),
        400,
        "invalid_request",
        "HTTP",
    ),
    "chunks over the limit": (
        post_chunked(chunked(b"x" * (MIB + 1), size=MIB)),
        413,
        "body_too_large",
        "1 MiB",
    ),
    "chunks of one byte": (
        post_chunked(chunked(b"x" * 200_000, size=1)),
        400,
        "invalid_request",
        "chunks",
    ),
    "chunks of two bytes": (
        post_chunked(chunked(b"x" * 400_000, size=2)),
        400,
        "invalid_request",
        "chunks",
    ),
    "chunk extension without an end": (
        post_chunked(b"1;" + b"x" * 200_000),
        400,
        "invalid_request",
        "chunks",
    ),
    "trailers without an end": (
        post_chunked(b"0\r\n" + b"x-a: b\r\n" * 20_000),
        400,
        "invalid_request",
        "chunks",
    ),
}


class TestRefusedUnread:
    """What is ambiguous, foreign or too large: a clear error, and the connection closes."""

    @pytest.mark.parametrize("case", REFUSED_UNREAD)
    async def test_it_is_refused(self, case: str) -> None:
        """Its status, its code, a word that says what to look at; and the next is served."""
        request, status, code, word = REFUSED_UNREAD[case]
        async with Door.open(limits=SMALL) as door:
            answer = await refused(await door.connect(), request)

            error = answer.json["error"]
            assert (status, code) == (answer.status, error["code"])
            assert word in error["message"]
            assert ("application/json", True) == (answer.header("content-type"), answer.complete)
            assert answer.header("x-request-id")
            await assert_serves_on(door)

    @pytest.mark.parametrize(
        ("line", "status", "code"),
        [
            (b"content-encoding: gzip", 415, "unsupported_media_type"),
            (b"origin: null", 403, "forbidden"),
        ],
    )
    async def test_the_request_is_named_where_its_id_was_read(
        self, line: bytes, status: int, code: str
    ) -> None:
        """A refused request can be found by the id its caller gave it."""
        async with Door.open() as door:
            answer = await refused(await door.connect(), sized(b"x-request-id: mine", line))

        assert (status, code, "mine") == (
            answer.status,
            answer.json["error"]["code"],
            answer.header("x-request-id"),
        )

    @pytest.mark.parametrize(
        ("path", "shape"),
        [
            (CHAT, {"error": {"message": "", "type": "", "param": "", "code": "forbidden"}}),
            ("/api/chat", {"error": "", "code": "forbidden"}),
            (
                "/v1/messages",
                {
                    "type": "error",
                    "error": {"type": "permission_error", "message": "", "code": "forbidden"},
                },
            ),
        ],
        ids=["openai", "ollama", "anthropic"],
    )
    async def test_it_is_told_in_the_callers_dialect(
        self, path: str, shape: dict[str, object]
    ) -> None:
        """The same refusal in three shapes."""
        async with Door.open() as door:
            answer = await refused(await door.connect(), post(path, host="evil.example"))

        def outline(expected: object, actual: object) -> object:
            if isinstance(expected, dict) and isinstance(actual, dict):
                assert expected.keys() == actual.keys()
                return {key: outline(expected[key], actual[key]) for key in expected}
            return actual if expected else expected

        assert shape == outline(shape, answer.json)

    @pytest.mark.parametrize(
        ("start", "limit_s"),
        [
            (b"", LIMITS.head_timeout_s),
            (b"host: localhost\r\nx-a: ", LIMITS.head_timeout_s),
            (b"host: localhost\r\ncontent-length: 50\r\n\r\n{", LIMITS.body_timeout_s),
            (b"host: localhost\r\ntransfer-encoding: chunked\r\n\r\n", LIMITS.body_timeout_s),
        ],
        ids=["first line", "head", "body", "chunked body"],
    )
    async def test_who_is_slow_is_told(
        self, mock_clock: MockClock, start: bytes, limit_s: float
    ) -> None:
        """Heads and bodies have their time, which more bytes do not lengthen."""
        async with Door.open() as door:
            connection = await door.connect()
            await connection.send(b"POST /api/chat HTTP/1.1\r\n" + start)
            await wait_all_tasks_blocked()
            mock_clock.jump(limit_s - 1)
            await connection.send(b"1")
            await wait_all_tasks_blocked()
            mock_clock.jump(1)
            answer = await refused(connection, b"")

            assert (408, "request_timeout") == (answer.status, answer.json["code"])
            await assert_serves_on(door)

    @pytest.mark.parametrize("is_chunked", [False, True])
    async def test_who_sends_too_much_can_read_why(self, is_chunked: bool) -> None:
        """413 reaches a client that is still sending: what it sends is read a while, and dropped."""
        body = b"x" * (16 * MIB)
        request = post_chunked(chunked(body, size=MIB)) if is_chunked else post(body=body)
        async with Door.open(limits=SMALL) as door:
            connection = await door.connect()

            async def send() -> None:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await connection.send(request)

            async with trio.open_nursery() as sending:
                sending.start_soon(send)
                answer = await connection.read()
                connection.leave()

            assert (413, True) == (answer.status, answer.complete)
            await assert_serves_on(door)

    async def test_who_leaves_within_a_request_is_forgotten(self) -> None:
        """At every stage of it, politely or not, without an answer."""
        parts = [post()[:at] for at in (5, 40, len(post()) - 3)]
        parts.append(post_chunked(chunked(BODY, size=10))[:-9])
        async with Door.open() as door:
            for part in parts:
                for manner in (Connection.leave, Connection.reset):
                    connection = await door.connect()
                    await connection.send(part)
                    await wait_all_tasks_blocked()
                    manner(connection)
                    await connection.ended.wait()
            assert [] == door.house.facts
            await assert_serves_on(door)


DEEP = b"[" * 100_000 + b"]" * 100_000
# What was read whole before it is refused, so that the connection goes on: body, words, param.
REFUSED_BODIES: dict[str, tuple[bytes, str, str | None]] = {
    "empty": (b"", "empty", None),
    "blank": (b" \r\n", "empty", None),
    "no JSON": (b"nonsense", "not valid JSON", None),
    "cut off": (b'{"model":"m"', "not valid JSON", None),
    "more than one": (BODY + BODY, "not valid JSON", None),
    "byte order mark": (b"\xef\xbb\xbf" + BODY, "not valid JSON", None),
    "NaN": (b'{"model":"m","x":NaN}', "not valid JSON", None),
    "array": (b"[]", "object", None),
    "null": (b"null", "object", None),
    "number": (b"5", "object", None),
    "no model": (b"{}", "missing", "model"),
    "empty model": (b'{"model":""}', "empty", "model"),
    "model is a number": (b'{"model":5}', "string", "model"),
    "model is null": (b'{"model":null}', "string", "model"),
    "model is an object": (b'{"model":{}}', "string", "model"),
    "stream is text": (b'{"model":"m","stream":"yes"}', "true or false", "stream"),
    "stream is a number": (b'{"model":"m","stream":1}', "true or false", "stream"),
    "deep": (b'{"model":"m","x":' + DEEP + b"}", "nested too deeply", None),
    "deep behind a fault": (b'{"model":5,"x":' + DEEP + b"}", "nested too deeply", None),
    "deep model": (b'{"model":' + DEEP + b"}", "nested too deeply", None),
    "invalid UTF-8 in the model": (b'{"model":"\xff"}', "UTF-8", None),
    "invalid UTF-8 elsewhere": (b'{"model":"m","x":"\xff"}', "UTF-8", None),
    "invalid UTF-8 in a name": (b'{"model":"m","\xc0\x80":1}', "UTF-8", None),
    "surrogate in UTF-8": (b'{"model":"m","x":"\xed\xa0\x80"}', "UTF-8", None),
    "lone surrogate": (b'{"model":"m","x":"\\ud800"}', "not valid JSON", None),
    "lone surrogate in the model": (b'{"model":"\\ud800"}', "not valid JSON", None),
}
# header, value, what the message says was expected
BAD_HEADERS = [
    ("X-Target-Backend", " ", "a backend id"),
    ("X-Latency-Critical", "maybe", "true or false"),
    ("X-Power-Efficient", "2", "true or false"),
    ("X-Max-Latency-Ms", "soon", "a number greater than 0"),
    ("X-Max-Latency-Ms", "0", "a number greater than 0"),
    ("X-Max-Latency-Ms", "-5", "a number greater than 0"),
    ("X-Max-Latency-Ms", "nan", "a number greater than 0"),
    ("X-Max-Latency-Ms", "inf", "a number greater than 0"),
    ("X-Max-Latency-Ms", "1e999", "a number greater than 0"),
    ("X-Max-Latency-Ms", "1_000", "a number greater than 0"),
    ("X-Max-Power-Watts", "ten", "a number greater than 0"),
    ("X-Priority", "urgent", "best-effort"),
    ("X-Priority", "4", "best-effort"),
    ("X-Media-Type", "smell", "audio"),
    ("X-SLO-TTFT-Ms", "soon", "a number greater than 0"),
    ("X-Request-ID", "has spaces", "1 to 128"),
    ("X-Request-ID", "x" * 129, "1 to 128"),
    ("X-Request-ID", "caf\xe9", "1 to 128"),
]
TWICE = {
    "X-Target-Backend": "npu",
    "X-Latency-Critical": "true",
    "X-Power-Efficient": "true",
    "X-Max-Latency-Ms": "5000",
    "X-Max-Power-Watts": "100",
    "X-Priority": "high",
    "X-Media-Type": "text",
    "X-SLO-TTFT-Ms": "5000",
    "X-Request-ID": "mine",
}


class TestRefusedRead:
    """What cannot be understood, but has been read: a clear error, and the connection goes on."""

    @pytest.mark.parametrize("case", REFUSED_BODIES)
    async def test_bodies(self, case: str) -> None:
        """The error says what is wrong, in which field; the same connection serves the next."""
        body, words, param = REFUSED_BODIES[case]
        async with Door.open() as door:
            connection = await door.connect()
            answer = await connection.ask(post(body=body, x_request_id="mine"))
            after = await connection.ask(post())

        error = answer.json["error"]
        assert (400, "invalid_request", param) == (answer.status, error["code"], error["param"])
        assert words in error["message"]
        assert "mine" == answer.header("x-request-id")
        assert 200 == after.status

    @pytest.mark.parametrize(("name", "value", "expected"), BAD_HEADERS)
    async def test_headers(self, name: str, value: str, expected: str) -> None:
        """The error names the header, the value, and what would have been understood."""
        line = f"{name}: {value}\r\n".encode("latin-1")
        async with Door.open() as door:
            connection = await door.connect()
            answer = await connection.ask(post(json=STREAM, extra=line))
            after = await connection.ask(post())

        error = answer.json["error"]
        assert (400, "invalid_header", name) == (answer.status, error["code"], error["param"])
        assert error["message"].startswith(f"{name}: expected ")
        assert expected in error["message"]
        assert value.strip()[:100] in error["message"]
        assert 200 == after.status

    @pytest.mark.parametrize("name", TWICE)
    async def test_headers_that_come_twice(self, name: str) -> None:
        """Which of two is meant is not guessed; one alone is good."""
        line = f"{name}: {TWICE[name]}\r\n".encode()
        async with Door.open() as door:
            connection = await door.connect()
            once = await connection.ask(post(json=STREAM, extra=line))
            twice = await connection.ask(post(json=STREAM, extra=line * 2))

        error = twice.json["error"]
        assert (200, 400) == (once.status, twice.status)
        assert ("invalid_header", name) == (error["code"], error["param"])
        assert "once" in error["message"]

    async def test_an_unknown_target_is_named(self) -> None:
        """With those that are known."""
        async with Door.open() as door:
            connection = await door.connect()
            answer = await connection.ask(post(x_target_backend="http://evil.example/"))

        error = answer.json["error"]
        assert (400, "unknown_backend") == (answer.status, error["code"])
        assert "npu" in error["message"]

    async def test_ids_are_made_up_where_there_is_none(self) -> None:
        """A new one for each request, also for one whose own is not fit to be told."""
        async with Door.open() as door:
            connection = await door.connect()
            answers = [
                await connection.ask(post()),
                await connection.ask(post()),
                await connection.ask(post(x_request_id="not fit")),
            ]

        ids = [answer.header("x-request-id") or "" for answer in answers]
        assert all(each.startswith("req-") for each in ids)
        assert 3 == len(set(ids))

    async def test_a_thousand_bad_requests_in_a_row(self) -> None:
        """Each is answered, on one connection, and others are served meanwhile."""
        async with Door.open() as door:
            connection = await door.connect()
            bad = post(body=b"{}") + post(json={"model": "unknown"})

            async def flood() -> None:
                await connection.send(bad * 500)

            statuses: list[int] = []
            async with trio.open_nursery() as sending:
                sending.start_soon(flood)
                statuses.extend([(await connection.read()).status for _ in range(1000)])
            after = await connection.ask(post())

        assert [400, 404] * 500 == statuses
        assert 200 == after.status


async def say_nothing(_: Connection) -> None:
    """Leave without a word."""


async def say_a_stray_line(connection: Connection) -> None:
    """As some clients end a body."""
    await connection.send(b"\r\n")


async def say_another_request(connection: Connection) -> None:
    """Pipelined behind the first."""
    await connection.send(post())


async def say_a_megabyte(connection: Connection) -> None:
    """Of junk."""
    await connection.send(b"x" * 1_000_000)


SAYINGS = [say_nothing, say_a_stray_line, say_another_request, say_a_megabyte]
MANNERS = [Connection.leave, Connection.reset]


class TestLeaving:
    """A client that leaves frees its backend, at whatever stage and whatever it sent before."""

    @pytest.mark.parametrize("manner", MANNERS, ids=["FIN", "RST"])
    @pytest.mark.parametrize("saying", SAYINGS)
    async def test_while_the_backend_is_silent(
        self,
        manner: Callable[[Connection], None],
        saying: Callable[[Connection], Awaitable[None]],
    ) -> None:
        """The exchange is cancelled, and the slot is free."""
        backend = scripted().hang()
        async with Door.open(backend) as door:
            connection = await door.connect()
            await connection.send(post(json=STREAM))
            await becomes(lambda: backend.errands)
            await saying(connection)
            await wait_all_tasks_blocked()
            manner(connection)

            await door.assert_nothing_is_left()
            assert ([Outcome.LEFT], 1) == (
                [fact.outcome for fact in door.house.facts],
                backend.left,
            )

    @pytest.mark.parametrize("manner", MANNERS, ids=["FIN", "RST"])
    @pytest.mark.parametrize("saying", SAYINGS)
    async def test_within_a_stream(
        self,
        manner: Callable[[Connection], None],
        saying: Callable[[Connection], Awaitable[None]],
    ) -> None:
        """The same between two tokens."""
        backend = verbatim(b"data: a\n\n", b"data: b\n\n", waits=True)
        async with Door.open(backend) as door:
            connection = await door.connect()
            await connection.send(post(json=STREAM))
            await connection.read_to(b"data: a\n\n")
            await saying(connection)
            await wait_all_tasks_blocked()
            manner(connection)

            await door.assert_nothing_is_left()
            assert ([Outcome.LEFT], 1) == (
                [fact.outcome for fact in door.house.facts],
                backend.left,
            )

    @pytest.mark.parametrize("manner", MANNERS, ids=["FIN", "RST"])
    @pytest.mark.parametrize("saying", SAYINGS)
    async def test_while_it_waits_in_line(
        self,
        manner: Callable[[Connection], None],
        saying: Callable[[Connection], Awaitable[None]],
    ) -> None:
        """It leaves the line and never reaches the backend; who is at work stays there."""
        backend = scripted().hang()
        async with Door.open(backend) as door:
            station = door.house.station()
            worked = await door.connect()
            await worked.send(post())
            await becomes(lambda: backend.errands)
            waiting = await door.connect()
            await waiting.send(post())
            await becomes(lambda: len(station.line))
            await saying(waiting)
            await wait_all_tasks_blocked()
            manner(waiting)
            await waiting.ended.wait()

            assert (0, 1, 1) == (len(station.line), station.in_flight, len(backend.errands))
            worked.leave()
            await door.assert_nothing_is_left()

    async def test_too_much_sent_early_ends_the_connection(self) -> None:
        """What is pipelined is kept, but not without end."""
        backend = scripted().hang()
        async with Door.open(backend) as door:
            connection = await door.connect()
            await connection.send(post())
            await becomes(lambda: backend.errands)
            with contextlib.suppress(trio.BrokenResourceError):
                await connection.send(b"x" * (4 * MIB))

            await door.assert_nothing_is_left()
            assert [Outcome.LEFT] == [fact.outcome for fact in door.house.facts]

    @pytest.mark.parametrize("length", [None, 64 * MIB], ids=["stream", "whole"])
    async def test_who_takes_nothing_is_left(
        self, mock_clock: MockClock, length: int | None
    ) -> None:
        """A client that does not read has the write limit, then its backend is freed.

        It sees a reset: the kernel shall not keep for it what it has not taken.
        """
        backend = verbatim(*[b"x" * MIB] * 64, length=length)
        async with Door.open(backend) as door:
            connection = await door.connect()
            await connection.send(post(json=STREAM if length is None else WHOLE))
            await becomes(lambda: backend.errands)
            await wait_all_tasks_blocked()
            mock_clock.jump(LIMITS.write_timeout_s)

            await door.assert_nothing_is_left()
            assert [Outcome.LEFT] == [fact.outcome for fact in door.house.facts]
            with pytest.raises(trio.BrokenResourceError):
                await connection.read()

    async def test_who_takes_no_error_is_left(self, mock_clock: MockClock) -> None:
        """The same for a client that asks nonsense for ever and reads no answer."""
        async with Door.open() as door:
            connection = await door.connect()

            async def ask_for_ever() -> None:
                with contextlib.suppress(trio.BrokenResourceError):
                    while True:
                        await connection.send(post(json={"model": "unknown"}) * 100)

            async with trio.open_nursery() as asking:
                asking.start_soon(ask_for_ever)
                await wait_all_tasks_blocked()
                mock_clock.jump(LIMITS.write_timeout_s)
            await assert_serves_on(door)

    async def test_a_worker_on_its_way_writes_to_nobody(self) -> None:
        """A descriptor's number is soon another client's, and must not get the first one's answer."""
        backend = verbatim(b"data: a\n\n", b"data: b\n\n", waits=True, stubborn=True)
        async with Door.open(backend) as door:
            connection = await door.connect()
            number = connection.lane.descriptor
            await connection.send(post(json=STREAM))
            await connection.read_to(b"data: a\n\n")
            connection.leave()
            await connection.ended.wait()
            # As many new descriptors as were closed: one of them has the number now.
            async with stream_pair() as one, stream_pair() as other:
                numbers = [end.socket.fileno() for end in (*one, *other)]
                backend.go.set()
                await door.assert_nothing_is_left()
                for each in numbers:
                    with pytest.raises(BlockingIOError):
                        os.read(each, 1)

            assert number in numbers
            assert (-1, 1) == (connection.lane.descriptor, backend.left)

    async def test_a_lane_that_returned_takes_no_more(self) -> None:
        """Each way of writing says that the caller has left."""
        async with Door.open() as door:
            connection = await door.connect()
            connection.leave()
            await connection.ended.wait()
            lane = connection.lane

            for late in (
                functools.partial(lane.write, b"x", complete=False),
                functools.partial(lane.flush, b"x"),
            ):
                with pytest.raises(CallerLeft):
                    await late()


class TestBrokenAnswers:
    """What is begun and cannot be finished never looks finished."""

    async def test_a_stream_of_events_says_so(self) -> None:
        """The last event is the error, there is no [DONE], and the connection closes."""
        async with Door.open(scripted().say("hel").die_mid_stream()) as door:
            connection = await door.connect()
            answer = await connection.ask(post(json=STREAM))

            first, last, nothing = answer.body.split(b"\n\n")
            assert (b"data: hel", b"", True) == (first, nothing, answer.complete)
            assert last.startswith(b"data: ")
            error = msgspec.json.decode(last.removeprefix(b"data: "))["error"]
            assert ("backend_failed", "api_error") == (error["code"], error["type"])
            assert await connection.is_let_go()
            connection.leave()
            await door.assert_nothing_is_left()

    async def test_a_stream_of_anthropics_events_says_so(self) -> None:
        """There an error has a name."""
        async with Door.open(scripted().say("hel").die_mid_stream()) as door:
            connection = await door.connect()
            answer = await connection.ask(post("/v1/messages", STREAM))

        assert b'event: error\ndata: {"type":"error","error":{' in answer.body

    async def test_a_stream_of_lines_says_so(self) -> None:
        """The last line is the error; every line is JSON, as Ollama's own client demands."""
        async with Door.open(scripted().say('{"a":1}').die_mid_stream()) as door:
            connection = await door.connect()
            answer = await connection.ask(post("/api/chat", STREAM))

            assert answer.complete
            first, last = [msgspec.json.decode(line) for line in answer.body.splitlines()]
            assert ({"a": 1}, "backend_failed") == (first, last["code"])
            assert await connection.is_let_go()

    @pytest.mark.parametrize(
        ("path", "said", "apart"),
        [
            ("/api/chat", b'{"a":', b"\n"),
            (CHAT, b"data: {", b"\n\n"),
            (CHAT, b"data: {}\n", b"\n\n"),
        ],
    )
    async def test_the_error_stands_alone(self, path: str, said: bytes, apart: bytes) -> None:
        """Also where the backend stopped in mid-line."""
        async with Door.open(verbatim(said, failure=BROKEN)) as door:
            connection = await door.connect()
            answer = await connection.ask(post(path, STREAM))

        assert answer.body.startswith(said + apart)

    @pytest.mark.parametrize("length", [None, 10], ids=["chunked", "sized"])
    async def test_a_whole_answer_is_cut(self, length: int | None) -> None:
        """No error is mixed into it: it just is not complete."""
        async with Door.open(verbatim(b'{"a":', length=length, failure=BROKEN)) as door:
            connection = await door.connect()
            answer = await connection.ask(post())

            assert (200, b'{"a":', False) == (answer.status, answer.body, answer.complete)
            await door.assert_nothing_is_left()
            assert [Outcome.BROKEN] == [fact.outcome for fact in door.house.facts]

    async def test_a_stream_to_an_old_client_says_so(self) -> None:
        """Where the connection's end is the stream's, the error comes before it."""
        async with Door.open(scripted().say("hel").die_mid_stream()) as door:
            connection = await door.connect()
            answer = await connection.ask(post(json=STREAM, version="1.0"))

        assert answer.body.startswith(b"data: hel\n\ndata: ")
        assert b"backend_failed" in answer.body

    async def test_a_whole_answer_to_an_old_client_is_reset(self) -> None:
        """Where the connection's end is the answer's, a cut answer must end in another way."""
        async with Door.open(verbatim(b'{"a":', failure=BROKEN)) as door:
            connection = await door.connect()

            with pytest.raises(trio.BrokenResourceError):
                await connection.ask(post(version="1.0"))

    async def test_an_error_is_not_written_into_a_half_written_piece(self) -> None:
        """It would be read as a part of that piece."""
        backend = verbatim(b"data: a\n\n", b"x" * (64 * MIB))
        async with Door.open(backend) as door:
            connection = await door.connect()
            await connection.send(post(json=STREAM))
            await becomes(lambda: backend.said)
            await wait_all_tasks_blocked()
            door.house.dispatcher.stop()
            await becomes(lambda: door.house.facts)
            answer = await connection.read()

            assert not answer.complete
            assert b"shutting_down" not in answer.body
            await door.assert_nothing_is_left()

    async def test_a_router_that_stops_says_so(self) -> None:
        """To who waits as an answer, to who has begun to read as its last event."""
        backend = verbatim(b"data: a\n\n", b"data: b\n\n", waits=True)
        async with Door.open(backend) as door:
            reading = await door.connect()
            await reading.send(post(json=STREAM))
            await reading.read_to(b"data: a\n\n\r\n")
            waiting = await door.connect()
            await waiting.send(post(json=STREAM))
            await becomes(lambda: len(door.house.station().line))
            door.is_draining = True
            door.house.dispatcher.stop()

            answer, rest = await waiting.read(), await reading.read_all()

            assert (503, "shutting_down", "close") == (
                answer.status,
                answer.json["error"]["code"],
                answer.header("connection"),
            )
            assert b"shutting_down" in rest
            assert rest.endswith(b"0\r\n\r\n")
            await waiting.read_all()
            waiting.leave()
            reading.leave()
            await door.assert_nothing_is_left()


class TestDraining:
    """What a lane does when it is told that the router drains."""

    async def test_an_idle_connection_ends_at_once(self) -> None:
        """It is not owed anything."""
        async with Door.open() as door:
            connection = await door.connect()
            await connection.ask(post())
            await wait_all_tasks_blocked()
            door.is_draining = True
            connection.lane.close_when_idle()

            await connection.ended.wait()
            assert await connection.is_let_go()

    async def test_a_busy_connection_ends_after_its_answer(self) -> None:
        """Which is whole."""
        backend = verbatim(b"data: a\n\n", b"data: b\n\n", waits=True)
        async with Door.open(backend) as door:
            connection = await door.connect()
            await connection.send(post(json=STREAM))
            await becomes(lambda: backend.said)
            door.is_draining = True
            connection.lane.close_when_idle()
            backend.go.set()
            answer = await connection.read()

            assert (b"data: a\n\ndata: b\n\n", True) == (answer.body, answer.complete)
            assert await connection.is_let_go()
            await connection.ended.wait()

    @pytest.mark.parametrize("turn", range(10), ids=str)
    async def test_what_comes_with_an_answers_end_does_no_harm(self, turn: int) -> None:  # noqa: ARG002 - tasks are woken in any order
        """The connection is roused and has something to read at once: it ends, once."""
        backend = verbatim(b"data: a\n\n", b"data: b\n\n", waits=True)
        async with Door.open(backend) as door:
            connection = await door.connect()
            await connection.send(post(json=STREAM))
            await becomes(lambda: backend.said)
            door.is_draining = True
            await connection.send(post())
            backend.go.set()
            answer = await connection.read()

            assert (b"data: a\n\ndata: b\n\n", True) == (answer.body, answer.complete)
            await connection.ended.wait()
            await door.assert_nothing_is_left()

    async def test_a_request_on_its_way_is_served(self) -> None:
        """And told that it is the last."""
        async with Door.open() as door:
            connection = await door.connect()
            await connection.send(post()[:-5])
            await wait_all_tasks_blocked()
            door.is_draining = True
            connection.lane.close_when_idle()
            answer = await connection.ask(post()[-5:])

            assert (200, "close") == (answer.status, answer.header("connection"))
            assert await connection.is_let_go()

    @pytest.mark.parametrize("size", [20, 60], ids=["in its line", "in its headers"])
    async def test_half_a_head_is_not_waited_for(self, size: int) -> None:
        """Nor answered: nothing was begun for it."""
        async with Door.open() as door:
            connection = await door.connect()
            await connection.ask(post())
            await connection.send(post()[:size])
            await wait_all_tasks_blocked()
            door.is_draining = True
            connection.lane.close_when_idle()

            await connection.ended.wait()
            assert await connection.is_let_go()


SEEDS = [
    post(),
    post(json=STREAM, x_priority="high", x_request_id="mine"),
    post("/api/chat", version="1.0", connection="keep-alive"),
    post_chunked(chunked(BODY, size=7, trailer=b"x-a: b\r\n")),
    post(expect="100-continue"),
    post(upgrade="h2c", connection="upgrade"),
]


@contextlib.asynccontextmanager
async def survived_by(door: Door) -> AsyncIterator[Connection]:
    """A connection that may do what it likes, after which the next is served."""
    connection = await door.connect()
    yield connection
    connection.leave()
    await connection.ended.wait()
    await assert_serves_on(door)


class TestAnything:
    """Whatever bytes come, the lane neither raises nor hangs, and serves the next."""

    @hypothesis.settings(deadline=None, max_examples=60)
    @hypothesis.given(strategies.lists(strategies.binary(max_size=300), max_size=4))
    async def test_random_bytes(self, pieces: list[bytes]) -> None:
        """In random pieces, behind a good first line."""
        async with Door.open() as door, survived_by(door) as connection:
            with contextlib.suppress(trio.BrokenResourceError):
                await connection.send(b"POST /api/chat HTTP/1.1\r\n")
                for piece in pieces:
                    await connection.send(piece)
                    await wait_all_tasks_blocked()

    @hypothesis.settings(deadline=None, max_examples=200)
    @hypothesis.given(
        strategies.lists(strategies.sampled_from(SEEDS), min_size=1, max_size=3),
        strategies.lists(
            strategies.tuples(
                strategies.floats(0, 1),
                strategies.integers(0, 40),
                strategies.one_of(
                    strategies.binary(max_size=8),
                    strategies.sampled_from([
                        b"\r\n",
                        b"\r\n\r\n",
                        b"0\r\n\r\n",
                        b"content-length: 9\r\n",
                        b"\0",
                        b":",
                    ]),
                ),
            ),
            max_size=6,
        ),
        strategies.booleans(),
    )
    async def test_mutations(
        self, seeds: list[bytes], changes: list[tuple[float, int, bytes]], half_close: bool
    ) -> None:
        """Of good requests: bytes replaced, cut out, put in."""
        data = b"".join(seeds)
        for where, removed, put in changes:
            at = int(where * len(data))
            data = data[:at] + put + data[at + removed :]
        async with Door.open() as door, survived_by(door) as connection:
            with contextlib.suppress(trio.BrokenResourceError):
                await connection.send(data)
                await wait_all_tasks_blocked()
                if half_close:
                    await connection.stream.send_eof()
                    await connection.ended.wait()
