"""What the owner wrote down: read into one complete `Config`, or into every fault it has at once.

Flags win over the environment, the environment over the file, the file over the defaults. Each key
is checked by itself while the classes are built (`tables`); what only two keys together can get
wrong is checked on the raw tables, so that a fault of one kind does not hide those of the other.
"""

import enum
import ipaddress
import itertools
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from ollama_proxy.certificates import (
    BadCertificate,
    CertificateFiles,
    server_contexts,
    worries,
)
from ollama_proxy.keyring import entries_of, read_keys
from ollama_proxy.policy.access import Key
from ollama_proxy.policy.fleet import BackendSpec, BackendType
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.modes import Mode, parse_quiet_hours
from ollama_proxy.policy.peers import parse_networks
from ollama_proxy.policy.preempt import Started
from ollama_proxy.policy.route import RouteSettings
from ollama_proxy.policy.whereabouts import read_service, split_host_port
from ollama_proxy.tables import (
    ABOVE_0,
    Check,
    ConfigFaults,
    Fault,
    KeyPath,
    Table,
    dotted,
    parse,
    shown,
    structure,
    within,
)

SYSTEM_PATH = Path("/etc/ollama-proxy/config.toml")
_DAY_S = 86400
SLOTS_MAX = 1024


# -- what a value may be -------------------------------------------------------------------------


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})", text) is not None
    return True


def is_loopback(host: str) -> bool:
    """Whether a host to listen on is this machine's alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_endpoint(text: str) -> bool:
    if not re.fullmatch(r"[\x21-\x7e]*", text):  # urlsplit drops tabs and line breaks silently
        return False
    if text.startswith("unix:"):
        socket_path = text.removeprefix("unix:").removeprefix("//")
        return re.fullmatch(r"/.{1,106}", socket_path) is not None  # what sockaddr_un holds
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in {"http", "https"}
        and "@" not in parts.netloc
        and not any(c in text for c in "?#")
        and port != 0
        and _is_host(parts.hostname or "")
    )


_SECONDS = Check(f"> 0, at most {_DAY_S}", lambda value: 0 < value <= _DAY_S)
_PORT = within(0, 65535)
_HOST = Check("an address or a host name without a port", _is_host)
_LOOPBACK = Check("a loopback address or localhost", is_loopback)
_HOSTS = attrs.evolve(_HOST, expected="addresses or host names without a port", each=True)


def _is_network(text: str) -> bool:
    try:
        parse_networks([text])
    except ValueError:
        return False
    return True


_NETWORKS = Check('addresses or networks such as "10.0.0.0/8"', _is_network, each=True)
# Faults of keys are found where they are read, and name no entry.
_KEY_ENTRIES = Check("texts that are not empty", bool, each=True, may_show=lambda _: False)
_ORIGINS = Check(
    'origins such as "https://example.org"',
    lambda text: re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@*]+/?", text) is not None,
    each=True,
)
_ID = Check(
    "a lower-case letter or digit, then at most 62 of a-z 0-9 . _ -",
    lambda text: re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", text) is not None,
)
_PRINTABLE = Check("printable text", str.isprintable)
_DEGREES = Check("0 (from the part itself), or 30 to 150", lambda c: c == 0 or 30 <= c <= 150)  # noqa: PLR2004 - as it says
_BUS = Check(
    'session, system, an address such as "unix:path=/run/bus", or "" for none',
    lambda text: text in {"", "session", "system"} or ":" in text,
)
_FILE = Check(
    'the absolute path of a file, or "" for none',
    lambda text: text == "" or re.fullmatch(r"/.*[^/\0]", text, re.DOTALL) is not None,
)
_ROOT = Check("the absolute path of a directory", lambda text: text.startswith("/"))
_ENDPOINT = Check(
    "http:// or https:// with a host, or unix:/path, without user, query or fragment"
    ' (for example "http://127.0.0.1:11434")',
    lambda text: text == "" or _is_endpoint(text),
    may_show=lambda text: "@" not in text and "?" not in text,
)
_COLLECTOR = Check(
    'the http:// or https:// URL of an OTLP collector, without user, query or fragment, or "" for none'
    ' (for example "http://127.0.0.1:4318")',
    lambda text: text == "" or (not text.startswith("unix:") and _is_endpoint(text)),
    may_show=lambda text: "@" not in text and "?" not in text,
)
_VARIABLE = Check(
    "the name of an environment variable, never the key itself",
    lambda text: re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)?", text) is not None,
    may_show=lambda _: False,
)
_NODE_ID = Check(
    'at most 64 of A-Z a-z 0-9 . _ -, or "" for one that is derived from the machine\'s',
    lambda text: re.fullmatch(r"[A-Za-z0-9._-]{0,64}", text) is not None,
)


def _is_node(text: str) -> bool:
    if not _is_endpoint(text) or text.startswith("unix:"):
        return False
    return urlsplit(text).path in {"", "/"}


_NODES = Check(
    'http:// or https:// with a host, and a port if need be (for example "http://192.168.1.20:8080")',
    _is_node,
    each=True,
    may_show=lambda text: "@" not in text and "?" not in text,
)


def _is_host_port(text: str) -> bool:
    try:
        split_host_port(text)
    except ValueError:
        return text == ""
    return True


_HOST_PORT = Check('a name and a port such as "nodes.example:8080", or "" for none', _is_host_port)
_SERVICE = Check(
    '"namespace/service" or "namespace/service:port", the port\'s name or number, or "" for none',
    lambda text: text == "" or read_service(text) is not None,
)
_PATTERNS = Check("glob patterns that are not empty", bool, each=True)
_ALIASES = Check(
    "model names on both sides", lambda aliases: all(k and v for k, v in aliases.items())
)


def _is_quiet_hours(text: str) -> bool:
    try:
        parse_quiet_hours(text)
    except ValueError:
        return False
    return True


_QUIET_HOURS = Check('two times of the day such as "22:00-07:00", or "" for none', _is_quiet_hours)


# -- the classes ---------------------------------------------------------------------------------


class LogLevel(enum.StrEnum):
    """From which severity on log lines are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(enum.StrEnum):
    """For whom log lines are written: people or machines."""

    CONSOLE = "console"
    JSON = "json"


@attrs.frozen(kw_only=True)
class Auth:
    """The API keys that are asked for; none: nobody is."""

    api_keys: tuple[str, ...] = attrs.field(default=(), validator=_KEY_ENTRIES, repr=False)


@attrs.frozen(kw_only=True)
class RateLimit:
    """How often may be asked with one key, or from one address."""

    rate: float = attrs.field(default=0.0, validator=within(0, 1_000_000))
    burst: int = attrs.field(default=20, validator=within(1, 1_000_000))


@attrs.frozen(kw_only=True)
class Tls:
    """What the doors encrypt with; paths that are not absolute start where the configuration is."""

    cert_file: str = attrs.field(default="", validator=_PRINTABLE)
    key_file: str = attrs.field(default="", validator=_PRINTABLE)
    client_ca_file: str = attrs.field(default="", validator=_PRINTABLE)

    @property
    def files(self) -> CertificateFiles | None:
        """What is to be read; None where nothing is encrypted."""
        if not (self.cert_file and self.key_file):
            return None
        return CertificateFiles(self.cert_file, self.key_file, self.client_ca_file)

    def starting_at(self, directory: Path) -> "Tls":
        """The same with absolute paths."""
        paths = {key: str(directory / path) for key, path in attrs.asdict(self).items() if path}
        return attrs.evolve(self, **paths)


@attrs.frozen(kw_only=True)
class Server:
    """The doors: where they are, whom they let in, what one client may take."""

    host: str = attrs.field(default="127.0.0.1", validator=_HOST)
    http_port: int = attrs.field(default=8080, validator=_PORT)
    grpc: bool = True
    grpc_port: int = attrs.field(default=50051, validator=_PORT)
    insecure: bool = False
    drain_s: float = attrs.field(default=30.0, validator=within(0, _DAY_S))
    max_body_mib: int = attrs.field(default=64, validator=within(1, 1 << 20))
    allowed_hosts: tuple[str, ...] = attrs.field(default=(), validator=_HOSTS)
    allowed_origins: tuple[str, ...] = attrs.field(default=(), validator=_ORIGINS)
    head_timeout_s: float = attrs.field(default=10.0, validator=_SECONDS)
    body_timeout_s: float = attrs.field(default=60.0, validator=_SECONDS)
    idle_timeout_s: float = attrs.field(default=75.0, validator=_SECONDS)
    write_timeout_s: float = attrs.field(default=30.0, validator=_SECONDS)
    max_connections: int = attrs.field(default=4096, validator=within(1, 1_000_000))
    max_connections_per_peer: int = attrs.field(default=2048, validator=within(1, 1_000_000))
    max_head_kib: int = attrs.field(default=32, validator=within(1, 1024))
    max_headers: int = attrs.field(default=100, validator=within(8, 10_000))
    max_buffered_mib: int = attrs.field(default=512, validator=within(1, 1 << 20))
    lane: bool = True
    trusted_proxies: tuple[str, ...] = attrs.field(default=(), validator=_NETWORKS)
    auth: Auth = attrs.field(factory=Auth)
    rate_limit: RateLimit = attrs.field(factory=RateLimit)
    tls: Tls = attrs.field(factory=Tls)


@attrs.frozen(kw_only=True)
class Router:
    """How a backend is chosen, and how long it may take to answer."""

    power_aware: bool = True
    auto_optimize: bool = True
    default_backend: str = ""
    retry_before_first_byte: bool = True
    first_byte_timeout_s: float = attrs.field(default=300.0, validator=_SECONDS)
    stall_timeout_s: float = attrs.field(default=120.0, validator=_SECONDS)
    health_interval_s: float = attrs.field(default=5.0, validator=within(0.1, 3600))


@attrs.frozen(kw_only=True)
class Characteristics:
    """What to believe of a backend before anything was measured."""

    power_watts: float = attrs.field(default=10.0, validator=ABOVE_0)
    avg_latency_ms: float = attrs.field(default=500.0, validator=ABOVE_0)
    wake_ms: float = attrs.field(default=2000.0, validator=within(0, 60_000))
    priority: int = 0


@attrs.frozen(kw_only=True)
class BackendConfig:
    """One backend, as it is written down."""

    id: str = attrs.field(validator=_ID)
    type: BackendType = BackendType.OLLAMA
    name: str = attrs.field(default="", validator=_PRINTABLE)
    hardware: Hardware
    enabled: bool = True
    endpoint: str = attrs.field(default="", validator=_ENDPOINT)
    slots: int = attrs.field(validator=within(1, SLOTS_MAX))
    api_key_env: str = attrs.field(default="", validator=_VARIABLE)
    models: tuple[str, ...] = attrs.field(default=("*",), validator=_PATTERNS)
    exclude: tuple[str, ...] = attrs.field(default=(), validator=_PATTERNS)
    aliases: Mapping[str, str] = attrs.field(factory=dict, validator=_ALIASES)
    max_prompt_tokens: int = attrs.field(
        default=0, validator=Check(">= 0", lambda value: value >= 0)
    )
    device: str = attrs.field(default="", validator=_PRINTABLE)
    model_path: str = attrs.field(default="", validator=_PRINTABLE)
    continues_chat: bool = False
    connect_timeout_s: float = attrs.field(default=2.0, validator=_SECONDS)
    characteristics: Characteristics = attrs.field(factory=Characteristics)

    @slots.default
    def _slots_of_its_type(self) -> int:
        return SLOTS_MAX if self.type is BackendType.ROUTER else 1

    @classmethod
    def local_ollama(cls, endpoint: str) -> "BackendConfig":
        """The Ollama that is used when no backend is configured."""
        return cls(id="ollama", name="Ollama", hardware=Hardware.CPU, endpoint=endpoint)

    @classmethod
    def embedded(cls) -> "BackendConfig":
        """The model server that comes along, on the CPU, with its default model."""
        return cls(id="embedded", type=BackendType.EMBEDDED, name="Embedded", hardware=Hardware.CPU)

    def to_spec(self) -> BackendSpec:
        """The same in the words of the policy: seconds, and a preference."""
        return BackendSpec(
            id=self.id,
            type=self.type,
            hardware=self.hardware,
            endpoint=self.endpoint,
            name=self.name,
            enabled=self.enabled,
            # As many as a router says that it has, which is one until it says so.
            slots=1 if self.type is BackendType.ROUTER and self.slots == SLOTS_MAX else self.slots,
            slots_max=self.slots,
            models=self.models,
            exclude=self.exclude,
            aliases=self.aliases,
            max_prompt_tokens=self.max_prompt_tokens,
            power_watts=self.characteristics.power_watts,
            avg_latency_s=self.characteristics.avg_latency_ms / 1000,
            preference=self.characteristics.priority,
            api_key_env=self.api_key_env,
            model_path=self.model_path,
            device=self.device,
            wake_s=self.characteristics.wake_ms / 1000,
            # The model that comes along is known to; one that thinks first is refused by llama.cpp.
            continues_chat=self.continues_chat
            or (self.type is BackendType.EMBEDDED and not self.model_path),
        )


@attrs.frozen(kw_only=True)
class Scheduler:
    """The lines in front of the backends."""

    queue_capacity: int = attrs.field(default=256, validator=within(0, 1_000_000))
    aging_s: float = attrs.field(default=10.0, validator=_SECONDS)
    reserve_critical_slots: int = attrs.field(default=0, validator=within(0, 1024))
    preempt: bool = True
    preempt_started: Started = Started.KEEP
    hedge: bool = False
    hedge_budget: float = attrs.field(default=0.05, validator=within(0, 1))


@attrs.frozen(kw_only=True)
class Efficiency:
    """What time and power are worth to the owner."""

    mode: Mode = Mode.AUTO
    quiet_hours: str = attrs.field(default="22:00-07:00", validator=_QUIET_HOURS)
    power_budget_watts: float = attrs.field(default=0.0, validator=within(0, 100_000))
    low_battery_percent: float = attrs.field(default=20.0, validator=within(0, 90))
    follow_power_profile: bool = True


@attrs.frozen(kw_only=True)
class ThermalLimits:
    """Degrees Celsius at which a part is warm, and too hot; 0: from the part itself."""

    warning_c: float = attrs.field(default=0.0, validator=_DEGREES)
    critical_c: float = attrs.field(default=0.0, validator=_DEGREES)


@attrs.frozen(kw_only=True)
class Thermal:
    """When parts of the machine count as warm, and for how long."""

    poll_s: float = attrs.field(default=2.0, validator=within(0.5, 60))
    warning_c: float = attrs.field(default=0.0, validator=_DEGREES)
    critical_c: float = attrs.field(default=0.0, validator=_DEGREES)
    hysteresis_c: float = attrs.field(default=0.0, validator=within(0, 40))
    dwell_s: float = attrs.field(default=60.0, validator=within(0, 3600))
    lookahead_s: float = attrs.field(default=5.0, validator=within(0, 60))
    npu: ThermalLimits = attrs.field(factory=ThermalLimits)
    igpu: ThermalLimits = attrs.field(factory=ThermalLimits)
    nvidia: ThermalLimits = attrs.field(factory=ThermalLimits)
    amd: ThermalLimits = attrs.field(factory=ThermalLimits)
    cpu: ThermalLimits = attrs.field(factory=ThermalLimits)


@attrs.frozen(kw_only=True)
class Sensors:
    """Where the machine's state is read."""

    sysfs_root: str = attrs.field(default="/sys", validator=_ROOT)
    procfs_root: str = attrs.field(default="/proc", validator=_ROOT)
    system_bus: str = attrs.field(default="system", validator=_BUS)
    nvml: bool = True


@attrs.frozen(kw_only=True)
class Dbus:
    """The message bus of the user's session, and what is asked of the desktop."""

    enabled: bool = True
    bus: str = attrs.field(default="session", validator=_BUS)
    hold_performance: bool = False
    inhibit_sleep: bool = True


@attrs.frozen(kw_only=True)
class Notifications:
    """Of what the user is told on the desktop."""

    mode_change: bool = True
    thermal: bool = True
    backend_down: bool = True


@attrs.frozen(kw_only=True)
class Wyoming:
    """The door for voice assistants, which asks nobody who they are: on loopback alone."""

    enabled: bool = False
    host: str = attrs.field(default="127.0.0.1", validator=_LOOPBACK)
    port: int = attrs.field(default=10400, validator=_PORT)
    model: str = attrs.field(default="", validator=_PRINTABLE)
    instructions: str = ""
    max_latency_ms: float = attrs.field(default=0.0, validator=within(0, _DAY_S * 1000))


@attrs.frozen(kw_only=True)
class Observability:
    """What the router writes about itself."""

    access_log: bool = True
    log_format: LogFormat = LogFormat.CONSOLE
    log_level: LogLevel = LogLevel.INFO
    log_lines_per_s: int = attrs.field(default=1000, validator=within(1, 1_000_000))
    otlp_endpoint: str = attrs.field(default="", validator=_COLLECTOR)
    decision_log: str = attrs.field(default="", validator=_FILE)
    decision_log_mib: int = attrs.field(default=64, validator=within(1, 1 << 20))
    decision_log_files: int = attrs.field(default=4, validator=within(1, 1000))
    dashboard: bool = True


class Scheme(enum.StrEnum):
    """How nodes are spoken with that are found by something that does not say."""

    HTTP = "http"
    HTTPS = "https"


@attrs.frozen(kw_only=True)
class Fleet:
    """Other routers that share the work: who this one is among them, and how they are found."""

    node_id: str = attrs.field(default="", validator=_NODE_ID)
    nodes: tuple[str, ...] = attrs.field(default=(), validator=_NODES)
    dns: str = attrs.field(default="", validator=_HOST_PORT)
    kubernetes: str = attrs.field(default="", validator=_SERVICE)
    kubernetes_api: str = attrs.field(default="", validator=_COLLECTOR)
    kubernetes_files: str = attrs.field(
        default="/var/run/secrets/kubernetes.io/serviceaccount", validator=_ROOT
    )
    avahi: bool = False
    advertise: bool = False
    trust_found: bool = False
    scheme: Scheme = Scheme.HTTP
    api_key_env: str = attrs.field(default="", validator=_VARIABLE)
    slots: int = attrs.field(default=1024, validator=within(1, 1024))
    refresh_s: float = attrs.field(default=15.0, validator=within(1, 3600))
    lost_s: float = attrs.field(default=60.0, validator=within(1, _DAY_S))

    @property
    def looks(self) -> bool:
        """Whether nodes are looked for at all."""
        return bool(self.nodes or self.dns or self.kubernetes or self.avahi)


@attrs.frozen(kw_only=True)
class Pairing:
    """The door for paired routers; it is there while there are any."""

    door: bool = True
    # Not loopback: others are whom it is for, and it hears those alone whose certificates it knows.
    host: str = attrs.field(default="0.0.0.0", validator=_HOST)  # noqa: S104 - as above
    port: int = attrs.field(default=8443, validator=within(1, 65534))  # pairing takes the next


@attrs.frozen(kw_only=True)
class Config:
    """The whole configuration, every key with a value. `backends` may be empty."""

    server: Server = attrs.field(factory=Server)
    router: Router = attrs.field(factory=Router)
    backends: tuple[BackendConfig, ...] = ()
    scheduler: Scheduler = attrs.field(factory=Scheduler)
    efficiency: Efficiency = attrs.field(factory=Efficiency)
    thermal: Thermal = attrs.field(factory=Thermal)
    sensors: Sensors = attrs.field(factory=Sensors)
    dbus: Dbus = attrs.field(factory=Dbus)
    notifications: Notifications = attrs.field(factory=Notifications)
    wyoming: Wyoming = attrs.field(factory=Wyoming)
    observability: Observability = attrs.field(factory=Observability)
    fleet: Fleet = attrs.field(factory=Fleet)
    pairing: Pairing = attrs.field(factory=Pairing)

    @property
    def route_settings(self) -> RouteSettings:
        """What bears on each choice, in the words of the policy; the mode is not in it."""
        return RouteSettings(
            power_aware=self.router.power_aware,
            auto_optimize=self.router.auto_optimize,
            default_backend=self.router.default_backend,
            power_budget_watts=self.efficiency.power_budget_watts or None,
        )


@attrs.frozen(kw_only=True)
class Overrides:
    """What flags say; None where a flag was not given."""

    host: str | None = None
    http_port: int | None = None
    grpc_port: int | None = None
    log_level: str | None = None


@attrs.frozen(kw_only=True)
class Loaded:
    """A good configuration.

    Attributes:
        config: it.
        notes: one line for each thing in it that is accepted and does nothing.
        path: the file it came from, if there is one.
        keys: that `server.auth` names.
    """

    config: Config
    keys: tuple[Key, ...] = ()
    notes: tuple[str, ...] = ()
    path: Path | None = None


# -- what only two keys together get wrong ---------------------------------------------------------


def _contradictions(raw: Table) -> Iterator[Fault]:
    """Faults between keys; a key that is wrong by itself is left to its own fault."""
    server = _table_at(raw, "server")
    host = server.get("host", Server().host)
    is_open = isinstance(host, str) and _is_host(host) and not is_loopback(host)
    asks = bool(_table_at(server, "auth").get("api_keys"))
    if is_open and not asks and server.get("insecure", False) is False:
        message = (
            f"{shown(host)} can be reached from other machines, and nobody is asked for a key; use"
            " 127.0.0.1, or name keys in server.auth.api_keys, or set server.insecure = true if"
            " whoever reaches it may use it"
        )
        yield ("server", "host"), message
    tls = _table_at(server, "tls")
    for key in ("cert_file", "key_file"):
        if any(tls.values()) and tls.get(key, "") == "":
            yield ("server", "tls", key), "is required where another file of [server.tls] is named"
    wyoming = _table_at(raw, "wyoming")
    if wyoming.get("enabled") is True and wyoming.get("model", "") == "":
        yield ("wyoming", "model"), "is required where the door is enabled: the model that answers"
    if _table_at(raw, "fleet").get("advertise") is True and not _can_be_reached(raw, host):
        message = (
            f"needs a server.host that other machines can reach, and {shown(host)} is not, or"
            " pairing.door: it is what they would be told of"
        )
        yield ("fleet", "advertise"), message
    yield from _thermal_contradictions(_table_at(raw, "thermal"))
    backends = raw.get("backends", [])
    if not isinstance(backends, list):
        return
    users: dict[str, int] = {}
    for index, backend in enumerate(backends):
        if not isinstance(backend, dict):
            continue
        for key, message in _backend_contradictions(backend):
            yield ("backends", index, key), message
        backend_id = backend.get("id")
        if isinstance(backend_id, str) and users.setdefault(backend_id, index) != index:
            message = f"{shown(backend_id)} is already used by backends[{users[backend_id]}]"
            yield ("backends", index, "id"), message
    default = _table_at(raw, "router").get("default_backend", "")
    if isinstance(default, str) and default not in {"", *users}:
        ids = ", ".join(map(shown, users)) or "there is none"
        message = f"must be the id of a backend: {ids} (got {shown(default)})"
        yield ("router", "default_backend"), message


def _can_be_reached(raw: Table, host: object) -> bool:
    """Whether other machines find a door, as far as the keys make sense."""
    pairing = _table_at(raw, "pairing")
    hosts = [host]
    if pairing.get("door", Pairing().door) is True:
        hosts.append(pairing.get("host", Pairing().host))
    return not all(isinstance(each, str) and is_loopback(each) for each in hosts)


def _thermal_contradictions(thermal: Table) -> Iterator[Fault]:
    tables: list[tuple[KeyPath, Table]] = [(("thermal",), thermal)]
    tables += [(("thermal", each), _table_at(thermal, each)) for each in _HARDWARE_NAMES]
    for path, table in tables:
        warning, critical = table.get("warning_c"), table.get("critical_c")
        if not (isinstance(warning, int | float) and isinstance(critical, int | float)):
            continue
        if warning >= critical > 0:
            yield (
                (*path, "warning_c"),
                f"must be below critical_c, {shown(critical)} (got {shown(warning)})",
            )


_HARDWARE_NAMES = [member.value for member in Hardware]
_TYPE_NAMES = [member.value for member in BackendType]


def _backend_contradictions(backend: Table) -> Iterator[tuple[str, str]]:
    backend_id, hardware = backend.get("id"), backend.get("hardware")
    if backend_id in _HARDWARE_NAMES and hardware in _HARDWARE_NAMES and backend_id != hardware:
        message = (
            f"{shown(backend_id)} is the name of a hardware, and this backend's is"
            f" {shown(hardware)}; choose another, since X-Target-Backend takes either"
        )
        yield "id", message
    kind = backend.get("type", BackendType.OLLAMA.value)
    if kind == BackendType.EMBEDDED.value:
        if backend.get("endpoint"):
            message = 'must be left out where type = "embedded": the router starts that one itself'
            yield "endpoint", message
    elif kind in _TYPE_NAMES:
        if backend.get("endpoint", "") == "":
            yield "endpoint", 'is required unless type = "embedded"'
        if backend.get("model_path"):
            yield "model_path", 'must be left out unless type = "embedded"'


def _tls_of(raw: Table, path: Path | None) -> Tls:
    """What is encrypted with, as far as it makes sense, whatever else does not."""
    tls, _ = structure(_table_at(_table_at(raw, "server"), "tls"), Tls)
    return (tls or Tls()).starting_at(Path.cwd() if path is None else path.absolute().parent)


def _certificate_faults(files: CertificateFiles) -> list[Fault]:
    try:
        server_contexts(files)
    except BadCertificate as bad:
        return [(("server", "tls", key), message) for key, message in bad.faults]
    return []


def _table_at(raw: Table, key: str) -> Table:
    found = raw.get(key)
    return found if isinstance(found, dict) else {}


# -- keys of other versions, other names, other sources --------------------------------------------

_OVERRIDABLE = {
    "host": ("server", "host"),
    "http_port": ("server", "http_port"),
    "grpc_port": ("server", "grpc_port"),
    "log_level": ("observability", "log_level"),
}


def _override(
    raw: Table, environ: Mapping[str, str], overrides: Overrides
) -> Iterator[tuple[KeyPath, str]]:
    """Put flags and variables into `raw`; yields which key is now whose."""
    for key, (section, name) in _OVERRIDABLE.items():
        flag = getattr(overrides, key)
        variable = f"OLLAMA_PROXY_{key.upper()}"
        given = environ.get(variable, "")
        table = raw.setdefault(section, {})
        if (flag is None and not given) or not isinstance(table, dict):
            continue
        value: object = given
        if flag is not None:
            value = flag
        elif name == "log_level":
            value = given.lower()
        elif name != "host" and re.fullmatch(r"[0-9]{1,9}", given):
            value = int(given)
        table[name] = value
        yield (section, name), variable if flag is None else "--" + key.replace("_", "-")
    server, variable = raw.setdefault("server", {}), "OLLAMA_PROXY_API_KEYS"
    if environ.get(variable) and isinstance(server, dict):
        # A variable of commas alone is none that was left out: it asks for keys, and has none.
        server["auth"] = {"api_keys": entries_of(environ[variable]) or [variable]}
        yield ("server", "auth", "api_keys"), variable


def interpret(
    tables: Mapping[str, Any],
    *,
    environ: Mapping[str, str],
    overrides: Overrides,
    path: Path | None = None,
    opens_doors: bool = False,
) -> Loaded:
    """Make a configuration of what a TOML file holds.

    Args:
        tables: the file's content; left as it is.
        environ: the environment.
        overrides: what flags say.
        path: the file, for the report, and for paths that start where it is.
        opens_doors: whether what the doors need is looked at too: others may not read it.

    Raises:
        ConfigFaults: with every fault there is.
    """
    raw: Table = {k: dict(v) if isinstance(v, dict) else v for k, v in tables.items()}
    faults: list[str] = []
    notes: list[str] = []
    router = "router"
    if "routing" in raw:
        if "router" in raw:
            faults.append("routing: is another name for router; keep one of them")
        routing = raw.pop("routing")
        router = "router" if "router" in raw else "routing"
        raw.setdefault("router", routing)
    sources = dict(_override(raw, environ, overrides))

    config, found = structure(raw, Config)
    tls = _tls_of(raw, path)
    files = tls.files if opens_doors else None
    unusable = [] if files is None else _certificate_faults(files)
    for where, message in itertools.chain(found, _contradictions(raw), unusable):
        spelt = (router, *where[1:]) if where[:1] == ("router",) else where
        # What is no list of entries may be a key.
        told = message.partition(" (got ")[0] if where[:2] == ("server", "auth") else message
        faults.append(f"{sources.get(where) or dotted(spelt)}: {told}")
    keys: list[Key] = []
    if opens_doors:
        keys, wrong = read_keys(
            _key_entries(raw, sources.get(("server", "auth", "api_keys"))),
            environ=environ,
            directory=Path() if path is None else path.parent,
        )
        faults += [f"{place}: {message}" for place, message in wrong]
    if faults or config is None:
        raise ConfigFaults(tuple(faults), path)
    config = attrs.evolve(config, server=attrs.evolve(config.server, tls=tls))
    if files is not None:
        notes += [f"server.tls.{key}: {worry}" for key, worry in worries(files, time.time())]
    variables = {f"backends[{at}]": each.api_key_env for at, each in enumerate(config.backends)}
    for place, variable in (variables | {"fleet": config.fleet.api_key_env}).items():
        if variable and not environ.get(variable):
            notes.append(
                f"{place}.api_key_env: {variable} is not set, so requests go without a key"
            )
    return Loaded(config=config, keys=tuple(keys), notes=tuple(notes), path=path)


def _key_entries(raw: Table, source: str | None) -> list[tuple[str, str]]:
    """Each entry that is a text, with its place; what is none is a fault of its own."""
    given = _table_at(_table_at(raw, "server"), "auth").get("api_keys")
    entries = given if isinstance(given, list) else []
    place = source or "server.auth.api_keys"
    return [
        (f"{place}[{at}]", entry)
        for at, entry in enumerate(entries)
        if isinstance(entry, str) and entry
    ]


# -- files ---------------------------------------------------------------------------------------


def find_config(flag: str | None, environ: Mapping[str, str], cwd: Path) -> Path | None:
    """Find the file to read, or None where there is none and the defaults hold.

    Args:
        flag: the path given on the command line.
        environ: may name a file in OLLAMA_PROXY_CONFIG; XDG_CONFIG_HOME and HOME are looked at.
        cwd: what relative paths start from.

    Raises:
        ConfigFaults: a file was named and is not there.
    """
    named = flag if flag is not None else environ.get("OLLAMA_PROXY_CONFIG") or None
    if named is not None:
        path = cwd / named
        if named == "" or not os.path.lexists(path):
            by = "" if flag is not None else " (named by OLLAMA_PROXY_CONFIG)"
            raise ConfigFaults((f"there is no such file{by}",), path)
        return path
    places = [cwd / "config.toml"]
    home = environ.get("XDG_CONFIG_HOME", "")
    if not home.startswith("/"):  # the XDG specification: ignore what is relative
        home = f"{environ['HOME']}/.config" if environ.get("HOME") else ""
    if home:
        places.append(Path(home, "ollama-proxy", "config.toml"))
    places.append(SYSTEM_PATH)
    # lexists: a file that cannot be read is found, and then reported, not passed over.
    return next((place for place in places if os.path.lexists(place)), None)


def load(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    overrides: Overrides,
    opens_doors: bool = False,
) -> Loaded:
    """Read a configuration file; without one, the defaults, overridden as ever. As `interpret`.

    Args:
        path: the file.
        environ: the environment.
        overrides: what flags say.
        opens_doors: as `interpret` has it.

    Raises:
        ConfigFaults: with every fault there is.
    """
    tables = {} if path is None else parse(path)
    return interpret(
        tables, environ=environ, overrides=overrides, path=path, opens_doors=opens_doors
    )
