"""A router on a bus with nothing behind it: says what a test has it say, and logs what it is told.

For states that a real one cannot be brought into at will; the types are those of its XML.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import attrs

import ollama_proxy
from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import DAEMON, UNKNOWN_OBJECT, Call, CallRefused
from ollama_proxy.policy.modes import Mode, parse_mode

NAME = "ie.fio.OllamaProxy"
PATH = "/ie/fio/OllamaProxy"
INVALID_ARGS = "org.freedesktop.DBus.Error.InvalidArgs"
XML = Path(ollama_proxy.__file__).parent / "inbound/dbus"
WORDS = ("Efficiency", "Backends", "Routing", "Thermal", "SystemState")


def _types(word: str) -> dict[str, str]:
    root = ET.parse(XML / f"{NAME}.{word}.xml")  # noqa: S314 - our own file
    return {each.attrib["name"]: each.attrib["type"] for each in root.iter("property")}


TYPES = {word: _types(word) for word in WORDS}


def record(**fields: str | float | bool) -> dict[str, tuple[str, Any]]:
    """An a{sv}."""
    kinds = {str: "s", bool: "b", int: "u", float: "d"}
    return {name: (kinds[type(value)], value) for name, value in fields.items()}


def _said_at_first() -> dict[str, dict[str, Any]]:
    modes = [
        record(name=m.value, title=m.title, description=m.description, icon=m.icon) for m in Mode
    ]
    return {
        "Efficiency": {
            "Mode": "auto",
            "EffectiveMode": "balanced",
            "Reason": "on mains power",
            "Modes": modes,
        },
        "Backends": {"Backends": [], "HealthyCount": 0, "Count": 0},
        "Routing": {"QueueDepths": {}, "InFlight": 0},
        "Thermal": {"State": "unknown", "Zones": [], "Fans": [], "Throttling": False},
        "SystemState": {},
    }


@attrs.define(eq=False)
class DeskRouter:
    """What is on the bus.

    Attributes:
        told: each method of Efficiency that was called, with its arguments.
        refusal: the sentence that SetMode is refused with; empty: it is not.
    """

    _bus: Bus
    told: list[tuple[Any, ...]] = attrs.field(factory=list)
    refusal: str = ""
    _says: dict[str, dict[str, Any]] = attrs.field(factory=_said_at_first)
    _cookies: int = 0

    async def say(self, word: str, **properties: Any) -> None:
        """Let properties change; None: not known any more."""
        gone = [name for name, value in properties.items() if value is None]
        news = {name: value for name, value in properties.items() if value is not None}
        for name in gone:
            self._says[word].pop(name, None)
        self._says[word].update(news)
        body = (f"{NAME}.{word}", _variants(word, news), gone)
        await self._bus.emit(
            f"{PATH}/{word}",
            "org.freedesktop.DBus.Properties",
            "PropertiesChanged",
            "sa{sv}as",
            body,
        )

    async def answer(self, call: Call) -> tuple[str, tuple[Any, ...]]:
        """Answer a call."""
        word = call.path.removeprefix(f"{PATH}/")
        match call.member:
            case "GetAll" if word in TYPES:
                return "a{sv}", (_variants(word, self._says[word]),)
            case "Ping":
                return "", ()
            case "SetMode":
                return await self._set_mode(call.body[0])
            case "Hold":
                self.told.append(("Hold", *call.body[:2]))
                self._cookies += 1
                await self.say("Efficiency", EffectiveMode=call.body[0], Reason=call.body[1])
                return "u", (self._cookies,)
            case "Release":
                self.told.append(("Release", *call.body))
                await self.say("Efficiency", EffectiveMode="balanced", Reason="on mains power")
                return "", ()
            case _:
                raise CallRefused(UNKNOWN_OBJECT, f"no {call.member} here")

    async def _set_mode(self, name: str) -> tuple[str, tuple[Any, ...]]:
        self.told.append(("SetMode", name))
        mode = parse_mode(name)
        if self.refusal or mode is None:
            raise CallRefused(INVALID_ARGS, self.refusal or f"no mode {name!r}")
        before = self._says["Efficiency"]["Mode"]
        effective = Mode.BALANCED if mode is Mode.AUTO else mode
        await self.say(
            "Efficiency", Mode=mode.value, EffectiveMode=effective.value, Reason="chosen"
        )
        return "s", (before,)


def _variants(word: str, properties: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    return {name: (TYPES[word][name], value) for name, value in properties.items()}


@asynccontextmanager
async def desk_router(bus: Bus) -> AsyncIterator[DeskRouter]:
    """Be there under the router's name, until the end of this."""
    router = DeskRouter(bus)
    bus.on_call = router.answer
    await bus.call(DAEMON, "RequestName", "su", (NAME, 4), returns="u")
    yield router
    await bus.call(DAEMON, "ReleaseName", "s", (NAME,), returns="u")
