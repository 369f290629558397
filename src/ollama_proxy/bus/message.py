"""What goes over a bus, who is meant by it, and what may go wrong: values and no connection."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

# Names of errors that have a meaning for us; the specification's own.
NO_REPLY = "org.freedesktop.DBus.Error.NoReply"
DISCONNECTED = "org.freedesktop.DBus.Error.Disconnected"
INVALID_SIGNATURE = "org.freedesktop.DBus.Error.InvalidSignature"
UNKNOWN_OBJECT = "org.freedesktop.DBus.Error.UnknownObject"
SERVICE_UNKNOWN = "org.freedesktop.DBus.Error.ServiceUnknown"
NO_OWNER = "org.freedesktop.DBus.Error.NameHasNoOwner"


class BusAbsent(Exception):  # noqa: N818 - read as a sentence where it is caught
    """There is no bus where it was looked for, or it is there no more."""


class CallFailed(Exception):  # noqa: N818 - as above
    """A call was answered by an error, by something of another type, or not in time.

    Attributes:
        name: the D-Bus name of the error.
        text: what the other side said about it.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{text} ({name})" if text else name)
        self.name = name
        self.text = text


class CallRefused(Exception):  # noqa: N818 - as above
    """What a service raises to answer a call by an error; `name` is that error's D-Bus name."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


@attrs.frozen(kw_only=True)
class Pace:
    """How long the other side is waited for, and how soon it is tried again; in seconds."""

    timeout_s: float = 5.0
    first_pause_s: float = 5.0
    longest_pause_s: float = 300.0
    reread_s: float = 30.0

    def longer(self, pause_s: float) -> float:
        """The pause after a pause that did not help."""
        return min(pause_s * 2, self.longest_pause_s)


@attrs.frozen
class Remote:
    """One interface of one object of whoever owns a name."""

    name: str
    path: str
    interface: str


@attrs.define(eq=False)
class Owner:
    """A name, and the connection that has it now; None while nobody has."""

    name: str
    unique: str | None = None


_DAEMON_NAME = "org.freedesktop.DBus"
DAEMON = Remote(_DAEMON_NAME, "/org/freedesktop/DBus", _DAEMON_NAME)
DAEMON_OWNER = Owner(_DAEMON_NAME, _DAEMON_NAME)


@attrs.frozen(kw_only=True)
class Signal:
    """A signal as it came. The bus vouches for its sender, and that the body is as the signature."""

    sender: str
    path: str
    interface: str
    member: str
    signature: str
    body: tuple[Any, ...]


@attrs.frozen(kw_only=True)
class Call:
    """A method call that was made to us."""

    sender: str
    path: str
    interface: str | None  # it may be left out
    member: str
    signature: str
    body: tuple[Any, ...]


@attrs.frozen(kw_only=True)
class Rule:
    """Which signals are wanted.

    The bus is asked by name. What it brings carries the sender's unique name, and anybody may send
    a signal to us alone without any rule: so it is compared with who owns the name now.
    """

    sender: Owner
    interface: str
    member: str
    path: str | None = None
    argument: str | None = None  # the first, where it is a string

    def __str__(self) -> str:
        """As AddMatch takes it. Names and paths need no quoting."""
        wanted = {
            "type": "signal",
            "sender": self.sender.name,
            "path": self.path,
            "interface": self.interface,
            "member": self.member,
            "arg0": self.argument,
        }
        return ",".join(f"{key}='{value}'" for key, value in wanted.items() if value is not None)

    def fits(self, signal: Signal) -> bool:
        """Whether it is one of them."""
        return (
            signal.member == self.member
            and signal.interface == self.interface
            and signal.sender == self.sender.unique
            and self.path in {None, signal.path}
            and (self.argument is None or signal.body[:1] == (self.argument,))
        )


@attrs.frozen
class Properties:
    """What a remote object says of itself: variants as they came, by name.

    A property that is missing, or of another type than asked for, is not known.
    """

    _variants: Mapping[str, tuple[str, Any]]

    def flag(self, name: str) -> bool | None:
        """A boolean."""
        value = self._value(name)
        return value if isinstance(value, bool) else None

    def number(self, name: str) -> float | None:
        """A number of any width, if it is finite."""
        value = self._value(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value) if math.isfinite(value) else None

    def text(self, name: str) -> str | None:
        """A string."""
        value = self._value(name)
        return value if isinstance(value, str) else None

    def changed(self, news: Mapping[str, tuple[str, Any]], gone: Sequence[str]) -> "Properties":
        """With some of another value, and some not known any more."""
        return Properties({k: v for k, v in {**self._variants, **news}.items() if k not in gone})

    def _value(self, name: str) -> object:
        return self._variants.get(name, ("", None))[1]
