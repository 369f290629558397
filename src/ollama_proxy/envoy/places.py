"""Who is where: the address Envoy listens on, its pickers, and those nodes that it can reach itself."""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

import attrs

from ollama_proxy.config import BackendConfig, Config, Fleet, Scheme
from ollama_proxy.policy.whereabouts import read_service, split_host_port

# Interfaces may be numbers, 25 and 251 among them.
_ESCAPED = re.compile("%25[^0-9]")


@attrs.frozen
class Place:
    """A host, which is an address or a name, and a port.

    `takes_any`: it takes a request as clients send it, without a key or a path that the picker puts there.
    """

    host: str
    port: int
    takes_any: bool = attrs.field(default=True, eq=False)

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
    try:
        return Place(*split_host_port(text.strip()))
    except ValueError:
        message = f"must be HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051 (got {text!r})"
        raise ValueError(message) from None


def parse_places(texts: Iterable[str]) -> list[Place]:
    """Read texts that each hold one or more, with commas between. As `parse_place`."""
    return [parse_place(each) for text in texts for each in text.split(",")]


@attrs.frozen
class LeftOut:
    """Whom Envoy cannot carry bytes to.

    Attributes:
        name: where it is in our configuration.
        why: a clause.
    """

    name: str
    why: str


def escaped(config: Config) -> Iterator[tuple[str, str]]:
    """Addresses whose zone is written as in a URL (RFC 6874), by where they are in our configuration.

    Envoy takes no such address, and the router reaches none.
    """
    named = [(each.id, each.endpoint) for each in config.backends]
    named += [("fleet.nodes", each) for each in config.fleet.nodes]
    for name, url in named:
        host = urlsplit(url).hostname or ""
        if _ESCAPED.search(host):
            yield name, host


def nodes_of(config: Config) -> tuple[list[Place], list[LeftOut]]:
    """Where those are that Envoy can reach, each once, and who is none of them."""
    found = [*map(_backend, config.backends), *_fleet(config.fleet)]
    places = dict.fromkeys(each for each in found if isinstance(each, Place))
    return list(places), [each for each in found if isinstance(each, LeftOut)]


def _backend(backend: BackendConfig) -> Place | LeftOut:
    if not backend.enabled:
        return LeftOut(backend.id, "it is not enabled")
    if not backend.endpoint or backend.endpoint.startswith("unix:"):
        return LeftOut(backend.id, "it has no address in the network")
    return _plain(backend.id, backend.endpoint, backend.api_key_env)


def _fleet(fleet: Fleet) -> Iterator[Place | LeftOut]:
    """Those that are listed or have a name, which Envoy asks for itself."""
    yield from (_plain("fleet.nodes", each, fleet.api_key_env) for each in fleet.nodes)
    if fleet.avahi:
        yield LeftOut(
            "fleet.avahi", "what is found later is not known here; list it in fleet.nodes"
        )
    for key, place in (("dns", _by_name(fleet)), ("kubernetes", _by_service(fleet))):
        if isinstance(place, Place) and fleet.scheme is Scheme.HTTPS:
            yield LeftOut(f"fleet.{key}", _ENCRYPTED)
        elif place is not None:
            yield place


_ENCRYPTED = "it is reached by TLS, with settings that are the router's"


def _by_name(fleet: Fleet) -> Place | None:
    return Place(*split_host_port(fleet.dns), not fleet.api_key_env) if fleet.dns else None


def _by_service(fleet: Fleet) -> Place | LeftOut | None:
    """The name of a headless service, which has the address of each of its pods that is ready."""
    service = read_service(fleet.kubernetes)
    if service is None:
        return None
    if not service.port.isdecimal():
        return LeftOut(
            "fleet.kubernetes", "DNS knows no names of ports: write the pods' as a number"
        )
    host = f"{service.name}.{service.namespace}.svc.cluster.local"
    return Place(host, int(service.port), not fleet.api_key_env)


def _plain(name: str, url: str, key: str) -> Place | LeftOut:
    parts = urlsplit(url)
    if parts.scheme != "http":
        return LeftOut(name, _ENCRYPTED)
    return Place(parts.hostname or "", parts.port or 80, not (key or parts.path.strip("/")))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
