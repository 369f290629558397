"""The door on the bus, on a real dbus-daemon of our own: what clients see of it."""

import contextlib
import logging
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import attrs
import pytest
import trio

from ollama_proxy.backends.backend import Probe
from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import DAEMON, BusAbsent, CallFailed, Remote, Rule, Signal
from ollama_proxy.engine.climate import Climate, ClimateSettings
from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.ledger import Ledger
from ollama_proxy.engine.news import HeatChanged, News, Routed
from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.dbus.door import BusDoor
from ollama_proxy.inbound.dbus.interface import parse_interfaces, read_interfaces
from ollama_proxy.inbound.dbus.telling import GAUGES_S
from ollama_proxy.inbound.dbus.tree import (
    INVALID_ARGS,
    MACHINE_IDS,
    NAME,
    PROPERTIES,
    UNKNOWN,
    path_of,
)
from ollama_proxy.policy.ask import Priority, Wishes
from ollama_proxy.policy.hardware import PACKAGE
from ollama_proxy.policy.modes import AutoSettings, Mode
from ollama_proxy.policy.readings import Findings, Kind, Supply, Zone
from ollama_proxy.policy.route import Decision, choose
from ollama_proxy.policy.thermal import ThermalState
from tests.fakes.backend import ScriptedBackend
from tests.fleet import FIGURES, MODEL, ask, spec
from tests.real.buses import HASTE, SOON_S, PrivateBus, eventually

OBJECTS = ("Efficiency", "Backends", "Routing", "Thermal", "SystemState")
ALIASES = [f"{NAME}.{each}" for each in OBJECTS]
POLICY = Path(__file__).resolve().parents[2] / "units" / "ie.fio.OllamaProxy.conf"
# What dbus-daemon allows by itself is for the system's bus.
MANY = '<limit name="max_replies_per_connection">20000</limit>'


def remote(name: str, interface: str | None = None, path: str | None = None) -> Remote:
    """One of the five by its short name, and one of its interfaces."""
    full = f"{NAME}.{name}"
    return Remote(NAME, path or path_of(full), interface or full)


EFFICIENCY = remote("Efficiency")


@attrs.define
class Router:
    """An engine with the four backends of the laptop, and its door."""

    dispatcher: Dispatcher = attrs.field(init=False)
    climate: Climate = attrs.field(init=False)
    news: News = attrs.field(factory=News)
    door: BusDoor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        ledger = Ledger()
        self.dispatcher = Dispatcher(DispatchSettings(), ledger, news=self.news)
        for name in FIGURES:
            station = Station(ScriptedBackend(spec(name)), queue_capacity=4)
            self.dispatcher.add(station)
            station.is_well(Probe(models=frozenset({MODEL})))
            self.dispatcher.health_changed(station)
        self.climate = Climate(
            self.dispatcher,
            ClimateSettings(auto=AutoSettings(quiet_hours=(22 * 60, 7 * 60))),
            self.news,
            mode=Mode.BALANCED,
            minute_of_day=lambda: 0,
        )
        self.climate.look()
        self.door = BusDoor(
            self.dispatcher, self.climate, self.news, ledger, minute_of_day=lambda: 0
        )

    def sense(self, sensor: str, **findings: Any) -> None:
        """A sensor tells something, and it is looked at."""
        self.climate.publish(sensor, Findings(**findings))
        self.climate.look()

    def decide(self) -> Decision:
        """A decision for some request."""
        views = [s.view(trio.current_time()) for s in self.dispatcher.stations.values()]
        decision = choose(
            ask(), Wishes(), views, self.dispatcher.settings.route, now=trio.current_time()
        )
        assert isinstance(decision, Decision)
        return decision


@asynccontextmanager
async def router(private: PrivateBus, *, waits: bool = True) -> AsyncIterator[Router]:
    """A router whose door is on the bus."""
    made = Router()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(made.door.run, private.address, pace=HASTE))
        if waits:
            await eventually(made.door.opened.is_set)
        yield made
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def heard(bus: Bus, *rules: tuple[str, str]) -> AsyncIterator[list[Signal]]:
    """Signals of ours: interface and member of each kind."""
    signals: list[Signal] = []
    async with bus.following(NAME, lambda _: None) as owner:
        for interface, member in rules:
            rule = Rule(sender=owner, interface=interface, member=member)
            await bus.call(DAEMON, "AddMatch", "s", (str(rule),))
            bus._wanted.append((rule, signals.append))
        yield signals


async def ask_for(bus: Bus, member: str, signature: str, *body: Any, returns: str = "") -> Any:
    """What Properties answers."""
    properties = Remote(NAME, EFFICIENCY.path, PROPERTIES.name)
    return await bus.call(properties, member, signature, body, returns=returns, timeout_s=SOON_S)


async def property_of(bus: Bus, name: str, which: str) -> Any:
    """The value of a property of one of the five, its type aside."""
    body = (f"{NAME}.{name}", which)
    where = remote(name, PROPERTIES.name)
    ((_, value),) = await bus.call(where, "Get", "ss", body, returns="v", timeout_s=SOON_S)
    return value


# -- introspection ---------------------------------------------------------------------------------


async def test_every_level_leads_to_the_five(private: PrivateBus) -> None:
    """From the root, by the children that each node names."""
    found, paths = [], [""]
    async with router(private), private.client() as bus:
        while paths:
            path = paths.pop()
            where = Remote(NAME, path or "/", "org.freedesktop.DBus.Introspectable")
            (xml,) = await bus.call(where, "Introspect", returns="s", timeout_s=SOON_S)
            node = ET.fromstring(xml)  # noqa: S314 - our own
            paths += [f"{path}/{child.attrib['name']}" for child in node.iterfind("node")]
            found += [path] if path[1:].replace("/", ".") in ALIASES else []
            names = {each.name for each in parse_interfaces(xml)}
            assert {"org.freedesktop.DBus.Peer", "org.freedesktop.DBus.Introspectable"} <= names

    assert sorted(map(path_of, ALIASES)) == sorted(found)


@pytest.mark.parametrize("name", OBJECTS)
async def test_what_is_introspected_is_what_the_file_says(name: str, private: PrivateBus) -> None:
    """And GetAll tells no property that it does not have, nor one of another type."""
    (expected,) = read_interfaces(f"{NAME}.{name}")
    async with router(private) as made, private.client() as bus:
        made.sense("upower", supply=Supply(on_battery=True, percent=64, source="upower"))
        where = remote(name, "org.freedesktop.DBus.Introspectable")
        (xml,) = await bus.call(where, "Introspect", returns="s", timeout_s=SOON_S)
        (values,) = await bus.call(
            remote(name, PROPERTIES.name),
            "GetAll",
            "s",
            (expected.name,),
            returns="a{sv}",
            timeout_s=SOON_S,
        )

    assert expected in parse_interfaces(xml)
    described = {each: found.signature for each, found in expected.properties.items()}
    told = {each: signature for each, (signature, _) in values.items()}
    assert told.items() <= described.items()
    assert described.keys() - told.keys() <= {"PowerProfile", "PowerWatts", "Sleeping"}


@pytest.mark.parametrize("name", OBJECTS)
async def test_busctl_and_gdbus_understand_it(name: str, private: PrivateBus) -> None:
    """Two other implementations, each with its own reader of introspection data."""
    alias = f"{NAME}.{name}"
    commands = (
        ["busctl", "--user", "introspect", alias, path_of(alias)],
        ["gdbus", "introspect", "--session", "--dest", alias, "--object-path", path_of(alias)],
    )
    async with router(private):
        for command in commands:
            done = await trio.run_process(command, capture_stdout=True, env=_environment(private))
            assert b"Version" in done.stdout
        done = await trio.run_process(
            ["busctl", "--user", "tree", "--list", NAME],
            capture_stdout=True,
            env=_environment(private),
        )

    assert path_of(alias).encode() in done.stdout.split()


def _environment(private: PrivateBus) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **private.variables}


async def test_a_shell_sets_the_mode(private: PrivateBus) -> None:
    """`busctl call ... SetMode s quiet` answers what it was before."""
    command = ["busctl", "--user", "call", ALIASES[0], EFFICIENCY.path, ALIASES[0]]
    async with router(private) as made:
        done = await trio.run_process(
            [*command, "SetMode", "s", "Ultra Efficiency"],
            capture_stdout=True,
            env=_environment(private),
        )
        assert Mode.ULTRA_EFFICIENCY is made.climate.mode

    assert b's "balanced"\n' == done.stdout


# -- properties ------------------------------------------------------------------------------------


async def test_the_mode_is_set_and_got(private: PrivateBus) -> None:
    """By Set, by SetMode, and by either name of the property."""
    async with router(private) as made, private.client() as bus:
        await ask_for(bus, "Set", "ssv", ALIASES[0], "Mode", ("s", "quiet"))
        assert Mode.QUIET is made.climate.mode
        assert ("quiet",) == await bus.call(
            EFFICIENCY, "SetMode", "s", ("performance",), returns="s"
        )
        for name in ("Mode", "CurrentMode", "EffectiveMode"):
            assert "performance" == await property_of(bus, "Efficiency", name)


@pytest.mark.parametrize(
    ("where", "member", "signature", "body", "error"),
    [
        (EFFICIENCY, "SetMode", "s", ("loud",), "InvalidArgs"),
        (EFFICIENCY, "SetMode", "u", (3,), "InvalidArgs"),
        (EFFICIENCY, "SetMode", "", (), "InvalidArgs"),
        (EFFICIENCY, "Release", "u", (7,), "InvalidArgs"),
        (EFFICIENCY, "Fly", "", (), "UnknownMethod"),
        (remote("Backends"), "GetBackend", "s", ("abacus",), "InvalidArgs"),
        (remote("Routing"), "Explain", "a{sv}", ({},), "InvalidArgs"),
        (
            remote("Routing"),
            "Explain",
            "a{sv}",
            ({"model": ("s", "fake:latest"), "target": ("(ii)", (1, 2))},),
            "InvalidArgs",
        ),
        (remote("Routing"), "Explain", "a{sv}", ({"modle": ("s", "x")},), "InvalidArgs"),
        (
            remote("Routing"),
            "Explain",
            "a{sv}",
            ({"model": ("s", MODEL), "max_latency_ms": ("d", -1.0)},),
            "InvalidArgs",
        ),
        (remote("Efficiency", "org.example.Other"), "Fly", "", (), "UnknownInterface"),
        (remote("Efficiency", path="/ie/fio/Nothing"), "Fly", "", (), "UnknownObject"),
        (remote("Efficiency", path="/ie/fio"), "SetMode", "s", ("quiet",), "UnknownInterface"),
    ],
)
async def test_a_call_that_is_wrong_is_told_how(  # noqa: PLR0917 - the columns of a table
    where: Remote,
    member: str,
    signature: str,
    body: tuple[Any, ...],
    error: str,
    private: PrivateBus,
) -> None:
    """By the specification's own error, and a sentence."""
    async with router(private) as made, private.client() as bus:
        with pytest.raises(CallFailed) as failure:
            await bus.call(where, member, signature, body, timeout_s=SOON_S)
        assert Mode.BALANCED is made.climate.mode

    assert f"org.freedesktop.DBus.Error.{error}" == failure.value.name
    assert failure.value.text.endswith(".")


@pytest.mark.parametrize(
    ("member", "signature", "body", "error"),
    [
        ("Get", "ss", (ALIASES[0], "Colour"), "UnknownProperty"),
        ("Get", "ss", ("org.example.Other", "Mode"), "UnknownInterface"),
        ("GetAll", "s", ("org.example.Other",), "UnknownInterface"),
        ("Set", "ssv", (ALIASES[0], "Colour", ("s", "red")), "UnknownProperty"),
        ("Set", "ssv", (ALIASES[0], "EffectiveMode", ("s", "quiet")), "PropertyReadOnly"),
        ("Set", "ssv", (ALIASES[0], "Version", ("s", "9")), "PropertyReadOnly"),
        ("Set", "ssv", (ALIASES[0], "Mode", ("u", 3)), "InvalidArgs"),
        ("Set", "ssv", (ALIASES[0], "Mode", ("s", "loud")), "InvalidArgs"),
        ("Get", "s", (ALIASES[0],), "InvalidArgs"),
    ],
)
async def test_a_property_that_is_wrong_is_told_how(
    member: str, signature: str, body: tuple[Any, ...], error: str, private: PrivateBus
) -> None:
    """Each by its own error, and nothing is changed."""
    async with router(private) as made, private.client() as bus:
        with pytest.raises(CallFailed) as failure:
            await ask_for(bus, member, signature, *body)
        assert Mode.BALANCED is made.climate.mode

    assert f"org.freedesktop.DBus.Error.{error}" == failure.value.name


async def test_what_is_not_known_is_missing(private: PrivateBus) -> None:
    """Get says so by an error of its own; what is known later is there."""
    where = remote("SystemState", PROPERTIES.name)
    name = f"{NAME}.SystemState"
    async with router(private) as made, private.client() as bus:
        (values,) = await bus.call(where, "GetAll", "s", (name,), returns="a{sv}")
        assert {"Version": ("s", "1"), "QuietHours": ("b", True)} == values
        with pytest.raises(CallFailed) as failure:
            await property_of(bus, "SystemState", "BatteryPercent")
        assert UNKNOWN == failure.value.name
        made.sense("upower", supply=Supply(on_battery=True, percent=64, source="upower"))
        assert 64.0 == await property_of(bus, "SystemState", "BatteryPercent")


async def test_interfaces_need_not_be_named(private: PrivateBus) -> None:
    """A call without one finds its method; a property of the empty interface is ours."""
    async with router(private), private.client() as bus:
        ((_, mode),) = await ask_for(bus, "Get", "ss", "", "Mode", returns="v")
        (values,) = await ask_for(bus, "GetAll", "s", "", returns="a{sv}")

    assert "balanced" == mode == values["Mode"][1]


async def test_who_asks_for_it_gets_the_machine_id(private: PrivateBus) -> None:
    """Peer answers at any path, also at one where nothing is."""
    async with router(private), private.client() as bus:
        peer = Remote(NAME, "/nothing/here", "org.freedesktop.DBus.Peer")
        await bus.call(peer, "Ping")
        has_one = any(map(Path.exists, map(Path, MACHINE_IDS)))
        with (
            contextlib.nullcontext() if has_one else pytest.raises(CallFailed, match="FileNotFound")
        ):
            (machine_id,) = await bus.call(peer, "GetMachineId", returns="s")
            assert 32 == len(machine_id)


# -- what it tells ---------------------------------------------------------------------------------


async def test_backends_and_decisions_are_told(private: PrivateBus) -> None:
    """The figures of /backends and /v1/route, with their types; what is unknown is left out."""
    async with router(private) as made, private.client() as bus:
        (npu,) = await bus.call(
            remote("Backends"), "GetBackend", "s", ("npu",), returns="a{sv}", timeout_s=SOON_S
        )
        made.news.routed(Routed("req-1", MODEL, Priority.HIGH, made.decide(), trio.current_time()))
        request = {"model": ("s", MODEL), "latency_critical": ("b", True)}
        (told,) = await bus.call(
            remote("Routing"), "Explain", "a{sv}", (request,), returns="a{sv}", timeout_s=SOON_S
        )
        (refused,) = await bus.call(
            remote("Routing"),
            "Explain",
            "a{sv}",
            ({"model": ("s", "nobody's")},),
            returns="a{sv}",
            timeout_s=SOON_S,
        )
        (recent,) = await bus.call(
            remote("Routing"), "RecentDecisions", "u", (5,), returns="aa{sv}", timeout_s=SOON_S
        )

    assert [("s", "npu"), ("b", True), ("x", 0)] == [npu[k] for k in ("id", "healthy", "in_flight")]
    assert ("d", 3.0) == npu["power_watts"][1]["value"]
    assert not npu.keys() & {"temperature_c", "last_error", "energy_j_per_token"}
    assert (("s", "nvidia"), ("s", "latency-critical")) == (told["backend"], told["reason"])
    assert ("s", "model_not_found") == refused["refused"][1]["code"]
    ((first),) = recent
    assert (("s", "req-1"), ("s", "high"), ("s", "npu")) == (
        first["request_id"],
        first["priority"],
        first["backend"],
    )


async def test_a_change_is_told_once(private: PrivateBus) -> None:
    """One PropertiesChanged for all that a new mode changes, and one ModeChanged; none for none."""
    kinds = ((PROPERTIES.name, "PropertiesChanged"), (ALIASES[0], "ModeChanged"))
    async with router(private), private.client() as bus, heard(bus, *kinds) as signals:
        for mode in ("quiet", "quiet", "performance"):
            await bus.call(EFFICIENCY, "SetMode", "s", (mode,), returns="s")
        await eventually(lambda: len(signals) >= 4)
        await bus.call(EFFICIENCY, "GetMode", returns="s")

    changed = [signal.body for signal in signals if signal.member == "PropertiesChanged"]
    quiet, performance = [body for body in changed if body[0] == ALIASES[0]]
    expected = dict.fromkeys(("Mode", "CurrentMode", "EffectiveMode"), ("s", "quiet"))
    assert (expected, []) == quiet[1:]
    assert {"Mode", "CurrentMode", "EffectiveMode"} == performance[1].keys()
    told = [signal.body for signal in signals if signal.member == "ModeChanged"]
    reason = "chosen by the user"
    assert [("balanced", "quiet", reason), ("quiet", "performance", reason)] == told


async def test_gauges_are_told_a_few_times_a_second(private: PrivateBus) -> None:
    """However often a temperature is read; the last one is told in the end."""
    kinds = ((PROPERTIES.name, "PropertiesChanged"),)
    async with router(private) as made, private.client() as bus, heard(bus, *kinds) as signals:
        began = trio.current_time()
        for tenths in range(500):
            made.sense("cpu", zones=(_zone(40 + tenths / 100),))
            await trio.sleep(0.002)

        def zones() -> list[float]:
            told = [s.body[1] for s in signals if s.body[0] == f"{NAME}.Thermal"]
            return [each["Zones"][1][0]["temperature_c"][1] for each in told if "Zones" in each]

        await eventually(lambda: zones()[-1:] == [45.0])
        took_s = trio.current_time() - began

    assert len(zones()) <= took_s / GAUGES_S + 2


def _zone(celsius: float) -> Zone:
    return Zone(
        name="coretemp",
        kind=Kind.CPU,
        part=PACKAGE,
        temperature_c=celsius,
        limit_c=100.0,
        source="coretemp",
    )


async def test_what_is_not_known_any_more_is_invalidated(private: PrivateBus) -> None:
    """Who keeps a copy drops it."""
    kinds = ((PROPERTIES.name, "PropertiesChanged"),)
    async with router(private) as made, private.client() as bus, heard(bus, *kinds) as signals:
        made.sense("upower", supply=Supply(on_battery=True, percent=64, source="upower"))
        made.climate.publish("upower", None)
        made.climate.look()
        await eventually(lambda: any("OnBattery" in signal.body[2] for signal in signals))


async def test_heat_and_backends_are_told(private: PrivateBus) -> None:
    """By signals of their own, with why."""
    kinds = ((f"{NAME}.Thermal", "StateChanged"), (f"{NAME}.Backends", "BackendChanged"))
    async with router(private) as made, private.client() as bus, heard(bus, *kinds) as signals:
        old, new = ThermalState.LIGHT, ThermalState.CRITICAL
        made.news.tell(HeatChanged(old=old, new=new, why="package 101 °C"))
        station = made.dispatcher.stations["npu"]
        station.is_down("HTTP 500\0")
        made.dispatcher.health_changed(station)
        await eventually(lambda: len(signals) == 2)
        assert 3 == await property_of(bus, "Backends", "HealthyCount")

    assert ("light", "critical", "package 101 °C") == signals[0].body
    assert ("npu", False, "HTTP 500\N{REPLACEMENT CHARACTER}") == signals[1].body


async def test_no_more_than_ten_requests_a_second_are_told(private: PrivateBus) -> None:
    """A flood of requests is none on the bus, and the latest decisions are kept all the same."""
    kinds = ((f"{NAME}.Routing", "RequestRouted"),)
    async with router(private) as made, private.client() as bus, heard(bus, *kinds) as signals:
        decision, now = made.decide(), trio.current_time()
        for number in range(100):
            made.news.routed(Routed(f"req-{number}", MODEL, Priority.NORMAL, decision, now))
        await eventually(lambda: len(signals) == 10)
        await bus.call(EFFICIENCY, "GetMode", returns="s")
        (recent,) = await bus.call(
            remote("Routing"), "RecentDecisions", "u", (1000,), returns="aa{sv}"
        )

    assert ("req-0", "npu", "mode-balanced") == signals[0].body
    assert (10, 100) == (len(signals), len(recent))


# -- holds -----------------------------------------------------------------------------------------


async def hold(bus: Bus, mode: str, app: str = "Calls") -> int:
    (cookie,) = await bus.call(
        EFFICIENCY, "Hold", "sss", (mode, "a call", app), returns="u", timeout_s=SOON_S
    )
    return int(cookie)


async def test_a_mode_is_held_and_released(private: PrivateBus) -> None:
    """The newest counts; what was chosen is back after the last, and says so throughout."""
    async with router(private), private.client() as bus:
        first = await hold(bus, "quiet")
        second = await hold(bus, "performance")
        seen = [await property_of(bus, "Efficiency", "EffectiveMode")]
        for cookie in (second, first):
            await bus.call(EFFICIENCY, "Release", "u", (cookie,))
            seen.append(await property_of(bus, "Efficiency", "EffectiveMode"))
        await hold(bus, "quiet")
        reason = await property_of(bus, "Efficiency", "Reason")
        chosen = await property_of(bus, "Efficiency", "Mode")

    assert ["performance", "quiet", "balanced"] == seen
    assert ("held by Calls: a call", "balanced") == (reason, chosen)


async def test_a_hold_ends_with_its_owner(private: PrivateBus) -> None:
    """Who is gone from the bus wants nothing any more; others go on."""
    async with router(private) as made, private.client() as bus:
        await hold(bus, "quiet")
        async with private.client() as other:
            await hold(other, "performance")
            assert Mode.PERFORMANCE is made.climate.effective.mode
        await eventually(lambda: made.climate.effective.mode is Mode.QUIET)


async def test_nobody_releases_anothers(private: PrivateBus) -> None:
    """A cookie that was guessed is of no use."""
    async with router(private) as made, private.client() as bus, private.client() as other:
        cookie = await hold(bus, "quiet")
        with pytest.raises(CallFailed, match="hold nothing") as failure:
            await other.call(EFFICIENCY, "Release", "u", (cookie,))
        assert Mode.QUIET is made.climate.effective.mode

    assert INVALID_ARGS == failure.value.name


async def test_the_users_choice_releases_all(private: PrivateBus) -> None:
    """As with power profiles: whoever sets the mode has the last word."""
    async with router(private) as made, private.client() as bus:
        cookie = await hold(bus, "performance")
        await bus.call(EFFICIENCY, "SetMode", "s", ("quiet",), returns="s")
        assert Mode.QUIET is made.climate.effective.mode
        with pytest.raises(CallFailed, match="the user chose"):
            await bus.call(EFFICIENCY, "Release", "u", (cookie,))


async def test_who_holds_and_goes_at_once_holds_nothing(private: PrivateBus) -> None:
    """However the call and the leaving fall together."""
    async with router(private) as made:
        for _ in range(30):
            async with private.client() as bus:
                await bus._tell(EFFICIENCY, "Hold", "sss", ("quiet", "", ""))
        async with private.client() as bus:
            await eventually(lambda: not made.climate.holds.newest)
            await bus.call(EFFICIENCY, "GetMode", returns="s")
        await eventually(lambda: not len(made.climate.holds))


# -- names and buses -------------------------------------------------------------------------------


async def test_a_second_router_waits_for_the_first_to_leave(
    private: PrivateBus, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so once, and has all six names when it is its turn."""
    async with router(private) as first, router(private, waits=False) as second:
        await eventually(lambda: "another router runs" in caplog.text)
        assert not second.door.opened.is_set()
        await first.door.leave()
        await eventually(second.door.opened.is_set)
        async with private.client() as bus:
            (names,) = await bus.call(DAEMON, "ListNames", returns="as")

    assert {NAME, *ALIASES} <= set(names)
    warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert 1 == len(warnings)


async def test_a_name_that_a_stranger_has_keeps_none_of_ours(
    private: PrivateBus, caplog: pytest.LogCaptureFixture
) -> None:
    """All six or none, so that nobody finds half a router."""
    async with (
        private.serving(ALIASES[2]),
        router(private, waits=False) as made,
        private.client() as bus,
    ):
        await eventually(lambda: "waiting for its end" in caplog.text)
        (names,) = await bus.call(DAEMON, "ListNames", returns="as")
        assert {ALIASES[2]} == {NAME, *ALIASES} & set(names)
        assert not made.door.opened.is_set()


async def test_a_bus_that_dies_and_comes_back(directory: Path) -> None:
    """Holds end with it, the mode stays, and the names are ours again on the next."""
    private = PrivateBus(directory)
    async with router(private, waits=False) as made:
        for _ in range(2):
            async with private.running() as daemon:
                await eventually(made.door.opened.is_set)
                with contextlib.suppress(BusAbsent):
                    async with private.client() as bus:
                        await bus.call(EFFICIENCY, "SetMode", "s", ("quiet",), returns="s")
                        await hold(bus, "performance")
                        daemon.kill()
                        await trio.sleep_forever()
                await eventually(lambda: made.climate.effective.mode is Mode.QUIET)
                await eventually(lambda: not made.door.opened.is_set())


async def test_who_leaves_gives_the_names_back_first(private: PrivateBus) -> None:
    """Nobody has them once it has left, and what it held for others has ended."""
    async with router(private) as made, private.client() as bus:
        await hold(bus, "performance")
        await made.door.leave()
        (names,) = await bus.call(DAEMON, "ListNames", returns="as")
        await eventually(lambda: made.climate.effective.mode is Mode.BALANCED)

    assert not {NAME, *ALIASES} & set(names)


async def test_the_systems_bus_understands_its_policy(directory: Path) -> None:
    """A dbus-daemon that reads our policy file starts, and lets the router have its names."""
    private = PrivateBus(directory)
    async with private.running(limits=f"<include>{POLICY}</include>"), router(private) as made:
        assert made.door.opened.is_set()


# -- crowds ----------------------------------------------------------------------------------------


async def test_each_of_a_thousand_calls_at_once_is_answered(directory: Path) -> None:
    """None is lost, and none is answered by another's."""
    private = PrivateBus(directory)
    answered = []
    async with private.running(limits=MANY), router(private), private.client() as bus:

        async def ask_one() -> None:
            answered.append(
                await bus.call(EFFICIENCY, "GetMode", returns="s", timeout_s=10 * SOON_S)
            )

        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(ask_one)

    assert [("balanced",)] * 1000 == answered


async def test_a_burst_of_ten_thousand_leaves_the_router_awake(directory: Path) -> None:
    """While they are answered, somebody else is answered, too; then all is as before."""
    private = PrivateBus(directory)
    async with (
        private.running(limits=MANY),
        router(private),
        private.client() as bus,
        private.client() as other,
    ):
        for _ in range(10_000):
            await bus._tell(EFFICIENCY, "SetMode", "s", ("quiet",))
        with trio.fail_after(3 * SOON_S):
            assert ("quiet",) == await other.call(
                EFFICIENCY, "GetMode", returns="s", timeout_s=3 * SOON_S
            )


async def test_a_peer_that_never_reads_harms_nobody(private: PrivateBus) -> None:
    """It asks for much and takes nothing; others are answered as ever."""
    async with router(private), private.client() as bus:
        command = ["busctl", "--user", "monitor"]
        process = await trio.lowlevel.open_process(
            command,
            env=_environment(private),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            for mode in ("quiet", "performance") * 500:
                await bus.call(EFFICIENCY, "SetMode", "s", (mode,), returns="s", timeout_s=SOON_S)
        finally:
            process.kill()
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()
