"""How a bus is found and greeted; from then on it is a connection that carries messages."""

import os

import trio
from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.bus import get_connectable_addresses
from jeepney.bus_messages import message_bus
from jeepney.io.trio import DBusConnection
from jeepney.low_level import Message, MessageType

from ollama_proxy.bus.message import BusAbsent

_SYSTEM = "unix:path=/run/dbus/system_bus_socket"


async def dial(where: str) -> trio.SocketStream:
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


async def greet(stream: trio.SocketStream) -> tuple[DBusConnection, str]:
    """Say who we are; file descriptors may be passed from then on.

    `jeepney.io.trio.open_dbus_connection` does the same and was not taken: it goes round and round
    where the bus hangs up meanwhile, and takes an error for its name.

    Returns:
        The connection, and our unique name on it.

    Raises:
        BusAbsent: the bus hung up, wants nothing of us, or is none.
    """
    try:
        return await _greet(stream)
    except (trio.BrokenResourceError, trio.EndOfChannel):
        raise BusAbsent("it hung up on us") from None
    except AuthenticationError as error:
        raise BusAbsent(f"it does not let us in: {error}") from None


async def _greet(stream: trio.SocketStream) -> tuple[DBusConnection, str]:
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
