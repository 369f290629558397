"""A browser's own WebSocket at the router's door, from pages that may use it and pages that may not."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest

from tests.numb import NUMB_TOML
from tests.real.browsers import Browser, browsing
from tests.real.processes import ROOT, Program, running, started

LIMIT_S = 20.0
CONFIG = """\
[server]
http_port = 0
grpc = false
allowed_origins = ["{friend}"]
[[backends]]
id = "it"
hardware = "npu"
endpoint = "{url}"
slots = 4
"""
# What the tests' pages speak with: everything heard is kept, and is waited for.
EAR = """
class Ear {
  constructor(url, protocols) {
    this.heard = [];
    this.end = null;
    this.changed = () => {};
    this.socket = new WebSocket(url, protocols);
    this.socket.onopen = () => this.changed();
    this.socket.onmessage = event => {
      this.heard.push(JSON.parse(event.data));
      this.changed();
    };
    this.socket.onclose = event => {
      this.end = {code: event.code, reason: event.reason, clean: event.wasClean};
      this.changed();
    };
  }
  until(isSo) {
    return new Promise(resolve => {
      this.changed = () => isSo(this) && resolve();
      this.changed();
    });
  }
  over() { return this.until(() => this.end); }
  async open() {
    await this.until(() => this.end || this.socket.readyState === WebSocket.OPEN);
    return this;
  }
  say(message) { this.socket.send(JSON.stringify(message)); }
  ask(request_id, tokens) {
    this.say({request_id, model: 'fake:latest', prompt: 'hi', options: {num_predict: tokens}});
  }
  of(id) { return this.heard.filter(frame => frame.request_id === id); }
  isDone(id) { return this.of(id).some(frame => frame.done); }
}
"""


@attrs.frozen
class Bench:
    """A router, the backend behind it, and a browser.

    Attributes:
        friend: a page that the router's owner lists.
    """

    browser: Browser
    program: Program
    fake: str
    friend: str

    @property
    def url(self) -> str:
        """The router's."""
        return "http://" + self.program.address("http")

    @property
    def socket(self) -> str:
        """Where its own frames are spoken."""
        return f"ws://{self.program.address('http')}/v1/stream/ws"

    def run(self, body: str, page: str = "", path: str = "") -> Any:
        """What a script returns in a page, of the router unless said otherwise."""
        url = f"ws://{self.program.address('http')}{path}" if path else self.socket
        with self.browser.page(page or f"{self.url}/health") as shown:
            return shown.run(f"{EAR} const url = '{url}'; {body}")

    def until(self, is_so: Callable[[], object]) -> None:
        """Wait for something that will be."""
        deadline = time.perf_counter() + LIMIT_S
        while not is_so():
            assert time.perf_counter() < deadline, "it never came"
            threading.Event().wait(0.005)

    def log(self) -> list[dict[str, Any]]:
        """What the backend was asked."""
        asked: list[dict[str, Any]] = httpx.get(f"{self.fake}/fake/log", trust_env=False).json()
        return [each for each in asked if each["path"] == "/api/generate"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def processes(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    command = [str(ROOT / "tools" / "fake-ollama"), "--tokens", "2000", "--interval-s", "0.01"]
    directory, other = tmp_path_factory.mktemp("browser"), tmp_path_factory.mktemp("friend")
    with running(command, directory) as url, running(command, other) as friend:
        config = CONFIG.format(url=url, friend=friend) + NUMB_TOML
        (directory / "config.toml").write_text(config)
        with started(["-m", "ollama_proxy", "serve"], directory) as program:
            yield Bench(browser, program, url, friend)


@pytest.fixture
def bench(processes: Bench) -> Iterator[Bench]:
    yield processes
    httpx.post(f"{processes.fake}/fake/reset", trust_env=False).raise_for_status()


def test_requests_take_turns(bench: Bench) -> None:
    """While one is answered, another is asked on the same socket and answered whole."""
    heard = bench.run("""
        const ear = await new Ear(url).open();
        ear.ask('long', 2000);
        await ear.until(() => ear.of('long').length >= 2);
        ear.ask('short', 10);
        await ear.until(() => ear.isDone('short'));
        return ear.heard;
    """)
    ids = [frame["request_id"] for frame in heard]
    short = [frame for frame in heard if frame["request_id"] == "short"]

    assert "long" in ids[ids.index("short") : -1]
    assert " tok" * 10 == "".join(frame["token"] for frame in short)
    assert ("it", 10, "length") == tuple(
        short[-1][name] for name in ("backend", "token_count", "finish_reason")
    )


def test_a_cancelled_request_is_silent(bench: Bench) -> None:
    """It ends at once, nothing of it follows, and its socket serves the next."""
    heard = bench.run("""
        const ear = await new Ear(url).open();
        ear.ask('long', 2000);
        await ear.until(() => ear.of('long').length >= 2);
        ear.say({type: 'cancel', request_id: 'long'});
        await ear.until(() => ear.isDone('long'));
        const before = ear.heard.length;
        ear.ask('next', 3);
        await ear.until(() => ear.isDone('next'));
        return [ear.heard[before - 1], ear.heard.slice(before)];
    """)
    last, after = heard

    assert {"request_id": "long", "done": True, "finish_reason": "cancelled"} == last
    assert {"next"} == {frame["request_id"] for frame in after}
    assert after[-1]["done"]


def test_a_page_closes_cleanly(bench: Bench) -> None:
    """Its code and reason come back to it."""
    end = bench.run("""
        const ear = await new Ear(url).open();
        ear.socket.close(4321, 'enough');
        await ear.over();
        return ear.end;
    """)

    assert {"code": 4321, "reason": "enough", "clean": True} == end


def test_a_closed_tab_frees_its_backend(bench: Bench) -> None:
    """Whoever shuts the page wants its answer no more."""
    bench.run("""
        const ear = await new Ear(url).open();
        ear.ask('long', 2000);
        await ear.until(() => ear.of('long').length >= 2);
    """)
    bench.until(lambda: bench.log()[-1]["client_left_s"])

    assert bench.log()[-1]["tokens_sent"] < 2000


def test_bytes_are_not_understood(bench: Bench) -> None:
    """A binary message closes the socket by 1003."""
    end = bench.run("""
        const ear = await new Ear(url).open();
        ear.socket.send(new Uint8Array([1, 2, 3]));
        await ear.over();
        return ear.end;
    """)

    assert (1003, True) == (end["code"], end["clean"])


def test_realtime_is_agreed_upon(bench: Bench) -> None:
    """Of the protocols that OpenAI's pages name, the one that is no key."""
    heard = bench.run(
        """
        const ear = await new Ear(url, ['realtime', 'openai-insecure-api-key.none']).open();
        await ear.until(() => ear.heard.length || ear.end);
        return [ear.socket.protocol, ear.heard[0]?.type];
        """,
        path="/v1/realtime?model=fake:latest",
    )

    assert ["realtime", "session.created"] == heard


def test_pages_of_other_origins_are_refused(bench: Bench) -> None:
    """Another port is another origin: the handshake is answered 403, and no backend hears of it."""
    with bench.browser.page(bench.fake) as page:
        end = page.run(f"{EAR} const ear = await new Ear('{bench.socket}').open(); return ear.end;")
        assert {"code": 1006, "reason": "", "clean": False} == end
        fault = page.event("Network.webSocketFrameError")["errorMessage"]

    assert "403" in fault
    assert [] == bench.log()


def test_pages_that_are_listed_are_heard(bench: Bench) -> None:
    """Of `server.allowed_origins`."""
    heard = bench.run(
        """
        const ear = await new Ear(url).open();
        ear.ask('a', 3);
        await ear.until(() => ear.end || ear.isDone('a'));
        return [location.origin, ear.of('a').map(frame => frame.token).join('')];
        """,
        page=bench.friend,
    )

    assert [bench.friend, " tok" * 3] == heard


def test_a_drain_lets_answers_finish(browser: Browser, tmp_path: Path) -> None:
    """A router that is told to stop says what is owed, then 1001."""
    command = [str(ROOT / "tools" / "fake-ollama"), "--tokens", "50", "--interval-s", "0.01"]
    with running(command, tmp_path) as url:
        config = CONFIG.format(url=url, friend=url) + NUMB_TOML
        (tmp_path / "config.toml").write_text(config)
        with started(["-m", "ollama_proxy", "serve"], tmp_path) as program:
            bench = Bench(browser, program, url, url)
            with browser.page(f"{bench.url}/health") as page:
                page.run(f"""{EAR}
                    globalThis.ear = await new Ear('{bench.socket}').open();
                    ear.ask('a', 50);
                    await ear.until(() => ear.heard.length);
                """)
                program.process.send_signal(signal.SIGTERM)
                heard, end = page.run("await ear.over(); return [ear.heard, ear.end];")
            ended = program.process.wait(LIMIT_S)

    assert 50 == heard[-1].get("token_count")
    assert (1001, True, 0) == (end["code"], end["clean"], ended)
