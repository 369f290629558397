"""How a bus is found and greeted, and how a lost one ends what is done with it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from jeepney.auth import BEGIN, Authenticator
from jeepney.bus import get_connectable_addresses
from jeepney.bus_messages import message_bus
from jeepney.io.trio import DBusConnection
from jeepney.low_level import Message, MessageType

from ollama_proxy.bus.connection import UNREADABLE, Bus
from ollama_proxy.bus.message import BusAbsent, Pace

_SYSTEM = "unix:path=/run/dbus/system_bus_socket"


@asynccontextmanager
async def open_bus(where: str, pace: Pace | None = None) -> AsyncIterator[Bus]:
    """Connect to a bus; "session", "system", or an address as D-Bus writes it.

    Resource handling: what is done inside is cancelled when the connection is lost.

    Raises:
        BusAbsent: there is no bus, or it was lost.
    """
    pace = pace or Pace()
    lost_by = None
    try:
        with trio.fail_after(pace.timeout_s):
            stream = await _dial(where)
    except trio.TooSlowError:
        raise BusAbsent("it does not take our call") from None
    async with stream:
        try:
            with trio.fail_after(pace.timeout_s):
                connection, name = await _greet(stream)
        except trio.TooSlowError:
            raise BusAbsent(f"it said nothing for {pace.timeout_s:g} s") from None
        bus = Bus(connection, name, pace)
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                nonlocal lost_by
                lost_by = await bus.read(nursery)
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            yield bus
            nursery.cancel_scope.cancel()
    if lost_by is not None:
        raise BusAbsent(lost_by)


async def _dial(where: str) -> trio.SocketStream:
    """Open the socket of a bus: "session", "system", or an address as D-Bus writes it.

    Raises:
        BusAbsent: none of the address's sockets can be connected to.
    """
    why = "its address names no socket"
    for path in _sockets(where):
        try:
            return await trio.open_unix_socket(path)
        except OSError as error:
            why = str(error)
    raise BusAbsent(why)


def _sockets(where: str) -> list[str]:
    match where:
        case "session":
            address = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
            if not address:
                # Programs that no desktop started (a service, an SSH session) have only this one.
                directory = os.environ.get("XDG_RUNTIME_DIR")
                if not directory:
                    raise BusAbsent("this user has no session: XDG_RUNTIME_DIR is not set")
                return [f"{directory}/bus"]
        case "system":
            address = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or _SYSTEM
        case _:
            address = where
    try:
        return list(get_connectable_addresses(address))
    except (ValueError, RuntimeError) as error:
        raise BusAbsent(f"no address that can be used: {address!r} ({error})") from None


async def _greet(stream: trio.SocketStream) -> tuple[DBusConnection, str]:
    """Say who we are; file descriptors may be passed from then on.

    `jeepney.io.trio.open_dbus_connection` does the same and was not taken: it goes round and round
    where the bus hangs up meanwhile, and takes an error for its name.

    Returns:
        The connection, and our unique name on it.

    Raises:
        BusAbsent: the bus hung up, wants nothing of us, or is none.
    """
    try:
        return await _introduce(stream)
    except (trio.BrokenResourceError, trio.EndOfChannel):
        raise BusAbsent("it hung up on us") from None
    except UNREADABLE as error:
        raise BusAbsent(f"it does not let us in: {error}") from None


async def _introduce(stream: trio.SocketStream) -> tuple[DBusConnection, str]:
    authenticator = Authenticator(enable_fds=True, inc_null_byte=False)
    await stream.send_all(b"\0")
    for line in authenticator:
        await stream.send_all(line)
        answer = await stream.receive_some()
        if not answer:
            raise trio.EndOfChannel
        authenticator.feed(answer)
    await stream.send_all(BEGIN)
    connection = DBusConnection(stream.socket, enable_fds=True)
    await connection.send(message_bus.Hello())
    # Nothing can come before the answer to this.
    welcome: Message = await connection.receive()
    if welcome.header.message_type is not MessageType.method_return:
        raise BusAbsent(f"it refused us: {' '.join(map(str, welcome.body))}")
    return connection, str(welcome.body[0])
