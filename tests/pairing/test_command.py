"""Two routers as their owners run them, paired by the command: who is asked, refused, hung up on."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from ollama_proxy.cli import main
from ollama_proxy.pairing.book import Peer, strike_out, write_down
from ollama_proxy.pairing.card import Card
from ollama_proxy.pairing.certificate import own_certificate
from ollama_proxy.pairing.command import _places
from tests.fakes.ollama import Behaviour, Fake, Script, open_fake
from tests.pairing.cards import Box
from tests.test_cli import ASK, CHAT, LIMIT_S, MODULE, Desk, Router, config_for

PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def free_port() -> int:
    """One that nobody listens on, a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@attrs.define
class Machine(Desk):
    """A machine of a house, with its own state and its own door for paired routers."""

    name: str = ""
    port: int = 0

    @classmethod
    def at(cls, directory: Path, name: str, *fakes: Fake | str) -> "Machine":
        """One whose backends are these."""
        port = free_port()
        (directory / name).mkdir()
        machine = cls(directory / name, name=name, port=port)
        place = f'[router]\nhealth_interval_s = 0.2\n[pairing]\nhost = "127.0.0.1"\nport = {port}\n'
        machine.write(config_for(*fakes, more=place))
        return machine

    @property
    def state(self) -> Path:
        """What it keeps."""
        return self.directory / ".local/state/ollama-proxy"

    @property
    def card(self) -> Card:
        """What it tells of itself."""
        return Card(
            name=self.name,
            port=self.port,
            node_id=self.name,
            certificate=own_certificate(self.state),
        )

    @asynccontextmanager
    async def offering(self, *arguments: str) -> AsyncIterator["Offered"]:
        """`ollama-proxy pair`, from its code to its end."""
        with trio.fail_after(4 * LIMIT_S):
            process = await trio.lowlevel.open_process(
                [sys.executable, *MODULE, "pair", "--port", "0", "--name", self.name, *arguments],
                cwd=self.directory,
                env=self.environment,
                **PIPES,  # type: ignore[call-overload]
            )
            offered = Offered(process)
            try:
                assert process.stdout is not None
                while b"\n  ollama-proxy pair" not in offered.out or offered.out[-1:] != b"\n":
                    data = await process.stdout.receive_some()
                    assert data, await process.stderr.receive_some()
                    offered.out += data
                yield offered
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                with trio.CancelScope(shield=True):
                    await process.wait()
                    for pipe in (process.stdin, process.stdout, process.stderr):
                        assert pipe is not None
                        await pipe.aclose()


@attrs.define
class Offered:
    """A command that shows a code."""

    process: trio.Process
    out: bytes = b""

    @property
    def code(self) -> str:
        """It."""
        found = re.match(rb"Code: ([0-9A-Z]{4}-[0-9A-Z]{4})\n", self.out)
        assert found is not None, self.out
        return found[1].decode()

    @property
    def place(self) -> str:
        """Where it waits; on loopback."""
        return f"127.0.0.1:{self.out.rsplit(b':', 1)[1].strip().decode()}"

    async def ended(self) -> tuple[int, bytes, bytes]:
        """Its exit code, and what else it said on both ways."""
        said: dict[str, bytes] = {}

        async def read(name: str, stream: trio.abc.ReceiveStream | None) -> None:
            assert stream is not None
            said[name] = b"".join([bytes(piece) async for piece in stream])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, "out", self.process.stdout)
            nursery.start_soon(read, "err", self.process.stderr)
        return await self.process.wait(), said["out"], said["err"]


async def pair(one: Machine, other: Machine) -> None:
    """By the commands."""
    async with one.offering() as offered:
        asked = await other.run("pair", offered.place, offered.code, "--name", other.name)
        code, _, errors = await offered.ended()

    assert (0, 0) == (asked.returncode, code), (asked.stderr, errors)


def befriend(one: Machine, other: Machine) -> None:
    """The same without them: what is kept of it."""
    write_down(one.state, Peer.of(other.card, "127.0.0.1", ""))
    write_down(other.state, Peer.of(one.card, "127.0.0.1", ""))


async def ask(router: Router, *, stream: bool = False, backend: str = "") -> httpx.Response:
    """A chat."""
    wishes = {"x-target-backend": backend} if backend else {}
    async with httpx.AsyncClient(trust_env=False, timeout=LIMIT_S) as client:
        return await client.post(router.url + CHAT, json=ASK | {"stream": stream}, headers=wishes)


async def backends(router: Router) -> dict[str, dict[str, object]]:
    """What it knows of each."""
    async with httpx.AsyncClient(trust_env=False, timeout=LIMIT_S) as client:
        return {each["id"]: each for each in (await client.get(router.url + "/backends")).json()}


async def healthy(router: Router, backend: str) -> None:
    """Wait until a backend is up; nobody is told when it is but who asks."""
    while not (await backends(router)).get(backend, {}).get("healthy"):  # noqa: ASYNC110 - it tells when asked
        await trio.sleep(0.05)


async def failing(router: Router, backend: str) -> str:
    """Wait until a backend is down; why."""
    while (known := (await backends(router)).get(backend)) is None or known["healthy"]:  # noqa: ASYNC110 - as above
        await trio.sleep(0.05)
    return str(known["last_error"])


@pytest.fixture(autouse=True)
def slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four interpreters are started within what is else the time of one."""
    monkeypatch.setattr("tests.test_cli.LIMIT_S", 4 * LIMIT_S)


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    async with open_fake(Script(tokens=3)) as opened:
        yield opened


async def test_two_routers_that_run_are_paired_and_one_answers_for_the_other(
    tmp_path: Path, fake: Fake
) -> None:
    """Streamed, over TLS, though both doors of both are on loopback and ask for no key."""
    laptop = Machine.at(tmp_path, "laptop", "http://127.0.0.1:1")
    desktop = Machine.at(tmp_path, "desktop", fake)
    async with laptop.serving() as asks, desktop.serving() as answers:
        await pair(desktop, laptop)
        await healthy(asks, "paired-desktop")
        answer = await ask(asks, stream=True)
        await answers.said(b"key=laptop")

    assert (200, "paired-desktop") == (answer.status_code, answer.headers["x-backend-used"])
    assert 3 == answer.text.count('"tok') + answer.text.count('" tok'), answer.text
    assert "data: [DONE]" in answer.text


async def test_a_pair_outlives_both(tmp_path: Path, fake: Fake) -> None:
    """Made before either was started, and kept by each start."""
    laptop, desktop = Machine.at(tmp_path, "laptop"), Machine.at(tmp_path, "desktop", fake)
    laptop.write((laptop.directory / "config.toml").read_text() + DEAD)
    befriend(laptop, desktop)
    for _ in range(2):
        async with desktop.serving(), laptop.serving() as asks:
            await healthy(asks, "paired-desktop")

            assert 200 == (await ask(asks)).status_code


DEAD = """
[[backends]]
id = "dead"
hardware = "cpu"
endpoint = "http://127.0.0.1:1"
"""


@pytest.mark.parametrize("has_others", [True, False])
async def test_who_is_removed_is_hung_up_on(tmp_path: Path, has_others: bool) -> None:
    """In the middle of a stream; and is told to pair anew where the door is still there for others."""
    unending = Script(behaviour=Behaviour.HANG_MID_STREAM, after_tokens=2, tokens=9)
    async with open_fake(unending) as hanging:
        desktop = Machine.at(tmp_path, "desktop", hanging)
        laptop = Machine.at(tmp_path, "laptop")
        laptop.write((laptop.directory / "config.toml").read_text() + DEAD)
        befriend(desktop, laptop)
        if has_others:
            befriend(desktop, Machine.at(tmp_path, "third"))
        async with desktop.serving(), laptop.serving() as asks:
            await healthy(asks, "paired-desktop")
            async with (
                httpx.AsyncClient(trust_env=False, timeout=LIMIT_S) as client,
                client.stream("POST", asks.url + CHAT, json=ASK | {"stream": True}) as answer,
            ):
                pieces = answer.aiter_text()
                heard = await anext(pieces)
                strike_out(desktop.state, "laptop")
                heard += "".join([piece async for piece in pieces])
            why = await failing(asks, "paired-desktop")

    assert (200, True) == (answer.status_code, "error" in heard), heard
    assert ("pair anew" if has_others else "no connection") in why, why


async def test_a_changed_certificate_is_refused(tmp_path: Path, fake: Fake) -> None:
    """Nothing is said to whoever shows it; the sentence says what to do."""
    desktop, laptop = Machine.at(tmp_path, "desktop", fake), Machine.at(tmp_path, "laptop")
    laptop.write((laptop.directory / "config.toml").read_text() + DEAD)
    befriend(desktop, laptop)
    (desktop.state / "identity.pem").unlink()
    third = Machine.at(tmp_path, "third")
    befriend(desktop, third)
    async with desktop.serving(), laptop.serving() as asks:
        why = await failing(asks, "paired-desktop")

    assert "not trusted here" in why, why
    assert [] == [each.path for each in fake.log if each.path == CHAT]


async def test_a_stranger_gets_nowhere(tmp_path: Path, fake: Fake) -> None:
    """Neither in plain text, nor under TLS without a certificate or with another's."""
    desktop, laptop = Machine.at(tmp_path, "desktop", fake), Machine.at(tmp_path, "laptop")
    stranger, friend = Machine.at(tmp_path, "stranger"), Machine.at(tmp_path, "friend")
    befriend(desktop, laptop)
    befriend(stranger, friend)
    async with desktop.serving():
        for url, certificate in (
            (f"http://127.0.0.1:{desktop.port}/api/tags", None),
            (f"https://127.0.0.1:{desktop.port}/api/tags", None),
            (f"https://127.0.0.1:{desktop.port}/api/tags", stranger.state / "identity.pem"),
        ):
            with pytest.raises(httpx.HTTPError):
                await get(url, certificate)
        # The same with the right one: it is this alone that makes the difference, and the door is there.
        known = await get(
            f"https://127.0.0.1:{desktop.port}/api/tags", laptop.state / "identity.pem"
        )
        for path in ("/metrics", "/backends", "/efficiency", "/", "/nowhere"):
            told = await get(
                f"https://127.0.0.1:{desktop.port}{path}", laptop.state / "identity.pem"
            )

            assert 403 == told.status_code, path

    assert 200 == known.status_code


async def get(url: str, certificate: Path | None) -> httpx.Response:
    """One question, to whoever is there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate)
    async with httpx.AsyncClient(verify=context, trust_env=False, timeout=LIMIT_S) as client:
        answer = await client.get(url)
        if answer.status_code == 400:
            raise httpx.RemoteProtocolError(answer.text)
        return answer


async def test_the_door_is_there_while_there_are_pairs(tmp_path: Path, fake: Fake) -> None:
    """Not before the first, and not after the last."""
    desktop, laptop = Machine.at(tmp_path, "desktop", fake), Machine.at(tmp_path, "laptop")
    async with desktop.serving() as router:
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", desktop.port)
        befriend(desktop, laptop)
        await router.said(b"paired routers are heard on")
        await (await trio.open_tcp_stream("127.0.0.1", desktop.port)).aclose()
        strike_out(desktop.state, "laptop")
        await router.said(b"their door is closed")
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", desktop.port)


async def test_who_only_asks_is_asked_nothing(tmp_path: Path, fake: Fake) -> None:
    """Where there is one, and is no backend of the other."""
    desktop = Machine.at(tmp_path, "desktop", fake)
    laptop = attrs.evolve(Machine.at(tmp_path, "laptop"), port=0)
    befriend(desktop, laptop)
    async with desktop.serving() as router:
        known = await backends(router)

    assert ["npu"] == list(known)


async def test_a_door_whose_port_is_taken(tmp_path: Path, fake: Fake) -> None:
    """Is told of once; the router serves all the same."""
    desktop, laptop = Machine.at(tmp_path, "desktop", fake), Machine.at(tmp_path, "laptop")
    befriend(desktop, laptop)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", desktop.port))
        taken.listen()
        async with desktop.serving() as router:
            await router.said(b"paired routers are not heard")

            assert 200 == (await ask(router)).status_code


# -- the command -----------------------------------------------------------------------------------


async def test_a_code_may_be_typed(tmp_path: Path) -> None:
    """So that no other user of the machine sees it among the arguments."""
    desktop, laptop = Machine.at(tmp_path, "desktop"), Machine.at(tmp_path, "laptop")
    async with desktop.offering() as offered:
        asked = await trio.run_process(
            [sys.executable, *MODULE, "pair", offered.place],
            stdin=f"{offered.code.lower()}\n".encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=laptop.directory,
            env=laptop.environment,
        )
        ended = await offered.ended()

    assert (0, 0) == (asked.returncode, ended[0]), (asked.stderr, ended)
    assert b"Paired with desktop" in asked.stdout


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("192.0.2.7", ["192.0.2.7:9"]),
        ("fd00::7", ["[fd00::7]:9"]),
        ("box.lan", ["box.lan:9"]),
        ("0.0.0.0", [f"{socket.gethostname()}:9"]),  # noqa: S104 - as the configuration has it
    ],
)
def test_only_where_it_waits_is_told(host: str, told: list[str]) -> None:
    """Whoever is sent to another address, or to one of IPv6 where IPv4 is heard, finds nobody."""
    places = _places(host, 9)

    assert told == places[-1:]
    assert not any(place.startswith("[") for place in places if "." in host)


async def test_wrong_codes_are_seen_where_the_code_is_shown(tmp_path: Path) -> None:
    """Three of them end it, with 1; nobody is written down."""
    desktop, laptop = Machine.at(tmp_path, "desktop"), Machine.at(tmp_path, "laptop")
    async with desktop.offering() as offered:
        wrong = "2222-2222" if offered.code != "2222-2222" else "3333-3333"
        asked = [await laptop.run("pair", offered.place, wrong) for _ in range(3)]
        code, _, errors = await offered.ended()

    assert [1] * 3 == [each.returncode for each in asked]
    assert all(b"not the one that is shown" in each.stderr for each in asked), asked
    assert (1, 3) == (code, errors.count(b"127.0.0.1: not paired")), errors
    assert b"three wrong codes" in errors
    assert not (desktop.state / "peers.toml").exists()


async def test_a_flood_does_not_wash_the_code_away(tmp_path: Path) -> None:
    """Who comes and says nothing is told of ten times; a wrong code after that is told of, too."""
    desktop, laptop = Machine.at(tmp_path, "desktop"), Machine.at(tmp_path, "laptop")
    async with desktop.offering() as offered:
        host, _, port = offered.place.partition(":")
        for _ in range(20):
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
                await stream.send_eof()
                assert b"" == await stream.receive_some()
        wrong = "2222-2222" if offered.code != "2222-2222" else "3333-3333"
        for _ in range(3):
            await laptop.run("pair", offered.place, wrong)
        _, _, errors = await offered.ended()

    assert (10, 3) == (errors.count(b"interferes"), errors.count(b"the code is not")), errors


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a command that is run in this process keeps things."""
    monkeypatch.chdir(tmp_path)
    for name in [each for each in os.environ if each.startswith(("OLLAMA_PROXY", "XDG", "STATE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["nowhere"], 2, "HOST:PORT"),
        (["[fe80::1%eth0]:8444"], 2, "HOST:PORT"),
        (["127.0.0.1:1", "no-code"], 2, "a code has 8"),
        (["127.0.0.1:1", "ABCD-EFGH", "--list"], 2, "choose one"),
        (["--name", "a b"], 2, "--name"),
        (["--port", "70000"], 2, "--port"),
        (["--remove", "nobody"], 1, "--list shows them"),
        (["--config", "missing.toml"], 2, "no such file"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
    code: int,
    why: str,
) -> None:
    """Without a traceback, and without what was typed for a code."""
    done = main(["pair", *arguments])
    told = capsys.readouterr()

    assert (code, "", 1) == (done, told.out, told.err.count("\n")), told
    assert why in told.err
    assert "no-code" not in told.err


def test_pairs_are_listed_and_removed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name or id; who only asks is shown as that."""
    state = home / ".local/state/ollama-proxy"
    for box in (Box.new(home, "desktop"), Box.new(home, "laptop", port=0)):
        write_down(state, box.peer("192.0.2.7"))
    codes = [main(["pair", *each]) for each in (["--list"], ["--remove", "laptop"], ["--list"])]
    told = capsys.readouterr().out

    assert [0, 0, 0] == codes
    assert (1, 2) == (told.count("asks only"), told.count("https://192.0.2.7:8443"))
    assert "laptop" in told


def test_without_its_extra_it_says_which(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what else it can do, it does."""
    monkeypatch.setitem(sys.modules, "spake2", None)
    monkeypatch.delitem(sys.modules, "ollama_proxy.pairing.exchange", raising=False)

    assert (1, 0) == (main(["pair"]), main(["pair", "--list"]))
    assert "ollama-proxy-router[pairing]" in capsys.readouterr().err


def test_no_home_is_said(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be kept, nobody is paired."""
    monkeypatch.delenv("HOME")

    assert 1 == main(["pair"])
    assert "XDG_STATE_HOME" in capsys.readouterr().err


# -- what is secret --------------------------------------------------------------------------------


async def test_neither_code_nor_key_is_written_anywhere(tmp_path: Path, fake: Fake) -> None:
    """But the code where it is shown, and the key in its file; whatever is asked, and however it ends."""
    desktop, laptop = Machine.at(tmp_path, "desktop", fake), Machine.at(tmp_path, "laptop")
    more = '[observability]\nlog_level = "debug"\n' + DEAD
    laptop.write((laptop.directory / "config.toml").read_text() + more)
    written = bytearray()
    async with desktop.offering() as offered:
        code = offered.code
        wrong = await laptop.run("pair", offered.place, code[:-1] + "!")
        asked = await laptop.run("pair", offered.place, code, "--name", "laptop")
        ended = await offered.ended()
    async with desktop.serving() as answers, laptop.serving() as asks:
        await healthy(asks, "paired-desktop")
        written += (await ask(asks)).content
        written += json.dumps(await backends(asks)).encode()
        strike_out(desktop.state, "laptop")
        await failing(asks, "paired-desktop")
        written += json.dumps(await backends(asks)).encode()
        for path in ("/metrics", "/health"):
            async with httpx.AsyncClient(trust_env=False) as client:
                written += (await client.get(asks.url + path)).content
    listed = await laptop.run("pair", "--list")
    removed = await laptop.run("pair", "--remove", "desktop")
    for done in (wrong, asked, listed, removed):
        written += done.stdout + done.stderr
    written += ended[1] + ended[2]
    written += bytes(answers.out + answers.err + asks.out + asks.err)
    keys = [
        line
        for machine in (desktop, laptop)
        for line in (machine.state / "identity.pem").read_bytes().splitlines()[1:4]
    ]
    books = b"".join((each.state / "peers.toml").read_bytes() for each in (desktop, laptop))

    assert b"paired" in written
    for secret in (code.encode(), code.replace("-", "").encode(), b"PRIVATE KEY", *keys):
        assert secret not in written
        assert secret not in books
    assert [0o600] * 4 == [
        (machine.state / name).stat().st_mode & 0o777
        for machine in (desktop, laptop)
        for name in ("identity.pem", "peers.toml")
    ]
