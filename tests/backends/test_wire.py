"""HTTP/1.1 to a backend: answers parsed, connections kept or not."""

import functools

import pytest
import trio
import trio.testing

from ollama_proxy.backends.backend import BackendFailed, Fault
from ollama_proxy.backends.endpoint import Endpoint
from ollama_proxy.backends.wire import HEAD_MAX_BYTES, TAIL_BYTES, Connection, Pool
from tests.fakes.sockets import stream_pair

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
ANSWERS = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", True),
    "empty": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "chunked": (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", 200, b"hello", True),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n", 200, b"hello", True),
    "close": (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        200,
        b"hello",
        False,
    ),
    "interim": (
        INTERIM + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        200,
        b"hello",
        True,
    ),
    "http10": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", False),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_is_the_same_however_it_is_cut(name: str) -> None:
    """Status, body and fitness for another request do not depend on how the bytes arrive."""
    raw, status, body, reusable = ANSWERS[name]
    async with stream_pair() as (ours, _):
        for cut in range(1, len(raw)):
            connection = Connection(ours)
            for part in (raw[:cut], raw[cut:]):
                connection.feed(part)

            assert connection.head is not None
            assert (status, body, True, reusable) == (
                connection.head.status,
                b"".join(connection.take()),
                connection.complete,
                connection.is_reusable,
            )


async def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    """The close completes it, and leaves the connection unfit for another request."""
    async with stream_pair() as (ours, _):
        connection = Connection(ours)
        connection.feed(b"HTTP/1.1 200 OK\r\n\r\nhello")
        connection.feed(b"")

        assert (b"hello", True, False) == (
            b"".join(connection.take()),
            connection.complete,
            connection.is_reusable,
        )


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"", Fault.BROKE),
        (b"HTTP/1.1 200", Fault.BROKE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", Fault.BROKE),
        (CHUNKED + b"5\r\nhel", Fault.BROKE),
        (CHUNKED + b"5\r\nhello\r\n", Fault.BROKE),
        (CHUNKED + b"zz\r\n", Fault.GARBLED),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Fault.GARBLED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", Fault.GARBLED),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * HEAD_MAX_BYTES, Fault.GARBLED),
        (b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", Fault.GARBLED),
    ],
    ids=str,
)
async def test_a_broken_answer_is_never_taken_for_a_whole_one(raw: bytes, fault: Fault) -> None:
    """What ends early or makes no sense is the backend's failure."""
    async with stream_pair() as (ours, _):
        connection = Connection(ours)
        with pytest.raises(BackendFailed) as caught:
            feed_all(connection, raw, b"")

        assert fault is caught.value.fault
        assert not connection.is_reusable


async def test_bytes_after_an_answer_make_a_connection_unfit() -> None:
    """A second answer that nobody asked for could be taken for the next request's."""
    raw = ANSWERS["length"][0]
    async with stream_pair() as (ours, _):
        connection = Connection(ours)
        connection.feed(raw + raw)

        assert b"hello" == b"".join(connection.take())
        assert not connection.is_reusable


@pytest.mark.parametrize("piece_bytes", [1, 1000, 65536])
@pytest.mark.parametrize("total_bytes", [0, 5, TAIL_BYTES, 7 * TAIL_BYTES + 3])
async def test_the_end_of_a_body_is_kept(piece_bytes: int, total_bytes: int) -> None:
    """Enough of it to hold the last event, however it was cut, and never much more than that."""
    body = (b"0123456789" * (total_bytes // 10 + 1))[:total_bytes]
    async with stream_pair() as (ours, _):
        connection = Connection(ours)
        connection.feed(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total_bytes)
        most = 0
        for at in range(0, total_bytes, piece_bytes):
            connection.feed(body[at : at + piece_bytes])
            connection.take()
            most = max(most, len(connection.tail))

        assert (True, True) == (connection.complete, body.endswith(connection.tail))
        assert min(total_bytes, TAIL_BYTES) <= len(connection.tail)
        assert most <= 2 * TAIL_BYTES


async def test_a_kept_connection_forgets_the_end_of_its_last_answer() -> None:
    """The next answer begins with nothing."""
    async with stream_pair() as (ours, _):
        connection = Connection(ours)
        connection.feed(ANSWERS["length"][0])
        before = connection.tail
        connection.renew()

        assert (b"hello", b"") == (before, connection.tail)


async def test_hop_by_hop_headers_stay_on_their_hop() -> None:
    """Nor does a backend set cookies, redirect, or open the router to other origins."""
    kept = b"x-ratelimit-remaining"
    dropped = [b"connection", b"keep-alive", b"set-cookie", b"location", b"server", b"upgrade"]
    dropped.append(b"x-accel-buffering")
    dropped.append(b"access-control-allow-origin")
    lines = b"".join(b"%b: 1\r\n" % name for name in [kept, *dropped])
    async with stream_pair() as (ours, _):
        connection = Connection(ours)
        connection.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + lines + b"\r\n")

        assert connection.head is not None
        assert ((kept, b"1"),) == connection.head.headers


async def test_large_requests_are_sent_whole() -> None:
    """A body larger than the socket's buffer arrives complete, behind its head."""
    body = bytes(range(256)) * 8192
    received = bytearray()
    async with stream_pair() as (ours, theirs), trio.open_nursery() as nursery:

        async def read() -> None:
            while len(received) < len(body) + 4:
                received.extend(await theirs.receive_some())

        nursery.start_soon(read)
        await Connection(ours).send(b"head", body)

    assert b"head" + body == bytes(received)


async def test_a_reset_is_the_backends_failure() -> None:
    """A peer that is gone fails the request, with no exception of the socket's, once it said nothing."""
    async with stream_pair() as (ours, theirs):
        theirs.socket.close()
        connection = Connection(ours)
        await connection.send(b"head", b"x" * 100000)
        with pytest.raises(BackendFailed) as caught:
            await connection.read()

        assert Fault.BROKE is caught.value.fault


def feed_all(connection: Connection, *parts: bytes) -> None:
    """Feed parts one after the other; the last, empty one is the end."""
    for part in parts:
        connection.feed(part)


class TestPool:
    """Connections kept for the next request."""

    async def test_a_kept_connection_is_used_again(self) -> None:
        """The second request comes over the first one's connection."""
        accepted: list[trio.SocketStream] = []
        async with trio.open_nursery() as nursery:
            pool = await _pool(nursery, accepted)
            first = await pool.acquire()
            first.feed(ANSWERS["length"][0])
            pool.release(first)
            second = await pool.acquire()

            assert second is first
            assert (True, True) == (second.reused, second.is_untouched)
            second.close()
            nursery.cancel_scope.cancel()

    async def test_a_connection_that_was_closed_meanwhile_is_not(self) -> None:
        """llama-server closes after each stream while announcing keep-alive."""
        accepted: list[trio.SocketStream] = []
        async with trio.open_nursery() as nursery:
            pool = await _pool(nursery, accepted)
            first = await pool.acquire()
            first.feed(ANSWERS["length"][0])
            await trio.testing.wait_all_tasks_blocked()
            await accepted[0].aclose()
            pool.release(first)
            second = await pool.acquire()

            assert second is not first
            assert not second.reused
            second.close()
            nursery.cancel_scope.cancel()

    async def test_an_unfinished_connection_is_closed(self) -> None:
        """A connection whose answer was not read to its end is never kept."""
        async with trio.open_nursery() as nursery:
            pool = await _pool(nursery, [])
            first = await pool.acquire()
            first.feed(CHUNKED)
            pool.release(first)

            assert 0 == pool.idle
            nursery.cancel_scope.cancel()

    async def test_nobody_there(self) -> None:
        """A refused connection is the backend's failure."""
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        port = listener.socket.getsockname()[1]
        await listener.aclose()
        pool = Pool(Endpoint(host="127.0.0.1", port=port), 1.0)
        with pytest.raises(BackendFailed) as caught:
            await pool.acquire()

        assert Fault.UNREACHABLE is caught.value.fault


async def _pool(nursery: trio.Nursery, accepted: list[trio.SocketStream]) -> Pool:
    async def keep(stream: trio.SocketStream) -> None:
        accepted.append(stream)
        await trio.sleep_forever()

    listeners = await nursery.start(functools.partial(trio.serve_tcp, keep, 0, host="127.0.0.1"))
    return Pool(Endpoint(host="127.0.0.1", port=listeners[0].socket.getsockname()[1]), 1.0)


@pytest.mark.parametrize(
    ("url", "expected", "authority"),
    [
        (
            "http://localhost:11434",
            Endpoint(host="localhost", port=11434),
            "localhost:11434",
        ),
        ("http://[::1]:1", Endpoint(host="::1", port=1), "[::1]:1"),
        (
            "https://api.example.com/v1/",
            Endpoint(host="api.example.com", port=443, base_path="/v1", tls=True),
            "api.example.com",
        ),
        ("unix:/run/s.sock", Endpoint(host="localhost", unix_path="/run/s.sock"), "localhost"),
    ],
)
def test_endpoints_are_read(url: str, expected: Endpoint, authority: str) -> None:
    """An address is read from its URL, and names itself in the Host header."""
    endpoint = Endpoint.parse(url)

    assert expected == endpoint
    assert authority == endpoint.authority
