"""What a fleet behind a real Envoy costs, and what it costs to lose a part of it: `tools/bench --fleet`.

The figures of the picker are its processor time for each request, as its process spends it with all that
goes with a request: two messages before the answer and one at its head, the line, the books and the log.
"""

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import psutil
import trio

from benching.figures import Row
from benching.load import Load, Yield
from benching.servers import Server
from tests.real.envoys import ENVOY, Stage, chat, stage
from tests.real.loads import load
from tests.real.programs import Program
from tests.routers import CHAT

NODES = Path(__file__).resolve().parent / "nodes.py"
FEW, MANY = 4, 400
STREAMS, REQUESTS, QUICK_REQUESTS = 8, 500, 50
# Processor time comes in hundredths of a second: of less than this nothing is said.
CPU_MIN_S = 0.1
LIMIT_S = 900.0
TOKENS = "long"  # the case that tells what a token costs
# As a router is that nobody has told otherwise; the tests look at nodes more often.
USUAL = "[router]\nhealth_interval_s = 5\n"
# What the project holds itself to.
FEW_MAX_MS, MANY_MAX_MS, A_CORE_LEAST = 0.6, 1.5, 1000.0
FAILED_MAX, OUT_MAX_S, LEFT_MAX_MS, TOKEN_MAX = 1, 1.0, 50.0, 1.1


@attrs.frozen(kw_only=True)
class Figure:
    """One thing that was measured.

    Attributes:
        name: what.
        value: in `unit`.
        most: what it must not be above; None where there is no such bound.
        least: what it must not be below; as above.
    """

    name: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether it is within its bound; None where there is none."""
        if self.most is not None:
            return self.value <= self.most
        return None if self.least is None else self.value >= self.least

    def told(self) -> str:
        """As a line."""
        bound = "" if self.most is None else f"at most {self.most:g}"
        bound = bound if self.least is None else f"at least {self.least:g}"
        verdict = {True: "holds", False: "MISSED", None: ""}[self.holds]
        return f"{self.name:<58} {self.value:10.3f} {self.unit:<12} {bound:<14} {verdict}".rstrip()


Send = Callable[[Load], Yield]


def is_had() -> bool:
    """Whether there is an Envoy."""
    return shutil.which(ENVOY) is not None


async def measure(send: Send, *, quick: bool) -> AsyncIterator[Figure]:
    """All of it, figure by figure."""
    for count, most in ((FEW, FEW_MAX_MS), (MANY, MANY_MAX_MS)):
        for figure in await _deciding(send, count, most, quick=quick):
            yield figure
    for figure in await _losing(quick=quick):
        yield figure
    yield await _restarting(quick=quick)
    yield await _leaving(quick=quick)


# -- what a decision costs ---------------------------------------------------------------------------


@asynccontextmanager
async def _many(count: int) -> AsyncIterator[Stage]:
    """So many nodes in one process, a picker, and Envoy."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        nodes = Program([sys.executable, str(NODES), str(count)], directory, "nodes")
        try:
            ports = (await nodes.begin()).partition("ports=")[2].split(",")
            async with stage(directory, more=USUAL, served=[int(port) for port in ports]) as behind:
                yield behind
        finally:
            await nodes.end()


async def _deciding(send: Send, count: int, most: float, *, quick: bool) -> list[Figure]:
    async with _many(count) as behind:
        pid = _pid(behind.pickers[0])
        sent = Load(
            host="127.0.0.1",
            port=behind.envoy.port,
            streams=STREAMS,
            requests=QUICK_REQUESTS if quick else REQUESTS,
            stream=False,
            model="fake:latest",
            pid=pid,
        )
        idle_s = await _idle(pid, 1.0 if quick else 10.0)
        got = await trio.to_thread.run_sync(send, sent)
    requests = len(got.whole_ns)
    figures = [
        Figure(
            name=f"picker's CPU with nothing to do, {count} nodes", value=idle_s * 100, unit="%"
        ),
        Figure(name=f"requests carried, {count} nodes", value=requests / got.elapsed_s, unit="1/s"),
    ]
    # Probing goes on whether anybody asks or not.
    used_s = (got.cpu_s or 0.0) - idle_s * got.elapsed_s
    if used_s < CPU_MIN_S:
        return figures
    return [
        Figure(
            name=f"picker's CPU a decision, {count} nodes",
            value=used_s / requests * 1000,
            unit="ms",
            most=most,
        ),
        Figure(
            name=f"decisions a second of a core, {count} nodes",
            value=requests / used_s,
            unit="1/s",
            least=A_CORE_LEAST if count == FEW else None,
        ),
        *figures,
    ]


async def _idle(pid: int, for_s: float) -> float:
    """What a process uses by itself: seconds of a processor in a second."""
    before = _cpu_s(pid)
    await trio.sleep(for_s)
    return (_cpu_s(pid) - before) / for_s


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


# -- what is lost with a node, or with a picker --------------------------------------------------------


async def _losing(*, quick: bool) -> list[Figure]:
    """A node of four is killed under load."""
    around = 20 if quick else 300
    with tempfile.TemporaryDirectory() as name:
        async with (
            stage(Path(name), "a", "b", "c", "d", more=USUAL) as behind,
            load(behind.envoy) as outcome,
        ):
            await outcome.more(around)
            behind.nodes["a"].send(signal.SIGKILL)
            since = trio.current_time()
            took_s: dict[str, float] = {}

            async def envoy() -> None:
                await behind.envoy.well("nodes", 3)
                took_s["Envoy"] = trio.current_time() - since

            async def picker() -> None:
                await behind.pickers[0].until(lambda all_: not all(b["healthy"] for b in all_))
                took_s["the picker"] = trio.current_time() - since

            async with trio.open_nursery() as nursery:
                nursery.start_soon(envoy)
                nursery.start_soon(picker)
            await outcome.more(around)
    new = sum(began >= since for began in outcome.began)
    return [
        Figure(
            name="a lost node: failed requests that came after", value=new, unit="", most=FAILED_MAX
        ),
        # Half an answer cannot be had from elsewhere.
        Figure(
            name="a lost node: answers that were under way", value=len(outcome.began) - new, unit=""
        ),
        *(
            Figure(name=f"a lost node: out for {who}", value=took, unit="s", most=OUT_MAX_S)
            for who, took in took_s.items()
        ),
    ]


async def _restarting(*, quick: bool) -> Figure:
    """Both pickers end and come back, one after the other, under load."""
    around = 20 if quick else 300
    with tempfile.TemporaryDirectory() as name:
        async with (
            stage(Path(name), "a", "b", pickers=2, more=USUAL) as behind,
            load(behind.envoy) as outcome,
        ):
            for picker in behind.pickers:
                await outcome.more(around)
                await picker.end()
                await outcome.more(around)
                await picker.begin()
                await behind.envoy.well("pickers", 2)
            await outcome.more(around)
    whole = outcome.whole
    return Figure(
        name=f"rolling restart of both pickers: failed of {whole + outcome.failed.total()}",
        value=outcome.failed.total(),
        unit="",
        most=0,
    )


async def _leaving(*, quick: bool) -> Figure:
    """Clients that leave within their answers: the longest time until the node saw it."""
    taken_s = []
    slow = ["--tokens", "1000", "--interval-s", "0.02"]
    with tempfile.TemporaryDirectory() as name:
        async with stage(Path(name), "a", more=USUAL, script=slow) as behind:
            node = behind.nodes["a"]
            for at in range(5 if quick else 50):
                async with (
                    behind.envoy.client() as client,
                    client.stream("POST", CHAT, json=chat(stream=True)),
                ):
                    await trio.sleep(0.05)
                    left_s = time.monotonic_ns() / 1e9  # the clock of the node's log
                while (saw_s := (await node.seen())[at]["client_left_s"]) is None:  # noqa: ASYNC110 - it tells when asked
                    await trio.sleep(0.01)
                taken_s.append(saw_s - left_s)
    return Figure(
        name="a client that leaves: until its node sees it, at most",
        value=max(taken_s) * 1000,
        unit="ms",
        most=LEFT_MAX_MS,
    )


# -- what a token costs --------------------------------------------------------------------------------


@asynccontextmanager
async def paths(fake: Server) -> AsyncIterator[list[tuple[str, Server]]]:
    """Envoy with a picker and Envoy without, each in front of the same node, which runs already."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        async with (
            stage(Path(one), served=[fake.port], each="slots = 256", more=USUAL) as with_it,
            stage(Path(other), served=[fake.port], more=USUAL, change=_unasked) as without,
        ):
            yield [
                (name, _server(behind))
                for name, behind in (("envoy", without), ("envoy+picker", with_it))
            ]


def token_costs(rows: Iterable[Row]) -> Iterator[Figure]:
    """What a token costs with a picker over what it costs without, in Envoy's time and in the client's."""
    of = {row.path: row for row in rows if row.case == TOKENS}
    without, with_it = of.get("envoy"), of.get("envoy+picker")
    if without is None or with_it is None:
        return
    for name, one, other in (
        ("CPU in Envoy", without.cpu_us_per_token, with_it.cpu_us_per_token),
        (
            "delay at p50",
            without.token and without.token.p50_ms,
            with_it.token and with_it.token.p50_ms,
        ),
    ):
        if one and other:
            yield Figure(
                name=f"a token's {name}, with a picker over without",
                value=other / one,
                unit="",
                most=TOKEN_MAX,
            )


def _server(behind: Stage) -> Server:
    return Server(host="127.0.0.1", port=behind.envoy.port, pid=_pid(behind.envoy))


def _pid(program: Program) -> int:
    return 0 if program.process is None else program.process.pid


def _unasked(config: dict[str, Any]) -> None:
    """Take the picker out of Envoy's way."""
    (listener,) = config["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["http_filters"][0]
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        route.pop("typed_per_filter_config", None)


def table(figures: Iterable[Figure]) -> str:
    """A line for each."""
    return "\n".join(each.told() for each in figures)
