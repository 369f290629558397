"""One connection to a bus: calls out, signals in, calls in; nothing is dropped on the way.

Rule 1: one task reads. It hands each answer to its caller and each signal to who wants it, at once
        and in order; what is called with a signal (a sink) neither waits nor raises.
Rule 2: a connection that is lost cancels all that is done with it: see `opening`.
Rule 3: jeepney's router was not taken, as it drops what does not fit into its queues.
"""

import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from jeepney import DBusAddress, new_error, new_method_call, new_method_return, new_signal
from jeepney.fds import FileDescriptor
from jeepney.io.trio import DBusConnection
from jeepney.low_level import HeaderFields, Message, MessageFlag, MessageType

from ollama_proxy.bus.message import (
    DAEMON,
    DAEMON_OWNER,
    DISCONNECTED,
    INVALID_SIGNATURE,
    NO_REPLY,
    UNKNOWN_OBJECT,
    Call,
    CallFailed,
    CallRefused,
    Owner,
    Pace,
    Remote,
    Rule,
    Signal,
)

GOODBYE_S = 1.0

Body = tuple[Any, ...]
Sink = Callable[[Signal], None]
# Answers a call by a signature and a body as of it; raises `CallRefused` to answer by an error.
Answerer = Callable[[Call], Awaitable[tuple[str, Body]]]

# What jeepney raises of bytes that are no message.
UNREADABLE = (ValueError, LookupError, AssertionError, TypeError, RuntimeError, struct.error)


@attrs.define(eq=False)
class _Caller:
    answered: trio.Event = attrs.field(factory=trio.Event)
    answer: Message | None = None


class Bus:
    """A connection to a bus, made by `opening.open_bus`.

    Attributes:
        name: ours, unique on this bus.
        pace: how patient its users should be.
        on_call: answers what others call of us; None: there is nothing to call.
    """

    def __init__(self, connection: DBusConnection, name: str, pace: Pace) -> None:
        """Take over a connection that has been greeted."""
        self.name = name
        self.pace = pace
        self.on_call: Answerer | None = None
        self._connection = connection
        self._callers: dict[int, _Caller] = {}
        self._wanted: list[tuple[Rule, Sink]] = []

    async def call(
        self,
        remote: Remote,
        member: str,
        signature: str = "",
        body: Body = (),
        *,
        returns: str = "",
        starts: bool = False,
        timeout_s: float | None = None,
    ) -> Body:
        """Call a method and wait for its answer.

        Args:
            remote: of what.
            member: the method.
            signature: of the body.
            body: the arguments.
            returns: the signature that the answer must have.
            starts: whether the bus may start the service that is called, if it can.
            timeout_s: seconds to wait for the answer; the pace's own if left out.

        Raises:
            CallFailed: an error came, or an answer of another type, or none in time.
        """
        address = DBusAddress(remote.path, remote.name, remote.interface)
        message = new_method_call(address, member, signature or None, body)
        if not starts:
            message.header.flags |= MessageFlag.no_auto_start
        serial = next(self._connection.outgoing_serial)
        caller = self._callers[serial] = _Caller()
        patience_s = self.pace.timeout_s if timeout_s is None else timeout_s
        try:
            with trio.move_on_after(patience_s):
                await self._send(message, serial)
                await caller.answered.wait()
        except trio.Cancelled:
            # The answer may have come just before.
            _close_descriptors(caller.answer.body if caller.answer is not None else ())
            raise
        finally:
            del self._callers[serial]
        if caller.answer is None:
            raise CallFailed(NO_REPLY, f"{remote.name} did not answer within {patience_s:g} s")
        return _answer(caller.answer, returns)

    async def emit(
        self, path: str, interface: str, member: str, signature: str = "", body: Body = ()
    ) -> None:
        """Send a signal to all who want it.

        Raises:
            CallFailed: the connection is lost.
        """
        await self._send(
            new_signal(DBusAddress(path, interface=interface), member, signature or None, body)
        )

    @asynccontextmanager
    async def subscribed(self, rule: Rule, sink: Sink) -> AsyncIterator[None]:
        """Have each signal that fits given to `sink`, in order, as long as this lasts.

        Raises:
            CallFailed: the bus does not allow it.
        """
        entry = (rule, sink)
        self._wanted.append(entry)
        try:
            await self.call(DAEMON, "AddMatch", "s", (str(rule),))
            yield
        finally:
            self._wanted.remove(entry)
            with (
                trio.move_on_after(GOODBYE_S, shield=True),
                contextlib.suppress(CallFailed),
            ):
                await self._tell(DAEMON, "RemoveMatch", "s", (str(rule),))

    @asynccontextmanager
    async def following(
        self, name: str, on_change: Callable[[Owner], None]
    ) -> AsyncIterator[Owner]:
        """Know who owns a name, as long as this lasts; `on_change` is called after each change.

        Raises:
            CallFailed: the bus does not allow it.
        """
        owner = Owner(name)
        has_changed = False

        def changed(signal: Signal) -> None:
            nonlocal has_changed
            if signal.signature == "sss":
                has_changed = True
                owner.unique = signal.body[2] or None
                on_change(owner)

        rule = Rule(
            sender=DAEMON_OWNER,
            interface=DAEMON.interface,
            member="NameOwnerChanged",
            argument=name,
        )
        async with self.subscribed(rule, changed):
            unique = None
            with contextlib.suppress(CallFailed):  # that nobody owns it is an error, too
                (unique,) = await self.call(DAEMON, "GetNameOwner", "s", (name,), returns="s")
            # The answer may have been overtaken by a change while this task was not running.
            if not has_changed:
                owner.unique = unique
            yield owner

    async def _tell(self, remote: Remote, member: str, signature: str, body: Body) -> None:
        address = DBusAddress(remote.path, remote.name, remote.interface)
        message = new_method_call(address, member, signature, body)
        message.header.flags |= MessageFlag.no_reply_expected
        await self._send(message)

    async def _send(self, message: Message, serial: int | None = None) -> None:
        try:
            await self._connection.send(message, serial=serial)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise CallFailed(DISCONNECTED, "the bus is gone") from None

    async def read(self, nursery: trio.Nursery) -> str:
        """Read until the connection is lost; calls are answered in the nursery. Returns why."""
        while True:
            try:
                message = await self._connection.receive()
            except (trio.EndOfChannel, trio.BrokenResourceError):
                return "it hung up"
            except UNREADABLE as error:
                # Where its next message begins is not known any more, either.
                return f"it sent what cannot be read: {error!r}"
            self._dispatch(message, nursery)

    def _dispatch(self, message: Message, nursery: trio.Nursery) -> None:
        fields = message.header.fields
        kind: MessageType = message.header.message_type
        match kind:
            case MessageType.method_return | MessageType.error:
                caller = self._callers.get(fields.get(HeaderFields.reply_serial, 0))
                if caller is None:
                    _close_descriptors(message.body)  # whoever asked has gone
                    return
                caller.answer = message
                caller.answered.set()
            case MessageType.signal:
                signal = Signal(
                    sender=fields.get(HeaderFields.sender, ""),
                    path=fields[HeaderFields.path],
                    interface=fields[HeaderFields.interface],
                    member=fields[HeaderFields.member],
                    signature=fields.get(HeaderFields.signature, ""),
                    body=message.body,
                )
                for rule, sink in self._wanted.copy():
                    if rule.fits(signal):
                        sink(signal)
                _close_descriptors(message.body)
            case MessageType.method_call:
                nursery.start_soon(self._serve, message)

    async def _serve(self, message: Message) -> None:
        fields = message.header.fields
        call = Call(
            sender=fields.get(HeaderFields.sender, ""),
            path=fields[HeaderFields.path],
            interface=fields.get(HeaderFields.interface),
            member=fields[HeaderFields.member],
            signature=fields.get(HeaderFields.signature, ""),
            body=message.body,
        )
        try:
            signature, body = await (self.on_call or _nothing_here)(call)
            answer = new_method_return(message, signature or None, body)
        except CallRefused as refused:
            answer = new_error(message, refused.name, "s", (str(refused),))
        _close_descriptors(call.body)
        if not message.header.flags & MessageFlag.no_reply_expected:
            with contextlib.suppress(CallFailed):  # then nobody hears it
                await self._send(answer)


async def _nothing_here(_: Call) -> tuple[str, Body]:
    raise CallRefused(UNKNOWN_OBJECT, "there is nothing to call here")


def _answer(message: Message, returns: str) -> Body:
    signature = message.header.fields.get(HeaderFields.signature, "")
    body: Body = message.body
    if message.header.message_type is MessageType.error:
        text = body[0] if signature.startswith("s") else ""
        raise CallFailed(message.header.fields[HeaderFields.error_name], text)
    if signature != returns:
        _close_descriptors(body)
        raise CallFailed(INVALID_SIGNATURE, f"the answer is {signature!r}, not {returns!r}")
    return body


def _close_descriptors(value: object) -> None:
    """Close every file descriptor in a body that nobody takes."""
    match value:
        case FileDescriptor():
            value.close()
        case dict():
            _close_descriptors(tuple(value.values()))
        case tuple() | list():
            for inner in value:
                _close_descriptors(inner)
        case _:
            return
