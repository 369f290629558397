"""One HTTP server: calls made on it over real sockets, its misbehaviours told apart."""

import gc
import random
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import attrs
import psutil
import pytest
import trio

from ollama_proxy.backends.backend import (
    BackendFailed,
    CallRejected,
    CallUnserved,
    Fault,
    ModelMissing,
    Report,
    Served,
)
from ollama_proxy.backends.server import Server, ServerSettings, translated
from ollama_proxy.policy.ask import Call, Dialect
from tests.backends.exchanges import (
    MODEL,
    Recording,
    byte_server,
    direct,
    errand,
    paths,
    reaching,
    recording,
)
from tests.fakes.ollama import Behaviour, Fake, Script, open_fake
from tests.real.parts import require

CHAT = Call.OPENAI_CHAT
STREAMING = [
    Call.OPENAI_CHAT,
    Call.OPENAI_COMPLETION,
    Call.OPENAI_RESPONSES,
    Call.ANTHROPIC_MESSAGES,
    Call.OLLAMA_CHAT,
    Call.OLLAMA_GENERATE,
]
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\n{}\n\n"


async def exchange(
    server: Server, sink: Recording, *, call: Call = CHAT, stream: bool = True, model: str = MODEL
) -> Served:
    """Make one call, untranslated."""
    made = errand(call, stream=stream)
    return await server.exchange(made, sink, path=call.path, model=model)


async def fault_of(server: Server, sink: Recording, *, stream: bool = True) -> BackendFailed:
    """How a call that must fail does."""
    with pytest.raises(BackendFailed) as caught:
        await exchange(server, sink, stream=stream)
    return caught.value


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[tuple[Fake, Server]]:
    """A fake and the server that it is for its callers."""
    async with open_fake(script) as fake, reaching(fake.url) as server:
        yield fake, server


# -- answers pass ----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", STREAMING, ids=lambda call: call.path)
@pytest.mark.parametrize("is_pumped", [False, True], ids=["written", "pumped"])
async def test_a_stream_passes_untouched(call: Call, is_pumped: bool) -> None:
    """Every byte of a stream arrives as it was sent, in either framing, by the pump or without."""
    script = Script(tokens=20, interval_s=0.001)
    async with scripted(script) as (fake, server), recording(is_pumped=is_pumped) as sink:
        expected = await direct(fake, errand(call, stream=True))
        served = await exchange(server, sink, call=call)

    assert expected == sink.body
    assert (200, 1, True) == (served.status, sink.begun, sink.complete)
    assert served.tokens is not None
    assert 20 <= served.tokens <= 25  # events that say no token are few


@pytest.mark.parametrize("call", Call, ids=lambda call: call.path)
async def test_a_whole_answer_passes_untouched(call: Call) -> None:
    """It comes at once, with its length and its type."""
    async with scripted(Script(tokens=5)) as (fake, server), recording() as sink:
        expected = await direct(fake, errand(call, stream=False))
        served = await exchange(server, sink, call=call, stream=False)

    assert sink.head is not None
    assert (expected, len(expected), True) == (sink.body, sink.head.length, sink.complete)
    assert (b"content-type", b"application/json") in sink.head.headers
    assert (200, None) == (served.status, served.tokens)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("behaviour", [Behaviour.TRICKLE, Behaviour.NO_CONTENT_LENGTH])
@pytest.mark.parametrize("is_pumped", [False, True], ids=["written", "pumped"])
async def test_odd_but_sound_answers_pass(
    behaviour: Behaviour, stream: bool, is_pumped: bool
) -> None:
    """Bytes that trickle, and a body that ends with its connection, are answers like others."""
    async with scripted(Script(tokens=3)) as (fake, server), recording(is_pumped=is_pumped) as sink:
        expected = await direct(fake, errand(CHAT, stream=stream))
        fake.script = Script(tokens=3, behaviour=behaviour, trickle_s=0)
        await exchange(server, sink, stream=stream)
        idle = server.idle_connections

    assert (expected, True) == (sink.body, sink.complete)
    assert (0 if behaviour is Behaviour.NO_CONTENT_LENGTH else 1) == idle


@pytest.mark.parametrize("is_pumped", [False, True], ids=["written", "pumped"])
async def test_a_long_whole_answer_is_not_held_back(is_pumped: bool) -> None:
    """Beyond a megabyte an answer is passed on as it comes, and arrives whole all the same."""
    script = Script(tokens=3, token_bytes=1_500_000)
    async with scripted(script) as (fake, server), recording(is_pumped=is_pumped) as sink:
        expected = await direct(fake, errand(CHAT, stream=False))
        await exchange(server, sink, stream=False)

    assert sink.head is not None
    assert (True, True, len(expected)) == (expected == sink.body, sink.complete, sink.head.length)
    assert len(sink.parts[0]) < 2_000_000


async def test_what_is_no_event_in_a_sound_stream_passes() -> None:
    """A stream that is passed on untouched is not judged by what it says."""
    script = Script(behaviour=Behaviour.GARBLE_STREAM)
    async with scripted(script) as (fake, server), recording() as sink:
        expected = await direct(fake, errand(CHAT, stream=True))
        await exchange(server, sink)

    assert expected == sink.body


async def test_the_callers_fault_is_told_in_the_servers_words() -> None:
    """An error that is the caller's own passes untouched."""
    script = Script(behaviour=Behaviour.REFUSE, status=400, message="no")
    async with scripted(script) as (fake, server), recording() as sink:
        expected = await direct(fake, errand(CHAT, stream=True))
        served = await exchange(server, sink)

    assert (expected, 400) == (sink.body, served.status)


# -- what is learned of an answer ------------------------------------------------------------------

PACED = Script(tokens=3, first_token_s=0.002, interval_s=0.001)
COUNTS = Report(prompt_tokens=5, answer_tokens=3)
OLLAMA_TIMES = attrs.evolve(COUNTS, load_s=0.0, prefill_s=0.002, decode_s=0.002)
LLAMA_TIMES = attrs.evolve(COUNTS, cached_tokens=2, prefill_s=0.002, decode_s=0.002)
ASKED: dict[str, object] = {"stream_options": {"include_usage": True}}
REPORTS = {
    "chat": (Call.OPENAI_CHAT, {}, False, None, COUNTS),
    "chat, usage wanted": (Call.OPENAI_CHAT, ASKED, False, COUNTS, COUNTS),
    "chat, timings": (Call.OPENAI_CHAT, {}, True, LLAMA_TIMES, LLAMA_TIMES),
    "chat, usage, timings": (Call.OPENAI_CHAT, ASKED, True, LLAMA_TIMES, LLAMA_TIMES),
    "completion, timings": (Call.OPENAI_COMPLETION, {}, True, LLAMA_TIMES, LLAMA_TIMES),
    "responses": (Call.OPENAI_RESPONSES, {}, False, COUNTS, COUNTS),
    "messages": (Call.ANTHROPIC_MESSAGES, {}, False, COUNTS, COUNTS),
    "ollama chat": (Call.OLLAMA_CHAT, {}, False, OLLAMA_TIMES, OLLAMA_TIMES),
    "ollama generate": (Call.OLLAMA_GENERATE, {}, False, OLLAMA_TIMES, OLLAMA_TIMES),
}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("behaviour", [Behaviour.OK, Behaviour.TRICKLE])
@pytest.mark.parametrize("is_pumped", [False, True], ids=["written", "pumped"])
@pytest.mark.parametrize("name", REPORTS)
async def test_what_a_server_reports_is_read_as_it_passes(
    name: str, is_pumped: bool, behaviour: Behaviour, stream: bool
) -> None:
    """Its counts and times are learned from the untouched bytes, wherever these were cut."""
    call, fields, timings, streamed, whole = REPORTS[name]
    script = attrs.evolve(PACED, timings=timings, behaviour=behaviour, trickle_s=0)
    async with scripted(script) as (_, server), recording(is_pumped=is_pumped) as sink:
        made = errand(call, stream=stream, **fields)
        served = await server.exchange(made, sink, path=call.path, model=MODEL)

    assert (streamed if stream else whole) == served.report


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("call", "target", "expected"),
    [
        (Call.OLLAMA_CHAT, Dialect.OPENAI, LLAMA_TIMES),
        (Call.OPENAI_CHAT, Dialect.OLLAMA, OLLAMA_TIMES),
    ],
    ids=["to-openai", "to-ollama"],
)
async def test_what_a_server_reports_is_read_before_translation(
    call: Call, target: Dialect, expected: Report, stream: bool
) -> None:
    """The server's own words count, since translation drops what the caller's dialect lacks."""
    script = attrs.evolve(PACED, timings=True)
    async with scripted(script) as (_, server), recording() as sink:
        made = errand(call, stream=stream)
        translation = translated(made, target, model=MODEL)
        path = translation.call.path
        served = await server.exchange(made, sink, path=path, model=MODEL, translation=translation)

    assert expected == served.report


async def test_a_whole_answer_that_was_not_held_back_reports_nothing() -> None:
    """Beyond a megabyte nobody has all of it, and half of it is no JSON."""
    script = Script(tokens=3, token_bytes=1_500_000)
    async with scripted(script) as (_, server), recording() as sink:
        served = await exchange(server, sink, stream=False)

    assert Served(status=200) == served


async def test_a_connection_reports_each_of_its_answers_alone() -> None:
    """What one answer reported is not taken for the next one's."""
    async with scripted(Script(tokens=3)) as (fake, server):
        reports = []
        for call in (Call.OLLAMA_CHAT, Call.OPENAI_CHAT):
            async with recording() as sink:
                reports.append((await exchange(server, sink, call=call)).report)
        connections = fake.connections

    assert (1, True, None) == (connections, reports[0] is not None, reports[1])


# -- requests pass ---------------------------------------------------------------------------------


async def test_an_alias_changes_nothing_but_the_model() -> None:
    """The server is asked for its own name of the model; all else is as it was."""
    async with scripted(Script()) as (fake, server), recording() as sink:
        await exchange(server, sink, model="real")
        made = errand(CHAT, stream=True, model="real")

    assert bytes(made.body) == b'{"model":"real"' + errand(CHAT, stream=True).body[22:]
    assert len(made.body) == fake.log[0].body_bytes
    assert "real" == fake.log[0].body["model"]


@pytest.mark.parametrize("key", ["", "s3cret"])
async def test_the_key_is_sent_only_where_there_is_one(key: str) -> None:
    """A server gets its own key, the headers that were let through, and no other."""
    async with (
        open_fake(Script()) as fake,
        reaching(fake.url, ServerSettings(api_key=key)) as server,
        recording() as sink,
    ):
        made = errand(CHAT, stream=True)
        with_trace = type(made)(
            call=CHAT,
            model=MODEL,
            body=made.body,
            stream=True,
            headers=((b"traceparent", b"00-1"),),
        )
        await server.exchange(with_trace, sink, path=CHAT.path, model=MODEL)
        await server.fetch("/api/tags")
        inference, control = fake.log

    expected = {
        "host": f"{fake.host}:{fake.port}",
        "content-type": "application/json",
        "content-length": str(len(made.body)),
        "traceparent": "00-1",
    } | ({"authorization": f"Bearer {key}"} if key else {})
    assert expected == dict(inference.headers)
    assert expected.get("authorization") == dict(control.headers).get("authorization")


async def test_a_body_of_megabytes_arrives() -> None:
    """A request larger than any socket buffer is sent whole."""
    prompt = "x" * 8_000_000
    async with scripted(Script()) as (fake, server), recording() as sink:
        made = errand(CHAT, stream=False, extra=prompt)
        await server.exchange(made, sink, path=CHAT.path, model=MODEL)

    assert len(made.body) == fake.log[0].body_bytes


async def test_a_server_may_answer_before_it_has_heard_all() -> None:
    """What it says against a long body is told, though it closes in the middle of it."""
    said = b'{"error":"the body is too large"}'
    head = b"HTTP/1.1 413 No\r\ncontent-length: %d\r\n\r\n" % len(said)
    async with byte_server(head + said) as url, reaching(url) as server, recording() as sink:
        made = errand(CHAT, stream=False, extra="x" * 20_000_000)
        served = await server.exchange(made, sink, path=CHAT.path, model=MODEL)

    assert (413, said) == (served.status, sink.body)


# -- connections -----------------------------------------------------------------------------------


async def test_connections_are_kept() -> None:
    """One call after the other goes over one connection."""
    async with scripted(Script()) as (fake, server):
        for stream in (True, False, True):
            async with recording() as sink:
                await exchange(server, sink, stream=stream)

    assert (3, 1) == (len(fake.log), fake.connections)


async def test_a_connection_that_was_closed_in_silence_is_not_used() -> None:
    """A server that announces keep-alive and closes after each stream is called once a call."""
    script = Script(behaviour=Behaviour.CLOSE_AFTER_STREAM)
    async with scripted(script) as (fake, server):
        for _ in range(3):
            async with recording() as sink:
                await exchange(server, sink)
            await fake.until(lambda _: not fake.open_connections)

    assert (3, 3) == (len(fake.log), fake.connections)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_stale_connection_is_replaced(reset: bool) -> None:
    """A kept connection that dies when used, before a byte of answer, costs nobody anything."""
    async with scripted(Script()) as (fake, server), recording() as before, recording() as sink:
        await exchange(server, before)
        fake.script = Script(behaviour=Behaviour.DIE_BEFORE_HEAD, times=1, reset=reset)
        await exchange(server, sink)

    assert (3, 2, before.body) == (len(fake.log), fake.connections, sink.body)


async def test_a_stale_connection_is_replaced_once() -> None:
    """When the fresh connection dies as well, the server is at fault."""
    async with scripted(Script()) as (fake, server), recording() as before, recording() as sink:
        await exchange(server, before)
        fake.script = Script(behaviour=Behaviour.DIE_BEFORE_HEAD)
        fault = await fault_of(server, sink)

    assert (Fault.BROKE, 3, 0) == (fault.fault, len(fake.log), sink.begun)


async def test_a_fresh_connection_is_not_replaced() -> None:
    """Only what may have been dead before is tried again."""
    script = Script(behaviour=Behaviour.DIE_BEFORE_HEAD)
    async with scripted(script) as (fake, server), recording() as sink:
        fault = await fault_of(server, sink)

    assert (Fault.BROKE, 1) == (fault.fault, len(fake.log))


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n."])
async def test_nothing_is_sent_again_once_a_byte_came(begun: bytes) -> None:
    """A kept connection that dies after the first byte of an answer was alive: no second try."""
    async with byte_server(OK, begun, OK) as url, reaching(url) as server:
        async with recording() as before, recording() as sink:
            await exchange(server, before, stream=False)
            fault = await fault_of(server, sink, stream=False)
        async with recording() as after:
            await exchange(server, after, stream=False)

    assert fault.fault in {Fault.BROKE, Fault.GARBLED}
    assert b"{}\n\n" == after.body  # the third answer was still there


INTERIM = b"HTTP/1.1 103 Early Hints\r\n\r\n"


async def test_interim_answers_are_passed_over() -> None:
    """A few may come before any answer (RFC 9110, 15.2), for inference and for the rest."""
    async with byte_server(INTERIM * 9 + OK) as url, reaching(url) as server:
        control = await server.fetch("/api/tags")
    async with byte_server(INTERIM * 9 + OK) as url, reaching(url) as server, recording() as sink:
        served = await exchange(server, sink, stream=False)

    assert ((200, b"{}\n\n"), 200) == (control, served.status)


async def test_interim_answers_have_an_end() -> None:
    """Who sends nothing but those is garbled once they are as long as no head is."""
    async with byte_server(INTERIM * 700 + OK) as url, reaching(url) as server:
        with pytest.raises(BackendFailed) as control:
            await server.fetch("/node")

    assert (Fault.GARBLED, "its answer's head is too long") == (
        control.value.fault,
        str(control.value),
    )


async def test_a_body_is_no_head() -> None:
    """What is counted of one answer is not counted of its body, nor of the next answer."""
    long = b"HTTP/1.1 200 OK\r\ncontent-length: 40002\r\n\r\n" + b"x" * 40_000 + b"\n\n"
    async with byte_server(long, long) as url, reaching(url) as server:
        sizes = [len((await server.fetch("/api/tags"))[1]) for _ in range(2)]

    assert [40_002] * 2 == sizes


async def test_a_closed_port_is_unreachable() -> None:
    """Nobody there is told from somebody who breaks off."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused for certain
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with reaching(url) as server, recording() as sink:
            inference = await fault_of(server, sink)
            with pytest.raises(BackendFailed) as control:
                await server.fetch("/api/tags")

    assert [Fault.UNREACHABLE] * 2 == [inference.fault, control.value.fault]


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".lan", "xn--a"])
async def test_a_name_that_no_host_can_have_is_unreachable(host: str) -> None:
    """A slip in a configuration is one backend that is down, not a router that ends."""
    async with reaching(f"http://{host}:1") as server, recording() as sink:
        inference = await fault_of(server, sink)
        with pytest.raises(BackendFailed) as control:
            await server.fetch("/api/tags")

    assert [Fault.UNREACHABLE] * 2 == [inference.fault, control.value.fault]


async def test_a_unix_socket_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    """A path without a socket is as good as a closed port."""
    async with reaching(f"unix:{tmp_path}/none") as server, recording() as sink:
        inference = await fault_of(server, sink)
        with pytest.raises(BackendFailed) as control:
            await server.fetch("/api/tags")

    assert [Fault.UNREACHABLE] * 2 == [inference.fault, control.value.fault]


@contextmanager
def mute() -> Iterator[str]:
    """A server that takes connections and says nothing on them."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        yield f"https://127.0.0.1:{door.getsockname()[1]}"


async def test_a_server_that_takes_no_connection_is_unreachable() -> None:
    """Connecting has its own limit of time, TLS included."""
    settings = ServerSettings(connect_timeout_s=0.05)
    with mute() as url:
        async with reaching(url, settings) as server, recording() as sink:
            fault = await fault_of(server, sink)

    assert (Fault.UNREACHABLE, "it took no connection within 0.05 s") == (fault.fault, str(fault))


async def test_a_unix_socket(tmp_path: Path) -> None:
    """A server behind a Unix socket is called like any other, for inference and for the rest."""
    where = tmp_path / "s"
    async with (
        open_fake(Script(), unix=where) as fake,
        reaching(f"unix:{where}") as server,
        recording(is_pumped=True) as sink,
    ):
        served = await exchange(server, sink)
        status, _ = await server.fetch("/api/tags")

    assert (200, 200, [CHAT.path, "/api/tags"]) == (served.status, status, paths(fake))


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of our own for `localhost`, and its key."""
    require(shutil.which("openssl") is not None, "openssl is not installed")
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


@asynccontextmanager
async def behind_tls(fake: Fake, certificate: tuple[Path, Path]) -> AsyncIterator[str]:
    """The fake, reached through a door that speaks TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)

    async def copy(
        source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, over: trio.CancelScope
    ) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
        except trio.BrokenResourceError:
            pass  # either side is gone; so is the other, below
        over.cancel()

    async def relay(outer: trio.SSLStream[trio.SocketStream]) -> None:
        inner = await trio.open_tcp_stream(fake.host, fake.port)
        async with outer, inner, trio.open_nursery() as nursery:
            nursery.start_soon(copy, outer, inner, nursery.cancel_scope)
            nursery.start_soon(copy, inner, outer, nursery.cancel_scope)

    async def guard(outer: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await relay(outer)
        except (trio.BrokenResourceError, ssl.SSLError):
            return  # a caller that does not trust us

    async with trio.open_nursery() as nursery:
        serve = partial(
            trio.serve_ssl_over_tcp, guard, 0, context, host="127.0.0.1", https_compatible=True
        )
        listener = (await nursery.start(serve))[0]
        yield f"https://localhost:{listener.transport_listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_tls(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system trusts is trusted, for inference and for the rest alike."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    async with (
        open_fake(Script()) as fake,
        behind_tls(fake, certificate) as url,
        reaching(url) as server,
    ):
        expected = await direct(fake, errand(CHAT, stream=True))
        answers = []
        for _ in range(2):
            async with recording(is_pumped=True) as sink:
                await exchange(server, sink)
                answers.append(sink.body)
        connections = fake.connections
        status, _ = await server.fetch("/api/tags")

    assert [expected, expected] == answers
    assert (2, 200) == (connections, status)  # one of them was `direct`


async def test_an_unknown_certificate_is_not_trusted(certificate: tuple[Path, Path]) -> None:
    """Without it no byte of a prompt leaves."""
    async with (
        open_fake(Script()) as fake,
        behind_tls(fake, certificate) as url,
        reaching(url) as server,
        recording() as sink,
    ):
        inference = await fault_of(server, sink)
        with pytest.raises(BackendFailed) as control:
            await server.fetch("/api/tags")

    assert [Fault.UNREACHABLE] * 2 == [inference.fault, control.value.fault]
    assert [] == fake.log


# -- misbehaviours ---------------------------------------------------------------------------------

DIES, BREAKS, GARBLES = Behaviour.DIE_BEFORE_HEAD, Behaviour.DIE_MID_STREAM, Behaviour.GARBLE


@pytest.mark.parametrize("is_pumped", [False, True], ids=["written", "pumped"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (Script(behaviour=DIES), Fault.BROKE),
        (Script(behaviour=DIES, reset=True), Fault.BROKE),
        (Script(behaviour=BREAKS), Fault.BROKE),
        (Script(behaviour=BREAKS, reset=True), Fault.BROKE),
        (Script(behaviour=GARBLES), Fault.GARBLED),
    ],
)
async def test_a_broken_answer(script: Script, fault: Fault, stream: bool, is_pumped: bool) -> None:
    """What breaks off or makes no sense fails, and only a stream with a first byte was begun."""
    begun = int(script.behaviour is BREAKS and stream)
    async with scripted(script) as (_, server), recording(is_pumped=is_pumped) as sink:
        failure = await fault_of(server, sink, stream=stream)
        idle = server.idle_connections

    assert (fault, begun, False, 0) == (failure.fault, sink.begun, sink.complete, idle)


async def test_a_head_alone_begins_nothing() -> None:
    """A stream whose head came early and whose first piece never did is still replaceable."""
    script = Script(behaviour=BREAKS, early_head=True, after_tokens=0)
    async with scripted(script) as (_, server), recording() as sink:
        failure = await fault_of(server, sink)

    assert (Fault.BROKE, 0) == (failure.fault, sink.begun)


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 529])
async def test_a_refusal(status: int) -> None:
    """An answer that says that the server cannot is its failure, with its status and sentence."""
    script = Script(behaviour=Behaviour.REFUSE, status=status, message="out of memory")
    async with scripted(script) as (_, server), recording() as sink:
        failure = await fault_of(server, sink)

    assert (Fault.REFUSED, status, 0) == (failure.fault, failure.status, sink.begun)
    assert f"it answered {status}: out of memory" == str(failure)


async def test_a_page_of_html_is_a_refusal() -> None:
    """A reverse proxy's page is not shown to a caller who expects JSON."""
    async with (
        scripted(Script(behaviour=Behaviour.HTML_ERROR)) as (_, server),
        recording() as sink,
    ):
        failure = await fault_of(server, sink)

    assert (Fault.REFUSED, 502, "it answered 502") == (
        failure.fault,
        failure.status,
        str(failure),
    )


async def test_an_error_that_is_not_utf8_is_a_refusal() -> None:
    """Whatever bytes an error consists of, they are no more than that backend's failure."""
    page = b'{"error":"\xff\xfe"}\n\n'
    head = b"HTTP/1.1 500 Oops\r\ncontent-length: %d\r\n\r\n" % len(page)
    async with byte_server(head + page) as url, reaching(url) as server, recording() as sink:
        failure = await fault_of(server, sink)

    assert (Fault.REFUSED, "it answered 500") == (failure.fault, str(failure))


async def test_a_redirect_is_a_refusal() -> None:
    """A server may not send a prompt elsewhere."""
    head = b"HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 2\r\n\r\n\n\n"
    async with byte_server(head) as url, reaching(url) as server, recording() as sink:
        failure = await fault_of(server, sink)

    assert (Fault.REFUSED, 307) == (failure.fault, failure.status)


async def test_a_missing_model() -> None:
    """A 404 about the model says that the list of models was out of date."""
    script = Script(behaviour=Behaviour.MISSING_MODEL)
    async with scripted(script) as (_, server), recording() as sink:
        with pytest.raises(ModelMissing):
            await exchange(server, sink)

    assert 0 == sink.begun


@pytest.mark.parametrize("unserved_as", ["gin", "llama-server"])
async def test_an_unknown_path(unserved_as: str) -> None:
    """A 404 about the path says that the server does not know the call."""
    script = Script(behaviour=Behaviour.UNSERVED, unserved_as=unserved_as)
    async with scripted(script) as (_, server), recording() as sink:
        with pytest.raises(CallUnserved):
            await exchange(server, sink)

    assert 0 == sink.begun


async def test_a_body_that_cannot_be_rewritten_is_the_callers_fault() -> None:
    """A name that is not UTF-8, in a place that nobody read so far, ends one call and no more."""
    async with scripted(Script()) as (fake, server), recording() as sink:
        made = errand(CHAT, stream=True)
        odd = type(made)(call=CHAT, model=MODEL, body=b'{"model":"m","\xff":1}', stream=True)
        with pytest.raises(CallRejected) as rejected:
            await server.exchange(odd, sink, path=CHAT.path, model="real")

    assert (400, []) == (rejected.value.status, fake.log)


# -- leaving ---------------------------------------------------------------------------------------

SILENT = Script(behaviour=Behaviour.HANG)
EARLY = Script(early_head=True, first_token_s=1000.0)
MIDWAY = Script(behaviour=Behaviour.HANG_MID_STREAM, after_tokens=3)
CHATTY = Script(tokens=100_000, interval_s=0.001)


@pytest.mark.parametrize(
    ("script", "tokens", "stream"),
    [
        (SILENT, 0, True),
        (SILENT, 0, False),
        (EARLY, 0, True),
        (MIDWAY, 3, True),
        (MIDWAY, 0, False),
        (CHATTY, 5, True),
    ],
    ids=["silent", "silent-whole", "head", "midway", "midway-whole", "chatty"],
)
@pytest.mark.parametrize("is_pumped", [False, True], ids=["written", "pumped"])
async def test_cancelling_closes_the_connection(
    script: Script, tokens: int, stream: bool, is_pumped: bool
) -> None:
    """Wherever an answer has come to, the server sees at once that nobody wants it."""
    async with scripted(script) as (fake, server), recording(is_pumped=is_pumped) as sink:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(exchange, server, sink, stream=stream))
            await fake.until(lambda log: log and log[0].tokens_sent >= tokens)
            nursery.cancel_scope.cancel()
        await fake.until(lambda log: log[0].client_left_s)
        idle = server.idle_connections

    assert (0, False) == (idle, sink.complete)


async def test_cancelling_while_the_answers_reader_is_slow() -> None:
    """A sink that takes nothing does not keep the connection open either."""
    async with scripted(CHATTY) as (fake, server), recording() as sink:
        async with trio.open_nursery() as nursery:
            sink.on_begin = nursery.cancel_scope.cancel
            nursery.start_soon(exchange, server, sink)
        await fake.until(lambda log: log[0].client_left_s)

    assert 1 == sink.begun


async def test_cancelling_while_connecting() -> None:
    """A handshake that nobody waits for any more leaves no descriptor behind."""
    with mute() as url:
        before = psutil.Process().num_fds()
        async with reaching(url) as server, recording() as sink:
            with trio.move_on_after(0.05) as patience:
                await exchange(server, sink)
        gc.collect()
        after = psutil.Process().num_fds()

    assert (True, before) == (patience.cancelled_caught, after)


async def test_nothing_is_left_behind() -> None:
    """After two hundred calls of every sort, cancelled at random, all that is open is accounted for."""
    chance = random.Random(7)  # noqa: S311 - it guards nothing
    gc.collect()
    before = psutil.Process().num_fds()
    troubles = [
        Behaviour.OK,
        Behaviour.DIE_BEFORE_HEAD,
        Behaviour.DIE_MID_STREAM,
        Behaviour.GARBLE,
        Behaviour.CLOSE_AFTER_STREAM,
        Behaviour.REFUSE,
        Behaviour.UNSERVED,
        Behaviour.NO_CONTENT_LENGTH,
        Behaviour.HANG,
        Behaviour.HANG_MID_STREAM,
    ]
    at_once = 8
    async with scripted(Script()) as (fake, server):

        async def call(limiter: trio.CapacityLimiter) -> None:
            async with limiter, recording(is_pumped=chance.random() < 0.5) as sink:
                fake.script = Script(interval_s=0.001, behaviour=chance.choice(troubles))
                with trio.move_on_after(chance.uniform(0.0, 0.05)):
                    try:
                        await exchange(server, sink, stream=chance.random() < 0.7)
                    except (BackendFailed, CallUnserved):
                        return

        async with trio.open_nursery() as nursery:
            limiter = trio.CapacityLimiter(at_once)
            for _ in range(200):
                nursery.start_soon(call, limiter)
        idle = server.idle_connections
        await server.aclose()
        await fake.until(lambda _: not fake.open_connections)

        assert idle <= at_once
        assert 0 == server.idle_connections
    gc.collect()

    assert before == psutil.Process().num_fds()


# -- everything else -------------------------------------------------------------------------------


async def test_a_management_call_passes_as_it_comes() -> None:
    """Status and headers are there before the body, and the body comes in pieces."""
    async with (
        scripted(Script(tokens=2)) as (fake, server),
        server.call("POST", "/api/pull", body=b'{"model":"m"}') as reply,
    ):
        body = b"".join([chunk async for chunk in reply.body])

    assert (200, {"model": "m"}) == (reply.status, fake.log[0].body)
    assert (b"content-type", b"application/x-ndjson") in reply.headers
    assert 5 == body.count(b"\n")


async def test_a_management_call_that_breaks_off() -> None:
    """A download that ends too early fails, after what came of it."""
    script = Script(behaviour=Behaviour.DIE_MID_STREAM, misbehaves_at=("/api/pull",))
    async with scripted(script) as (_, server):
        with pytest.raises(BackendFailed) as caught:  # noqa: PT012 - on leaving, too
            async with server.call("POST", "/api/pull", body=b'{"model":"m"}') as reply:
                async for _ in reply.body:
                    continue

    assert Fault.BROKE is caught.value.fault


async def test_a_management_call_has_its_time() -> None:
    """A server that does not answer is silent; who has no limit waits."""
    script = Script(behaviour=Behaviour.HANG, misbehaves_at=("/api/*",))
    async with scripted(script) as (_, server):
        with pytest.raises(BackendFailed) as caught:
            async with server.call("GET", "/api/tags", timeout_s=0.02):
                raise AssertionError("it does not answer")

    assert Fault.SILENT is caught.value.fault


async def test_a_list_that_never_ends_is_garbled() -> None:
    """What should be small is not read for ever."""
    script = Script(models=("m" * 9_000_000,) * 2)
    async with scripted(script) as (_, server):
        with pytest.raises(BackendFailed) as caught:
            await server.fetch("/v1/models")

    assert Fault.GARBLED is caught.value.fault
