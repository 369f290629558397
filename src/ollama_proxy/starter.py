"""A first configuration for this machine, by what answers on loopback and what the kernel shows.

`tools/install` runs it as a program: TOML on stdout. Rule 1: no model is loaded, no card is woken, and
nothing leaves the machine. Rule 2: what is seen and what is written about it are apart; `write` is pure.
"""

import enum
import functools
import json
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs
import httpx
import trio

from ollama_proxy.backends.embedded_process import is_available
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.readings import Load, Part
from ollama_proxy.sensors.discovery import discover
from ollama_proxy.sensors.files import Files, KernelFiles
from ollama_proxy.sensors.sensor import Heed

LOOPBACK = "127.0.0.1"
# Where each is by default, and where people put a second one.
PORTS = (*range(11434, 11438), *range(8080, 8084), 1234, 8000, 8001, 13305)
HTTP_PORTS = (8080, *range(8090, 8099))
GRPC_PORTS = range(50051, 50060)
_ANSWER_MAX_S = 1.0
_ANSWER_MAX_BYTES = 2**20


class Kind(enum.Enum):
    """What answers: the beginning of its id, its name, the dialect to speak with it."""

    OLLAMA = ("ollama", "Ollama", "ollama")
    LLAMA_SERVER = ("llama-server", "llama-server", "openai")
    LM_STUDIO = ("lm-studio", "LM Studio", "openai")
    VLLM = ("vllm", "vLLM", "openai")
    LEMONADE = ("lemonade", "Lemonade", "openai")
    OPENAI = ("openai", "OpenAI-compatible server", "openai")
    ROUTER = ("", "ollama-proxy", "")


# What they say in `owned_by` of their models.
_OWNERS = {
    "llamacpp": Kind.LLAMA_SERVER,
    "organization_owner": Kind.LM_STUDIO,
    "vllm": Kind.VLLM,
    "lemonade": Kind.LEMONADE,
}
_SLOTS = {Kind.VLLM: 16}  # it computes many at once, better than one after the other
# Watts and milliseconds to believe until they were measured.
_PRIORS = {
    Hardware.NPU: (3.0, 800),
    Hardware.IGPU: (12.0, 400),
    Hardware.NVIDIA: (55.0, 150),
    Hardware.AMD: (60.0, 200),
    Hardware.CPU: (28.0, 2000),
}
# What servers compute on where they find it, best first; they leave NPUs alone but for Lemonade.
_CARDS = (Hardware.NVIDIA, Hardware.AMD)


@attrs.frozen
class Found:
    """A server that answers. `base_path`: what stands in place of `/v1`, if anything."""

    kind: Kind
    port: int
    base_path: str = ""


@attrs.frozen(kw_only=True)
class Survey:
    """What was seen of a machine.

    Attributes:
        devices: what could compute besides the processor: names by hardware.
        servers: who answers, in the order of `PORTS`.
        http_port: a port for us.
        grpc_port: another.
        has_embedded: whether the model that comes along is installed.
    """

    devices: dict[Hardware, str] = attrs.field(factory=dict)
    servers: Sequence[Found] = ()
    http_port: int = HTTP_PORTS[0]
    grpc_port: int = GRPC_PORTS[0]
    has_embedded: bool = False


# -- seeing --------------------------------------------------------------------------------------


def find_devices(files: Files) -> dict[Hardware, str]:
    """What could compute besides the processor, by the kernel's files alone."""
    found: dict[Hardware, str] = {}
    for sensor in discover(files, Heed(), load=lambda: None):
        try:
            findings = sensor.read(0.0)
        except OSError:
            continue
        devices: list[Part | Load] = [*findings.parts, *findings.loads]
        for each in devices:
            if each.hardware is not Hardware.CPU:
                found.setdefault(each.hardware, each.name)
    return found


async def find_servers(ports: Iterable[int] = PORTS) -> list[Found]:
    """All that answer on loopback, asked at once."""
    found: dict[int, Found | None] = dict.fromkeys(ports)

    async def look(port: int) -> None:
        found[port] = await _probe(client, port)

    async with (
        httpx.AsyncClient(trust_env=False, timeout=_ANSWER_MAX_S) as client,
        trio.open_nursery() as nursery,
    ):
        for port in found:
            nursery.start_soon(look, port)
    return [each for each in found.values() if each is not None]


async def _probe(client: httpx.AsyncClient, port: int) -> Found | None:
    ask = functools.partial(_ask, client, f"http://{LOOPBACK}:{port}")
    if "effective_mode" in await ask("/efficiency"):
        return Found(Kind.ROUTER, port)
    listed = await ask("/v1/models")
    kind = _kind_of(listed)
    if kind is not None and kind is not Kind.OPENAI:
        return Found(kind, port)
    if isinstance((await ask("/api/version")).get("version"), str):
        return Found(Kind.OLLAMA, port)
    if kind is None and (kind := _kind_of(await ask("/api/v1/models"))):
        return Found(kind, port, base_path="/api/v1")
    return kind and Found(kind, port)


async def _ask(client: httpx.AsyncClient, base: str, path: str) -> dict[str, Any]:
    """The JSON object there; empty where there is none, or none that is soon and short enough."""
    data = b""
    try:
        # httpx's timeout is of each read: a server that trickles would be listened to for ever.
        with trio.fail_after(_ANSWER_MAX_S):
            async with client.stream("GET", base + path) as response:
                response.raise_for_status()
                async for piece in response.aiter_bytes():
                    data += piece
                    if len(data) > _ANSWER_MAX_BYTES:
                        return {}
        answer = json.loads(data)
    except (httpx.HTTPError, ValueError, RecursionError, trio.TooSlowError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _kind_of(listed: dict[str, Any]) -> Kind | None:
    """Who lists models so; None where that is no list of models."""
    models = listed.get("data")
    if not isinstance(models, list):
        return None
    owners = [model.get("owned_by") for model in models if isinstance(model, dict)]
    return next((_OWNERS[o] for o in owners if isinstance(o, str) and o in _OWNERS), Kind.OPENAI)


def _free(ports: Iterable[int], ours: Iterable[int] = ()) -> int:
    """The first port that nobody listens at, or that is ours already; 0, any, where all are taken."""
    for port in ports:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((LOOPBACK, port))
            except OSError:
                if port not in ours:
                    continue
            return port
    return 0


async def survey(files: Files) -> Survey:
    """Look at this machine."""
    servers = await find_servers()
    ours = [each.port for each in servers if each.kind is Kind.ROUTER]
    return Survey(
        devices=find_devices(files),
        servers=servers,
        http_port=_free(HTTP_PORTS, ours),
        grpc_port=_free(GRPC_PORTS, GRPC_PORTS if ours else ()),
        has_embedded=is_available(),
    )


# -- writing -------------------------------------------------------------------------------------

_HEAD = """\
# The configuration of ollama-proxy, written by tools/install for what it saw on this machine. It is
# yours now, and never overwritten. The config.toml of the source tree shows every key there is;
# `ollama-proxy check-config` names every fault; SIGHUP, or `systemctl --user reload
# ie.fio.ollamaproxy.service`, has it read again.
#"""
_EXAMPLE = """
# A server joins by a table like this one, running or not:
#
# [[backends]]
# id = "ollama"
# type = "ollama"           # ollama | openai (llama-server, vLLM, LM Studio ...)
# hardware = "cpu"          # npu | igpu | nvidia | amd | cpu | cloud
# endpoint = "http://127.0.0.1:11434"
"""


def write(seen: Survey) -> str:
    """The configuration for what was seen, as TOML."""
    return "\n".join([_HEAD, *_remarks(seen), *_server(seen), *_backends(seen), _EXAMPLE])


def _remarks(seen: Survey) -> Iterator[str]:
    for hardware, name in seen.devices.items():
        yield f"# seen: {hardware.value} ({_printable(name)})"
    if not seen.devices:
        yield "# seen: neither a graphics card nor an NPU; servers compute on the processor"
    for each in seen.servers:
        yield f"# answers: {each.kind.value[1]} at port {each.port}"


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())


def _server(seen: Survey) -> Iterator[str]:
    moved = [
        f"{key} = {port}    # {usual} is taken"
        for key, port, usual in (
            ("http_port", seen.http_port, HTTP_PORTS[0]),
            ("grpc_port", seen.grpc_port, GRPC_PORTS[0]),
        )
        if port != usual
    ]
    if moved:
        yield from ("", "[server]", *moved)


def _backends(seen: Survey) -> Iterator[str]:
    servers = [each for each in seen.servers if each.kind is not Kind.ROUTER]
    used: set[str] = set()
    for each in servers:
        yield from _backend(each, seen.devices, used)
    if not servers and seen.has_embedded:
        yield "\n# No server answered, so the small model that comes along does."
        yield '[[backends]]\nid = "embedded"\ntype = "embedded"\nhardware = "cpu"'
    elif not servers:
        # Not an example alone: a router without a backend does not start.
        yield "\n# No server answered. An Ollama that starts later is used where it usually is."
        yield from _backend(Found(Kind.OLLAMA, PORTS[0]), seen.devices, used)


def _backend(found: Found, devices: dict[Hardware, str], used: set[str]) -> Iterator[str]:
    stem, name, dialect = found.kind.value
    backend_id = stem if stem not in used else f"{stem}-{found.port}"
    used.add(backend_id)
    hardware, why = _guess(found.kind, devices)
    watts, latency_ms = _PRIORS[hardware]
    yield "\n[[backends]]"
    yield f'id = "{backend_id}"'
    yield f'type = "{dialect}"'
    yield f'name = "{name}"'
    yield f'hardware = "{hardware.value}"    # guessed: {why}'
    yield f'endpoint = "http://{LOOPBACK}:{found.port}{found.base_path}"'
    if found.kind in _SLOTS:
        yield f"slots = {_SLOTS[found.kind]}    # requests it serves at once"
    yield "[backends.characteristics]    # believed until measured"
    yield f"power_watts = {watts}\navg_latency_ms = {latency_ms}"


def _guess(kind: Kind, devices: dict[Hardware, str]) -> tuple[Hardware, str]:
    if kind is Kind.LEMONADE and Hardware.NPU in devices:
        return Hardware.NPU, "there is an NPU, which Lemonade uses"
    for card in _CARDS:
        if card in devices:
            return card, "there is such a card, which servers use if they can"
    return Hardware.CPU, "there is no card that servers use by themselves"


def main() -> None:
    """Print the configuration."""
    sys.stdout.write(write(trio.run(survey, KernelFiles())))


if __name__ == "__main__":
    main()
