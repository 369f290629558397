"""The door for paired routers: TLS, for those whose certificates are known, and for inference alone.

Rule 1: it is there while there is somebody to come, and closed else.
Rule 2: who comes is known by the handshake; nothing that they send makes them more.
Rule 3: whose pair was dissolved is hung up on at once, in the middle of an answer too.

A door of its own beside the front door, with the same rooms behind it: so the front door can stay on
loopback and without keys, and other machines reach this one alone.
"""

import contextlib
import logging
import socket
import ssl
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import attrs
import trio

from ollama_proxy.inbound.admission import Admission, Headers, Visitor, peer_of
from ollama_proxy.inbound.bounds import Bounds
from ollama_proxy.inbound.encryption import Encrypted, Handshakes
from ollama_proxy.inbound.front import Front
from ollama_proxy.inbound.guarded import GuardedServer
from ollama_proxy.inbound.trust import Gate
from ollama_proxy.pinned import der_of, fingerprint_of, server_context
from ollama_proxy.policy.access import PAIRED, Permission
from ollama_proxy.policy.peers import household
from ollama_proxy.policy.refusal import Code, Refusal

log = logging.getLogger("ollama_proxy.paired")
RETRY_S = 10.0
_ADDRESSES = 1024  # that are remembered


@attrs.frozen(kw_only=True)
class Guest:
    """A router that may come.

    Attributes:
        name: for the log.
        certificate: in PEM.
    """

    name: str
    certificate: str


class Guests:
    """Who may come, and who is here."""

    def __init__(self, own: Path) -> None:
        """Nobody yet. `own`: our certificate and its key, in one PEM."""
        self._own = own
        self._names: dict[str, str] = {}
        self._here: defaultdict[str, weakref.WeakSet[trio.SocketStream]] = defaultdict(
            weakref.WeakSet
        )
        self._context: ssl.SSLContext | None = None
        self._last_from: dict[str, str] = {}
        self.changed = trio.Event()

    def __bool__(self) -> bool:
        return bool(self._names)

    def follow(self, guests: Iterable[Guest]) -> None:
        """Let these in from now on, and hang up on all others.

        Raises:
            OSError: our certificate cannot be used, and nobody is let in; an SSLError is one.
        """
        wanted = {fingerprint_of(der_of(each.certificate)): each for each in guests}
        self._names = {}
        try:
            if wanted:
                self._context = server_context(
                    self._own, [each.certificate for each in wanted.values()]
                )
                self._names = {fingerprint: each.name for fingerprint, each in wanted.items()}
        finally:
            for fingerprint in self._here.keys() - self._names.keys():
                for stream in self._here.pop(fingerprint):
                    hang_up(stream)
            self.changed.set()
            self.changed = trio.Event()

    def context(self, protocol: str) -> ssl.SSLContext:
        """What connections that begin now are encrypted with; there is one protocol."""
        assert self._context is not None, f"the door is closed: {protocol}"  # noqa: S101 - Rule 1
        return self._context

    def welcome(self, certificate: bytes, stream: trio.SocketStream) -> bool:
        """Whether who showed this certificate, in DER, may stay: the pair may just be dissolved."""
        fingerprint = fingerprint_of(certificate)
        if fingerprint not in self._names:
            return False
        self._here[fingerprint].add(stream)
        if len(self._last_from) >= _ADDRESSES:
            self._last_from.clear()
        self._last_from[peer_of(stream)] = self._names[fingerprint]
        return True

    def name_at(self, address: str) -> str:
        """Who came last from an address, for the log; two behind one address are mixed up there."""
        return self._last_from.get(address, "")


def hang_up(stream: trio.SocketStream) -> None:
    """End a connection, whoever reads or writes on it: for them their client has left."""
    with contextlib.suppress(OSError):
        stream.socket.shutdown(socket.SHUT_RDWR)


class PairedHandshakes(Handshakes):
    """Handshakes in which both show a certificate."""

    def __init__(self, guests: Guests, *, timeout_s: float) -> None:
        """Let these in."""
        super().__init__(guests, protocol="", timeout_s=timeout_s)
        self._guests = guests

    async def shake(self, stream: trio.SocketStream) -> Encrypted | None:
        """As the others'; None for strangers, too."""
        encrypted = await super().shake(stream)
        if not isinstance(encrypted, trio.SSLStream):
            return None
        shown = encrypted.getpeercert(binary_form=True)
        return encrypted if shown and self._guests.welcome(shown, stream) else None


class PairedAdmission(Admission):
    """Lets paired routers do what they are for, whatever keys they bring."""

    def __init__(self, guests: Guests) -> None:
        """Know who they are."""
        super().__init__()
        self._guests = guests

    def admit(
        self,
        what: str,
        headers: Headers,  # noqa: ARG002 - rule 2
        peer: str,
        *,
        counts: bool = True,  # noqa: ARG002 - there is no rate: one router asks for all its users
    ) -> Visitor | Refusal:
        """See `Admission`."""
        if what not in PAIRED:
            return Refusal(Code.PERMISSION_DENIED, "A paired router may ask for inference alone.")
        may = frozenset({Permission.INFER, Permission.READ})
        return Visitor(may, None, household(peer), self._guests.name_at(peer))


class PairedGate(Gate):
    """Hears whoever has shaken hands, under whatever name; no page of a browser can have."""

    def __init__(self, guests: Guests) -> None:
        """Know who they are."""
        super().__init__(bound_host="", admission=PairedAdmission(guests), is_encrypted=True)

    def judge(self, host: bytes, origin: bytes | None) -> Refusal | None:  # noqa: ARG002 - as above
        """See `Gate`."""
        if origin is None:
            return None
        return Refusal(Code.FORBIDDEN, "Pages are not heard here.", param="Origin")


class PairedDoor:
    """The door, opened and closed with those who may come."""

    def __init__(
        self,
        guests: Guests,
        new_front: Callable[[], tuple[Front, GuardedServer]],
        *,
        host: str,
        port: int,
        bounds: Bounds,
    ) -> None:
        """Closed.

        Args:
            guests: who may come.
            new_front: what serves them from an opening to the next closing, and what serves it.
            host: where to listen.
            port: as well.
            bounds: of all connections together.
        """
        self.bounds = bounds
        self._guests = guests
        self._new_front = new_front
        self._host = host
        self._port = port
        self._front: Front | None = None
        self._is_draining = False
        self._told = ""
        self._starting: trio.TaskStatus[None] | None = None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._front.connections if self._front is not None else 0

    def drain(self) -> None:
        """Take no more, and close each as soon as nothing is owed on it."""
        self._is_draining = True
        if self._front is not None:
            self._front.drain()

    async def wait_empty(self) -> None:
        """Wait until there is none."""
        if self._front is not None:
            await self._front.wait_empty()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Keep it open while there are guests. A port that is taken is tried again, and told of once.

        Reports itself started when it is open, or is not to be, or cannot be yet.
        """
        self._starting = task_status
        while True:
            while self._is_draining or not self._guests:
                self._report()
                await self._guests.changed.wait()
            try:
                listeners = await trio.open_tcp_listeners(self._port, host=self._host, backlog=128)
            except OSError as error:
                self._report()
                await self._wait(error.strerror or str(error))
                continue
            await self._serve(listeners)

    def _report(self) -> None:
        """Whoever opens the doors need wait no more."""
        if self._starting is not None:
            self._starting.started()
            self._starting = None

    async def _serve(self, listeners: list[trio.SocketListener]) -> None:
        """Serve until there is no guest any more, and close."""
        try:
            front, guarded = self._new_front()
            async with trio.open_nursery() as nursery:
                await nursery.start(guarded.run)
                await nursery.start(front.serve, listeners)
                self._front, self._told = front, ""
                if self._is_draining:
                    front.drain()
                log.info("paired routers are heard on %s:%d", self._host, self._port)
                self._report()
                while self._guests:
                    await self._guests.changed.wait()
                self._front = None
                nursery.cancel_scope.cancel()
        finally:
            for each in listeners:
                each.socket.close()
        log.info("there is no paired router any more: their door is closed")

    async def _wait(self, why: str) -> None:
        if why != self._told:
            log.error(
                "paired routers are not heard: cannot listen on %s:%d: %s. Choose others with"
                " pairing.host and pairing.port, and pair anew",
                self._host,
                self._port,
                why,
            )
            self._told = why
        with trio.move_on_after(RETRY_S):
            await self._guests.changed.wait()
