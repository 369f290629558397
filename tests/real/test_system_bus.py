"""What is read of UPower, power-profiles-daemon and logind: their mocks, on a bus of our own."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from ollama_proxy.bus.message import Call, CallRefused, Remote
from ollama_proxy.policy.readings import Findings, Profile, Supply
from ollama_proxy.sensors.profiles import REMOTES
from ollama_proxy.sensors.system_bus import sense_system_bus
from ollama_proxy.sensors.upower import DAEMON, DISPLAY, State
from tests.real.buses import HASTE, PrivateBus, eventually, require_mocks, tell

UPOWER, LOGIND = "org.freedesktop.UPower", "org.freedesktop.login1"
NEW, OLD = REMOTES
MANAGER = Remote(LOGIND, "/org/freedesktop/login1", LOGIND + ".Manager")
BATTERY = {
    "IsPresent": ("b", True),
    "State": ("u", int(State.DISCHARGING)),
    "Percentage": ("d", 42.0),
    "EnergyRate": ("d", 11.5),
    "TimeToEmpty": ("x", 3600),
}


@attrs.define
class Senses:
    """What was published, and when the machine slept."""

    told: dict[str, list[Findings | None]] = attrs.field(factory=dict)
    slept: list[bool] = attrs.field(factory=list)
    slept_s: float = 0.0

    def publish(self, name: str, findings: Findings | None) -> None:
        """Take what is known now."""
        self.told.setdefault(name, []).append(findings)

    def last(self, name: str) -> Findings | None:
        """What is known now."""
        return self.told.get(name, [None])[-1]

    def supply(self) -> Supply | None:
        """Where the power comes from."""
        found = self.last("upower")
        return found.supply if found else None

    def profile(self) -> Profile | None:
        """Which profile is active."""
        found = self.last("profile")
        return found.profile if found else None

    def percent(self) -> float | None:
        """How full the battery is."""
        supply = self.supply()
        return supply.percent if supply else None


@asynccontextmanager
async def sensing(private: PrivateBus) -> AsyncIterator[Senses]:
    senses = Senses()

    async def sense() -> None:
        await sense_system_bus(
            private.address,
            senses.publish,
            senses.slept.append,
            pace=HASTE,
            slept_s=lambda: senses.slept_s,
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sense)
        yield senses
        nursery.cancel_scope.cancel()


async def update(private: PrivateBus, remote: Remote, variants: dict[str, Any]) -> None:
    """Let a mock's properties change, and say so."""
    async with private.client() as bus:
        await tell(bus, remote, "UpdateProperties", "sa{sv}", remote.interface, variants)


@asynccontextmanager
async def upower(private: PrivateBus, *, on_battery: bool = True) -> AsyncIterator[trio.Process]:
    """A mock of UPower with a battery."""
    require_mocks()
    parameters = {"OnBattery": on_battery}
    async with private.mocked(UPOWER, "-t", "upower", parameters=parameters) as process:
        await update(private, DISPLAY, BATTERY)
        yield process


@asynccontextmanager
async def profiles(private: PrivateBus, remote: Remote, active: str) -> AsyncIterator[trio.Process]:
    """A mock of power-profiles-daemon under one of its names."""
    require_mocks()
    said = {"ActiveProfile": ("s", active), "PerformanceDegraded": ("s", "")}
    async with private.mocked(remote.name, remote.name, remote.path, remote.interface) as process:
        async with private.client() as bus:
            await tell(bus, remote, "AddProperties", "sa{sv}", remote.interface, said)
        await update(private, remote, said)  # the mock has its name before its properties
        yield process


# -- UPower ----------------------------------------------------------------------------------------


async def test_a_battery_is_told(private: PrivateBus) -> None:
    """What the display device says is the supply, and a draw while it discharges."""
    async with upower(private), sensing(private) as senses:
        await eventually(lambda: senses.percent() == 42.0)
        found = senses.last("upower")

    assert found is not None
    assert found.supply == Supply(on_battery=True, percent=42.0, to_empty_s=3600.0, source="upower")
    assert [11.5] == [draw.watts for draw in found.draws]


async def test_a_signal_is_enough(private: PrivateBus) -> None:
    """A change is told without being asked for; a full battery draws nothing that is known."""
    async with upower(private, on_battery=False), sensing(private) as senses:
        await eventually(lambda: senses.percent() == 42.0)
        news = {"Percentage": ("d", 100.0), "State": ("u", 4), "EnergyRate": ("d", 0.0)}
        await update(private, DISPLAY, news)
        await eventually(lambda: senses.percent() == 100.0)
        found = senses.last("upower")

    assert found is not None
    assert () == found.draws


async def test_unplugging_counts_once_it_has_lasted(private: PrivateBus) -> None:
    """A dock that flaps five times is one change."""
    async with upower(private, on_battery=False), sensing(private) as senses:
        await eventually(lambda: senses.percent() == 42.0)
        for on_battery in (True, False, True, False, True):
            await update(private, DAEMON, {"OnBattery": ("b", on_battery)})
        await eventually(lambda: bool((supply := senses.supply()) and supply.on_battery))
        told = [f.supply.on_battery for f in senses.told["upower"] if f and f.supply]

    assert [False, True] == [on_battery for on_battery, _ in itertools.groupby(told)]


async def test_a_upower_that_dies_and_comes_again(private: PrivateBus) -> None:
    """Nothing is known while nobody owns the name, and all of it soon after."""
    async with sensing(private) as senses:
        for _ in range(2):
            async with upower(private) as process:
                await eventually(lambda: senses.percent() == 42.0)
                process.kill()
                await eventually(lambda: senses.last("upower") is None)


async def test_a_upower_that_was_not_running_is_started(directory: Path) -> None:
    """Where the bus can start it; whoever asks has it started."""
    require_mocks()
    private = PrivateBus(directory)
    command = "/usr/bin/python3 -m dbusmock --system -t upower"
    private.activates(UPOWER, f"/usr/bin/env DBUS_SYSTEM_BUS_ADDRESS={private.address} {command}")
    async with private.running(), sensing(private) as senses:
        await eventually(lambda: senses.supply() is not None)


async def test_a_upower_that_cannot_be_started_is_absent(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Activation that fails is said once for each object, and the others are read all the same."""
    private = PrivateBus(directory)
    private.activates(UPOWER, "/bin/false")
    async with (
        private.running(),
        sensing(private) as senses,
        profiles(private, NEW, "balanced"),
    ):
        await eventually(lambda: senses.profile() is not None)
        await eventually(lambda: len(caplog.records) == 2)

    assert senses.supply() is None
    assert 2 == len(caplog.records)


async def test_what_is_denied_is_unknown(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bus whose policy hides UPower leaves the rest to be read."""
    private = PrivateBus(directory)
    deny = f'<deny send_destination="{UPOWER}" send_interface="org.freedesktop.DBus.Properties"/>'
    async with private.running(deny), upower(private), sensing(private) as senses:
        async with profiles(private, NEW, "balanced"):
            await eventually(lambda: senses.profile() is not None)
        await eventually(lambda: "AccessDenied" in caplog.text)

    assert not any(senses.told["upower"])


@pytest.mark.parametrize("how", ["silent", "failing", "another type"])
async def test_a_upower_that_does_not_answer_well_is_unknown(
    how: str, private: PrivateBus, caplog: pytest.LogCaptureFixture
) -> None:
    """The name is there and nobody answers, or by an error, or by nonsense: nothing ends."""

    async def answer(call: Call) -> tuple[str, tuple[Any, ...]]:
        if how == "silent":
            await trio.sleep_forever()
        if how == "failing":
            raise CallRefused("org.example.Broken", "no luck today")
        return "a{sv}", ({"OnBattery": ("s", "yes"), "Percentage": ("as", ["1"])},)

    async with private.serving(UPOWER) as service, sensing(private) as senses:
        service.on_call = answer
        async with profiles(private, NEW, "balanced"):
            await eventually(lambda: senses.profile() is not None)
        await eventually(lambda: bool(caplog.records) or how == "another type")
        supply = senses.supply()

    assert supply is None or (None, None) == (supply.on_battery, supply.percent)


# -- profiles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("remote", [NEW, OLD], ids=["new", "old"])
async def test_a_profile_is_told_under_either_name(remote: Remote, private: PrivateBus) -> None:
    """Which is active, and why performance is held back, in whatever word."""
    async with profiles(private, remote, "balanced"), sensing(private) as senses:
        await eventually(lambda: senses.profile() == Profile(active="balanced"))
        news = {"ActiveProfile": ("s", "performance"), "PerformanceDegraded": ("s", "moon-phase")}
        await update(private, remote, news)
        await eventually(
            lambda: senses.profile() == Profile(active="performance", degraded="moon-phase")
        )


async def test_the_daemon_itself_is_understood(private: PrivateBus) -> None:
    """The properties of power-profiles-daemon's own interface, as its mock has them."""
    require_mocks()
    async with (
        private.mocked(OLD.name, "-t", "power_profiles_daemon"),
        sensing(private) as senses,
    ):
        await eventually(lambda: senses.profile() == Profile(active="balanced"))


async def test_of_both_names_the_newer_counts(private: PrivateBus) -> None:
    """And the older one once the newer has gone."""
    async with profiles(private, OLD, "balanced"), sensing(private) as senses:
        async with profiles(private, NEW, "power-saver"):
            await eventually(lambda: senses.profile() == Profile(active="power-saver"))
            await update(private, OLD, {"ActiveProfile": ("s", "performance")})
            await eventually(lambda: len(senses.told["profile"]) > 3)
            assert Profile(active="power-saver") == senses.profile()
        await eventually(lambda: senses.profile() == Profile(active="performance"))


async def test_a_profile_of_another_type_is_unknown(private: PrivateBus) -> None:
    """A number is no profile, nor is an empty word, a long one, or one that no line can hold."""
    async with profiles(private, NEW, "balanced"), sensing(private) as senses:
        for value in (("u", 3), ("s", ""), ("s", "x" * 3000), ("s", "quiet\n\u202eecho")):
            await eventually(lambda: senses.profile() is not None)
            await update(private, NEW, {"ActiveProfile": value})
            await eventually(lambda: senses.last("profile") is None)
            await update(private, NEW, {"ActiveProfile": ("s", "balanced")})


async def test_the_profiles_daemon_is_never_started(directory: Path) -> None:
    """Its unit ends what the owner may run in its place."""
    private = PrivateBus(directory)
    mark = directory / "started"
    for remote in REMOTES:
        private.activates(remote.name, f"/usr/bin/touch {mark}")
    async with private.running(), sensing(private) as senses, upower(private):
        await eventually(lambda: senses.percent() == 42.0)

    assert not mark.exists()


# -- sleep -----------------------------------------------------------------------------------------


@asynccontextmanager
async def logind(private: PrivateBus) -> AsyncIterator[trio.Process]:
    """A mock of logind."""
    require_mocks()
    async with private.mocked(LOGIND, "-t", "logind") as process:
        yield process


async def say_sleep(private: PrivateBus, signature: str, value: object) -> None:
    async with private.client() as bus:
        body = (MANAGER.interface, "PrepareForSleep", signature, [(signature, value)])
        await tell(bus, MANAGER, "EmitSignal", "sssav", *body)


async def test_sleep_and_wake_are_told(private: PrivateBus) -> None:
    """Each as logind says it, and what is no boolean is passed over."""
    async with logind(private), sensing(private) as senses:
        await eventually(lambda: senses.last("logind") == Findings(sleeping=False))
        for signature, value in (("s", "true"), ("b", True), ("b", False)):
            await say_sleep(private, signature, value)
        await eventually(lambda: senses.slept == [True, False])

    assert [False, True, False, None] == [f and f.sleeping for f in senses.told["logind"]]


@pytest.mark.parametrize("loss", ["logind", "bus"])
async def test_nobody_stays_asleep(loss: str, directory: Path) -> None:
    """Who was told to sleep is woken, though logind or the bus is gone."""
    private = PrivateBus(directory)
    async with private.running() as daemon, logind(private) as process, sensing(private) as senses:
        await eventually(lambda: senses.last("logind") is not None)
        await say_sleep(private, "b", value=True)
        await eventually(lambda: senses.slept == [True])
        (process if loss == "logind" else daemon).kill()
        await eventually(lambda: senses.slept == [True, False])


async def test_after_a_sleep_no_rate_is_believed(private: PrivateBus) -> None:
    """The battery's watts are unknown from the wake on."""
    async with upower(private), logind(private), sensing(private) as senses:
        await eventually(lambda: senses.percent() == 42.0)
        await eventually(lambda: senses.last("logind") is not None)
        for asleep in (True, False):
            await say_sleep(private, "b", asleep)
        await update(private, DISPLAY, {"EnergyRate": ("d", 95.0)})
        await eventually(lambda: senses.slept == [True, False])
        await eventually(
            lambda: bool((found := senses.last("upower")) and found.draws[0].watts is None)
        )

    seen = [f.draws[0].watts for f in senses.told["upower"] if f and f.draws]
    assert {11.5, None} == set(seen)


async def test_a_sleep_that_nobody_told_of_is_seen(private: PrivateBus) -> None:
    """Without logind the clocks tell, and the first rate after it is not believed."""
    async with upower(private), sensing(private) as senses:
        await eventually(lambda: senses.percent() == 42.0)
        senses.slept_s = 3600.0
        await update(private, DISPLAY, {"EnergyRate": ("d", 250.0), "Percentage": ("d", 41.0)})
        await eventually(lambda: senses.percent() == 41.0)

    seen = [f.draws[0].watts for f in senses.told["upower"] if f and f.draws]
    assert {11.5, None} == set(seen)


# -- the bus ---------------------------------------------------------------------------------------


async def test_a_bus_that_dies_and_comes_back(directory: Path) -> None:
    """All is unknown without a bus, and known again with it."""
    private = PrivateBus(directory)
    async with sensing(private) as senses:
        for _ in range(2):
            async with (
                private.running() as daemon,
                upower(private),
                profiles(private, NEW, "balanced"),
                logind(private),
            ):
                await eventually(lambda: senses.percent() == 42.0)
                await eventually(lambda: senses.profile() is not None)
                await eventually(lambda: senses.last("logind") is not None)
                daemon.kill()
                await eventually(lambda: not any(map(senses.last, ("upower", "profile", "logind"))))
