"""Builds the whole router out of its rooms, and holds the nursery tree that they live in.

Each nursery outlives all that depend on it; leaving the block is the shutdown:

    senses        closes last     sensors, the system's bus, climate, notices
    └─ workers    closes second   pump, deadlines; per backend: workers, health, the embedded process
       └─ doors   closes first    signals, the front door, the gRPC door, the door on the bus

Drain: the names on the bus are given back, the other doors take no more connections, work in flight
has `drain_s`, then it is ended and its callers told so. Expected trouble becomes a value where it
occurs (a dead backend is down); one connection's or one request's fault never leaves its own scope;
anything else ends the process.
"""

import contextlib
import functools
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

import ollama_proxy
from ollama_proxy.backends.backend import Backend, BackendFailed
from ollama_proxy.backends.continuation import transcribe
from ollama_proxy.backends.embedded import EmbeddedBackend
from ollama_proxy.backends.endpoint import Endpoint
from ollama_proxy.backends.ollama import OllamaBackend
from ollama_proxy.backends.openai import OpenAIBackend
from ollama_proxy.backends.pump import Pump
from ollama_proxy.backends.server import Server, ServerSettings
from ollama_proxy.certificates import BadCertificate
from ollama_proxy.config import (
    BackendConfig,
    Config,
    Loaded,
    Scheduler,
    is_loopback,
)
from ollama_proxy.config import Server as DoorsConfig
from ollama_proxy.dashboard import read_assets
from ollama_proxy.decisions.file import RotatingFile
from ollama_proxy.decisions.log import DecisionLog
from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.crew import Workers
from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.health import HealthSettings, watch_health
from ollama_proxy.engine.ledger import Ledger
from ollama_proxy.engine.news import News
from ollama_proxy.engine.station import Station
from ollama_proxy.engine.worker import work
from ollama_proxy.inbound.admission import Admission, Rules
from ollama_proxy.inbound.answers import STATUS
from ollama_proxy.inbound.bounds import Bounds
from ollama_proxy.inbound.dbus.door import BusDoor
from ollama_proxy.inbound.dbus.tree import NAME as BUS_NAME
from ollama_proxy.inbound.encryption import Encryption
from ollama_proxy.inbound.front import Front, FrontSettings
from ollama_proxy.inbound.grpc.connection import Patience
from ollama_proxy.inbound.grpc.door import GrpcDoor, GrpcSettings
from ollama_proxy.inbound.grpc.offer import all_methods
from ollama_proxy.inbound.guarded import GuardedLimits, GuardedServer
from ollama_proxy.inbound.http.app import Services, create_app
from ollama_proxy.inbound.http.endpoint import Dashboard
from ollama_proxy.inbound.lane import LaneLimits
from ollama_proxy.inbound.live.audience import Audience
from ollama_proxy.inbound.live.picture import Picture
from ollama_proxy.inbound.trust import Gate
from ollama_proxy.inbound.websocket.realtime import RealtimeTalk
from ollama_proxy.inbound.websocket.socket import Dialogue, Socket
from ollama_proxy.inbound.websocket.stream import StreamTalk
from ollama_proxy.inbound.wyoming.connection import WyomingSettings
from ollama_proxy.inbound.wyoming.door import WyomingDoor
from ollama_proxy.metrics.doors import DoorState
from ollama_proxy.metrics.exposition import Metrics
from ollama_proxy.observe import lost_lines, observe
from ollama_proxy.policy.access import Key
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.modes import Mode
from ollama_proxy.policy.peers import parse_networks
from ollama_proxy.senses import climate_settings, minute_of_day, open_climate, run_senses
from ollama_proxy.service_manager import ServiceManager
from ollama_proxy.tables import ConfigFaults, describe_faults

if TYPE_CHECKING:
    from ollama_proxy.traces import Traces

log = logging.getLogger("ollama_proxy")

FIRST_PROBE_S = 0.5
EMBEDDED_START_S = 300.0
FAREWELL_S = 1.0
CLOSING_S = 10.0  # from the end of the drain to that of the process, at most
BUS_WAIT_S = 0.5
PROBES_AT_ONCE = 8


class CannotServe(Exception):  # noqa: N818 - read as a sentence by the command line
    """The router cannot start; the message says why and what to do."""


# -- backends ----------------------------------------------------------------------------------


def _open_backend(config: BackendConfig, pump: Pump) -> Backend:
    """The backend that a part of the configuration describes."""
    spec = config.to_spec()
    settings = ServerSettings(
        connect_timeout_s=config.connect_timeout_s,
        api_key=os.environ.get(spec.api_key_env, "") if spec.api_key_env else "",
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


class Fleet:
    """The stations that are open, by the configuration that each came from."""

    def __init__(self, dispatcher: Dispatcher, pump: Pump, workers: trio.Nursery) -> None:
        """Begin with none."""
        self.dispatcher = dispatcher
        self._pump = pump
        self._workers = workers
        self._open: dict[str, tuple[BackendConfig, Station]] = {}
        self._probes = trio.CapacityLimiter(PROBES_AT_ONCE)
        self._applying = trio.Lock()  # SIGHUP may come before all is open

    async def apply(self, config: Config) -> None:
        """Open what is new, close what is gone, replace what has changed.

        A replaced station is closed after its successor was probed, so that those in its line
        find a place; those at its slots finish on it. They join in the owner's order, in which
        they are shown.
        """
        async with self._applying:
            await self._apply(config)

    async def _apply(self, config: Config) -> None:
        wanted = {backend.id: backend for backend in config.backends}
        health = HealthSettings(interval_s=config.router.health_interval_s)
        lines = config.scheduler
        opened: dict[str, Station] = {}
        async with trio.open_nursery() as opening:
            for backend_id, backend in wanted.items():
                known = self._open.get(backend_id)
                if known is None or known[0] != backend:
                    station = Station(
                        _open_backend(backend, self._pump), queue_capacity=lines.queue_capacity
                    )
                    if known is not None and known[0].endpoint == backend.endpoint:
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
                        slots=station.spec.slots,
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


# -- settings ----------------------------------------------------------------------------------


def _set_scheduler(station: Station, scheduler: Scheduler) -> None:
    station.line.capacity = scheduler.queue_capacity
    station.line.aging_s = scheduler.aging_s
    station.reserve_critical_slots = scheduler.reserve_critical_slots
    station.preempts = scheduler.preempt_started if scheduler.preempt else None
    station.touch()


def _dispatch_settings(config: Config) -> DispatchSettings:
    router = config.router
    return DispatchSettings(
        route=config.route_settings,
        retry_before_first_byte=router.retry_before_first_byte,
        hedge_budget=config.scheduler.hedge_budget if config.scheduler.hedge else 0.0,
        first_byte_timeout_s=router.first_byte_timeout_s,
        stall_timeout_s=router.stall_timeout_s,
    )


def _open_decision_log(config: Config) -> DecisionLog | None:
    """What takes every choice down; None where its owner wants no such thing."""
    wanted = config.observability
    if not wanted.decision_log:
        return None
    return DecisionLog(
        RotatingFile(
            Path(wanted.decision_log),
            max_bytes=wanted.decision_log_mib << 20,
            files=wanted.decision_log_files,
        )
    )


def _open_traces(config: Config) -> "Traces | None":
    """What keeps traces; None where no collector wants them, and then nothing of it is imported.

    Raises:
        CannotServe: what it needs is not installed.
    """
    endpoint = config.observability.otlp_endpoint
    if not endpoint:
        return None
    try:
        from ollama_proxy.traces import Traces, open_exporter  # noqa: PLC0415 - as above
    except ImportError as error:
        raise CannotServe(
            f"observability.otlp_endpoint needs the extra otel, and {error.name} is not installed."
            " Install ollama-proxy-router[otel], or leave the key out."
        ) from error
    return Traces(open_exporter(endpoint), version=ollama_proxy.__version__, statuses=STATUS)


def _lane_limits(config: Config) -> LaneLimits:
    server = config.server
    return LaneLimits(
        head_timeout_s=server.head_timeout_s,
        body_timeout_s=server.body_timeout_s,
        idle_timeout_s=server.idle_timeout_s,
        write_timeout_s=server.write_timeout_s,
        max_body_bytes=server.max_body_mib << 20,
        head_bytes=server.max_head_kib << 10,
        headers=server.max_headers,
    )


def _rules(config: Config, keys: Sequence[Key]) -> Rules:
    """Who is let in. Raises CannotServe: nobody would be asked for a key, and somebody should."""
    server = config.server
    if server.auth.api_keys and not keys:
        raise CannotServe("server.auth.api_keys asks for keys, and none was read")
    return Rules(
        keys=tuple(keys),
        rate=server.rate_limit.rate,
        burst=server.rate_limit.burst,
        trusted_proxies=parse_networks(server.trusted_proxies),
    )


def _dialects(dispatcher: Dispatcher) -> Mapping[str, Callable[[Socket], Dialogue]]:
    """What is spoken on WebSockets."""
    return {
        "/v1/stream/ws": functools.partial(StreamTalk, dispatcher=dispatcher),
        "/v1/realtime": functools.partial(RealtimeTalk, dispatcher=dispatcher),
    }


def _wyoming_settings(config: Config) -> WyomingSettings:
    wyoming = config.wyoming
    return WyomingSettings(
        model=wyoming.model,
        instructions=wyoming.instructions,
        max_latency_ms=wyoming.max_latency_ms,
        version=ollama_proxy.__version__,
        write_timeout_s=config.server.write_timeout_s,
    )


def _open_encryption(config: Config) -> Encryption | None:
    """What the doors encrypt with; None where its owner names no certificate. Raises CannotServe."""
    files = config.server.tls.files
    try:
        return Encryption(files) if files is not None else None
    except BadCertificate as bad:
        raise CannotServe(f"cannot encrypt: {bad}") from bad


_HTTP_KEYS = "--host and --http-port, or server.host and server.http_port"
_GRPC_KEYS = "--host and --grpc-port, or server.host and server.grpc_port"
_WYOMING_KEYS = "wyoming.host and wyoming.port"


async def _open_listeners(host: str, port: int, keys: str) -> list[trio.SocketListener]:
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=1024)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name that could be looked up
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise CannotServe(
            f"cannot listen on {host}:{port}: {why}. Choose others with {keys}."
        ) from error
    if port == 0 and len(listeners) > 1:
        # "Any free port" of each address would be different ports; one is what was asked for.
        for extra in listeners[1:]:
            extra.socket.close()
        del listeners[1:]
    return listeners


def _address(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- the tree ------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Plan:
    """What to serve, and how to read it again.

    Attributes:
        config: the configuration, complete.
        reload: reads the configuration anew; raises ConfigFaults.
        announce: is told one line once every door is open.
        keys: that are asked for; none: nobody is.
        heeding: is told once signals are heeded here.
    """

    config: Config
    reload: Callable[[], Loaded]
    announce: Callable[[str], None]
    keys: Sequence[Key] = ()
    heeding: Callable[[], object] = bool  # nobody need know


async def serve(  # noqa: PLR0915 - the tree, once
    plan: Plan, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run the router until SIGTERM or SIGINT. Reports itself started with its HTTP address.

    Raises:
        CannotServe: a door cannot be opened.
    """
    config = plan.config
    encryption = _open_encryption(config)
    manager = ServiceManager.from_environment(os.environ, pid=os.getpid())
    ledger = Ledger()
    observe(ledger, access_log=config.observability.access_log, statuses=STATUS)
    news = News()
    decisions = _open_decision_log(config)
    traces = _open_traces(config)
    dispatcher = Dispatcher(
        _dispatch_settings(config),
        ledger,
        transcribe=transcribe,
        news=news,
        note=None if decisions is None else decisions.note,
        traces=traces is not None,
    )
    if traces is not None:
        ledger.read_by(traces.record)
    climate = open_climate(config, dispatcher, news)
    gate = Gate(
        bound_host=config.server.host,
        allowed_hosts=config.server.allowed_hosts,
        allowed_origins=config.server.allowed_origins,
        admission=Admission(_rules(config, plan.keys)),
        is_encrypted=encryption is not None,
    )
    limits = _lane_limits(config)
    bounds = Bounds(config.server.max_buffered_mib << 20)
    grpc_bounds = Bounds()
    metrics = Metrics(
        dispatcher,
        climate,
        statuses=STATUS,
        version=ollama_proxy.__version__,
    )
    ledger.read_by(metrics.record)
    ledger.door_read_by(metrics.turn_away)
    dashboard = _new_dashboard(config, dispatcher, climate, ledger, news)
    app = create_app(
        Services(
            dispatcher=dispatcher,
            climate=climate,
            gate=gate,
            metrics=metrics.page,
            version=ollama_proxy.__version__,
            max_body_bytes=limits.max_body_bytes,
            body_timeout_s=limits.body_timeout_s,
            bounds=bounds,
            dashboard=dashboard,
        )
    )
    guarded = GuardedServer(
        app,
        GuardedLimits(
            write_timeout_s=limits.write_timeout_s,
            keep_alive_s=limits.idle_timeout_s,
            head_timeout_s=limits.head_timeout_s,
            head_bytes=limits.head_bytes,
            headers=limits.headers,
        ),
        bounds=bounds,
        ledger=ledger,
    )
    settings = FrontSettings(
        limits=limits,
        max_connections=config.server.max_connections,
        max_connections_per_peer=config.server.max_connections_per_peer,
        lane=config.server.lane,
    )
    metrics.lost_lines = lost_lines
    front = Front(
        dispatcher,
        gate,
        guarded,
        settings,
        _dialects(dispatcher),
        bounds=bounds,
        encryption=encryption,
    )
    grpc = _new_grpc_door(
        config, dispatcher, climate, news, gate, bounds=grpc_bounds, encryption=encryption
    )
    metrics.doors = _doors(front, grpc, bounds, grpc_bounds)
    bus_door = BusDoor(dispatcher, climate, news, ledger, minute_of_day=minute_of_day)
    wyoming = WyomingDoor(dispatcher, _wyoming_settings(config), bounds)
    host = config.server.host
    grpc_port = config.server.grpc_port if grpc is not None else None
    voice_port = config.wyoming.port if config.wyoming.enabled else None

    async with (
        # A taken port is found before anything was started for it.
        _listening(host, config.server.http_port, _HTTP_KEYS) as listeners,
        _listening(host, grpc_port, _GRPC_KEYS) as grpc_listeners,
        _listening(config.wyoming.host, voice_port, _WYOMING_KEYS) as voices,
        trio.open_nursery() as senses,
        trio.open_nursery() as workers,
    ):
        if decisions is not None:
            senses.start_soon(decisions.run, name="decision log")
        if traces is not None:
            senses.start_soon(traces.run, name="traces")
        pump = Pump(stall_timeout_s=config.router.stall_timeout_s)
        await workers.start(pump.run)
        workers.start_soon(dispatcher.keep_time)
        workers.start_soon(manager.keep_watchdog)
        if encryption is not None:
            workers.start_soon(encryption.watch, config.router.health_interval_s)
        fleet = Fleet(dispatcher, pump, workers)
        await senses.start(run_senses, config, dispatcher, climate, news, name="senses")
        ending = _Ending()
        rooms = _Rooms(fleet, climate, gate, encryption)
        reload = functools.partial(_tell_and_reload, plan, rooms, manager)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            plan.heeding()
            async with trio.open_nursery() as doors:
                doors.start_soon(_heed, signals, ending, reload, name="signals")
                with ending.start:
                    await fleet.apply(config)
                    climate.look()
                    await fleet.wait_embedded()
                    await doors.start(guarded.run)
                    if dashboard is not None:
                        doors.start_soon(dashboard.audience.run, name="dashboard")
                    await doors.start(front.serve, listeners)
                    if grpc is not None:
                        await doors.start(grpc.serve, grpc_listeners)
                    if voices:
                        await doors.start(wyoming.serve, voices)
                        log.info("voice assistants are heard on %s", _address(voices[0]))
                    bus_name = await _open_bus_door(bus_door, config, doors)
                    # What exists now lives as long as the process: the collector need not look.
                    gc.collect()
                    gc.freeze()
                    address = _address(listeners[0])
                    task_status.started(address)
                    grpc_address = _address(grpc_listeners[0]) if grpc_listeners else "off"
                    plan.announce(f"ready http={address} grpc={grpc_address} dbus={bus_name}")
                    manager.ready(_in_short(dispatcher, climate))
                    news.read_by(lambda _: manager.status(_in_short(dispatcher, climate)))
                    await trio.sleep_forever()
                manager.stopping(config.server.drain_s + CLOSING_S)
                log.info("stopping: %d requests in flight", len(dispatcher.jobs))
                # It may be cancelled already, by a second signal.
                ending.drain.deadline = trio.current_time() + config.server.drain_s
                if dashboard is not None:
                    dashboard.audience.dismiss()  # its answers would never end by themselves
                await bus_door.leave()
                open_doors: list[_Door] = [front, wyoming]
                open_doors += [grpc] if grpc is not None else []
                await _drain(open_doors, dispatcher, ending.drain)
                doors.cancel_scope.cancel()
        workers.cancel_scope.cancel()
        senses.cancel_scope.cancel()


async def _open_bus_door(door: BusDoor, config: Config, doors: trio.Nursery) -> str:
    """Start looking for the bus; the name that is ours already, or `off`."""
    if not config.dbus.enabled or not config.dbus.bus:
        return "off"
    doors.start_soon(door.run, config.dbus.bus, name="dbus")
    with trio.move_on_after(BUS_WAIT_S):
        await door.opened.wait()
        return BUS_NAME
    return "off"


def _new_dashboard(
    config: Config, dispatcher: Dispatcher, climate: Climate, ledger: Ledger, news: News
) -> Dashboard | None:
    """The page and who watches it; None where its owner does not want it."""
    if not config.observability.dashboard:
        return None
    picture = Picture(dispatcher, climate, ollama_proxy.__version__)
    ledger.read_by(picture.book)
    news.followed_by(picture.routed)
    climate.watched_by(picture.look)
    return Dashboard(read_assets(), Audience(picture))


def _new_grpc_door(
    config: Config,
    dispatcher: Dispatcher,
    climate: Climate,
    news: News,
    gate: Gate,
    *,
    bounds: Bounds,
    encryption: Encryption | None,
) -> GrpcDoor | None:
    """The gRPC door, closed; None where its owner does not want one."""
    if not config.server.grpc:
        return None
    settings = GrpcSettings(
        patience=Patience(
            greeting_s=config.server.head_timeout_s, unread_s=config.server.write_timeout_s
        ),
        max_connections=config.server.max_connections,
        max_connections_per_peer=config.server.max_connections_per_peer,
        unread_bytes=config.server.max_buffered_mib << 20,
    )
    methods = all_methods(dispatcher, climate, news)
    return GrpcDoor(
        methods,
        gate,
        settings,
        bounds=bounds,
        ledger=dispatcher.ledger,
        encryption=encryption,
    )


def _doors(
    front: Front, grpc: GrpcDoor | None, bounds: Bounds, grpc_bounds: Bounds
) -> Callable[[], dict[str, DoorState]]:
    """What the metrics ask of the doors."""

    def look() -> dict[str, DoorState]:
        found = {"http": _door_state(front.connections, bounds.held, bounds)}
        if grpc is not None:
            found["grpc"] = _door_state(grpc.connections, grpc.unread_bytes, grpc_bounds)
        return found

    return look


def _door_state(connections: int, held: int, bounds: Bounds) -> DoorState:
    return DoorState(
        connections=connections,
        held_bytes=held,
        reached={bound.value: count for bound, count in bounds.reached.items()},
    )


@contextlib.asynccontextmanager
async def _listening(
    host: str, port: int | None, keys: str
) -> AsyncIterator[list[trio.SocketListener]]:
    """A door's sockets, none for no port; they are let go of in any case, a fault of our own included.

    Raises:
        CannotServe: the port is taken, or is nobody's to take.
    """
    listeners = [] if port is None else await _open_listeners(host, port, keys)
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.socket.close()


@attrs.define
class _Ending:
    """The two steps of the end: leaving the service, and leaving the drain too."""

    start: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    drain: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def hurry(self) -> None:
        """Take the next step."""
        if self.start.cancel_called:
            self.drain.cancel()
        self.start.cancel()


async def _heed(
    signals: AsyncIterator[int], ending: _Ending, reload: Callable[[], Awaitable[None]]
) -> None:
    """Act on signals: SIGHUP reloads, SIGTERM and SIGINT stop, a second one stops at once."""
    async for number in signals:
        if number == signal.SIGHUP:
            await reload()
        else:
            ending.hurry()


@attrs.frozen
class _Rooms:
    """What a reload changes."""

    fleet: Fleet
    climate: Climate
    gate: Gate
    encryption: Encryption | None


async def _tell_and_reload(plan: Plan, rooms: _Rooms, manager: ServiceManager) -> None:
    """Reload, and let the service manager know from when to when."""
    manager.reloading()
    await _reload(plan, rooms)
    manager.reloaded(_in_short(rooms.fleet.dispatcher, rooms.climate))


def _in_short(dispatcher: Dispatcher, climate: Climate) -> str:
    """The router in one line, for whoever asks the service manager."""
    enabled = [station for station in dispatcher.stations.values() if station.spec.enabled]
    healthy = sum(station.healthy for station in enabled)
    chosen = " (auto)" if climate.mode is Mode.AUTO else ""
    return (
        f"{healthy} of {len(enabled)} backends healthy, mode {climate.effective.mode.value}{chosen}"
    )


async def _reload(plan: Plan, rooms: _Rooms) -> None:
    """Apply the file anew: all of it, or, if it has a fault, nothing."""
    try:
        loaded = plan.reload()
    except ConfigFaults as faults:
        log.error("the configuration was not reloaded:\n%s", describe_faults(faults))  # noqa: TRY400 - the faults say it all
        return
    config, bound = loaded.config, plan.config.server
    if not (loaded.keys or bound.insecure or is_loopback(bound.host)):
        # The new file may be good for another host; it is this one that is bound.
        log.error("the configuration was not reloaded: it would open %s to everybody", bound.host)
        return
    rooms.gate.admission.follow(_rules(config, loaded.keys))
    if not config.backends:
        config = attrs.evolve(config, backends=plan.config.backends)  # the defaults go on
    rooms.fleet.dispatcher.settings = _dispatch_settings(config)
    await rooms.fleet.apply(config)
    rooms.climate.judge_by(climate_settings(config), config.efficiency.mode)
    files = config.server.tls.files
    if rooms.encryption is not None and files is not None:
        rooms.encryption.renew(files)
        kept = attrs.evolve(plan.config.server, tls=config.server.tls)
        plan = attrs.evolve(plan, config=attrs.evolve(plan.config, server=kept))
    for section in ("server", "sensors", "dbus", "notifications", "wyoming", "observability"):
        if _once(getattr(config, section)) != _once(getattr(plan.config, section)):
            log.warning("changes in [%s] take effect when the router is started anew", section)
    log.info("the configuration was reloaded: %d backends", len(config.backends))


def _once(section: object) -> object:
    """A section without what is heeded when it is read again."""
    if not isinstance(section, DoorsConfig):
        return section
    plain = DoorsConfig()
    return attrs.evolve(
        section,
        auth=plain.auth,
        rate_limit=plain.rate_limit,
        trusted_proxies=plain.trusted_proxies,
    )


class _Door(Protocol):
    """What takes connections."""

    def drain(self) -> None:
        """Take no more, and close each as soon as nothing is owed on it."""

    async def wait_empty(self) -> None:
        """Wait until there is none."""


async def _drain(doors: Sequence[_Door], dispatcher: Dispatcher, drain: trio.CancelScope) -> None:
    """Let work in flight finish until `drain` ends, then end what is left and tell its callers."""
    for door in doors:
        door.drain()
    with drain:
        for door in doors:
            await door.wait_empty()
        return
    log.warning("%d requests did not finish in time", len(dispatcher.jobs))
    dispatcher.stop()
    with trio.move_on_after(FAREWELL_S):
        for door in doors:
            await door.wait_empty()
