"""Processes that a fleet is made of, each to be killed and begun anew: nodes, pickers, an Envoy."""

import os
import random
import signal
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio

import ollama_proxy

LOOPBACK = "127.0.0.1"
LIMIT_S = 120.0
PORTS = (20000, 32000)
GOODBYE_MAX_S = 20.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now: a picker must come back where it was, and Envoy must know where.

    Below those that the kernel gives away for connections, so that none of these takes one meanwhile.
    """
    with ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            port = random.randrange(*PORTS)  # noqa: S311 - no secret
            with suppress(OSError):
                held.enter_context(socket.create_server((LOOPBACK, port)))
                ports.append(port)
    return ports


@attrs.define(eq=False)
class Program:
    """A process that can be killed and begun anew.

    Attributes:
        command: after the interpreter, or a program of its own.
        directory: where it runs, and what it takes for its user's home.
        name: of the file for what it says.
        process: as it runs; None while it does not.
        variables: added to its environment.
    """

    command: Sequence[str]
    directory: Path
    name: str
    process: trio.Process | None = None
    variables: Mapping[str, str] = attrs.field(factory=dict)

    async def begin(self, *, says_ready: bool = True) -> str:
        """Start it; returns its first line."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(ollama_proxy.__file__).parent.parent),
            "HOME": str(self.directory),
            **self.variables,
        }
        with (self.directory / self.name).open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                self.command,
                stdout=-1 if says_ready else log,
                stderr=log,
                cwd=self.directory,
                env=environment,
            )
        if not says_ready:
            return ""
        assert self.process.stdout is not None
        said = b""
        while not said.endswith(b"\n"):
            data = await self.process.stdout.receive_some(1000)
            assert data, self.log()
            said += data
        return said.decode()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Have it end, and wait until it has."""
        if (process := self.process) is None:
            return
        self.process = None
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.send_signal(number)
                with trio.move_on_after(GOODBYE_MAX_S):
                    await process.wait()
            if process.poll() is None:
                process.kill()
                await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()

    def log(self) -> str:
        """What it said."""
        return (self.directory / self.name).read_text(errors="replace")


def _client(port: int, trust: ssl.SSLContext | None, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"{'https' if trust else 'http'}://{LOOPBACK}:{port}",
        verify=trust or True,
        headers={"authorization": f"Bearer {key}"} if key else {},
        trust_env=False,
        timeout=LIMIT_S,
    )


@attrs.define(eq=False)
class Node(Program):
    """A scripted node."""

    port: int = 0

    @property
    def url(self) -> str:
        """Where."""
        return f"http://{LOOPBACK}:{self.port}"

    async def script(self, **fields: object) -> None:
        """What it does from the next request on."""
        async with httpx.AsyncClient(trust_env=False) as client:
            (await client.post(f"{self.url}/fake/script", json=fields)).raise_for_status()

    async def seen(self) -> list[dict[str, Any]]:
        """The inference calls that it saw."""
        async with httpx.AsyncClient(trust_env=False) as client:
            log = (await client.get(f"{self.url}/fake/log")).json()
        return [each for each in log if each["method"] == "POST"]


@attrs.define(eq=False)
class Picker(Program):
    """A router whose gRPC door Envoy asks."""

    http_port: int = 0
    grpc_port: int = 0
    trust: ssl.SSLContext | None = None
    key: str = ""

    def client(self) -> httpx.AsyncClient:
        """Somebody who asks its HTTP door."""
        return _client(self.http_port, self.trust, self.key)

    async def until(self, is_so: Callable[[list[dict[str, Any]]], object]) -> None:
        """Wait until its /backends is as `is_so` wants it."""
        async with self.client() as client:
            while not is_so((await client.get("/backends")).json()):  # noqa: ASYNC110 - it tells when asked
                await trio.sleep(0.02)

    async def idle(self) -> None:
        """Every slot is free, and nobody waits."""
        await self.until(
            lambda all_: not any(b["in_flight"] or any(b["queued"].values()) for b in all_)
        )


@attrs.define(eq=False)
class Envoy(Program):
    """The proxy that carries the bytes."""

    port: int = 0
    admin_port: int = 0
    trust: ssl.SSLContext | None = None

    def client(self, key: str = "") -> httpx.AsyncClient:
        """A client of it, with a key or without."""
        return _client(self.port, self.trust, key)

    async def counted(self, name: str) -> int:
        """One of its counters."""
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"http://{LOOPBACK}:{self.admin_port}/stats"
            told = await client.get(url, params={"format": "json", "filter": f"^{name}$"})
        return int(told.json()["stats"][0]["value"])

    async def well(self, cluster: str, count: int) -> None:
        """Wait until so many of a cluster are healthy."""
        while await self.counted(f"cluster.{cluster}.membership_healthy") != count:  # noqa: ASYNC110 - it tells when asked
            await trio.sleep(0.02)
