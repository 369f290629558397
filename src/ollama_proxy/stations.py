"""The backends that are open, each with its station: opened, probed, replaced and closed with the configuration.

Wanted is what is configured, and what was found beside it.
A station lives in the workers' nursery, until it is retired and its slots are empty.
"""

import functools
import logging
import os
import ssl
from collections.abc import Iterable, Sequence

import attrs
import trio

from ollama_proxy.backends.backend import Backend, BackendFailed
from ollama_proxy.backends.embedded import EmbeddedBackend
from ollama_proxy.backends.endpoint import Endpoint
from ollama_proxy.backends.ollama import OllamaBackend
from ollama_proxy.backends.openai import OpenAIBackend
from ollama_proxy.backends.pump import Pump
from ollama_proxy.backends.router import RouterBackend
from ollama_proxy.backends.server import Server, ServerSettings
from ollama_proxy.config import (
    BackendConfig,
    Config,
    Scheduler,
)
from ollama_proxy.engine.crew import Workers
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.health import HealthSettings, watch_health
from ollama_proxy.engine.station import Station
from ollama_proxy.engine.worker import work
from ollama_proxy.pinned import Pin
from ollama_proxy.policy.fleet import BackendType

log = logging.getLogger("ollama_proxy")

FIRST_PROBE_S = 0.5
EMBEDDED_START_S = 300.0
FAREWELL_S = 1.0
PROBES_AT_ONCE = 8


@attrs.frozen
class Paired:
    """A router that this one is paired with, as a backend.

    Attributes:
        config: as if its owner had written it down.
        pin: how it is spoken with.
    """

    config: BackendConfig
    pin: Pin


def _open_backend(
    config: BackendConfig, pump: Pump, *, node_id: str = "", pin: Pin | None = None
) -> Backend:
    """The backend that a part of the configuration describes."""
    spec = config.to_spec()
    settings = ServerSettings(
        connect_timeout_s=config.connect_timeout_s,
        api_key=os.environ.get(spec.api_key_env, "") if spec.api_key_env else "",
        tls=ssl.create_default_context if pin is None else pin.context,
    )

    def open_server(url: str) -> Server:
        return Server(Endpoint.parse(url), settings, pump)

    match spec.type:
        case BackendType.OLLAMA:
            return OllamaBackend(spec, open_server(spec.endpoint))
        case BackendType.OPENAI:
            return OpenAIBackend(spec, open_server(spec.endpoint))
        case BackendType.EMBEDDED:
            return EmbeddedBackend(spec, open_server)
        case BackendType.ROUTER:
            return RouterBackend(spec, open_server(spec.endpoint), node_id=node_id)


@attrs.frozen
class Wanted:
    """A backend as it should be; `pin`: how it is spoken with, where it is a paired router."""

    config: BackendConfig
    pin: Pin | None = None


class Fleet:
    """The stations that are open, by the configuration that each came from."""

    def __init__(
        self, dispatcher: Dispatcher, pump: Pump, workers: trio.Nursery, *, node_id: str = ""
    ) -> None:
        """Begin with none; `node_id` is what this router is called by others."""
        self.dispatcher = dispatcher
        self._pump = pump
        self._node_id = node_id
        self._workers = workers
        self._open: dict[str, tuple[Wanted, Station]] = {}
        self._config = Config()
        self._found: tuple[Wanted, ...] = ()
        self._paired: Sequence[Paired] = ()
        self._probes = trio.CapacityLimiter(PROBES_AT_ONCE)
        self._applying = trio.Lock()  # SIGHUP may come before all is open

    async def pair(self, paired: Sequence[Paired]) -> None:
        """Have these routers as backends, too, in place of those before. As `apply`."""
        async with self._applying:
            self._paired = paired
            await self._apply()

    async def apply(self, config: Config) -> None:
        """Open what is new, close what is gone, replace what has changed.

        A replaced station is closed after its successor was probed, so that those in its line
        find a place; those at its slots finish on it. They join in the owner's order, in which
        they are shown. What was found stays.
        """
        async with self._applying:
            self._config = config
            await self._apply()

    async def find(self, found: Iterable[Wanted]) -> None:
        """Have these be all that was found, beside what is configured. See `apply`."""
        async with self._applying:
            before, self._found = self._found, tuple(found)
            if self._found != before:
                await self._apply()

    @property
    def configured(self) -> tuple[BackendConfig, ...]:
        """What the owner describes, or has paired; it goes before what is found."""
        return (*self._config.backends, *(each.config for each in self._paired))

    async def _apply(self) -> None:
        config = self._config
        wanted = self._wanted(config)
        health = HealthSettings(interval_s=config.router.health_interval_s)
        lines = config.scheduler
        opened: dict[str, Station] = {}
        async with trio.open_nursery() as opening:
            for backend_id, backend in wanted.items():
                known = self._open.get(backend_id)
                if known is None or known[0] != backend:
                    station = Station(
                        _open_backend(
                            backend.config, self._pump, node_id=self._node_id, pin=backend.pin
                        ),
                        queue_capacity=lines.queue_capacity,
                    )
                    if known is not None and known[0].config.endpoint == backend.config.endpoint:
                        station.inherit(known[1])
                    opened[backend_id] = station
                    opening.start_soon(self._start, station, health)
        for backend_id, station in opened.items():
            known = self._open.get(backend_id)
            self._open[backend_id] = (wanted[backend_id], station)
            self.dispatcher.add(station)
            if known is not None:
                self.dispatcher.remove(known[1])
        for gone in self._open.keys() - wanted.keys():
            _, station = self._open.pop(gone)
            self.dispatcher.remove(station)
        for _, station in self._open.values():
            _set_scheduler(station, lines)
            self.dispatcher.health_changed(station)  # there may be more slots for some
        self._pump.stall_timeout_s = config.router.stall_timeout_s

    def _wanted(self, config: Config) -> dict[str, Wanted]:
        """The owner's own, then those that are paired, then what was found: the first keeps a name."""
        wanted = {each.id: Wanted(each) for each in config.backends}
        for each in self._paired:
            if each.config.id in wanted:
                log.warning(
                    "%s is a backend of yours; the paired router is not used", each.config.id
                )
                continue
            backend = attrs.evolve(each.config, slots=config.fleet.slots)
            wanted[backend.id] = Wanted(backend, each.pin)
        for found in self._found:
            wanted.setdefault(found.config.id, found)
        return wanted

    async def _start(self, station: Station, health: HealthSettings) -> None:
        await self._workers.start(self._run, station, health, name=f"station {station.spec.id}")

    async def _run(
        self,
        station: Station,
        health: HealthSettings,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """One station's life: from its first probe until it is retired and its slots are empty."""
        backend = station.backend
        try:
            async with trio.open_nursery() as life:
                station.open(
                    Workers(
                        life,
                        functools.partial(work, self.dispatcher, station),
                        slots=max(station.written.slots, station.written.slots_max),
                        name=station.spec.id,
                    )
                )
                if station.spec.enabled:
                    life.start_soon(backend.run, name=f"backend {station.spec.id}")
                    with trio.move_on_after(FIRST_PROBE_S):
                        await self._start_health(life, station, health)
                task_status.started()
                await station.wait_retired()
                life.cancel_scope.cancel()
        finally:
            station.close()
            with trio.move_on_after(FAREWELL_S, shield=True):
                await backend.aclose()

    async def _start_health(
        self, life: trio.Nursery, station: Station, health: HealthSettings
    ) -> None:
        """Start probing, and wait for the first probe for as long as the caller waits."""
        probed = trio.Event()

        async def watch() -> None:
            async with trio.open_nursery() as nursery:
                await nursery.start(watch_health, self.dispatcher, station, health, self._probes)
                probed.set()

        life.start_soon(watch, name=f"health {station.spec.id}")
        await probed.wait()

    async def wait_embedded(self) -> None:
        """Where nothing but an embedded model can answer, wait until it can, or never will."""
        enabled = [station for _, station in self._open.values() if station.spec.enabled]
        embedded = [s.backend for s in enabled if isinstance(s.backend, EmbeddedBackend)]
        if not embedded or len(embedded) < len(enabled):
            return
        log.info("loading the embedded model; the doors open when it can answer")
        with trio.move_on_after(EMBEDDED_START_S):
            for backend in embedded:
                await backend.settled.wait()
            # It can answer, or never will; the next probe tells the dispatcher so.
            for station in enabled:
                await self._probe(station)

    async def _probe(self, station: Station) -> None:
        try:
            station.is_well(await station.backend.probe())
        except BackendFailed as failure:
            station.is_down(str(failure))
        self.dispatcher.health_changed(station)


async def does_answer(config: BackendConfig) -> bool:
    """Whether a server answers there, now."""
    pump = Pump(stall_timeout_s=1.0)
    backend = _open_backend(config, pump)
    try:
        with trio.move_on_after(FIRST_PROBE_S * 2):
            await backend.probe()
            return True
    except BackendFailed:
        return False
    finally:
        await backend.aclose()
    return False


def _set_scheduler(station: Station, scheduler: Scheduler) -> None:
    station.line.capacity = scheduler.queue_capacity
    station.line.aging_s = scheduler.aging_s
    station.reserve_critical_slots = scheduler.reserve_critical_slots
    station.preempts = scheduler.preempt_started if scheduler.preempt else None
    station.touch()
