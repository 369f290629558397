"""The HTTP door under TLS: all of it works, who is not let in, and what a bad handshake costs others."""

import json
import logging
import re
import socket
import ssl
import struct
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked
from trio_websocket import wrap_client_stream

from ollama_proxy.certificates import HTTP1, CertificateFiles
from ollama_proxy.inbound.encryption import TELL_S, WORRY_S, Encryption, Handshakes
from ollama_proxy.inbound.lane import LaneLimits
from tests.fleet import MODEL
from tests.inbound.ends import (
    BROKEN,
    STREAM,
    WHOLE,
    Client,
    becomes,
    loopback_pair,
    post,
    scripted,
    verbatim,
)
from tests.inbound.test_front import GET, LIMITS, SOCKET_PATH, Entrance
from tests.papers import Papers

Encrypted = trio.SSLStream[trio.SocketStream]
Open = Callable[..., AbstractAsyncContextManager["Hall"]]
ASK = {"model": MODEL, "prompt": "hi"}
GARBAGE = bytes(range(256)) * 4


class Guest(Client):
    """A client under TLS, as strict as the standard: an end without a farewell is no end."""

    def __init__(self, stream: Encrypted) -> None:
        """Take a stream, its handshake done or not."""
        self.encrypted = stream
        self.stream = stream  # type: ignore[assignment]
        self.unread = b""

    def leave(self) -> None:
        """Close without a word."""
        self.encrypted.transport_stream.socket.close()

    def reset(self) -> None:
        """Close at once, and say so."""
        linger = struct.pack("ii", 1, 0)
        self.encrypted.transport_stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.leave()


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path / "papers")


@attrs.define(eq=False)
class Hall:
    """A door for TLS alone, and who trusts its authority."""

    entrance: Entrance
    papers: Papers

    async def connect(self, *, known: bool = False, strict: bool = True) -> Guest:
        """A new client, its handshake done as far as it knows."""
        stream = trio.SSLStream(
            await self.entrance.dial(),
            self.papers.client(known=known),
            server_hostname="localhost",
            https_compatible=not strict,
        )
        await stream.do_handshake()
        return Guest(stream)

    async def assert_serves_on(self) -> None:
        """Who comes now is served, on both ways."""
        client = await self.connect()
        assert (200, 200) == ((await client.ask(GET)).status, (await client.ask(post())).status)
        client.leave()


@pytest.fixture
def open_hall(papers: Papers) -> Open:
    """Makes such doors."""

    @asynccontextmanager
    async def open_it(
        *backends: object, files: CertificateFiles | None = None, **settings: object
    ) -> AsyncIterator[Hall]:
        encryption = Encryption(files or papers.files)
        async with Entrance.open(*backends, encryption=encryption, **settings) as entrance:  # type: ignore[arg-type]
            yield Hall(entrance, papers)

    return open_it


class TestWays:
    """Encrypted, it is the same."""

    async def test_one_connection_goes_both_ways(self, open_hall: Open) -> None:
        """As in plain text, over HTTP/1.1, which is what was agreed on."""
        async with open_hall() as hall:
            client = await hall.connect()
            answers = [await client.ask(request) for request in (GET, post(), GET, post(), post())]

            assert [200] * 5 == [answer.status for answer in answers]
            dates = [answer.header("date") is not None for answer in answers]
            assert [True, False, True, False, False] == dates
            assert HTTP1 == client.encrypted.selected_alpn_protocol()
            assert 1 == hall.entrance.front.connections

    @pytest.mark.parametrize("lane", [True, False])
    async def test_each_token_is_there_when_it_was_said(self, open_hall: Open, lane: bool) -> None:
        """Nothing waits for what follows, on either way."""
        backend = verbatim(b"data: 1\n\n", b"data: 2\n\n", kind=b"text/event-stream", waits=True)
        async with open_hall(backend, lane=lane) as hall:
            client = await hall.connect()
            await client.send(post(json=STREAM))
            first = await client.read_to(b"data: 1\n\n")
            backend.go.set()
            second = await client.read_to(b"data: 2\n\n")

        assert (True, True) == (first.endswith(b"1\n\n"), second.endswith(b"2\n\n"))

    async def test_a_long_body_and_a_long_answer(self, open_hall: Open) -> None:
        """Longer than a record of TLS, and than a socket's buffers."""
        text = "x" * (4 << 20)
        async with open_hall(scripted().say(text)) as hall:
            client = await hall.connect()
            answer = await client.ask(post(json={**WHOLE, "user": text}))

        assert (200, len(text)) == (answer.status, len(answer.body))

    async def test_an_answer_to_the_connections_end_has_one(self, open_hall: Open) -> None:
        """The client is as strict as the standard: it would take an end without a farewell for a fault."""
        async with open_hall(verbatim(b"a", b"b")) as hall:
            client = await hall.connect()
            answer = await client.ask(post(version="1.0"))

        assert (200, b"ab") == (answer.status, answer.body)

    async def test_an_answer_that_broke_off_has_none(self, open_hall: Open) -> None:
        """Nobody takes a part of it for the whole."""
        async with open_hall(verbatim(b"a", b"b", failure=BROKEN)) as hall:
            client = await hall.connect()
            await client.send(post(version="1.0"))
            with pytest.raises(trio.BrokenResourceError):
                await client.read()

    @pytest.mark.parametrize("request_", [GET, post()], ids=["quart", "lane"])
    async def test_idle_connections_are_bidden_farewell(
        self, open_hall: Open, request_: bytes
    ) -> None:
        """When the router leaves, on either way."""
        async with open_hall() as hall:
            client = await hall.connect()
            await client.ask(request_)
            await wait_all_tasks_blocked(0.01)
            hall.entrance.front.drain()

            assert await client.is_let_go()
            client.leave()
            await hall.entrance.closed.wait()

    async def test_a_websocket(self, open_hall: Open) -> None:
        """A real client's: each token alone, and the close that it asks for."""
        backend = scripted().say('{"response": "a", "done": false}').hang()
        async with open_hall(backend) as hall, trio.open_nursery() as nursery:
            guest = await hall.connect()
            socket = await wrap_client_stream(
                nursery, guest.encrypted, f"localhost:{hall.entrance.port}", SOCKET_PATH
            )
            await socket.send_message(json.dumps({"request_id": "it", **ASK}))
            frame = json.loads(await socket.get_message())
            await socket.aclose()

        assert ("it", "a", False) == (frame["request_id"], frame["token"], frame["done"])

    @pytest.mark.parametrize("leave", [Guest.leave, Guest.reset])
    async def test_a_client_that_leaves_is_seen(
        self, open_hall: Open, leave: Callable[[Guest], None]
    ) -> None:
        """Its backend is told, though nobody said goodbye."""
        backend = scripted().hang()
        async with open_hall(backend) as hall:
            client = await hall.connect()
            await client.send(post())
            await becomes(lambda: backend.errands)
            leave(client)
            await hall.entrance.front.wait_empty()
            await becomes(lambda: backend.left)


async def test_plain_text_passes_untouched() -> None:
    """Where nothing is encrypted, nobody waits for it, and nothing stands between socket and server."""
    handshakes = Handshakes(None, protocol=HTTP1, timeout_s=1.0)
    async with loopback_pair() as (_, stream):
        with assert_no_checkpoints():
            served = await handshakes.shake(stream)

    assert served is stream


class TestStrangers:
    """Who does not get in hurts nobody and holds nothing."""

    async def test_who_never_shakes_hands_is_let_go(
        self, open_hall: Open, mock_clock: MockClock
    ) -> None:
        """A handshake has as long as a head, and others are served meanwhile."""
        async with open_hall() as hall:
            silent = Client(await hall.entrance.dial())
            half = Client(await hall.entrance.dial())
            await half.send(b"\x16\x03\x01\x02\x00")  # a record's head, and no record
            await becomes(lambda: hall.entrance.front.connections == 2)
            await hall.assert_serves_on()
            await becomes(lambda: hall.entrance.front.connections == 2)
            await wait_all_tasks_blocked(0.01)
            mock_clock.jump(LIMITS.head_timeout_s)

            assert [True, True] == [await client.is_let_go() for client in (silent, half)]
            await hall.entrance.front.wait_empty()

    async def test_they_count_among_the_connections(self, open_hall: Open) -> None:
        """So there are only so many handshakes at once."""
        async with open_hall(max_connections=1) as hall:
            await hall.entrance.dial()
            await becomes(lambda: hall.entrance.front.connections == 1)
            other = Client(await hall.entrance.dial())

            assert await other.is_let_go()

    @pytest.mark.parametrize("said", [GET, post()], ids=["GET", "POST"])
    async def test_who_speaks_plain_text_is_told_so(self, open_hall: Open, said: bytes) -> None:
        """In its own language."""
        async with open_hall() as hall:
            guest = await hall.connect()
            answer = await Client(await hall.entrance.dial()).ask(said)
            served = await guest.ask(GET)

        assert (400, 200) == (answer.status, served.status)
        assert b"https://" in answer.body

    async def test_garbage_makes_few_lines(
        self, open_hall: Open, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """However often it comes, and none of it is in the log."""
        async with open_hall() as hall:
            with caplog.at_level(logging.INFO):
                for _ in range(3):
                    client = Client(await hall.entrance.dial())
                    await client.send(GARBAGE)
                    assert await client.is_let_go()
                    client.leave()
                    await hall.entrance.front.wait_empty()
                mock_clock.jump(TELL_S)
                client = Client(await hall.entrance.dial())
                await client.send(GARBAGE)
                assert await client.is_let_go()
            await hall.assert_serves_on()

        told = [line for line in caplog.messages if "no TLS" in line]
        assert [
            "no TLS with 127.0.0.1: wrong version number",
            "no TLS with 127.0.0.1: wrong version number; 2 others had failed since the last was told",
        ] == told

    async def test_who_leaves_in_the_middle_of_it(self, open_hall: Open) -> None:
        """Politely or not."""
        async with open_hall() as hall:
            for leave in (Client.leave, Client.reset):
                client = Client(await hall.entrance.dial())
                await client.send(b"\x16\x03\x01\x02\x00")
                await becomes(lambda: hall.entrance.front.connections == 1)
                leave(client)
                await hall.entrance.front.wait_empty()
            await hall.assert_serves_on()

    async def test_old_versions_are_refused(self, open_hall: Open, papers: Papers) -> None:
        """TLS 1.2 is the oldest that is spoken."""
        served = {}
        async with open_hall() as hall:
            for version in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2):
                context = papers.client()
                with warnings.catch_warnings(action="ignore"):  # ssl deprecates the one, too
                    context.minimum_version = context.maximum_version = version
                context.set_ciphers("ALL:@SECLEVEL=0")
                stream = trio.SSLStream(
                    await hall.entrance.dial(), context, server_hostname="localhost"
                )
                try:
                    await stream.do_handshake()
                except trio.BrokenResourceError:
                    served[version.name] = False
                else:
                    served[version.name] = True
                stream.transport_stream.socket.close()

        assert {"TLSv1_1": False, "TLSv1_2": True} == served

    async def test_a_drain_waits_for_no_handshake(self, open_hall: Open) -> None:
        """Nothing was begun for it."""
        async with open_hall(limits=LaneLimits(head_timeout_s=3600)) as hall:
            silent = Client(await hall.entrance.dial())
            await becomes(lambda: hall.entrance.front.connections == 1)
            await wait_all_tasks_blocked(0.01)
            hall.entrance.front.drain()

            assert await silent.is_let_go()
            await hall.entrance.closed.wait()


class TestMutual:
    """Where clients need a certificate, too."""

    async def test_who_has_one_is_served(self, open_hall: Open, papers: Papers) -> None:
        """It is of the authority that the file names."""
        async with open_hall(files=papers.mutual()) as hall:
            client = await hall.connect(known=True)
            answer = await client.ask(post())

        assert 200 == answer.status

    @pytest.mark.parametrize("stranger", [True, False], ids=["of another", "none"])
    async def test_who_has_none_is_told_why(
        self,
        open_hall: Open,
        papers: Papers,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        stranger: bool,
    ) -> None:
        """By an alert, before anything was read of it; and the log says it, too."""
        context = papers.client()
        if stranger:
            own = Papers(tmp_path / "others").issue("client")
            context.load_cert_chain(own.cert_file, own.key_file)
        async with open_hall(files=papers.mutual()) as hall:
            stream = trio.SSLStream(
                await hall.entrance.dial(), context, server_hostname="localhost"
            )
            with caplog.at_level(logging.INFO):
                await stream.send_all(GET)
                with pytest.raises(trio.BrokenResourceError) as caught:
                    await stream.receive_some()
            stream.transport_stream.socket.close()
            await hall.entrance.front.wait_empty()
            served = await (await hall.connect(known=True)).ask(GET)

        assert 200 == served.status
        why = str(caught.value.__cause__).lower()
        assert re.search("unknown ca|certificate required", why)
        assert 1 == len([line for line in caplog.messages if "certificate" in line])


# -- a certificate that is replaced while the router runs ------------------------------------------


def shown(guest: Guest) -> bytes:
    """The certificate that a client was shown."""
    found = guest.encrypted.getpeercert(binary_form=True)
    assert isinstance(found, bytes)
    return found


async def test_new_files_are_used_and_nobody_is_cut(
    papers: Papers, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """From the next connection on; one that is open goes on under the old one."""
    encryption = Encryption(papers.files)
    async with (
        Entrance.open(encryption=encryption) as entrance,
        trio.open_nursery() as nursery,
    ):
        hall = Hall(entrance, papers)
        nursery.start_soon(encryption.watch, 1.0)
        old = await hall.connect()
        papers.issue("server")
        with caplog.at_level(logging.INFO):
            await trio.sleep(3)
        new = await hall.connect()

        assert shown(old) != shown(new)
        assert [200, 200] == [(await client.ask(GET)).status for client in (old, new)]
        assert ["the certificate was read anew"] == caplog.messages
        nursery.cancel_scope.cancel()


async def test_files_in_the_middle_of_a_change_are_left_alone(
    papers: Papers, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate that has its key a moment later is no fault."""
    encryption = Encryption(papers.files)
    context = encryption.context(HTTP1)
    papers.issue("other")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(encryption.watch, 1.0)
        papers.move("other.pem", "server.pem")
        await trio.sleep(1.5)
        papers.move("other.key", "server.key")
        await trio.sleep(3)
        nursery.cancel_scope.cancel()

    assert [] == [line for line in caplog.messages if "not read" in line]
    assert context is not encryption.context(HTTP1)


async def test_a_broken_one_keeps_the_old_in_force(
    papers: Papers, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once what is wrong, and a good one that follows is used."""
    encryption = Encryption(papers.files)
    before = encryption.context(HTTP1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(encryption.watch, 1.0)
        papers.put("server.pem")
        await trio.sleep(10)
        kept = encryption.context(HTTP1)
        papers.issue("server")
        await trio.sleep(10)
        nursery.cancel_scope.cancel()

    assert (True, False) == (kept is before, encryption.context(HTTP1) is before)
    (told,) = [line for line in caplog.messages if "not read" in line]
    assert told.endswith(f"there is no certificate in {papers.files.cert_file}; PEM is expected")


async def test_an_old_one_is_warned_of_every_day(
    papers: Papers, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever looks at the log of this week learns of it."""
    encryption = Encryption(papers.issue("old", days=(-30, 1)))
    with trio.move_on_after(2.5 * WORRY_S):
        await encryption.watch(3600.0)

    assert 2 == len([line for line in caplog.messages if "expires on" in line])
