"""Holds the nursery tree that the router's rooms live in, from its first door to its last answer.

Each nursery outlives all that depend on it; leaving the block is the shutdown:

    senses        closes last     sensors, the system's bus, climate, notices
    └─ workers    closes second   pump, deadlines; per backend: workers, health, the embedded process
       └─ doors   closes first    signals, the front door, those for gRPC, paired routers and the bus

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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

import attrs
import trio

from ollama_proxy.backends.pump import Pump
from ollama_proxy.config import (
    Config,
    Loaded,
    is_loopback,
)
from ollama_proxy.config import Fleet as FleetConfig
from ollama_proxy.config import Server as DoorsConfig
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.heap import map_large_apart
from ollama_proxy.identity import state_directory
from ollama_proxy.inbound.dbus.door import BusDoor
from ollama_proxy.inbound.dbus.tree import NAME as BUS_NAME
from ollama_proxy.pairs import Pairs
from ollama_proxy.policy.access import Key
from ollama_proxy.policy.modes import Mode
from ollama_proxy.rooms import CannotServe, Rooms, build, dispatch_settings, rules_of
from ollama_proxy.scouts import Scouts, Surroundings
from ollama_proxy.senses import climate_settings, run_senses
from ollama_proxy.stations import Fleet, Paired
from ollama_proxy.tables import ConfigFaults, describe_faults

log = logging.getLogger("ollama_proxy")

FAREWELL_S = 1.0
CLOSING_S = 10.0  # from the end of the drain to that of the process, at most
BUS_WAIT_S = 0.5


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


@attrs.frozen
class _Sockets:
    """What the doors listen on; none where one stays closed."""

    http: list[trio.SocketListener]
    grpc: list[trio.SocketListener]
    voices: list[trio.SocketListener]


@attrs.frozen
class _Backends:
    """Who answers, and who looks for more of them; both live among the workers."""

    fleet: Fleet
    scouts: Scouts
    pairs: Pairs
    workers: trio.Nursery

    async def open(self, config: Config) -> None:
        """Those that are configured, those that are paired, then those that are found at once."""
        await self.fleet.apply(config)
        await self.pairs.look()
        self.workers.start_soon(self.pairs.watch, name="pairs")
        await self.workers.start(self.scouts.run, name="scouts")

    async def follow(self, config: Config) -> None:
        """The configuration has been read again."""
        await self.fleet.apply(config)
        self.scouts.follow(config)
        await self.pairs.look()


async def serve(
    plan: Plan, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run the router until SIGTERM or SIGINT. Reports itself started with its HTTP address.

    Raises:
        CannotServe: a door cannot be opened.
    """
    map_large_apart()
    config = plan.config
    rooms = build(config, plan.keys)
    host = config.server.host
    grpc_port = config.server.grpc_port if rooms.grpc is not None else None
    voice_port = config.wyoming.port if config.wyoming.enabled else None

    async with (
        # A taken port is found before anything was started for it.
        _listening(host, config.server.http_port, _HTTP_KEYS) as http,
        _listening(host, grpc_port, _GRPC_KEYS) as grpc,
        _listening(config.wyoming.host, voice_port, _WYOMING_KEYS) as voices,
        trio.open_nursery() as senses,
        trio.open_nursery() as workers,
    ):
        if rooms.decisions is not None:
            senses.start_soon(rooms.decisions.run, name="decision log")
        if rooms.traces is not None:
            senses.start_soon(rooms.traces.run, name="traces")
        pump = Pump(stall_timeout_s=config.router.stall_timeout_s)
        await workers.start(pump.run)
        workers.start_soon(rooms.dispatcher.keep_time)
        workers.start_soon(rooms.manager.keep_watchdog)
        if rooms.encryption is not None:
            workers.start_soon(rooms.encryption.watch, config.router.health_interval_s)
        fleet = Fleet(rooms.dispatcher, pump, workers, node_id=rooms.node_id)
        await senses.start(
            run_senses, config, rooms.dispatcher, rooms.climate, rooms.news, name="senses"
        )

        async def join(paired: Sequence[Paired]) -> None:
            scouts.stir()  # who is paired no more is spoken with no more, wherever it was found
            await fleet.pair(paired)

        pairs = Pairs(state_directory(os.environ), rooms.guests, join)
        around = Surroundings(
            own_id=rooms.node_id,
            own_machine=rooms.machine,
            system_bus=config.sensors.system_bus,
            environ=os.environ,
            pins=pairs.pins,
        )
        scouts = Scouts(config, fleet, around)
        rooms.metrics.sources = scouts.states
        rooms.news.read_by(scouts.stir)
        backends = _Backends(fleet, scouts, pairs, workers)
        await _keep_doors(plan, rooms, backends, _Sockets(http, grpc, voices), task_status)
        workers.cancel_scope.cancel()
        senses.cancel_scope.cancel()


async def _keep_doors(
    plan: Plan,
    rooms: Rooms,
    backends: _Backends,
    sockets: _Sockets,
    task_status: trio.TaskStatus[str],
) -> None:
    """The doors' life: opened, kept open until a signal ends it, drained."""
    drain_s = plan.config.server.drain_s
    ending = _Ending()
    reload = functools.partial(_tell_and_reload, plan, rooms, backends)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        plan.heeding()
        async with trio.open_nursery() as doors:
            doors.start_soon(_heed, signals, ending, reload, name="signals")
            with ending.start:
                await backends.open(plan.config)
                rooms.climate.look()
                await backends.fleet.wait_embedded()
                bus_name = await _open_doors(plan.config, rooms, sockets, doors)
                if plan.config.fleet.advertise:
                    port = sockets.http[0].socket.getsockname()[1]
                    doors.start_soon(backends.scouts.advertise, port, name="advertising")
                # What exists now lives as long as the process: the collector need not look.
                gc.collect()
                gc.freeze()
                address = _address(sockets.http[0])
                task_status.started(address)
                grpc_address = _address(sockets.grpc[0]) if sockets.grpc else "off"
                plan.announce(f"ready http={address} grpc={grpc_address} dbus={bus_name}")
                rooms.manager.ready(_in_short(rooms))
                rooms.news.read_by(lambda _: rooms.manager.status(_in_short(rooms)))
                await trio.sleep_forever()
            rooms.manager.stopping(drain_s + CLOSING_S)
            backends.scouts.withdraw()
            log.info("stopping: %d requests in flight", len(rooms.dispatcher.jobs))
            # It may be cancelled already, by a second signal.
            ending.drain.deadline = trio.current_time() + drain_s
            if rooms.dashboard is not None:
                rooms.dashboard.audience.dismiss()  # its answers would never end by themselves
            await rooms.bus_door.leave()
            open_doors: list[_Door] = [rooms.front, rooms.wyoming]
            open_doors += [each for each in (rooms.grpc, rooms.paired) if each is not None]
            await _drain(open_doors, rooms.dispatcher, ending.drain)
            doors.cancel_scope.cancel()


async def _open_doors(config: Config, rooms: Rooms, sockets: _Sockets, doors: trio.Nursery) -> str:
    """Open them all; gives back our name on the bus, or `off`."""
    await doors.start(rooms.guarded.run)
    if rooms.dashboard is not None:
        doors.start_soon(rooms.dashboard.audience.run, name="dashboard")
    await doors.start(rooms.front.serve, sockets.http)
    if rooms.grpc is not None:
        await doors.start(rooms.grpc.serve, sockets.grpc)
    if sockets.voices:
        await doors.start(rooms.wyoming.serve, sockets.voices)
        log.info("voice assistants are heard on %s", _address(sockets.voices[0]))
    if rooms.paired is not None:
        await doors.start(rooms.paired.run, name="paired")
    return await _open_bus_door(rooms.bus_door, config, doors)


async def _open_bus_door(door: BusDoor, config: Config, doors: trio.Nursery) -> str:
    """Start looking for the bus; the name that is ours already, or `off`."""
    if not config.dbus.enabled or not config.dbus.bus:
        return "off"
    doors.start_soon(door.run, config.dbus.bus, name="dbus")
    with trio.move_on_after(BUS_WAIT_S):
        await door.opened.wait()
        return BUS_NAME
    return "off"


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


async def _tell_and_reload(plan: Plan, rooms: Rooms, backends: _Backends) -> None:
    """Reload, and let the service manager know from when to when."""
    rooms.manager.reloading()
    await _reload(plan, rooms, backends)
    rooms.manager.reloaded(_in_short(rooms))


def _in_short(rooms: Rooms) -> str:
    """The router in one line, for whoever asks the service manager."""
    enabled = [station for station in rooms.dispatcher.stations.values() if station.spec.enabled]
    healthy = sum(station.healthy for station in enabled)
    chosen = " (auto)" if rooms.climate.mode is Mode.AUTO else ""
    return f"{healthy} of {len(enabled)} backends healthy, mode {rooms.climate.effective.mode.value}{chosen}"


async def _reload(plan: Plan, rooms: Rooms, backends: _Backends) -> None:
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
    rooms.gate.admission.follow(rules_of(config, loaded.keys))
    if not config.backends:
        config = attrs.evolve(config, backends=plan.config.backends)  # the defaults go on
    rooms.dispatcher.settings = dispatch_settings(config)
    await backends.follow(config)
    rooms.climate.judge_by(climate_settings(config), config.efficiency.mode)
    files = config.server.tls.files
    if rooms.encryption is not None and files is not None:
        rooms.encryption.renew(files)
        kept = attrs.evolve(plan.config.server, tls=config.server.tls)
        plan = attrs.evolve(plan, config=attrs.evolve(plan.config, server=kept))
    for section in (
        "server",
        "sensors",
        "dbus",
        "notifications",
        "wyoming",
        "observability",
        "fleet",
        "pairing",
    ):
        if _once(getattr(config, section)) != _once(getattr(plan.config, section)):
            log.warning("changes in [%s] take effect when the router is started anew", section)
    log.info("the configuration was reloaded: %d backends", len(config.backends))


def _once(section: object) -> object:
    """A section without what is heeded when it is read again."""
    if isinstance(section, FleetConfig):
        return (section.node_id, section.advertise)
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
