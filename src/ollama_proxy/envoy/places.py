"""Who is where: the address Envoy listens on, its pickers, and those nodes that it can reach itself."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import attrs

from ollama_proxy.config import BackendConfig

PORT_MAX = 65535
_DEFAULT_PORTS = {"http": 80}


@attrs.frozen
class Place:
    """A host, which is an address or a name, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        """HOST:PORT, as it is given."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_numeric(self) -> bool:
        """Whether it can be reached without asking for a name."""
        return _is_address(self.host)


def parse_place(text: str) -> Place:
    """Read HOST:PORT; an IPv6 address stands in brackets.

    Raises:
        ValueError: it is none; the text says what would be.
    """
    host, _, port = text.strip().rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if host.startswith("[") != (":" in bare) or host.endswith("]") != (":" in bare):
        bare = ""
    is_host = _is_address(bare) or re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", bare)
    if not is_host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) <= PORT_MAX:
        raise ValueError(
            f"must be HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051 (got {text!r})"
        )
    return Place(bare, int(port))


def parse_places(texts: Iterable[str]) -> list[Place]:
    """Read texts that each hold one or more, with commas between. As `parse_place`."""
    return [parse_place(each) for text in texts for each in text.split(",")]


@attrs.frozen
class LeftOut:
    """A backend that Envoy cannot carry bytes to."""

    id: str
    why: str


def nodes_of(backends: Sequence[BackendConfig]) -> tuple[dict[str, Place], list[LeftOut]]:
    """Where those backends are that Envoy can reach, by their ids, and who is none of them."""
    nodes: dict[str, Place] = {}
    others = []
    for backend in backends:
        reached = _reached(backend)
        if isinstance(reached, Place):
            nodes[backend.id] = reached
        else:
            others.append(LeftOut(backend.id, reached))
    return nodes, others


def _reached(backend: BackendConfig) -> Place | str:
    """Where it is, or why Envoy cannot carry bytes to it as they are."""
    if not backend.enabled:
        return "it is not enabled"
    if not backend.endpoint.startswith("http"):
        return "it has no address in the network"
    if backend.endpoint.startswith("https"):
        return "it is reached by TLS, with settings that are the router's"
    if backend.api_key_env:
        return "it needs a key, which the router alone has"
    parts = urlsplit(backend.endpoint)
    host = parts.hostname or ""
    if parts.path.strip("/"):
        return "its endpoint has a base path, which requests are not sent with"
    if not _is_address(host):
        return f"the picker names nodes by address, and {host} is a name"
    return Place(host, parts.port or _DEFAULT_PORTS[parts.scheme])


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
