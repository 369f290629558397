"""Who may ask: the Host and Origin of a request, judged the same on every door that has them.

A proxy launders what its backends refuse: Ollama checks both headers itself, but sees only the
router's. So a page that rebinds its name to 127.0.0.1, or posts across origins, is stopped here.
"""

import ipaddress
import re
from collections.abc import Iterable

from ollama_proxy.inbound.admission import Admission
from ollama_proxy.policy.refusal import Code, Refusal

# Stricter than URLs are: `urlsplit` takes "[::1]evil" for ::1.
_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{0,5})?")


def _host_of(authority: str) -> str:
    """The name in `name:port` or `[address]:port`, lower-case; empty if it makes no sense."""
    parts = _AUTHORITY.fullmatch(authority.lower())
    return "" if parts is None else (parts[1] or parts[2]).removesuffix(".")


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Gate:
    """Decides by Host and Origin whether a request is heard at all.

    Attributes:
        admission: judges next, by key and rate.
    """

    def __init__(
        self,
        *,
        bound_host: str,
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        admission: Admission | None = None,
        is_encrypted: bool = False,
    ) -> None:
        """Allow loopback names, the bound address, and what the owner lists.

        A page is of the same origin by its scheme, too, where we know ours: in plain text somebody
        on the way may have written it. Without encryption of our own a proxy may add it.
        """
        self.admission = admission or Admission()
        self._schemes = ("https",) if is_encrypted else ("http", "https")
        self._hosts = {h.lower() for h in allowed_hosts}
        if bound_host not in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared with, not bound to
            self._hosts.add(bound_host.lower())
        self._origins = {o.lower().rstrip("/") for o in allowed_origins}
        # Nearly every request carries the same Host: it is judged once.
        self._known_good: set[bytes] = set()

    def sharing(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        """The headers by which a browser lets a page of another origin read an answer.

        For those that the owner lists, by their names, and without cookies; none for all others.
        """
        if origin is None or origin.decode("latin-1").lower().rstrip("/") not in self._origins:
            return []
        return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]

    def judge(self, host: bytes, origin: bytes | None) -> Refusal | None:
        """Say why a request is not heard, or None.

        Args:
            host: the Host header.
            origin: the Origin header, if there is one: then a browser's page is asking.
        """
        if host not in self._known_good:
            name = _host_of(host.decode("latin-1"))
            if not name or not (_is_loopback(name) or name in self._hosts):
                return Refusal(
                    Code.FORBIDDEN,
                    "The Host header (in gRPC the :authority) names a host this router does not"
                    " answer for. Add it to"
                    " server.allowed_hosts if it should.",
                    param="Host",
                )
            if len(self._known_good) < 64:  # noqa: PLR2004 - ports and spellings, not a memory for guesses
                self._known_good.add(host)
        if origin is None:
            return None
        given = origin.decode("latin-1").lower().rstrip("/")
        authority = host.decode("latin-1").lower()
        ours = {f"{scheme}://{authority}" for scheme in self._schemes}
        if given in ours or given in self._origins:
            return None
        return Refusal(
            Code.FORBIDDEN,
            "Pages of this origin may not use the router. Add it to server.allowed_origins if it"
            " should.",
            param="Origin",
        )


# What a listed page may ask for, and for how long its browser need not ask whether it may.
_PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, HEAD, POST, DELETE"),
    (b"access-control-max-age", b"600"),
]
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9, -]{0,2000}")


def is_preflight(method: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a page's browser only asks what the page may send: it does so without the page's key."""
    return method == "OPTIONS" and any(
        name == b"access-control-request-method" for name, _ in headers
    )


def preflight_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """What a listed page's browser is told that asks what the page may send.

    Whatever header it asks for: the owner has let that page in, and what is no header of ours is ignored.

    Args:
        headers: of the question, lower-case names.
    """
    asked = b", ".join(v for name, v in headers if name == b"access-control-request-headers")
    allowed = _HEADER_NAMES.fullmatch(asked) and asked
    return [*_PREFLIGHT, *([(b"access-control-allow-headers", allowed)] if allowed else [])]


# What any page may send without asking; it names its origin then, unless it is older than that rule.
_FORMS = (b"text/plain", b"multipart/form-data")
_FOREIGN = {b"cross-site", b"same-site"}


def judge_page(method: str, headers: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
    """Say why a request may be the doing of a page that names no origin, or None.

    Browsers of today name one with whatever changes something. This is for those that do not, and
    for what they load without naming one.

    Args:
        method: the request's.
        headers: lower-case names.
    """
    kind = site = mode = b""
    for name, value in headers:
        if name == b"content-type":
            kind = value.lower()
        elif name == b"origin":
            return None  # which `Gate.judge` has judged
        elif name == b"sec-fetch-site":
            site = value
        elif name == b"sec-fetch-mode":
            mode = value
    if method == "POST" and kind.startswith(_FORMS):
        return Refusal(
            Code.UNSUPPORTED_MEDIA_TYPE,
            "Send the body as `Content-Type: application/json`: any page may send this one.",
        )
    is_link = method in {"GET", "HEAD"} and mode == b"navigate"
    if site in _FOREIGN and not is_link:
        return Refusal(
            Code.FORBIDDEN, "Pages of other sites may not use the router.", param="Sec-Fetch-Site"
        )
    return None
