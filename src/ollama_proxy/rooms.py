"""Builds the router's rooms out of its configuration. Nothing in them runs yet: `serve` lets them live."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

import ollama_proxy
from ollama_proxy.backends.continuation import transcribe
from ollama_proxy.backends.overheard import Overheard
from ollama_proxy.certificates import BadCertificate
from ollama_proxy.config import (
    Config,
)
from ollama_proxy.dashboard import read_assets
from ollama_proxy.decisions.file import RotatingFile
from ollama_proxy.decisions.log import DecisionLog
from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.ledger import Ledger
from ollama_proxy.engine.news import News
from ollama_proxy.identity import machine_since_start, node_id, state_directory
from ollama_proxy.inbound.admission import Admission, Rules
from ollama_proxy.inbound.answers import status_at
from ollama_proxy.inbound.bounds import Bounds
from ollama_proxy.inbound.dbus.door import BusDoor
from ollama_proxy.inbound.encryption import Encryption, Handshakes
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
from ollama_proxy.inbound.paired import Guests, PairedDoor, PairedGate, PairedHandshakes
from ollama_proxy.inbound.picker.desk import PickerSettings
from ollama_proxy.inbound.trust import Gate
from ollama_proxy.inbound.websocket.realtime import RealtimeTalk
from ollama_proxy.inbound.websocket.socket import Dialogue, Socket
from ollama_proxy.inbound.websocket.stream import StreamTalk
from ollama_proxy.inbound.wyoming.connection import WyomingSettings
from ollama_proxy.inbound.wyoming.door import WyomingDoor
from ollama_proxy.metrics.doors import DoorState
from ollama_proxy.metrics.exposition import Metrics
from ollama_proxy.observe import lost_lines, observe
from ollama_proxy.pairing.certificate import identity_file
from ollama_proxy.policy.access import Key
from ollama_proxy.policy.peers import parse_networks
from ollama_proxy.senses import minute_of_day, open_climate
from ollama_proxy.service_manager import ServiceManager

if TYPE_CHECKING:
    from ollama_proxy.traces import Traces


class CannotServe(Exception):  # noqa: N818 - read as a sentence by the command line
    """The router cannot start; the message says why and what to do."""


@attrs.frozen(kw_only=True)
class Rooms:
    """All of a router but its backends, which come and go with the configuration."""

    node_id: str
    machine: str
    manager: ServiceManager
    dispatcher: Dispatcher
    climate: Climate
    news: News
    gate: Gate
    metrics: Metrics
    encryption: Encryption | None
    decisions: DecisionLog | None
    traces: "Traces | None"
    dashboard: Dashboard | None
    guarded: GuardedServer
    front: Front
    grpc: GrpcDoor | None
    bus_door: BusDoor
    wyoming: WyomingDoor
    guests: Guests | None
    paired: PairedDoor | None


def build(config: Config, keys: Sequence[Key]) -> Rooms:
    """Build them.

    Raises:
        CannotServe: a file that the configuration names is of no use.
    """
    encryption = _open_encryption(config)
    own_id = config.fleet.node_id or node_id(config.server.http_port, state_directory(os.environ))
    machine = machine_since_start(config.server.http_port)
    ledger = Ledger()
    observe(ledger, access_log=config.observability.access_log, status_at=status_at)
    news = News()
    decisions = _open_decision_log(config)
    traces = _open_traces(config)
    dispatcher = Dispatcher(
        dispatch_settings(config),
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
        admission=Admission(rules_of(config, keys)),
        is_encrypted=encryption is not None,
    )
    limits = _lane_limits(config)
    bounds = Bounds(config.server.max_buffered_mib << 20)
    grpc_bounds = Bounds()
    metrics = Metrics(
        dispatcher,
        climate,
        status_at=status_at,
        version=ollama_proxy.__version__,
    )
    ledger.read_by(metrics.record)
    ledger.door_read_by(metrics.turn_away)
    dashboard = _new_dashboard(config, dispatcher, climate, ledger, news)
    services = Services(
        dispatcher=dispatcher,
        climate=climate,
        gate=gate,
        metrics=metrics.page,
        version=ollama_proxy.__version__,
        node_id=own_id,
        machine=machine,
        max_body_bytes=limits.max_body_bytes,
        body_timeout_s=limits.body_timeout_s,
        bounds=bounds,
        dashboard=dashboard,
    )
    metrics.lost_lines = lost_lines
    front, guarded = _new_front(
        config, services, dialects=_dialects(dispatcher), encryption=encryption
    )
    grpc = _new_grpc_door(
        config,
        dispatcher,
        climate,
        news,
        gate,
        bounds=grpc_bounds,
        held=bounds,
        encryption=encryption,
    )
    guests = _new_guests(config)
    paired = None if guests is None else _new_paired_door(config, services, guests)
    metrics.doors = _doors(front, grpc, paired, bounds, grpc_bounds)
    bus_door = BusDoor(dispatcher, climate, news, ledger, minute_of_day=minute_of_day)
    wyoming = WyomingDoor(dispatcher, _wyoming_settings(config), bounds)
    return Rooms(
        node_id=own_id,
        machine=machine,
        manager=ServiceManager.from_environment(os.environ, pid=os.getpid()),
        dispatcher=dispatcher,
        climate=climate,
        news=news,
        gate=gate,
        metrics=metrics,
        encryption=encryption,
        decisions=decisions,
        traces=traces,
        dashboard=dashboard,
        guarded=guarded,
        front=front,
        grpc=grpc,
        bus_door=bus_door,
        wyoming=wyoming,
        guests=guests,
        paired=paired,
    )


def dispatch_settings(config: Config) -> DispatchSettings:
    """How requests are placed."""
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
    return Traces(open_exporter(endpoint), version=ollama_proxy.__version__, status_at=status_at)


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


def rules_of(config: Config, keys: Sequence[Key]) -> Rules:
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


def _new_front(
    config: Config,
    services: Services,
    *,
    dialects: Mapping[str, Callable[[Socket], Dialogue]] | None = None,
    encryption: Encryption | None = None,
    handshakes: Handshakes | None = None,
) -> tuple[Front, GuardedServer]:
    """A door for HTTP, closed, and what serves all that is no inference on it."""
    limits = _lane_limits(config)
    guarded = GuardedServer(
        create_app(services),
        GuardedLimits(
            write_timeout_s=limits.write_timeout_s,
            keep_alive_s=limits.idle_timeout_s,
            head_timeout_s=limits.head_timeout_s,
            head_bytes=limits.head_bytes,
            headers=limits.headers,
        ),
        bounds=services.bounds,
        ledger=services.dispatcher.ledger,
    )
    settings = FrontSettings(
        limits=limits,
        max_connections=config.server.max_connections,
        max_connections_per_peer=config.server.max_connections_per_peer,
        lane=config.server.lane,
    )
    front = Front(
        services.dispatcher,
        services.gate,
        guarded,
        settings,
        dialects,
        bounds=services.bounds,
        encryption=encryption,
        handshakes=handshakes,
    )
    return front, guarded


def _new_guests(config: Config) -> Guests | None:
    """Who may come to the door for paired routers; None where it is shut, or nothing can be kept."""
    directory = state_directory(os.environ)
    if not config.pairing.door or directory is None:
        return None
    return Guests(identity_file(directory))


def _new_paired_door(config: Config, services: Services, guests: Guests) -> PairedDoor:
    """The door for paired routers, closed: the same rooms as behind the front door, and no page."""
    bounds = Bounds(services.bounds.max_bytes)
    inside = attrs.evolve(services, gate=PairedGate(guests), bounds=bounds, dashboard=None)

    def new_front() -> tuple[Front, GuardedServer]:
        handshakes = PairedHandshakes(guests, timeout_s=config.server.head_timeout_s)
        return _new_front(config, inside, handshakes=handshakes)

    place = config.pairing
    return PairedDoor(guests, new_front, host=place.host, port=place.port, bounds=bounds)


def _open_encryption(config: Config) -> Encryption | None:
    """What the doors encrypt with; None where its owner names no certificate. Raises CannotServe."""
    files = config.server.tls.files
    try:
        return Encryption(files) if files is not None else None
    except BadCertificate as bad:
        raise CannotServe(f"cannot encrypt: {bad}") from bad


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
    held: Bounds,
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
    methods = all_methods(
        dispatcher,
        climate,
        news,
        gate=gate,
        bounds=held,
        picker=PickerSettings(limits=_lane_limits(config)),
        overhear=Overheard,
    )
    return GrpcDoor(
        methods,
        gate,
        settings,
        bounds=bounds,
        ledger=dispatcher.ledger,
        encryption=encryption,
    )


def _doors(
    front: Front,
    grpc: GrpcDoor | None,
    paired: PairedDoor | None,
    bounds: Bounds,
    grpc_bounds: Bounds,
) -> Callable[[], dict[str, DoorState]]:
    """What the metrics ask of the doors."""

    def look() -> dict[str, DoorState]:
        found = {"http": _door_state(front.connections, bounds.held, bounds)}
        if grpc is not None:
            found["grpc"] = _door_state(grpc.connections, grpc.unread_bytes, grpc_bounds)
        if paired is not None:
            found["paired"] = _door_state(paired.connections, paired.bounds.held, paired.bounds)
        return found

    return look


def _door_state(connections: int, held: int, bounds: Bounds) -> DoorState:
    return DoorState(
        connections=connections,
        held_bytes=held,
        reached={bound.value: count for bound, count in bounds.reached.items()},
    )
