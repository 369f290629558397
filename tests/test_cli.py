"""The command as its users run it: a process with arguments, an environment, output and an exit code."""

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import httpx
import pytest
import trio

import ollama_proxy
from tests.answers import HEAT
from tests.fakes.ollama import Behaviour, Fake, Script, open_fake
from tests.numb import NUMB_TOML
from tests.real.parts import require

LIMIT_S = 30.0
MODULE = ("-m", "ollama_proxy")
# The same command where the extra `embedded` is not installed, whatever is.
BARE = (
    "-c",
    "import sys; sys.modules['xllamacpp'] = None; from ollama_proxy.cli import main; sys.exit(main())",
)
OLLAMA_PORT = 11434
CHAT = "/v1/chat/completions"
ANY_PORT = ("--http-port", "0", "--grpc-port", "0")
ASK = {"model": "fake:latest", "messages": [{"role": "user", "content": "hi"}]}


def config_for(*fakes: Fake | str, more: str = "") -> str:
    """A configuration with a backend for each, on any free port."""
    backends = [
        f'[[backends]]\nid = "{name}"\nhardware = "{name}"\nslots = 2\n'
        f'endpoint = "{fake if isinstance(fake, str) else fake.url}"\n'
        for name, fake in zip(("npu", "cpu"), fakes, strict=False)
    ]
    return "\n".join([
        "[server]\nhttp_port = 0\ngrpc = false\ndrain_s = 5\n",
        *backends,
        NUMB_TOML,
        more,
    ])


@attrs.define
class Desk:
    """A directory to run the command in, away from everything that this user has configured."""

    directory: Path
    variables: dict[str, str] = attrs.field(factory=dict)

    def write(self, text: str) -> None:
        """Put a configuration where the command looks first."""
        (self.directory / "config.toml").write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        """All the variables that the command sees."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(ollama_proxy.__file__).parent.parent),
            "HOME": str(self.directory),
        } | self.variables

    async def run(
        self, *arguments: str, program: Sequence[str] = MODULE
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run the command to its end."""
        with trio.fail_after(LIMIT_S):
            return await trio.run_process(
                [sys.executable, *program, *arguments],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                cwd=self.directory,
                env=self.environment,
            )

    @asynccontextmanager
    async def serving(
        self, *arguments: str, program: Sequence[str] = MODULE
    ) -> AsyncIterator["Router"]:
        """A router from its first line to its end."""
        with trio.fail_after(LIMIT_S):
            process = await trio.lowlevel.open_process(
                [sys.executable, *program, "serve", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.directory,
                env=self.environment,
            )
            router = Router(process)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(router.keep, process.stdout, router.out)
                    nursery.start_soon(router.keep, process.stderr, router.err)
                    while b"\n" not in router.out and process.poll() is None:
                        await router.news.park()
                    yield router
                    await router.end()
            finally:
                if process.returncode is None:
                    process.kill()
                    with trio.CancelScope(shield=True):
                        await process.wait()


@attrs.define(eq=False)
class Router:
    """A running router.

    Attributes:
        out: what it said on stdout.
        err: what it said on stderr.
    """

    process: trio.Process
    out: bytearray = attrs.field(factory=bytearray)
    err: bytearray = attrs.field(factory=bytearray)
    news: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    async def keep(self, stream: trio.abc.ReceiveStream | None, kept: bytearray) -> None:
        """Keep what it says."""
        assert stream is not None
        async with stream:
            async for data in stream:
                kept += data
                self.news.unpark_all()
        self.news.unpark_all()

    @property
    def grpc(self) -> str:
        """Where its gRPC door is."""
        return next(w for w in self.out.decode().split() if w.startswith("grpc=")).partition("=")[2]

    @property
    def url(self) -> str:
        """Where it is, as it said itself."""
        said = re.match(
            rb"ready http=(127\.0\.0\.1:[0-9]+) grpc=(?:off|127\.0\.0\.1:[0-9]+) dbus=off\n",
            self.out,
        )
        assert said, (self.out, self.err)
        return f"http://{said[1].decode()}"

    async def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> int:
        """Ask for something; returns the status."""
        async with httpx.AsyncClient(trust_env=False, timeout=LIMIT_S) as client:
            return (await client.post(self.url + path, json=body, headers=headers)).status_code

    async def said(self, what: bytes) -> None:
        """Wait until `what` is on stderr."""
        while what not in self.err:
            await self.news.park()

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to stop, and wait until it has."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return await self.process.wait()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# -- serve -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_who_asks_until_it_has_ended(desk: Desk, number: signal.Signals) -> None:
    """However often and however late: the end is in order."""
    desk.write(config_for("http://127.0.0.1:1"))
    async with desk.serving() as router:
        while router.process.poll() is None:
            router.process.send_signal(number)
            await trio.lowlevel.checkpoint()
        code = await router.process.wait()

    assert 0 == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_from_ready_to_exit(desk: Desk, number: signal.Signals) -> None:
    """The first and only line on stdout says where it is; told to stop, it exits with 0."""
    async with open_fake() as fake:
        desk.write(config_for(fake))
        async with desk.serving() as router:
            status = await router.post(CHAT, ASK)
            code = await router.end(number)

    assert (200, 0) == (status, code)
    assert 1 == router.out.count(b"\n")
    assert b"Traceback" not in router.err


async def test_flags_win_over_variables(desk: Desk) -> None:
    """And both over the file."""
    desk.write(config_for("http://127.0.0.1:1", more='[observability]\nlog_level = "debug"'))
    desk.variables = {"OLLAMA_PROXY_HTTP_PORT": "1", "OLLAMA_PROXY_LOG_LEVEL": "error"}
    async with desk.serving("--http-port", "0") as router:
        code = await router.end()

    assert (0, b"") == (code, bytes(router.err))
    assert not router.url.endswith(":1")


async def test_nobody_need_read_what_it_says(desk: Desk) -> None:
    """A router whose stdout was closed serves all the same."""
    desk.write(config_for("http://127.0.0.1:1"))
    reading, writing = os.pipe()
    os.close(reading)
    heard = manager_at(desk)
    with trio.fail_after(LIMIT_S), heard.socket:
        process = await trio.lowlevel.open_process(
            [sys.executable, *MODULE, "serve"],
            stdout=writing,
            stderr=subprocess.DEVNULL,
            cwd=desk.directory,
            env=desk.environment,
        )
        os.close(writing)
        heard.socket.settimeout(LIMIT_S)
        await heard.until("READY=1")
        process.terminate()
        code = await process.wait()

    assert 0 == code


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (
            '[[backends]]\nid = "a"\nhardware = "cpu"\nendpoint = "x"\nslots = 0\n',
            [b"backends[0].slots: must be 1 to 1024 (got 0)", b"backends[0].endpoint: must be"],
        ),
        ("[server]\nhttp_prot = 1\n", [b"did you mean http_port"]),
        ("[server\n", [b"line 1"]),
    ],
)
async def test_a_bad_configuration(desk: Desk, text: str, faults: list[bytes]) -> None:
    """`serve` and `check-config` exit with 2 and name every fault, without a traceback."""
    desk.write(text)
    served = await desk.run("serve")
    checked = await desk.run("check-config")

    assert [(2, b"")] * 2 == [(done.returncode, done.stdout) for done in (served, checked)]
    assert served.stderr == checked.stderr
    assert [] == [fault for fault in faults if fault not in served.stderr]
    assert b"Traceback" not in served.stderr


async def test_a_file_that_is_not_there(desk: Desk) -> None:
    """A file that was named must exist."""
    done = await desk.run("serve", "--config", "none.toml")

    assert (2, 1) == (done.returncode, done.stderr.count(b"\n"))
    assert b"none.toml: there is no such file" in done.stderr


async def test_a_taken_port(desk: Desk) -> None:
    """One line says which, and the exit code is 2."""
    desk.write(config_for("http://127.0.0.1:1"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = await desk.run("serve", "--http-port", str(port))

    assert (2, b"", 1) == (done.returncode, done.stdout, done.stderr.count(b"\n"))
    assert f"127.0.0.1:{port}: Address already in use".encode() in done.stderr


@asynccontextmanager
async def no_ollama() -> AsyncIterator[None]:
    """Ollama's port, held and not listened at: refused for certain."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind(("127.0.0.1", OLLAMA_PORT))
        except OSError:
            require(condition=False, what=f"port {OLLAMA_PORT} is in use")
        yield


async def test_without_any_backend(desk: Desk) -> None:
    """With nothing configured, no Ollama and no embedded model, one line says what to do."""
    async with no_ollama():
        done = await desk.run("serve", "--http-port", "0", program=BARE)

    assert (2, b"", 1) == (done.returncode, done.stdout, done.stderr.count(b"\n"))
    assert b"Start Ollama, or install ollama-proxy-router[embedded]" in done.stderr


async def test_the_local_ollama_is_found(desk: Desk) -> None:
    """With nothing configured, an Ollama that answers in its usual place is the backend."""
    async with no_ollama():
        pass  # skips if somebody else is there
    async with (
        open_fake(port=OLLAMA_PORT),
        desk.serving(*ANY_PORT, program=BARE) as router,
    ):
        status = await router.post(CHAT, ASK)
        code = await router.end()

    assert (200, 0) == (status, code)


async def test_the_embedded_model_without_its_extra(desk: Desk, tmp_path: Path) -> None:
    """Asked for and not installed, it is a backend that is down and says why."""
    # For the child; BARE is for the router.
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('not installed')\n")
    desk.variables["PYTHONPATH"] = f"{tmp_path}:{desk.environment['PYTHONPATH']}"
    async with desk.serving("--embedded", *ANY_PORT, program=BARE) as router:
        status = await router.post(CHAT, ASK)
        shown = await desk.run("backends", "--url", router.url)
        code = await router.end()

    assert (503, 0) == (status, code)
    assert b"unhealthy" in shown.stdout


async def test_reload(desk: Desk) -> None:
    """SIGHUP reads the file again; a bad one is named and changes nothing."""
    async with open_fake() as first, open_fake() as second:
        desk.write(config_for(first))
        async with desk.serving() as router:
            desk.write("[server]\nhttp_port = true\n")
            router.process.send_signal(signal.SIGHUP)
            await router.said(b"server.http_port: must be a whole number (got true)")
            desk.write(config_for(first, second))
            router.process.send_signal(signal.SIGHUP)
            await router.said(b"the configuration was reloaded: 2 backends")
            shown = await desk.run("backends", "--url", router.url, "--json")

    assert ["npu", "cpu"] == [backend["id"] for backend in json.loads(shown.stdout)]


async def test_the_service_manager_is_told(desk: Desk) -> None:
    """Readiness, a reload from its begin to its end, each change, the watchdog, and the end."""
    heard = manager_at(desk)
    heard.socket.settimeout(LIMIT_S)
    desk.variables |= {"WATCHDOG_USEC": "200000"}
    with heard.socket:
        async with open_fake() as fake:
            desk.write(config_for(fake))
            async with desk.serving() as router:
                ready = await heard.until("READY=1")
                await heard.until("WATCHDOG=1")
                desk.write(config_for(fake, "http://127.0.0.1:1"))
                router.process.send_signal(signal.SIGHUP)
                reloading = await heard.until("RELOADING=1")
                reloaded = await heard.until("READY=1")
                router.process.terminate()
                stopping = await heard.until("STOPPING=1")

    assert "STATUS=1 of 1 backends healthy, mode balanced" in ready
    assert reloading[1].startswith("MONOTONIC_USEC=")
    assert "STATUS=1 of 2 backends healthy, mode balanced" in reloaded
    assert "EXTEND_TIMEOUT_USEC=15000000" in stopping


@attrs.frozen
class Heard:
    """What a service manager hears."""

    socket: socket.socket

    async def until(self, line: str) -> list[str]:
        """The lines of the next message with this one."""
        while True:
            message = await trio.to_thread.run_sync(self.socket.recv, 4096)
            lines = message.decode().split("\n")
            if line in lines:
                return lines


def manager_at(desk: Desk) -> Heard:
    """A service manager that listens to what runs there."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(desk.directory / "notify"))
    desk.variables = {"NOTIFY_SOCKET": str(desk.directory / "notify")}
    return Heard(listening)


# -- the access log --------------------------------------------------------------------------------

SECRETS = {"authorization": "Bearer pl4nted", "cookie": "pl4nted", "x-thing": "pl4nted"}
PLANTED = ASK | {"messages": [{"role": "user", "content": "pl4nted"}]}


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("log_level", ["debug", "info"])
async def test_nothing_of_a_request_is_written(desk: Desk, log_format: str, log_level: str) -> None:
    """Neither prompt nor headers come into any log, of calls that are served, fail or are refused."""
    more = f'[observability]\nlog_format = "{log_format}"\nlog_level = "{log_level}"\n'
    echo = Script(word="pl4nted", tokens=2)
    async with open_fake(echo) as fake:
        desk.write(config_for(fake, more=more))
        async with desk.serving() as router:
            statuses = [await router.post(CHAT, PLANTED, SECRETS)]
            statuses.append(await router.post("/api/chat", PLANTED, SECRETS))
            fake.script = Script(behaviour=Behaviour.REFUSE, message="no pl4nted here")
            statuses.append(await router.post(CHAT, PLANTED, SECRETS))
            fake.script = Script(behaviour=Behaviour.DIE_MID_STREAM)
            statuses.append(await router.post(CHAT, PLANTED | {"stream": True}, SECRETS))
            statuses.append(await router.post(CHAT, PLANTED | {"model": "no"}, SECRETS))
            statuses.append(await router.post("/v1/route", PLANTED, SECRETS))

    assert [200, 200, 502, 200, 404, 200] == statuses
    assert 5 <= router.err.count(b"\n")
    assert b"pl4nted" not in router.out + router.err


async def test_an_access_line(desk: Desk) -> None:
    """One line a request says who served it and how; what is not known is a dash."""
    async with open_fake(Script(tokens=2)) as fake:
        desk.write(config_for(fake))
        async with desk.serving() as router:
            await router.post(CHAT, ASK | {"stream": True}, {"x-request-id": "served"})
            await router.post(CHAT, ASK | {"model": "no\nsuch"}, {"x-request-id": "refused"})

    served, refused = (
        next(line for line in router.err.decode().splitlines() if line.endswith(f"id={name}"))
        for name in ("served", "refused")
    )
    assert re.search(
        r"http /v1/chat/completions fake:latest -> npu \([a-z-]+\) served"
        r" queue=[0-9.]+ms first=[0-9.]+ms whole=[0-9.]+ms tokens=[0-9]+ energy=[0-9.]+J"
        r" priority=normal key=- id=served$",
        served,
    )
    assert re.search(
        r"http /v1/chat/completions no\\nsuch -> - \(-\) refused:model_not_found"
        r" queue=[0-9.]+ms first=- whole=[0-9.]+ms tokens=- energy=- priority=normal key=- id=refused$",
        refused,
    )


async def test_an_access_line_for_machines(desk: Desk) -> None:
    """The same as JSON: numbers are numbers, and what is not known is null."""
    async with open_fake() as fake:
        desk.write(config_for(fake, more='[observability]\nlog_format = "json"'))
        async with desk.serving() as router:
            await router.post(CHAT, ASK | {"model": "no"}, {"x-request-id": "refused"})

    facts = next(
        line
        for line in map(json.loads, router.err.splitlines())
        if line.get("request_id") == "refused"
    )
    assert ("ollama_proxy.access", "no", None, None) == (
        facts["logger"],
        facts["model"],
        facts["backend"],
        facts["first_ms"],
    )
    assert isinstance(facts["whole_ms"], float)


# -- asking a running router -----------------------------------------------------------------------


async def test_tables(desk: Desk) -> None:
    """What is known of a running router, in columns for people."""
    async with open_fake() as fake:
        desk.write(config_for(fake, "http://127.0.0.1:1"))
        async with desk.serving() as router:
            shown = {
                name: await desk.run(name, "--url", router.url, *more)
                for name, more in {
                    "status": (),
                    "backends": (),
                    "route": ("--model", "fake", "--power-efficient", "--max-power-watts", "50"),
                }.items()
            }

    out = {name: done.stdout.decode().splitlines() for name, done in shown.items()}
    assert [(0, b"")] * 3 == [(done.returncode, done.stderr) for done in shown.values()]
    assert ["degraded: 1 of 2 backends healthy", "  npu  healthy", "  cpu  unhealthy"] == out[
        "status"
    ]
    assert ["ID", "npu", "cpu"] == [line.split()[0] for line in out["backends"]]
    assert "0/2" in out["backends"][1]
    assert "npu (power-efficient)" == out["route"][0]
    assert ["CANDIDATE", "npu", "cpu"] == [line.split()[0] for line in out["route"][1:]]


async def test_raw_answers(desk: Desk) -> None:
    """With --json a command prints what the router said, an error included."""
    async with open_fake() as fake:
        desk.write(config_for(fake))
        async with desk.serving() as router:
            done = [
                await desk.run(*command, "--json", "--url", router.url)
                for command in (
                    ["status"],
                    ["backends"],
                    ["route", "--model", "fake"],
                    ["route", "--model", "no"],
                )
            ]

    status, backends, route, refused = (json.loads(each.stdout) for each in done)
    assert [0, 0, 0, 1] == [each.returncode for each in done]
    assert ("ok", "npu", "npu") == (status["status"], backends[0]["id"], route["backend"])
    assert "model_not_found" == refused["error"]["code"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model", "no"], b"model 'no'"),
        (["--model", "fake", "--target", "nobody"], b"nobody"),
        (["--model", "fake", "--max-latency-ms", "soon"], b"X-Max-Latency-Ms"),
        (["--model", "fake", "--max-power-watts", "1"], b"ollama-proxy: "),
    ],
)
async def test_a_route_that_there_is_not(desk: Desk, flags: list[str], sentence: bytes) -> None:
    """One sentence says why, and the exit code is 1."""
    async with open_fake() as fake:
        desk.write(config_for(fake))
        async with desk.serving() as router:
            done = await desk.run("route", "--url", router.url, *flags)

    assert (1, b"", 1) == (done.returncode, done.stdout, done.stderr.count(b"\n"))
    assert sentence in done.stderr


@pytest.mark.parametrize("command", [["status"], ["backends"], ["route", "--model", "m"]])
async def test_nobody_there(desk: Desk, command: list[str]) -> None:
    """A router that does not answer is one sentence and exit code 1, whoever else may be there."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        desk.write(f"[server]\nhttp_port = {port}\n")
        nobody = await desk.run(*command)
    async with open_fake() as ollama:
        other = await desk.run(*command, "--url", ollama.url)
    nonsense = await desk.run(*command, "--url", "nonsense")
    dots = await desk.run(*command, "--url", "http://..")

    for done, word in (
        (nobody, str(port)),
        (other, "no ollama-proxy"),
        (nonsense, "nonsense"),
        (dots, "http://.."),
    ):
        assert (1, b"", 1) == (done.returncode, done.stdout, done.stderr.count(b"\n"))
        assert word in done.stderr.decode()


@asynccontextmanager
async def answering(head: bytes, body: bytes) -> AsyncIterator[str]:
    """Somebody who gives every caller the same answer; yields the URL."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        length = b"Content-Length: %d\r\nConnection: close" % len(body)
        await stream.send_all(b"HTTP/1.1 %s\r\n%s\r\n\r\n%s" % (head, length, body))
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("head", "body", "sentence"),
    [
        (b"200 OK", b"<html>hi</html>", "answers, but is no ollama-proxy"),
        (b"200 OK", b"[" * 100_000, "answers, but is no ollama-proxy"),
        (b"200 OK", b'{"status": 7, "backends": "none"}', "answers, but is no ollama-proxy"),
        (b"200 OK", b"\xff\xfe\x00", "answers, but is no ollama-proxy"),
        (b"502 Bad Gateway", b"<html>", "answers with 502 Bad Gateway, but is no ollama-proxy"),
        (b"301 Moved", b"", "answers with 301 Moved Permanently, but is no ollama-proxy"),
        (b"401 No", b'{"error": {"message": "a key is needed"}}', "ollama-proxy: a key is needed"),
        (
            b"401 No",
            b'{"error": {"message": "No.", "code": "invalid_api_key"}}',
            "No. Name a file that holds the key with --api-key-file, or set OLLAMA_PROXY_API_KEY.",
        ),
        (b"500 No", b'{"error": "\\u001b[2J\\nyou\\u009b0mwin"}', "ollama-proxy: �[2J�you�0mwin"),
        (b"nonsense", b"", "no router answers on http://127.0.0.1:"),
    ],
)
async def test_whatever_answers(desk: Desk, head: bytes, body: bytes, sentence: str) -> None:
    """One sentence says who it is, exit code 1, and nothing that a terminal would obey."""
    async with answering(head, body) as url:
        done = await desk.run("status", "--url", url)

    said = done.stderr.decode()
    assert (1, b"", True) == (done.returncode, done.stdout, said.rstrip("\n").isprintable())
    assert sentence in said


async def test_an_answer_without_an_end(desk: Desk) -> None:
    """It is not read until memory is gone, though it would be one of ours in the end."""
    packed = gzip.compress(b'{"status": "ok", "more": "%b"}' % (b"a" * (80 << 20)))
    head = b"200 OK\r\nContent-Encoding: gzip"
    async with answering(head, packed) as bomb:
        done = await desk.run("status", "--url", bomb)

    assert (1, b"") == (done.returncode, done.stdout)
    assert f"ollama-proxy: {bomb} answers, but is no ollama-proxy\n" == done.stderr.decode()


async def test_json_is_json_also_where_nobody_answers(desk: Desk) -> None:
    """What reads it finds the sentence in it, where the router's own errors have theirs."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        done = await desk.run("backends", "--json", "--url", url)

    error = json.loads(done.stdout)["error"]
    assert (1, "no_answer") == (done.returncode, error["code"])
    assert f"ollama-proxy: {error['message']}\n" == done.stderr.decode()


async def test_who_is_silent(desk: Desk) -> None:
    """One that takes the connection and never answers is not waited for without end."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = await desk.run("status", "--url", url)

    assert (1, b"", f"ollama-proxy: no router answers on {url}: timed out\n") == (
        done.returncode,
        done.stdout,
        done.stderr.decode(),
    )


async def test_colours_are_for_terminals(desk: Desk) -> None:
    """And `--color` says otherwise; a locale that has no degree sign is no reason to fail."""
    body = json.dumps(HEAT).encode()
    async with answering(b"200 OK", body) as url:
        piped = await desk.run("thermal", "--url", url)
        always = await desk.run("thermal", "--url", url, "--color", "always")
        desk.variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        ascii_ = await desk.run("thermal", "--url", url)
        desk.variables = {"TERM": "xterm", "COLUMNS": "60"}
        shown = await on_a_terminal(desk, "thermal", "--url", url)
        desk.variables |= {"NO_COLOR": "1"}
        plain = await on_a_terminal(desk, "thermal", "--url", url)

    assert [False, True, True, False] == [
        b"\x1b[" in each for each in (piped.stdout, always.stdout, shown, plain)
    ]
    assert "91 °C" in piped.stdout.decode()
    assert b"91 ?C" in ascii_.stdout


async def on_a_terminal(desk: Desk, *arguments: str) -> bytes:
    """What the command writes where people sit."""
    ours, theirs = os.openpty()
    try:
        await trio.run_process(
            [sys.executable, *MODULE, *arguments],
            stdout=theirs,
            cwd=desk.directory,
            env=desk.environment,
        )
        return os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)


async def test_a_reader_that_has_seen_enough(desk: Desk) -> None:
    """Output into a closed pipe, as with `| head`, is no reason to complain."""
    async with open_fake() as fake:
        desk.write(config_for(fake))
        async with desk.serving() as router:
            done = []
            for command in (["backends", "--url", router.url], ["check-config"], ["--help"]):
                reading, writing = os.pipe()
                os.close(reading)
                try:
                    done.append(
                        await trio.run_process(
                            [sys.executable, *MODULE, *command],
                            stdout=writing,
                            capture_stderr=True,
                            check=False,
                            cwd=desk.directory,
                            env=desk.environment,
                        )
                    )
                finally:
                    os.close(writing)

    assert [(0, b"")] * 3 == [(each.returncode, each.stderr) for each in done]


async def test_a_good_configuration(desk: Desk) -> None:
    """It is said to be good, and what may not be as meant is noted apart."""
    written = config_for("http://127.0.0.1:1")
    desk.write(written.replace('id = "npu"', 'id = "npu"\napi_key_env = "NO_SUCH_KEY"'))
    done = await desk.run("check-config")

    assert 0 == done.returncode
    assert done.stderr.startswith(b"note: backends[0].api_key_env: NO_SUCH_KEY is not set")
    assert f"{desk.directory}/config.toml: good, 1 backends\n" == done.stdout.decode()


async def test_the_version(desk: Desk) -> None:
    """It is the package's."""
    done = await desk.run("--version")

    assert f"ollama-proxy {ollama_proxy.__version__}\n" == done.stdout.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["serve", "--http-port", "x"],
        ["route"],
        ["route", "--model", "m", "--target", "größe"],
        ["route", "--model", "m", "--target", "a\nX-B: c"],
    ],
)
async def test_arguments_that_are_none(desk: Desk, arguments: list[str]) -> None:
    """They are named with the usage, and the exit code is 2."""
    done = await desk.run(*arguments)

    assert (2, b"", True) == (done.returncode, done.stdout, done.stderr.startswith(b"usage: "))


SCENARIO = """
requests = 20
[[backends]]
id = "a"
prefill_tokens_per_s = 1000
decode_tokens_per_s = 50
[[traffic]]
name = "chat"
rate_per_s = 0.5
"""


async def test_simulate(desk: Desk) -> None:
    """A table for people, with a column for each router."""
    (desk.directory / "scenario.toml").write_text(SCENARIO)
    done = await desk.run("simulate", "scenario.toml", "--only", "ours,fifo", "--requests", "7")

    title, head, requests, *_ = done.stdout.decode().splitlines()
    assert (0, "scenario.toml, seed 1") == (done.returncode, title)
    assert [["ours", "fifo"], ["requests", "7", "7"]] == [head.split(), requests.split()]


async def test_simulate_for_machines(desk: Desk) -> None:
    """All figures as JSON, of the seed that was asked for."""
    (desk.directory / "scenario.toml").write_text(SCENARIO)
    done = await desk.run("simulate", "scenario.toml", "--json", "--seed", "5")
    told = json.loads(done.stdout)

    assert (5, 20) == (told["seed"], told["runs"]["ours"]["served"])
    assert ["ours", "round-robin", "least-connections", "fifo"] == list(told["runs"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gone.toml"], "gone.toml: cannot be read: No such file or directory"),
        (["config.toml"], "config.toml: backends[0].slots: must be 1 to 1024 (got 0)"),
        (["config.toml", "--requests", "0"], "ollama-proxy: --requests: must be >= 1 (got 0)"),
    ],
)
async def test_what_cannot_be_simulated(desk: Desk, arguments: list[str], sentence: str) -> None:
    """One line, no traceback."""
    desk.write(SCENARIO.replace('id = "a"', 'id = "a"\nslots = 0'))
    done = await desk.run("simulate", *arguments)

    assert (2, sentence) == (done.returncode, done.stderr.decode().strip())


@pytest.mark.parametrize(
    ("fleet", "known"),
    [
        ("", "ours, round-robin, least-connections, fifo"),
        ("[fleet]\npickers = [1, 3]\n", "all-knowing, 1 picker, 3 pickers"),
    ],
)
async def test_what_is_not_simulated(desk: Desk, fleet: str, known: str) -> None:
    """What there is to compare is said; it is other for a fleet."""
    (desk.directory / "scenario.toml").write_text(SCENARIO + fleet)
    done = await desk.run("simulate", "scenario.toml", "--only", "lifo")

    sentence = f"ollama-proxy: --only: no lifo among {known}"
    assert (2, sentence) == (done.returncode, done.stderr.decode().strip())


async def test_simulate_a_fleet(desk: Desk) -> None:
    """A column for each number of pickers, and one for the one that knows all."""
    fleet = "[fleet]\npickers = [2]\nseeds = 2\n"
    (desk.directory / "scenario.toml").write_text(SCENARIO + fleet)
    done = await desk.run("simulate", "scenario.toml")
    told = json.loads((await desk.run("simulate", "scenario.toml", "--json")).stdout)

    _, head, *rows = done.stdout.decode().splitlines()
    assert ["all-knowing", "2", "pickers"] == head.split()
    assert any(row.split() == ["requests", "40", "40"] for row in rows)
    assert ["all-knowing", "2 pickers"] == list(told["runs"])


async def test_who_serves_does_not_pay_for_the_simulation(desk: Desk) -> None:
    """Its room is imported by its own command alone."""
    program = (
        "-c",
        "import sys, ollama_proxy.cli; sys.exit('ollama_proxy.simulate' in sys.modules)",
    )
    done = await desk.run(program=program)

    assert 0 == done.returncode


# -- API keys --------------------------------------------------------------------------------------


async def ask_with_keys(desk: Desk, fake: Fake, *permissions: str) -> str:
    """Make a key, and write it down for the router; where our own commands find it."""
    made = await desk.run("make-key", *permissions, "--name", "phone")
    secret, entry = made.stdout.decode().splitlines()
    (desk.directory / "keys").write_text(entry + "\n")
    (desk.directory / "keys").chmod(0o600)
    (desk.directory / "mine").write_text(secret + "\n")
    auth = '[server.auth]\napi_keys = ["file:keys"]\n[[backends]]'
    text = config_for(fake).replace("grpc = false", "grpc_port = 0")
    desk.write(text.replace("[[backends]]", auth, 1))
    return secret


async def test_a_key_from_its_making_to_its_use(desk: Desk) -> None:
    """Made, written down, sent by our own commands on every way; the log has its name alone."""
    async with open_fake(Script(tokens=3)) as fake:
        secret = await ask_with_keys(desk, fake, "infer", "read")
        async with desk.serving("--log-level", "info") as router:
            to = ("--url", router.url, "--api-key-file", "mine")
            grpc = ("--url", f"http://{router.grpc}", "--api-key-file", "mine")
            done = [
                await desk.run("say", "hi", *to),
                await desk.run("say", "hi", *to, "--ws"),
                await desk.run("say", "hi", *grpc, "--grpc"),
            ]
            desk.variables = {"OLLAMA_PROXY_API_KEY": secret}
            done.append(await desk.run("backends", "--url", router.url))
            denied = await desk.run("mode", "quiet", "--url", router.url)

    assert [0] * 4 == [each.returncode for each in done], done
    assert b"not for this: admin" in denied.stderr
    assert 3 == router.err.count(b"key=phone")
    assert secret.encode() not in router.err


async def test_without_a_key_our_commands_say_so(desk: Desk) -> None:
    """In the router's own words, whichever way they asked."""
    async with open_fake() as fake:
        await ask_with_keys(desk, fake)
        async with desk.serving() as router:
            to = ("--url", router.url)
            brief = await desk.run("status", *to)
            done = [
                await desk.run("say", "hi", "--model", "fake", *to),
                await desk.run("say", "hi", "--model", "fake", *to, "--ws"),
                await desk.run("say", "hi", "--url", f"http://{router.grpc}", "--grpc"),
            ]
            unreadable = await desk.run("status", *to, "--api-key-file", "nowhere")

    for each in done:
        assert (1, b"") == (each.returncode, each.stdout)
        assert b"API key is needed" in each.stderr, each.stderr
    assert b"nowhere cannot be read" in unreadable.stderr
    assert brief.stdout.startswith(b"ok; there is more to tell"), brief


async def test_an_open_door_without_keys_is_not_opened(desk: Desk) -> None:
    """The router does not start, and one line says what to do."""
    desk.write(config_for("http://127.0.0.1:1"))
    done = await desk.run("serve", "--host", "0.0.0.0")  # noqa: S104 - it is refused

    assert (2, b"", 1) == (done.returncode, done.stdout, done.stderr.count(b"\n"))
    assert b"server.auth.api_keys" in done.stderr
