"""The whole router in this process, from its readiness to its orderly end, and fakes behind it."""

import gc
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import httpx
import psutil
import trio

from ollama_proxy.config import (
    BackendConfig,
    Characteristics,
    Config,
    Loaded,
    Observability,
    Router,
    Server,
)
from ollama_proxy.policy.access import Key
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.serve import Plan, serve
from ollama_proxy.tables import ConfigFaults
from tests.fakes.ollama import Fake, Script, open_fake
from tests.numb import NUMB

MODEL = "fake:latest"
CHAT = "/v1/chat/completions"
LIMIT_S = 20.0
# Watts, milliseconds: the contract's four.
FOUR = {
    "npu": (Hardware.NPU, 3.0, 800.0),
    "igpu": (Hardware.IGPU, 12.0, 400.0),
    "nvidia": (Hardware.NVIDIA, 55.0, 150.0),
    "cpu": (Hardware.CPU, 28.0, 2000.0),
}


def backend(name: str, url: str, **changes: Any) -> BackendConfig:
    """One of the four, at a fake."""
    hardware, watts, latency_ms = FOUR[name]
    written = Characteristics(power_watts=watts, avg_latency_ms=latency_ms)
    made = BackendConfig(
        id=f"ollama-{name}", hardware=hardware, endpoint=url, slots=2, characteristics=written
    )
    return attrs.evolve(made, **changes)


def configured(*backends: BackendConfig, drain_s: float = 5.0) -> Config:
    """A configuration for any free port, which probes often."""
    return Config(
        server=Server(http_port=0, grpc=False, drain_s=drain_s),
        router=Router(health_interval_s=0.1),
        backends=backends,
        observability=Observability(access_log=False),
        **NUMB,
    )


@attrs.define(eq=False)
class Owner:
    """Who runs the router: may change the file, and send signals.

    Attributes:
        config: what the file says now; None if it is faulty.
        keys: what the files say that it names.
        said: what the router announced.
        ended: set when `serve` has returned, or failed.
        read: set when the file was read again.
    """

    config: Config | None
    keys: tuple[Key, ...] = ()
    said: list[str] = attrs.field(factory=list)
    url: str = ""
    ended: trio.Event = attrs.field(factory=trio.Event)
    read: trio.Event = attrs.field(factory=trio.Event)

    def reload(self) -> Loaded:
        """Read the file."""
        self.read.set()
        if self.config is None:
            raise ConfigFaults(("backends[0].slots: must be 1 to 1024 (got 0)",))
        return Loaded(config=self.config, keys=self.keys)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the router."""
        assert not self.ended.is_set(), "it would hit the tests instead"
        os.kill(os.getpid(), number)

    @property
    def grpc_port(self) -> int:
        """Where its gRPC door is."""
        where = next(w for w in self.said[0].split() if w.startswith("grpc="))
        return int(where.rpartition(":")[2])

    def client(self, key: str = "") -> httpx.AsyncClient:
        """Somebody who asks, with a key or without."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(
            base_url=self.url, trust_env=False, timeout=LIMIT_S, headers=headers
        )


@asynccontextmanager
async def running(
    config: Config, keys: Sequence[Key] = (), *, limit_s: float = LIMIT_S
) -> AsyncIterator[Owner]:
    """A router from its readiness to its orderly end, which leaves nothing open."""
    owner = Owner(config, tuple(keys))

    async def run(*, task_status: trio.TaskStatus[str]) -> None:
        plan = Plan(config=config, reload=owner.reload, announce=owner.said.append, keys=keys)
        try:
            await serve(plan, task_status=task_status)
        finally:
            owner.ended.set()

    gc.collect()
    before = psutil.Process().num_fds()
    with trio.fail_after(limit_s):
        async with trio.open_nursery() as nursery:
            owner.url = "http://" + await nursery.start(run)
            yield owner
            if not owner.ended.is_set():
                owner.signal(signal.SIGTERM)
            await owner.ended.wait()
        gc.unfreeze()
        gc.collect()
        # A sensor's thread is not waited for: one that was reading closes its file a moment later.
        while psutil.Process().num_fds() > before:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.01)


@asynccontextmanager
async def fakes(*names: str, script: Script | None = None) -> AsyncIterator[dict[str, Fake]]:
    """Some of the four, each a fake."""
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(open_fake(script)) for name in names}


def ask(**fields: object) -> dict[str, object]:
    """A chat."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **fields}


async def until(client: httpx.AsyncClient, is_so: Callable[[list[dict[str, Any]]], object]) -> None:
    """Wait until /backends is as `is_so` wants it."""
    while not is_so((await client.get("/backends")).json()):  # noqa: ASYNC110 - it tells when asked
        await trio.sleep(0.01)


async def idle(client: httpx.AsyncClient) -> None:
    """Every slot is free again: the books are balanced."""
    await until(client, lambda backends: not any(each["in_flight"] for each in backends))
