"""What every backend can do, and what it asks of whoever takes its answer.

The engine knows backends by this file alone. A backend gives bytes of an answer to a `Sink`; there
is no queue between the two, so that a slow reader slows its backend and nobody else.
"""

import enum
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs

from ollama_proxy.policy.ask import Call
from ollama_proxy.policy.fleet import BackendSpec
from ollama_proxy.policy.node import Node
from ollama_proxy.policy.refusal import Code


@attrs.frozen(kw_only=True)
class Errand:
    """One inference call to be made on a backend.

    Attributes:
        call: the call in the caller's dialect; the backend translates where it must.
        model: the model's name as the caller gave it.
        body: the caller's JSON, untouched.
        stream: whether the answer is to come in pieces.
        headers: the few headers that are passed on, lower-case names.
    """

    call: Call
    model: str
    body: bytes | bytearray
    stream: bool
    headers: tuple[tuple[bytes, bytes], ...] = ()


@attrs.frozen(kw_only=True)
class Way:
    """How somebody else makes a call on a backend's server.

    Attributes:
        host: a name or a literal address.
        port: of TCP.
        path: where the call lives there.
        model: the name that the server knows it by.
        body: makes what to send; None: what the caller sent, as it is.
        headers: to be set; the server's key, if it wants one.
    """

    host: str
    port: int
    path: str
    model: str
    body: Callable[[], bytes] | None = attrs.field(default=None, eq=False, repr=False)
    headers: tuple[tuple[bytes, bytes], ...] = attrs.field(default=(), repr=False)


@attrs.frozen(kw_only=True)
class Head:
    """The beginning of an answer: status, headers that may pass, body length if it was told."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    length: int | None = None


class Tap(Protocol):
    """A sink's way out for a stream whose bytes pass unchanged: a socket the pump writes to."""

    @property
    def descriptor(self) -> int:
        """The socket's file descriptor; negative once nobody is there."""

    def frame(self, chunks: list[bytes], *, complete: bool) -> bytes:
        """Body bytes as they go on the wire; `complete` adds what ends the body."""

    async def flush(self, rest: bytes) -> None:
        """Write what the socket would not take at once. Raises CallerLeft as `Sink.write`."""


class Sink(Protocol):
    """Takes one answer. Every awaited method raises CallerLeft when nobody is there to take it."""

    def connected(self, *, is_fresh: bool) -> None:
        """There is a connection to ask on, made for this call or kept from another."""

    def asked(self) -> None:
        """The request is out, and for a while there is nothing to do but wait."""

    async def begin(self, head: Head, first: bytes, *, complete: bool) -> None:
        """Send the head and the first bytes together; from here on nothing is tried again."""

    async def write(self, data: bytes, *, complete: bool = False) -> None:
        """Send body bytes; `complete` says that they are the last."""

    def tap(self) -> Tap | None:
        """The way for the pump, once begun; None where bytes must come through `write`."""


class Transcript(Protocol):
    """What the caller of a stream was given, so that another attempt can go on where one broke off.

    The parts of an answer pass through it in turn: each is opened, then fed.
    """

    @property
    def pieces(self) -> int:
        """How many pieces said something."""

    @property
    def is_continuable(self) -> bool:
        """Whether another part could go on from here."""

    def continued(self) -> Errand | None:
        """What is left to do; None where nobody could go on."""

    def open(self, head: Head) -> None:
        """A part's head has come.

        Raises:
            BackendFailed: a later part is none.
        """

    def feed(self, data: bytes, *, complete: bool) -> bytes:
        """What the caller is to have of a part's bytes; none while a piece is not whole."""


@attrs.frozen(kw_only=True)
class Report:
    """What a server says of the work that one answer took. None: it does not tell.

    It is said, not measured: whoever computes with it must bear a zero, and times that no clock
    here would confirm.

    Attributes:
        prompt_tokens: tokens of the prompt, as the server counts them.
        cached_tokens: how many of those it took from its prefix cache instead of computing them.
        answer_tokens: tokens it generated.
        load_s: seconds for loading the model.
        prefill_s: seconds for the prompt, the cached part left out.
        decode_s: seconds for the answer.
    """

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    answer_tokens: int | None = None
    load_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None


@attrs.frozen(kw_only=True)
class Served:
    """What a backend can tell of an answer it gave to the end.

    Attributes:
        status: HTTP's.
        tokens: streamed pieces; None for a whole answer.
        computed: the server worked for it, so that its time tells something of the server.
        report: what the server itself says of its work; None where it says nothing.
    """

    status: int
    tokens: int | None = None
    computed: bool = True
    report: Report | None = None


@attrs.frozen(kw_only=True)
class Probe:
    """What a backend says of itself. None: it does not tell.

    Attributes:
        models: the models that it has.
        loaded: those of them that are in memory.
        version: its own.
        computing: how many requests it is computing now, those of callers who left included.
        node: what it says of itself, where it is a router.
    """

    models: frozenset[str] | None = None
    loaded: frozenset[str] | None = None
    version: str | None = None
    computing: int | None = None
    node: Node | None = None


class Fault(enum.Enum):
    """In which way a backend failed; what each means for the next attempt is the engine's to say."""

    UNREACHABLE = "unreachable"  # no connection
    BROKE = "broke"  # the connection ended before the answer did
    GARBLED = "garbled"  # bytes that are no answer
    REFUSED = "refused"  # an answer that says it cannot: 5xx, 429
    SILENT = "silent"  # nothing came for too long
    FULL = "full"  # a router that is well, and takes no more for now
    DECLINED = (
        "declined"  # a router that is well, and cannot serve this one request as it is wished
    )


class BackendFailed(Exception):  # noqa: N818 - read as a sentence where it is caught
    """The backend is at fault. The message is fit for the caller: no address, no key."""

    def __init__(
        self,
        fault: Fault,
        message: str,
        *,
        status: int | None = None,
        code: Code | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Keep the fault, and what the backend gave: HTTP status, code, when to come again."""
        super().__init__(message)
        self.fault = fault
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class CallUnserved(Exception):  # noqa: N818 - as above
    """The backend's server does not know this call at all; another backend may."""


class ModelMissing(Exception):  # noqa: N818 - as above
    """The backend does not have the model after all; its list was out of date."""


class CallRejected(Exception):  # noqa: N818 - as above
    """The backend says that the caller is at fault, in words that must be put into its dialect."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the backend's status and sentence."""
        super().__init__(message)
        self.status = status


class CallerLeft(Exception):  # noqa: N818 - as above
    """Whoever asked is gone, or stopped reading for too long. Nobody's fault here."""


@attrs.frozen(kw_only=True)
class Reply:
    """An answer to a management call, body still to come."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: AsyncIterator[bytes]


class Backend(Protocol):
    """One server that computes answers."""

    @property
    def spec(self) -> BackendSpec:
        """What its owner wrote down."""

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """Make the call and give the answer to `sink`.

        Cancelling closes the connection at once, so that the server stops computing.

        Raises:
            BackendFailed, CallUnserved, ModelMissing: before or, the first alone, after `begin`.
            CallerLeft: from `sink`.
        """

    def way(self, errand: Errand) -> Way:
        """How another proxy makes the call, which translates nothing.

        Raises:
            CallUnserved: it could not.
        """

    async def probe(self) -> Probe:
        """Ask how it is; cheap, and never loads a model.

        Raises:
            BackendFailed: it is not well.
        """

    def call(
        self, method: str, path: str, *, body: AsyncIterator[bytes] | bytes | None = None
    ) -> AbstractAsyncContextManager[Reply]:
        """Make a management call (list, show, pull ...), off the hot path.

        Raises:
            BackendFailed: on entering, when there is no answer.
        """

    async def run(self) -> None:
        """Do what this backend needs done for as long as it is in use; return when nothing is."""

    def forget_connections(self) -> None:
        """Close idle connections: the machine slept, and their other ends may be gone."""

    async def aclose(self) -> None:
        """Close every connection."""
