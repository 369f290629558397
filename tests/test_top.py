"""`ollama-proxy top`: its screen with textual's pilot, and what it prints where nobody can watch."""

import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from ollama_proxy.client import Unanswered
from ollama_proxy.top import Router, Sight
from ollama_proxy.top_screen import Help, Modes, Screen
from tests.answers import BACKEND, EFFICIENCY, HEAT
from tests.fakes.ollama import open_fake
from tests.test_cli import Desk, config_for

WIDE = (120, 40)
SELDOM_S = 3600.0  # the tests say when to look


@attrs.define
class FakeRouter:
    """A router whose state the test changes.

    Attributes:
        efficiency: what it answers, and so on.
        fault: why it does not answer; "" while it does.
        wanted: the modes that were asked for.
        is_closed: whether nobody asks any more.
    """

    efficiency: dict[str, Any] = attrs.field(factory=lambda: dict(EFFICIENCY))
    backends: list[dict[str, Any]] = attrs.field(factory=lambda: [dict(BACKEND)])
    fault: str = ""
    wanted: list[str] = attrs.field(factory=list)
    is_closed: bool = False

    async def look(self) -> Sight:
        """What it is like now."""
        if self.fault:
            raise Unanswered(self.fault)
        return Sight({
            "efficiency": dict(self.efficiency),
            "backends": [dict(each) for each in self.backends],
            "thermal": HEAT,
        })

    async def set_mode(self, name: str) -> None:
        """Be in another one."""
        if self.fault:
            raise Unanswered(self.fault)
        self.wanted.append(name)
        self.efficiency["effective_mode"] = name

    async def aclose(self) -> None:
        """End."""
        self.is_closed = True


Seen = Callable[[], str]


def watch(
    router: FakeRouter,
    play: Callable[[Screen, "Pilot[Any]", Seen], Awaitable[None]],
    size: tuple[int, int] = WIDE,
) -> None:
    """Play a scene on the screen. Textual brings its own event loop, so that tests of it are sync."""
    screen = Screen(router, "http://router", SELDOM_S)

    def seen() -> str:
        root = screen.screen_stack[0]
        return "\n".join(str(root.query_one(each, Static).content) for each in ("#fault", "#all"))

    async def scene(pilot: "Pilot[Any]") -> None:
        await screen.workers.wait_for_complete()
        await pilot.pause()
        await play(screen, pilot, seen)
        if screen.is_running:
            await pilot.press("q")

    screen.run(headless=True, size=size, auto_pilot=scene)
    assert screen.return_code == 0
    assert router.is_closed


async def look(screen: Screen, pilot: "Pilot[Any]") -> None:
    await screen.look().wait()
    await pilot.pause()


def test_all_is_seen() -> None:
    """Mode, what is under way, backends and heat."""

    async def play(_screen: Screen, _pilot: "Pilot[Any]", seen: Seen) -> None:
        for word in ("auto, in force: quiet", "1 in flight, 3 waiting", "healthy", "91 °C", "RPM"):
            assert word in seen()

    watch(FakeRouter(), play)


def test_a_router_that_begins_anew() -> None:
    """While it is gone the screen says so and keeps what it knew; then it goes on, uncounted once."""
    router = FakeRouter()

    async def play(screen: Screen, pilot: "Pilot[Any]", seen: Seen) -> None:
        router.fault = "no router answers on http://router: \x1b[2J"
        await look(screen, pilot)
        gone = seen()
        router.fault = ""
        router.backends[0]["requests_total"] = 0
        await look(screen, pilot)
        back = seen()
        router.backends[0]["requests_total"] = 5
        await look(screen, pilot)

        assert gone.startswith("no router answers on http://router: �[2J")
        assert "healthy" in gone
        assert ("no router" in back, "requests/s" in back) == (False, False)
        assert "requests/s" in seen()

    watch(router, play)


def test_nobody_there_from_the_start() -> None:
    """That is said, and what needs an answer does nothing."""
    router = FakeRouter(fault="no router answers")

    async def play(screen: Screen, pilot: "Pilot[Any]", seen: Seen) -> None:
        await pilot.press("m")
        assert "no router answers" in seen()
        assert len(screen.screen_stack) == 1

    watch(router, play)


def test_a_mode_is_chosen() -> None:
    """The list begins at the one that holds; the router is told, and what came of it is seen."""
    router = FakeRouter(efficiency=EFFICIENCY | {"mode": "quiet"})

    async def play(screen: Screen, pilot: "Pilot[Any]", seen: Seen) -> None:
        await pilot.press("m")
        assert isinstance(screen.screen, Modes)
        assert 1 == screen.screen.query_one(OptionList).highlighted
        await pilot.press("up", "enter")
        await pilot.pause()
        assert ["auto"] == router.wanted
        assert "in force: auto" in seen()

    watch(router, play)


def test_a_mode_is_not_chosen() -> None:
    """Escape leaves it as it is; a refusal is told."""
    router = FakeRouter()

    async def play(screen: Screen, pilot: "Pilot[Any]", _seen: Seen) -> None:
        await pilot.press("m", "escape")
        await pilot.press("m")
        router.fault = "this key may only read [bold]"
        await pilot.press("enter")
        await pilot.pause()

        assert [] == router.wanted
        told = [notice.message for notice in screen._notifications]
        assert ["this key may only read [bold]"] == told

    watch(router, play)


def test_help_comes_and_goes() -> None:
    """By its key, and while all else goes on."""

    async def play(screen: Screen, pilot: "Pilot[Any]", _seen: Seen) -> None:
        await pilot.press("question_mark")
        assert isinstance(screen.screen, Help)
        await look(screen, pilot)
        await pilot.press("escape")
        assert len(screen.screen_stack) == 1

    watch(FakeRouter(), play)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_it_is_left(key: str) -> None:
    """By its own key, and by the one that ends any program."""

    async def play(screen: Screen, pilot: "Pilot[Any]", _seen: Seen) -> None:
        await pilot.press(key)
        await pilot.pause()
        assert not screen.is_running

    watch(FakeRouter(), play)


def test_the_tables_follow_the_screen() -> None:
    """Made narrower, it shows what fits and says what does not."""

    async def play(_screen: Screen, pilot: "Pilot[Any]", seen: Seen) -> None:
        wide = seen()
        await pilot.resize_terminal(70, 20)
        await pilot.pause()

        assert ("HARDWARE" in wide, "too narrow" in wide) == (True, False)
        assert max(len(line.rstrip()) for line in seen().splitlines()[4:]) <= 70
        assert "too narrow" in seen()
        await pilot.resize_terminal(1, 1)

    watch(FakeRouter(), play)


# -- what it asks ----------------------------------------------------------------------------------


@attrs.define
class ScriptedServer(httpx.AsyncBaseTransport):
    """A server that answers each path as the test says, and keeps what was asked."""

    answers: dict[str, tuple[int, bytes]]
    asked: list[str] = attrs.field(factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer."""
        self.asked.append(request.url.path)
        status, body = self.answers[request.url.path]
        return httpx.Response(status, content=body)


def told(**changes: tuple[int, bytes]) -> ScriptedServer:
    """One that answers as a router does, but for what is changed."""
    return ScriptedServer({
        "/efficiency": (200, json.dumps(EFFICIENCY).encode()),
        "/backends": (200, json.dumps([BACKEND]).encode()),
        "/thermal": (200, json.dumps(HEAT).encode()),
        **{f"/{name}": answer for name, answer in changes.items()},
    })


async def test_heat_is_asked_for_less_often() -> None:
    """It brings an hour of history; after a failure all is asked anew."""
    server = told()
    async with httpx.AsyncClient(transport=server) as client:
        router = Router("http://router", client)
        for _ in range(6):
            await router.look()
        often = server.asked.count("/thermal")
        server.answers["/backends"] = (503, b'{"error": "draining"}')
        with pytest.raises(Unanswered, match="draining"):
            await router.look()
        server.answers |= told().answers
        await router.look()

    assert (2, 3) == (often, server.asked.count("/thermal"))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((200, b"<html>"), "answers, but is no ollama-proxy"),
        ((200, b'{"mode": "auto"}'), "answers, but is no ollama-proxy"),
        ((401, b'{"error": {"message": "a key\\u001b is needed"}}'), "a key� is needed"),
    ],
)
async def test_what_is_no_router(answer: tuple[int, bytes], sentence: str) -> None:
    """A sentence, never what would break the screen."""
    async with httpx.AsyncClient(transport=told(efficiency=answer)) as client:
        with pytest.raises(Unanswered, match=sentence):
            await Router("http://router", client).look()


# -- as a command ----------------------------------------------------------------------------------


async def test_where_nobody_can_watch(tmp_path: Path) -> None:
    """Into a pipe it shows all once, for people or machines; its library is not needed for that."""
    desk = Desk(tmp_path)
    bare = (
        "-c",
        "import sys; sys.modules['textual'] = None; from ollama_proxy.cli import main; sys.exit(main())",
    )
    async with open_fake() as fake:
        desk.write(config_for(fake))
        async with desk.serving() as router:
            people = await desk.run("top", "--url", router.url, program=bare)
            machines = await desk.run("top", "--url", router.url, "--json", program=bare)
    nobody = await desk.run("top", "--url", router.url)

    assert [0, 0, 1] == [each.returncode for each in (people, machines, nobody)]
    assert "balanced, in force: balanced" in people.stdout.decode()
    assert "npu" == json.loads(machines.stdout)["backends"][0]["id"]
    assert (b"", 1) == (nobody.stdout, nobody.stderr.count(b"\n"))


async def test_without_its_library(tmp_path: Path) -> None:
    """On a terminal one sentence says what to install."""
    desk = Desk(tmp_path, {"TERM": "xterm"})
    code = (
        "import sys; sys.modules['textual'] = None\n"
        "from ollama_proxy.cli import main; sys.exit(main(['top', '--url', 'http://127.0.0.1:1']))"
    )
    ours, theirs = os.openpty()
    try:
        done = await trio.run_process(
            [sys.executable, "-c", code],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            check=False,
            cwd=desk.directory,
            env=desk.environment,
        )
        said = os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)

    assert (1, 1) == (done.returncode, said.count(b"\n"))
    assert b"ollama-proxy-router[tui]" in said
