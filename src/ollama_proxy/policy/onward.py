"""A request on its way to another router: the headers that carry its wishes, and that it was here.

Rule 1: one hop. What comes from a router is served by what is no router, so that two that name each
other never pass a request round and round.
Rule 2: a deadline goes along as what is left of it: clocks may be apart.
Rule 3: a target is a name of ours, and means nothing there.
"""

import math
import re

from ollama_proxy.policy.ask import Priority, Wishes

VIA = b"via"
PSEUDONYM = "ollama-proxy"
LEAST_MS = 1.0
# Received-by of each element: behind the protocol's version, before a comment or the next element.
_OURS = re.compile(rb"(?:^|,)\s*(?:[^\s,/]+/)?[^\s,]+\s+" + PSEUDONYM.encode() + rb"(?=[\s,(]|$)")
_COMMENT = re.compile(r"[A-Za-z0-9._:-]{1,128}")

Headers = tuple[tuple[bytes, bytes], ...]


def via_of(node_id: str) -> Headers:
    """What a router adds to what it passes on: that it was there (RFC 9110, 7.6.3)."""
    who = f" ({node_id})" if _COMMENT.fullmatch(node_id) else ""
    return ((VIA, f"1.1 {PSEUDONYM}{who}".encode()),)


def came_through_router(via: bytes) -> bool:
    """Whether a `Via` header tells of a router such as this."""
    return _OURS.search(via) is not None


def wishes_onward(wishes: Wishes, *, client: str, left_s: float) -> Headers:
    """How a request is to be served, for a router that is to serve it.

    Args:
        wishes: of the request.
        client: whose turns in line it takes; empty for whoever did not say.
        left_s: until its deadline; `inf` where it has none.
    """
    headers: list[tuple[bytes, bytes]] = []
    if wishes.priority is not Priority.NORMAL or wishes.media_type is not None:
        headers.append((b"x-priority", wishes.priority.label.encode()))
    if wishes.media_type is not None:
        headers.append((b"x-media-type", wishes.media_type.value.encode()))
    if wishes.latency_critical:
        headers.append((b"x-latency-critical", b"true"))
    if wishes.power_efficient:
        headers.append((b"x-power-efficient", b"true"))
    if wishes.max_power_watts is not None:
        headers.append((b"x-max-power-watts", b"%.17g" % wishes.max_power_watts))
    if left_s < math.inf:
        headers.append((b"x-max-latency-ms", b"%.3f" % max(LEAST_MS, left_s * 1000)))
    if client.isprintable() and client:  # a WebSocket's or gRPC's may be any text
        headers.append((b"x-client-id", client.encode("latin-1", "replace")))
    return tuple(headers)
