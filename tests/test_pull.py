"""`ollama-proxy pull`: what is drawn of a download, and the command as its users run it."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.pull import Display, Step, drawn, sized
from ollama_proxy.terminal import Terminal, columns_of
from tests.fakes.ollama import Behaviour, Script, open_fake
from tests.test_cli import LIMIT_S, MODULE, Desk, config_for

HALF = Step(status="pulling 5f5f", done=500_000_000, total=1_000_000_000)
PULL = ("/api/pull",)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (
            120,
            f"pulling 5f5f   50 %  500 MB of 1.0 GB  [{'#' * 15}{'.' * 15}]  10 MB/s, 50 s left",
        ),
        (79, "pulling 5f5f   50 %  500 MB of 1.0 GB  [" + "#" * 15 + "." * 15 + "]"),
        (40, "pulling 5f5f   50 %  500 MB of 1.0 GB"),
        (20, "pulling 5f5f   50 %"),
        (10, "pu..."),
    ],
)
def test_a_step_is_one_line(width: int, line: str) -> None:
    """What has no room goes, the least telling first."""
    assert line == drawn(HALF, width, 1e7)


@given(st.text(max_size=40), st.integers(), st.integers(), st.integers(8, 200))
def test_no_step_wraps(status: str, total: int, completed: int, width: int) -> None:
    """Whatever a server says of it."""
    told = {"status": status, "total": total, "completed": completed}
    line = drawn(Step.read(told), width, 1.0)

    assert columns_of(line) <= width
    assert line.isprintable()


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"status": None, "total": "much"},
        {"status": 7, "total": 0, "completed": 3},
        {"status": "x", "total": -1},
    ],
)
def test_figures_that_are_none(told: dict[str, object]) -> None:
    """Nothing is counted then."""
    assert Step.read(told).done is None


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (1500, "2 kB"), (398e6, "398 MB"), (4.7e9, "4.7 GB")]
)
def test_sizes(count: float, said: str) -> None:
    """As model libraries say them."""
    assert said == sized(count)


def test_one_line_changes() -> None:
    """Each status has a line; the pace counts from what was there already, as after a resumed one."""
    stream = io.StringIO()
    display = Display(Terminal(stream, 100, has_colours=False, can_draw=True))
    display.show(Step(status="manifest"), 0.0)
    display.show(Step(status="a", done=900, total=1000), 1.0)
    display.show(Step(status="a", done=950, total=1000), 2.0)
    display.close()

    manifest, layer, end = stream.getvalue().split("\n")
    assert ("\rmanifest\x1b[K", "") == (manifest, end)
    assert 2 == layer.count("\r")
    assert layer.endswith("50 B/s, 1 s left\x1b[K")


# -- as a command ----------------------------------------------------------------------------------


async def test_into_a_pipe(desk: Desk) -> None:
    """Each step once; as JSON every line as it came."""
    async with open_fake(Script(tokens=4)) as fake:
        desk.write(config_for(fake))
        async with desk.serving() as router:
            people = await desk.run("pull", "m", "--url", router.url)
            machines = await desk.run("pull", "m", "--url", router.url, "--json")

    assert [
        "pulling manifest",
        "pulling 5f5f5f5f5f5f (4 B)",
        "verifying sha256 digest",
        "success",
    ] == people.stdout.decode().splitlines()
    lines = [json.loads(line) for line in machines.stdout.splitlines()]
    assert ([1, 2, 3, 4], "success") == (
        [line["completed"] for line in lines if "completed" in line],
        lines[-1]["status"],
    )
    assert [(0, b"")] * 2 == [(each.returncode, each.stderr) for each in (people, machines)]


@pytest.mark.parametrize(
    ("script", "flags", "sentence"),
    [
        (Script(behaviour=Behaviour.DIE_MID_STREAM, misbehaves_at=PULL), [], b"ollama-proxy: "),
        (
            Script(behaviour=Behaviour.GARBLE_STREAM, misbehaves_at=PULL),
            [],
            b"of the download is not understood",
        ),
        (
            Script(behaviour=Behaviour.HTML_ERROR, misbehaves_at=PULL),
            [],
            b"the backend npu answers with 502 Bad Gateway",
        ),
        (Script(), ["--target", "nobody"], b"no backend or hardware named 'nobody'"),
    ],
)
async def test_a_download_that_fails(
    desk: Desk, script: Script, flags: list[str], sentence: bytes
) -> None:
    """One sentence, exit code 1."""
    async with open_fake(script) as fake:
        desk.write(config_for(fake))
        async with desk.serving() as router:
            done = await desk.run("pull", "m", "--url", router.url, *flags)

    assert (1, 1) == (done.returncode, done.stderr.count(b"\n")), done.stderr
    assert sentence in done.stderr


async def test_nobody_there(desk: Desk) -> None:
    """As for any other command."""
    done = await desk.run("pull", "m", "--url", "http://127.0.0.1:1")

    assert (1, b"", True) == (done.returncode, done.stdout, b"no router answers" in done.stderr)


async def test_an_interrupt_stops_the_server_too(desk: Desk) -> None:
    """As Ctrl-C: exit code 130, the way to go on, and the server sees its client leave."""
    slow = Script(tokens=10_000, interval_s=0.01)
    with trio.fail_after(LIMIT_S):
        async with open_fake(slow) as fake:
            desk.write(config_for(fake))
            async with desk.serving() as router:
                ours, theirs = os.openpty()
                process = await trio.lowlevel.open_process(
                    [sys.executable, *MODULE, "pull", "m", "--url", router.url],
                    stdout=theirs,
                    stderr=subprocess.PIPE,
                    cwd=desk.directory,
                    env=desk.environment | {"TERM": "xterm", "COLUMNS": "80"},
                )
                try:
                    shown = b""
                    while b"] " not in shown and b"5f5f" not in shown:
                        await trio.lowlevel.wait_readable(ours)
                        shown += os.read(ours, 4096)
                    process.send_signal(signal.SIGINT)
                    code = await process.wait()
                    assert process.stderr is not None
                    async with process.stderr:
                        said = bytes(await process.stderr.receive_some())
                    await fake.until(
                        lambda log: any(each.path in PULL and each.client_left_s for each in log)
                    )
                finally:
                    if process.returncode is None:
                        process.kill()
                    os.close(ours)
                    os.close(theirs)

    assert 130 == code
    assert b"ollama-proxy: stopped; the same command goes on where it stopped\n" == said
