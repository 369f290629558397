"""Our objects, and the answers to calls of them: what is asked is checked against the XML, then done."""

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import attrs
import trio

from ollama_proxy.bus.message import UNKNOWN_OBJECT, Call, CallRefused
from ollama_proxy.inbound.dbus.interface import Interface, Property, read_interfaces
from ollama_proxy.inbound.dbus.values import Variant

NAME = "ie.fio.OllamaProxy"
UNKNOWN = NAME + ".Error.Unknown"
_ERROR = "org.freedesktop.DBus.Error."
UNKNOWN_INTERFACE = _ERROR + "UnknownInterface"
UNKNOWN_METHOD = _ERROR + "UnknownMethod"
UNKNOWN_PROPERTY = _ERROR + "UnknownProperty"
READ_ONLY = _ERROR + "PropertyReadOnly"
INVALID_ARGS = _ERROR + "InvalidArgs"
LIMITS_EXCEEDED = _ERROR + "LimitsExceeded"
FILE_NOT_FOUND = _ERROR + "FileNotFound"
MACHINE_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)

Body = tuple[Any, ...]
PEER, INTROSPECTABLE, PROPERTIES = read_interfaces("standard")


def path_of(name: str) -> str:
    """The path of the object that belongs to a name."""
    return "/" + name.replace(".", "/")


@attrs.frozen(kw_only=True)
class Exported:
    """One of our objects: its interface, and where what it says comes from.

    Attributes:
        interface: as its file describes it.
        constants: properties that never change.
        states: those whose every change is told; what is not known is missing.
        gauges: those that change all the time, and are told a few times a second at most.
        methods: what its methods do; the call's types are right already.
        setters: what setting a property does, of those that may be.
    """

    interface: Interface
    constants: Mapping[str, object]
    states: Callable[[], Mapping[str, object]] = dict
    gauges: Callable[[], Mapping[str, object]] = dict
    methods: Mapping[str, Callable[[Call], Awaitable[Body]]] = attrs.field(factory=dict)
    setters: Mapping[str, Callable[[Any], None]] = attrs.field(factory=dict)

    @property
    def path(self) -> str:
        """Where it is."""
        return path_of(self.interface.name)

    def typed(self, values: Mapping[str, object]) -> dict[str, Variant]:
        """Properties with their types."""
        described = self.interface.properties
        return {name: (described[name].signature, value) for name, value in values.items()}

    def known(self) -> dict[str, Variant]:
        """All that is known now."""
        return self.typed({**self.constants, **self.states(), **self.gauges()})


@attrs.frozen
class _Offer:
    """An interface at some path, and who does what its methods say."""

    interface: Interface
    do: Callable[[Call], Awaitable[Body]]


class Tree:
    """All our objects, by their paths."""

    def __init__(self, objects: Iterable[Exported]) -> None:
        """Put them where their names say."""
        self._children: dict[str, set[str]] = {}
        self._offers: dict[str, dict[str, _Offer]] = {}
        for exported in objects:
            self._offers[exported.path] = {
                exported.interface.name: _Offer(exported.interface, _by_name(exported)),
                PROPERTIES.name: _Offer(PROPERTIES, _properties_of(exported)),
            }
            above, _, name = exported.path.rpartition("/")
            while name:
                self._children.setdefault(above or "/", set()).add(name)
                above, _, name = above.rpartition("/")
        for path in {*self._offers, *self._children}:
            offers = self._offers.setdefault(path, {})
            offers[INTROSPECTABLE.name] = _Offer(INTROSPECTABLE, self._introspect)
            offers[PEER.name] = _Offer(PEER, _be_peer)

    async def answer(self, call: Call) -> tuple[str, Body]:
        """Do what is asked, and answer it.

        Raises:
            CallRefused: there is no such thing, or what comes with it is wrong.
        """
        offer = self._offer(call)
        method = offer.interface.methods.get(call.member)
        if method is None:
            raise _no_method(call)
        if call.signature != method.takes:
            raise CallRefused(
                INVALID_ARGS,
                f"{call.member} takes ({method.takes}), and was given ({call.signature}).",
            )
        return method.returns, await offer.do(call)

    def _offer(self, call: Call) -> _Offer:
        """Whose method it is. Nobody has to name an interface."""
        offers = self._offers.get(call.path)
        if offers is None:
            if call.interface == PEER.name:  # of every path, as the specification has it
                return _Offer(PEER, _be_peer)
            raise CallRefused(UNKNOWN_OBJECT, f"There is no object at {call.path}.")
        if call.interface is None:
            for offer in offers.values():
                if call.member in offer.interface.methods:
                    return offer
            raise _no_method(call)
        if call.interface not in offers:
            raise CallRefused(UNKNOWN_INTERFACE, f"{call.path} has no {call.interface}.")
        return offers[call.interface]

    async def _introspect(self, call: Call) -> Body:
        interfaces = [offer.interface.xml for offer in self._offers[call.path].values()]
        children = [f'<node name="{n}"/>' for n in sorted(self._children.get(call.path, ()))]
        return (_DOCTYPE + "\n".join(["<node>", *interfaces, *children, "</node>"]) + "\n",)


def _no_method(call: Call) -> CallRefused:
    where = f"{call.interface} at {call.path}" if call.interface else call.path
    return CallRefused(UNKNOWN_METHOD, f"{where} has no method {call.member}.")


def _by_name(exported: Exported) -> Callable[[Call], Awaitable[Body]]:
    async def do(call: Call) -> Body:
        return await exported.methods[call.member](call)

    return do


async def _be_peer(call: Call) -> Body:
    if call.member == "Ping":
        return ()
    for path in MACHINE_IDS:
        with contextlib.suppress(OSError):
            machine_id = await trio.Path(path).read_text()
            return (machine_id.strip(),)
    raise CallRefused(FILE_NOT_FOUND, "This machine has no id.")


def _properties_of(exported: Exported) -> Callable[[Call], Awaitable[Body]]:
    """What org.freedesktop.DBus.Properties says of an object. An empty interface is ours."""
    interface = exported.interface
    known_names = {"", interface.name, PROPERTIES.name, INTROSPECTABLE.name, PEER.name}

    def described(name: str, property_name: str) -> Property:
        if name not in known_names:
            raise CallRefused(UNKNOWN_INTERFACE, f"{exported.path} has no {name}.")
        found = interface.properties.get(property_name) if name in {"", interface.name} else None
        if found is None:
            raise CallRefused(
                UNKNOWN_PROPERTY, f"{name or exported.path} has no property {property_name}."
            )
        return found

    def get(name: str, property_name: str) -> Body:
        described(name, property_name)
        value = exported.known().get(property_name)
        if value is None:
            raise CallRefused(UNKNOWN, f"{property_name} is not known on this machine.")
        return (value,)

    def get_all(name: str) -> Body:
        if name not in known_names:
            raise CallRefused(UNKNOWN_INTERFACE, f"{exported.path} has no {name}.")
        return (exported.known() if name in {"", interface.name} else {},)

    def set_(name: str, property_name: str, variant: Variant) -> Body:
        found = described(name, property_name)
        if not found.is_writable:
            raise CallRefused(READ_ONLY, f"{property_name} cannot be set.")
        signature, value = variant
        if signature != found.signature:
            raise CallRefused(
                INVALID_ARGS,
                f"{property_name} is of type {found.signature}, and was given {signature}.",
            )
        exported.setters[property_name](value)
        return ()

    does: dict[str, Callable[..., Body]] = {"Get": get, "GetAll": get_all, "Set": set_}

    async def do(call: Call) -> Body:
        return does[call.member](*call.body)

    return do
