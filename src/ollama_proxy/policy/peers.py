"""From where a request comes: the address of its connection, or what a proxy that is trusted says."""

import ipaddress
from collections.abc import Iterable, Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_HOUSEHOLD_BITS = 64  # of an IPv6 address (RFC 6177): whoever has one has all that share them


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Read addresses and CIDRs. Raises ValueError: one is neither."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def origin_of(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The address that a request comes from.

    Args:
        peer: of the connection.
        forwarded: each X-Forwarded-For, in order.
        trusted: proxies that are believed.

    Returns:
        The address nearest to us that is no trusted proxy's: what stands further left was written by
        whoever is there. The peer's where nobody may be believed.
    """
    if not trusted or not forwarded:
        return peer
    nearest = peer
    for text in reversed([each.strip() for line in forwarded for each in line.split(",")]):
        address = _address(nearest)
        if address is None or not _is_in(address, trusted) or _address(text) is None:
            break
        nearest = text
    return nearest


def household(address: str) -> str:
    """Whom an address belongs to, as far as rates and bounds go: itself, or its IPv6 network."""
    # A zone may hang on it.
    parsed = _address(address.partition("%")[0])
    if parsed is None:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _HOUSEHOLD_BITS), strict=False))
    return str(parsed)
