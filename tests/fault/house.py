"""The router as its users start it, two backends behind it, and what it owes whatever was done to it.

Rule 1: what is asserted after a fault is one function, `House.settles`, the same for every fault.
Rule 2: what passes is waited for; that it was quick is nothing a test says, but `tools/fault`.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import psutil
import trio

from tests.fault.outcome import TOKENS, End, chat, end_of
from tests.fault.programs import Program
from tests.fault.watched import WINDOW, look
from tests.inbound.ends import Answer, Client
from tests.metrics.scrapes import Scrape, read
from tests.numb import NUMB_TOML
from tests.real.processes import ROOT

PATIENCE_S = 20.0
# Of a circuit that opened three times in a round: 20 s, and a fifth more.
PAUSE_MAX_S = 60.0
GROWTH_MAX_BYTES = 24 << 20
NAMES = ("npu", "cpu")
SLOTS = 2  # of each
FAKE = str(ROOT / "tools" / "fake-ollama")
_SERVER = """\
[server]
http_port = 0
grpc_port = 0
drain_s = 1.0
write_timeout_s = 1.5
{server}
[router]
first_byte_timeout_s = 1.0
stall_timeout_s = 1.0
health_interval_s = 0.5
"""
_BACKEND = """\
[[backends]]
id = "{name}"
hardware = "{name}"
type = "{kind}"
endpoint = "{url}"
slots = {slots}
connect_timeout_s = 1.0
[backends.characteristics]
power_watts = {watts}
"""


@attrs.frozen(kw_only=True)
class State:
    """What is alive in the router, as seen when nothing is asked of it.

    Attributes:
        tasks: by name, one for each.
        jobs: requests that have begun and not ended.
        busy: slots that are taken.
        waiting: requests in line.
        connections: of clients, and of those who ask for this.
        descriptors: without kept connections to backends, which their slots bound.
        memory_bytes: resident.
        blocks: of the interpreter's own that are in use: what tells a leak from a scattered heap.
        ended: requests of which the books tell that they ended.
    """

    tasks: tuple[str, ...]
    jobs: int
    busy: int
    waiting: int
    connections: int
    descriptors: int
    memory_bytes: int
    blocks: int
    ended: int

    def excess_over(self, base: "State") -> dict[str, object]:
        """What there is more of than there was; nothing where all is well."""
        more: dict[str, object] = {
            name: getattr(self, name)
            for name in ("jobs", "busy", "waiting")
            if getattr(self, name) > 0
        }
        for name in ("connections", "descriptors"):
            if getattr(self, name) > getattr(base, name):
                more[name] = (getattr(base, name), getattr(self, name))
        left = list(self.tasks)
        for name in base.tasks:
            if name in left:
                left.remove(name)
        if len(self.tasks) > len(base.tasks):
            more["tasks"] = left
        if self.memory_bytes > base.memory_bytes + GROWTH_MAX_BYTES:
            more["memory"] = (base.memory_bytes, self.memory_bytes)
        return more


@attrs.define(eq=False)
class House:
    """A router and its backends.

    Attributes:
        router: it.
        backends: by the id that the router knows each by.
        base: what was alive before anything was done to it.
        asked: whole requests that were sent by `ask` and answered, or not.
        answered: those of them that were answered.
    """

    router: Program
    backends: dict[str, Program]
    base: State | None = None
    asked: int = 0
    answered: int = 0
    _seen: int = 0

    # -- asking ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connected(self, door: str = "http", buffer_bytes: int = 0) -> AsyncIterator[Client]:
        """A client with a socket of its own.

        Args:
            door: to which door.
            buffer_bytes: how much its kernel holds unread; 0: as it likes.
        """
        socket = trio.socket.socket()
        if buffer_bytes:
            socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, buffer_bytes)
        try:
            await socket.connect(self.router.door(door))
            yield Client(trio.SocketStream(socket))
        finally:
            socket.close()

    async def ask(self, request: bytes, client: Client | None = None) -> Answer:
        """Send one whole inference request, and read whatever answer it gets."""
        if client is None:
            async with self.connected() as fresh:
                return await self.ask(request, fresh)
        self.asked += 1
        await client.send(request)
        answer = await client.read()
        self.answered += 1
        return answer

    async def get(self, path: str) -> httpx.Response:
        """Ask the router about itself."""
        async with _asking(self.router.url) as client:
            return await client.get(path)

    async def metrics(self) -> Scrape:
        """What Prometheus would read now."""
        return read((await self.get("/metrics")).content)

    async def standing(self, name: str) -> dict[str, Any]:
        """What /backends tells of one of them."""
        told: list[dict[str, Any]] = (await self.get("/backends")).json()
        return next(each for each in told if each["id"] == name)

    async def until_standing(self, name: str, **wanted: object) -> None:
        """Wait until /backends tells so of one of them."""
        with trio.fail_after(PATIENCE_S):
            while True:
                told = await self.standing(name)
                if all(told[each] == value for each, value in wanted.items()):
                    return
                await trio.sleep(0.02)

    # -- the backends ------------------------------------------------------------------------------

    async def script(self, name: str, **fields: object) -> None:
        """Let a backend forget what it was asked, and behave so."""
        async with _asking(self.backends[name].url) as client:
            await client.post("/fake/reset")
            (await client.post("/fake/script", json=fields)).raise_for_status()

    async def log_of(self, name: str) -> list[dict[str, Any]]:
        """The inference calls that a backend saw since its last script."""
        async with _asking(self.backends[name].url) as client:
            log: list[dict[str, Any]] = (await client.get("/fake/log")).json()
        return [each for each in log if each["method"] == "POST"]

    async def until_log(self, name: str, calls: int = 1, **known: bool) -> list[dict[str, Any]]:
        """Wait until so many calls have what is wanted of each, as in `client_left_s=True`."""
        with trio.fail_after(PATIENCE_S):
            while True:
                log = await self.log_of(name)
                if calls <= sum(
                    all((each[field] is not None) == is_known for field, is_known in known.items())
                    for each in log
                ):
                    return log
                await trio.sleep(0.01)

    # -- what is owed --------------------------------------------------------------------------------

    async def state(self) -> State:
        """What is alive in the router now."""
        told: list[dict[str, Any]] = (await self.get("/backends")).json()
        ended = int(sum(count for _, count in (await self.metrics()).all("requests_total")))
        written = look(self.router)
        while (seen := written()) is None:  # noqa: ASYNC110 - another process's
            await trio.sleep(0.005)
        process = psutil.Process(self.router.pid)
        doors = {self.router.door(each)[1] for each in ("http", "grpc")}
        ours = {each.door("http")[1] for each in self.backends.values()}
        found = [each for each in process.net_connections("tcp") if each.status != "LISTEN"]
        kept = sum(bool(each.raddr) and each.raddr.port in ours for each in found)
        return State(
            tasks=tuple(seen["tasks"]),
            jobs=seen["jobs"],
            busy=sum(each["in_flight"] for each in told),
            waiting=sum(sum(each["queued"].values()) for each in told),
            connections=sum(bool(each.laddr) and each.laddr.port in doors for each in found),
            descriptors=process.num_fds() - kept,
            memory_bytes=process.memory_info().rss,
            blocks=seen["blocks"],
            ended=ended,
        )

    async def take_base(self) -> None:
        """See what is alive while nothing is done; that which comes and goes is not counted.

        A worker is there from the first time that its slot is needed, so each is needed first.
        """
        for name in self.backends:
            await self.script(name, tokens=TOKENS, first_token_s=0.2)
            async with trio.open_nursery() as nursery:
                for _ in range(SLOTS):
                    nursery.start_soon(self.serves, name)
            await self.script(name, tokens=TOKENS)
        seen = [await self.state() for _ in range(5)]
        self._seen = seen[-1].ended
        self.asked = self.answered = 0
        self.base = attrs.evolve(
            min(seen, key=lambda each: len(each.tasks)),
            connections=min(each.connections for each in seen),
            descriptors=min(each.descriptors for each in seen),
        )

    async def serves(self, name: str) -> None:
        """The next request to this backend is served whole, streamed and at once."""
        for stream in (True, False):
            with trio.fail_after(PAUSE_MAX_S):
                # An open circuit lets somebody through in its time.
                while True:
                    answer = await self.ask(chat(name, stream=stream))
                    if answer.status != 503:
                        break
                    await trio.sleep(0.05)
            assert End.WHOLE is end_of(answer), answer

    async def settles(self) -> State:
        """What is owed after every fault; waits for it as long as it takes to fail.

        The process is the same; slots, lines, tasks, connections, descriptors and memory are as they
        were; of the requests that were begun each has ended, and is in the books once; and the next
        one is served.
        """
        assert self.base is not None
        excess: dict[str, object] = {}
        with trio.move_on_after(PATIENCE_S):
            while True:
                assert self.router.is_alive, self.router.log()
                state = await self.state()
                excess = state.excess_over(self.base)
                if not excess:
                    break
                await trio.sleep(0.05)
        assert not excess, (excess, self.router.log()[-2000:])
        in_books = (await self.state()).ended - self._seen
        assert self.answered <= in_books <= self.asked, (self.answered, in_books, self.asked)
        for name in self.backends:
            await self.script(name, tokens=TOKENS)
            await self.until_standing(name, healthy=True)
            await self.serves(name)
        self._seen = (await self.state()).ended
        self.asked = self.answered = 0
        return state


_TLS = httpx.create_ssl_context()  # never used, and dear to make for each


@asynccontextmanager
async def _asking(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=url,
        trust_env=False,
        verify=_TLS,
        timeout=PATIENCE_S,
        headers={"connection": "close"},
    ) as client:
        yield client


def _config(backends: dict[str, Program], server: str, more: str, kinds: dict[str, str]) -> str:
    watts = {name: 3.0 * (at + 1) for at, name in enumerate(backends)}
    parts = [
        _BACKEND.format(
            name=name, url=each.url, watts=watts[name], kind=kinds.get(name, "ollama"), slots=SLOTS
        )
        for name, each in backends.items()
    ]
    return "\n".join([_SERVER.format(server=server), more or NUMB_TOML, *parts])


@contextmanager
def open_house(
    directory: Path,
    *,
    server: str = "",
    more: str = "",
    kinds: dict[str, str] | None = None,
    errors: Path | None = None,
) -> Iterator[House]:
    """A house from its readiness to its end, by force if need be.

    Args:
        directory: an empty one.
        server: more lines of [server].
        more: more sections, in place of those that keep it from sensing anything.
        kinds: the types of backends that are not Ollama's.
        errors: where the router's stderr goes.
    """
    backends: dict[str, Program] = {}
    router: Program | None = None
    try:
        for name in NAMES:
            home = directory / name
            home.mkdir()
            backends[name] = Program([FAKE, "--tokens", str(TOKENS)], home)
            backends[name].start()
        (directory / "config.toml").write_text(_config(backends, server, more, kinds or {}))
        router = Program(
            ["-m", "tests.fault.watched", "serve"],
            directory,
            {WINDOW: str(directory / "window")},
            errors,
        )
        router.start()
        yield House(router, backends)
    finally:
        for each in (router, *backends.values()):
            if each is not None:
                each.kill()
