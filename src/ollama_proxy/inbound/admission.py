"""Who is let in, the same at every door: by key, by what the key is for, and by how often.

Rule 1: nothing of a request but its head has been read when it is judged here, nor done.
Rule 2: no key is kept, said or logged, only its hash and its name.
Rule 3: who guesses is told no more than once in a while, and shuts out nobody whose key was good
before: all clients of a machine share its address.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import attrs
import trio

from ollama_proxy.policy.access import (
    ALL,
    AMBIGUOUS,
    KEYLESS,
    OPEN,
    UNKNOWN_KEY,
    Key,
    Permission,
    Permissions,
    Ring,
    digest_of,
    judge,
    need_of,
)
from ollama_proxy.policy.peers import Network, household, origin_of
from ollama_proxy.policy.rates import Buckets
from ollama_proxy.policy.refusal import Code, Refusal

log = logging.getLogger("ollama_proxy.access")
WRONG_PER_S = 0.5
WRONG_BURST = 10
# How browsers say a key on a WebSocket, as OpenAI's SDK has it.
KEY_PROTOCOL = "openai-insecure-api-key."
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([\x21-\x7e]+)")
_TOKEN = re.compile(rb"[\x21-\x7e]+")

Headers = Iterable[tuple[bytes, bytes]]


@attrs.frozen(kw_only=True)
class Rules:
    """What is asked of whoever comes.

    Attributes:
        keys: those that are good; none: nobody is asked for one.
        rate: requests a second of a key, or of an address where there are no keys; 0: any.
        burst: how many at once.
        trusted_proxies: who is believed about where a request comes from.
    """

    keys: tuple[Key, ...] = ()
    rate: float = 0.0
    burst: int = 20
    trusted_proxies: tuple[Network, ...] = ()


@attrs.frozen
class Visitor:
    """Somebody who was let in.

    Attributes:
        permissions: what they may; none where they were let in without being asked.
        key: theirs.
        address: whose rate it counts to where there is no key.
        known_as: who it is where that is known by other means than a key.
    """

    permissions: Permissions = ALL
    key: Key | None = None
    address: str = ""
    known_as: str = ""

    @property
    def name(self) -> str:
        """For the log: of the key; empty where there is none."""
        return self.known_as if self.key is None else self.key.name

    def may(self, permission: Permission) -> bool:
        """Whether a part of an answer is for them."""
        return permission in self.permissions


ANYBODY = Visitor()


class _Wrong(Exception):  # noqa: N818 - what is wrong is the visitor's
    """What was sent is no key."""


def secret_of(headers: Headers) -> bytes | None:
    """The key that a request brings; None where it brings none.

    Args:
        headers: lower-case names.

    Raises:
        _Wrong: two, or something that is none.
    """
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            bearer = _BEARER.fullmatch(value)
            secret = b"" if bearer is None else bearer[1]
        elif name == b"x-api-key":
            secret = value
        else:
            continue
        if found is not None or not _TOKEN.fullmatch(secret):
            raise _Wrong
        found = secret
    return found


class Admission:
    """Decides who is let in. One for all doors, each of which books whom it turns away."""

    def __init__(self, rules: Rules | None = None) -> None:
        """Go by these rules; without any, everybody is let in."""
        self._rules = Rules()
        self._ring = Ring()
        self._by_key: Buckets | None = None
        self._by_address: Buckets | None = None
        self._wrong = Buckets(WRONG_PER_S, WRONG_BURST)
        self._stays: dict[object, tuple[Visitor, Callable[[], None]]] = {}
        self.follow(rules or Rules())

    @property
    def rules(self) -> Rules:
        """What it goes by: other rules are another object."""
        return self._rules

    def follow(self, rules: Rules) -> None:
        """Go by other rules from now on.

        Who was let in without a good key, as it is now, must leave where they `stay`; elsewhere what
        was begun for them is finished, and they are judged when they ask again.
        """
        before, self._rules = self._rules, rules
        self._ring = self._ring.replaced_by(rules.keys)
        if (rules.rate, rules.burst) != (before.rate, before.burst):
            limited = rules.rate > 0
            # Apart: however many addresses come, no key's bucket is forgotten.
            self._by_key = Buckets(rules.rate, rules.burst) if limited else None
            self._by_address = Buckets(rules.rate, rules.burst) if limited else None

        for visitor, leave in list(self._stays.values()):
            if not self._is_known(visitor):
                leave()

    @contextmanager
    def stay(self, visitor: Visitor, leave: Callable[[], None]) -> Iterator[None]:
        """While somebody stays: have them leave as soon as their key is good no longer.

        Args:
            visitor: who was let in.
            leave: called once at most for each change of the rules; must not block nor raise.
        """
        key = object()
        self._stays[key] = visitor, leave
        try:
            yield
        finally:
            del self._stays[key]

    def _is_known(self, visitor: Visitor) -> bool:
        return not self._ring or (visitor.key is not None and self._ring.has(visitor.key))

    def admit(
        self, what: str, headers: Headers, peer: str, *, counts: bool = True
    ) -> Visitor | Refusal:
        """Let somebody in, or say why not. It counts.

        1. Where nobody asks for a key, and there is no rate, everybody may everything.
        2. What is no key, or two, is refused; what needs none, and brings none, is let in.
        3. No key: the address's rate counts, so that asking in vain is no way round it.
        4. A key that was good before; then, unless the address guesses, any that is good.
        5. The key's rate; then what it is for.

        Args:
            what: as `policy.access.NEEDS` has it.
            headers: lower-case names.
            peer: the address of the connection.
            counts: to a rate. Not who brings the requests of others, each of which is let in, too.
        """
        if not self._ring and (self._by_address is None or not counts):
            return ANYBODY
        return self._admit(what, headers, peer, counts=counts)

    def _admit(self, what: str, headers: Headers, peer: str, *, counts: bool) -> Visitor | Refusal:
        need = need_of(what)
        headers = list(headers)
        address = self._address(headers, peer)
        if not self._ring:
            visitor = Visitor(ALL, None, address)
            return visitor if need == OPEN else self._counted(visitor)
        try:
            secret = secret_of(headers)
        except _Wrong:
            return self._guessed(address, AMBIGUOUS)
        if secret is None:
            visitor = Visitor(OPEN, None, address)
            if need == OPEN:
                return visitor
            counted = self._counted(visitor)
            return counted if isinstance(counted, Refusal) else KEYLESS
        key = self._recognised(digest_of(secret), address)
        if isinstance(key, Refusal):
            return key
        visitor = Visitor(key.permissions, key, address)
        counted = self._counted(visitor) if counts and need != OPEN else visitor
        return judge(key, need) or counted

    def readmit(self, visitor: Visitor) -> Refusal | None:
        """Say why somebody who was let in may not ask once more, or None. It counts."""
        if not self._ring and self._by_address is None:
            return None
        if not self._is_known(visitor):
            return UNKNOWN_KEY
        counted = self._counted(visitor)
        return counted if isinstance(counted, Refusal) else None

    def _address(self, headers: list[tuple[bytes, bytes]], peer: str) -> str:
        trusted = self._rules.trusted_proxies
        if not trusted:
            return household(peer)
        forwarded = [v.decode("latin-1") for name, v in headers if name == b"x-forwarded-for"]
        return household(origin_of(peer, forwarded, trusted))

    def _recognised(self, digest: bytes, address: str) -> Key | Refusal:
        key = self._ring.proven(digest)
        if key is not None:
            return key
        wait_s = self._wrong.wait_s(address, trio.current_time())
        if wait_s:
            return _too_often("Too many wrong API keys came from there.", wait_s)
        return self._ring.find(digest) or self._guessed(address, UNKNOWN_KEY)

    def _guessed(self, address: str, refusal: Refusal) -> Refusal:
        wait_s = self._wrong.take(address, trio.current_time())
        if wait_s:
            return _too_often("Too many wrong API keys came from there.", wait_s)
        log.warning("a wrong API key came from %s", address or "a peer without an address")
        return refusal

    def _counted(self, visitor: Visitor) -> Visitor | Refusal:
        if visitor.key is not None:
            name, buckets = visitor.key.digest.hex(), self._by_key
        else:
            name, buckets = visitor.address, self._by_address
        if buckets is None:
            return visitor
        wait_s = buckets.take(name, trio.current_time())
        if not wait_s:
            return visitor
        whose = "this API key" if visitor.key is not None else "this address"
        return _too_often(f"More than {self._rules.rate:g} requests a second of {whose}.", wait_s)


def _too_often(message: str, wait_s: float) -> Refusal:
    return Refusal(Code.RATE_LIMITED, message, retry_after_s=wait_s)


def peer_of(stream: trio.abc.Stream) -> str:
    """The address at a connection's other end; empty where it has none, or is gone already."""
    if isinstance(stream, trio.SSLStream):
        return peer_of(stream.transport_stream)
    if not isinstance(stream, trio.SocketStream):
        return ""
    try:
        address = stream.socket.getpeername()
    except OSError:
        return ""
    return str(address[0]) if isinstance(address, tuple) else ""
