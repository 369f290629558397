"""TLS at the doors: the certificate in force, and the handshakes of who comes.

Rule 1: files that cannot be used are told of and change nothing; what was encrypted stays as it was.
Rule 2: a handshake is bounded in time, what goes wrong in it is its own connection's alone, and however
many fail, few lines are logged.
"""

import logging
import math
import ssl
import time
from typing import Any, Final, NoReturn, Protocol, cast

import attrs
import trio

from ollama_proxy.certificates import BadCertificate, CertificateFiles, server_contexts, worries
from ollama_proxy.inbound.farewell import part

log = logging.getLogger("ollama_proxy.tls")

LINGER_S: Final = 1.0
TELL_S: Final = 60.0  # between two lines about handshakes that failed
WORRY_S: Final = 86400.0  # between two warnings of what clients will mind, such as its age
_IN_PLAIN_TEXT = b"This port speaks HTTPS: ask for https:// and not for http://.\n"
_TO_PLAIN_TEXT = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n"
    b"connection: close\r\n\r\n%b" % (len(_IN_PLAIN_TEXT), _IN_PLAIN_TEXT)
)

Encrypted = trio.SSLStream[trio.SocketStream]


class Encrypting(Protocol):
    """What knows how to encrypt."""

    def context(self, protocol: str) -> ssl.SSLContext:
        """What connections that begin now are encrypted with."""


class Encryption:
    """The certificate in force, for all doors."""

    def __init__(self, files: CertificateFiles) -> None:
        """Read it.

        Raises:
            BadCertificate: with every fault of the files.
        """
        self._files = files
        self._judged = self._seen = files.stamp()
        self._contexts = server_contexts(files)

    def context(self, protocol: str) -> ssl.SSLContext:
        """What connections that begin now are encrypted with."""
        return self._contexts[protocol]

    def renew(self, files: CertificateFiles | None = None) -> None:
        """Read it anew, and tell what came of it.

        Args:
            files: others than those until now.
        """
        files = files or self._files
        self._judged = files.stamp()
        try:
            self._contexts = server_contexts(files)
        except BadCertificate as bad:
            log.error("the certificate was not read anew: %s", bad)  # noqa: TRY400 - it says it all
            return
        self._files = files
        log.info("the certificate was read anew")
        self._warn()

    async def watch(self, interval_s: float) -> NoReturn:
        """Read it anew whenever its files have changed, looking at them every so many seconds."""
        warn_at = trio.current_time() + WORRY_S
        while True:
            await trio.sleep(interval_s)
            self._look()
            if trio.current_time() >= warn_at:
                self._warn()
                warn_at += WORRY_S

    def _warn(self) -> None:
        for key, worry in worries(self._files, time.time()):
            log.warning("server.tls.%s: %s", key, worry)

    def _look(self) -> None:
        """Files that change are left alone until they have not for one look: key and all are one."""
        seen = self._files.stamp()
        if seen != self._judged and seen == self._seen:
            self.renew()
        self._seen = seen


@attrs.define
class _Overheard:
    """A context whose connection's output is kept: Trio drops a failed handshake's last words."""

    context: ssl.SSLContext
    output: ssl.MemoryBIO = attrs.field(factory=ssl.MemoryBIO)

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **given: Any) -> object:  # noqa: ANN401 - as ssl has it
        """See `ssl.SSLContext`, of which Trio calls nothing else."""
        self.output = outgoing
        return self.context.wrap_bio(incoming, outgoing, **given)


class Handshakes:
    """Those of one door. Without encryption there are none, and everybody is let through."""

    def __init__(self, encryption: Encrypting | None, *, protocol: str, timeout_s: float) -> None:
        """None yet.

        Args:
            encryption: what they are about.
            protocol: what is spoken afterwards.
            timeout_s: how long one may take.
        """
        self._encryption = encryption
        self._protocol = protocol
        self._timeout_s = timeout_s
        self._under_way: set[trio.CancelScope] = set()
        self._tell_at = -math.inf
        self._untold = 0

    def drain(self) -> None:
        """Wait for none of them any more: nothing is owed yet."""
        for scope in list(self._under_way):
            scope.cancel()

    async def shake(self, stream: trio.SocketStream) -> trio.SocketStream | Encrypted | None:
        """What a door speaks through with who has connected; None where they got no further.

        It is not closed here in any case.
        """
        if self._encryption is None:
            return stream
        peer = _name(stream.socket.getpeername())
        overheard = _Overheard(self._encryption.context(self._protocol))
        encrypted = trio.SSLStream(
            stream,
            cast("ssl.SSLContext", overheard),
            server_side=True,
            https_compatible=True,
        )
        with trio.move_on_after(self._timeout_s) as scope:
            self._under_way.add(scope)
            try:
                await encrypted.do_handshake()
            except trio.BrokenResourceError as broken:
                self._tell(peer, _in_words(broken.__cause__))
                await _turn_away(stream, broken.__cause__, overheard.output.read())
            else:
                return encrypted
            finally:
                self._under_way.discard(scope)
        return None

    def _tell(self, peer: str, why: str) -> None:
        now = trio.current_time()
        if now < self._tell_at:
            self._untold += 1
            return
        others = f"; {self._untold} others had failed since the last was told" * bool(self._untold)
        log.info("no TLS with %s: %s%s", peer, why, others)
        self._tell_at, self._untold = now + TELL_S, 0


def _name(address: object) -> str:
    """A peer's address for people."""
    return str(address[0]) if isinstance(address, tuple) else str(address)


async def _turn_away(
    stream: trio.SocketStream, fault: BaseException | None, last_words: bytes
) -> None:
    """Let them know why: by an alert, or in the language that they spoke."""
    if isinstance(fault, ssl.SSLError) and fault.reason == "HTTP_REQUEST":
        last_words = _TO_PLAIN_TEXT
    if last_words:
        await stream.send_all(last_words)
        await part(stream, LINGER_S)


def _in_words(fault: BaseException | None) -> str:
    """Why a handshake failed: OpenSSL's words, nothing of what was sent."""
    match fault:
        case ssl.SSLCertVerificationError():
            return f"the client's certificate: {fault.verify_message}"
        case ssl.SSLError():
            return (fault.reason or "it makes no sense").lower().replace("_", " ")
        case _:
            return "the connection broke"
