"""Where a node may be: addresses made into one spelling, put in order, and those refused that lead astray."""

import functools
import ipaddress
import re
from urllib.parse import urlsplit

import attrs

_IPV4, _IPV6, _NAME = range(3)


def url_of(scheme: str, host: str, port: int) -> str:
    """The one spelling of an address; what is equal is the same place."""
    try:
        host = str(ipaddress.ip_address(host))
    except ValueError:
        host = host.lower().removesuffix(".")
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def tidy(url: str) -> str:
    """An http(s) URL in that spelling; the port that its scheme has if it names none.

    Raises:
        ValueError: it is no such URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return url_of(parts.scheme, parts.hostname, port)


def host_of(url: str) -> str:
    """The host in an address, without brackets."""
    return urlsplit(url).hostname or ""


def port_of(url: str) -> int:
    """The port in an address that `url_of` wrote."""
    return urlsplit(url).port or 0


def name_in(text: str) -> str:
    """A host's name as others tell it; empty where it is none."""
    return text if re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})", text) else ""


@functools.lru_cache(maxsize=2048)
def address_order(url: str) -> tuple[int, bytes, str, int, str]:
    """What addresses are sorted by: IPv4, then IPv6, then names; the lowest first."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return (_NAME, b"", host, port, parts.scheme)
    kind = _IPV4 if isinstance(address, ipaddress.IPv4Address) else _IPV6
    return (kind, address.packed, "", port, parts.scheme)


def leads_astray(text: str, *, is_local: bool) -> bool:
    """Whether an address that others told of is none where a node can be.

    A link's own addresses are among them: there clouds keep their secrets (169.254.169.254), and
    IPv6 needs the name of an interface, which no URL has.

    Args:
        text: the address.
        is_local: this machine's own addresses are meant.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return True
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            return True
        address = address.ipv4_mapped or address
    return (
        address.is_multicast
        or address.is_unspecified
        or address.is_link_local
        or (address.is_loopback and not is_local)
        or address == ipaddress.ip_address("255.255.255.255")
    )


@attrs.frozen(kw_only=True)
class Service:
    """A service of Kubernetes: its port by name or number, or the first where it is empty."""

    namespace: str
    name: str
    port: str = ""


def read_service(text: str) -> Service | None:
    """Read `namespace/service` or `namespace/service:port`; None where it is neither."""
    label = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
    found = re.fullmatch(rf"({label})/({label})(?::({label}))?", text)
    if found is None:
        return None
    namespace, name, port = found.groups()
    return Service(namespace=namespace, name=name, port=port or "")


def split_host_port(text: str) -> tuple[str, int]:
    """`name:port` in two; an IPv6 address is in brackets.

    Raises:
        ValueError: it is not that.
    """
    found = re.fullmatch(
        r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}):([0-9]{1,5})", text
    )
    if found is None or not 0 < int(found[2]) < 1 << 16:
        raise ValueError(text)
    return found[1].strip("[]"), int(found[2])
