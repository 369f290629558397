"""A call as its method sees it, and the table of methods, made from the services' descriptors."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, Self

import attrs

from ollama_proxy.inbound.admission import Visitor
from ollama_proxy.inbound.grpc.metadata import Head, Pairs
from ollama_proxy.inbound.grpc.status import CallFailed, Status

_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Message(Protocol):
    """What any generated message can do."""

    @classmethod
    def FromString(cls, data: bytes) -> Self:  # noqa: N802 - protobuf's name
        """Read one. Raises DecodeError."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Write it."""


class Rpc(Protocol):
    """One call, as its method sees it.

    Attributes:
        arrived: when, in seconds.
        deadline: when its caller stops waiting; `inf`: never.
        peer: who asks, as far as the socket tells.
        visitor: who was let in.
        initial: metadata for the answer's head, while it was not sent.
        trailing: metadata for its end.
        compress: messages of the answer that are large.
        is_job: it became one, which has its own place in the books.
    """

    arrived: float
    deadline: float
    peer: str
    visitor: Visitor
    initial: Pairs
    trailing: Pairs
    compress: bool
    is_job: bool

    @property
    def head(self) -> Head:
        """What it began with."""

    @property
    def has_begun(self) -> bool:
        """Whether anything of the answer was sent."""

    @property
    def was_compressed(self) -> bool:
        """Whether the message that was received last had been."""

    async def receive(self) -> Any:  # noqa: ANN401 - its method knows which
        """The next message; None where no more come.

        Raises:
            CallFailed: it is none.
        """

    def take(self) -> Any:  # noqa: ANN401 - as above
        """The next message that is there already; None where there is none.

        Raises:
            CallFailed: as `receive`.
        """

    @property
    def has_ended(self) -> bool:
        """Whether no more messages come than those that are there."""

    async def wait(self) -> None:
        """Wait until there may be more to take, or until `rouse`."""

    def rouse(self) -> None:
        """End the waiting: whoever waits has something else to do."""

    def begin(self, headers: Pairs) -> None:
        """Send the head of an answer, before there is any message.

        Raises:
            CallerLeft: nobody reads it any more.
        """

    def send_at_once(self, message: Message) -> bool:
        """Send a message, if its reader takes all of it now; false where it does not, or has left.

        For another task than the one that serves the call, while that one waits.
        """

    async def send(self, message: Message) -> None:
        """Send a message, as soon as its reader takes it.

        Raises:
            CallerLeft: nobody reads it any more.
        """


Serve = Callable[[Rpc], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Method:
    """What can be called.

    Attributes:
        path: its name on the wire.
        takes: its requests' type.
        serve: serves one call; raises CallFailed or RequestRefused.
        is_work: it comes to an end by itself; at the router's end, others are ended at once.
        counts: it counts to its caller's rate. Not where it brings other people's requests, each of
            which does.
        message_bytes: the largest message that it takes; None: what the connection does.
        hears_faults: a message that is too large is its to answer: `receive` raises CallFailed.
        relays: whoever may call it brings other people's requests, on the same connection.
    """

    path: str
    takes: type[Message]
    serve: Serve
    is_work: bool = True
    counts: bool = True
    message_bytes: int | None = None
    hears_faults: bool = False
    relays: bool = False


def _unary(answer: Callable[[Any, Rpc], Awaitable[Message]]) -> Serve:
    async def serve(rpc: Rpc) -> None:
        await rpc.send(await answer(await _only_request(rpc), rpc))

    return serve


def _server_streaming(answer: Callable[[Any, Rpc], Awaitable[None]]) -> Serve:
    async def serve(rpc: Rpc) -> None:
        await answer(await _only_request(rpc), rpc)

    return serve


async def _only_request(rpc: Rpc) -> Any:  # noqa: ANN401 - its method knows which
    request = await rpc.receive()
    if request is None:
        raise CallFailed(Status.INTERNAL, "There is no request message.")
    return request


def methods_of(service: Any, servicer: object, endless: tuple[str, ...] = ()) -> list[Method]:  # noqa: ANN401 - protobuf has no types
    """The methods of a service.

    Args:
        service: its descriptor.
        servicer: has a coroutine method for each, `GenerateStream` as `generate_stream`: of request
            and rpc, which returns the answer or, where that is a stream, sends it; of the rpc alone
            where requests are a stream, too.
        endless: methods that end only with their callers.
    """
    methods = []
    for method in service.methods:
        answer = getattr(servicer, _HUMP.sub("_", method.name).lower())
        serve: Serve = answer
        if not method.client_streaming:
            serve = (_server_streaming if method.server_streaming else _unary)(answer)
        methods.append(
            Method(
                path=f"/{service.full_name}/{method.name}",
                takes=method.input_type._concrete_class,  # noqa: SLF001 - there is no other way
                serve=serve,
                is_work=method.name not in endless,
            )
        )
    return methods
