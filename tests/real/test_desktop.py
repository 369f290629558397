"""What is asked of power-profiles-daemon and logind while requests run, on a bus of our own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import psutil
import pytest
import trio

from ollama_proxy.bus.message import DAEMON, DAEMON_OWNER, Call, CallRefused, Remote, Rule
from ollama_proxy.config import Dbus
from ollama_proxy.desktop import APP_ID, LOGIND, Awake, Desktop, Performance
from ollama_proxy.policy.courtesy import Wants
from ollama_proxy.sensors.profiles import REMOTES
from tests.fakes.ollama import Script
from tests.real.buses import HASTE, MOCK, SOON_S, PrivateBus, eventually, require_mocks, tell
from tests.routers import CHAT, ask, backend, configured, fakes, running

NEW, OLD = REMOTES
WITHIN_S = 1.0  # what was asked for is given back so soon


@attrs.define
class Profiles:
    """power-profiles-daemon, as far as it holds profiles."""

    held: dict[int, tuple[str, str, str]] = attrs.field(factory=dict)
    asked: int = 0
    refuses: bool = False
    takes_s: float = 0.0

    async def answer(self, call: Call) -> tuple[str, tuple[Any, ...]]:
        """Hold, or release."""
        match call.member:
            case "HoldProfile" if not self.refuses:
                self.asked += 1
                self.held[self.asked] = call.body
                await trio.sleep(self.takes_s)
                return "u", (self.asked,)
            case "ReleaseProfile" if call.body[0] in self.held:
                del self.held[call.body[0]]
                return "", ()
            case _:
                raise CallRefused("org.freedesktop.DBus.Error.Failed", "not today")


@attrs.define
class Wish:
    """What requests want, as a test says."""

    now: Wants = attrs.field(factory=Wants)
    desktop: Desktop = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.desktop = Desktop(lambda: self.now, [Performance(), Awake()])

    def want(self, **wants: bool) -> None:
        """From now on."""
        self.now = Wants(**wants)
        self.desktop.stir()


@asynccontextmanager
async def asking(private: PrivateBus) -> AsyncIterator[Wish]:
    wish = Wish()

    async def run() -> None:
        await wish.desktop.run(private.address, pace=HASTE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield wish
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def profiles(private: PrivateBus, remote: Remote = NEW) -> AsyncIterator[Profiles]:
    """The daemon under one of its names."""
    daemon = Profiles()
    async with private.serving(remote.name) as bus:
        bus.on_call = daemon.answer
        yield daemon


@asynccontextmanager
async def logind(private: PrivateBus) -> AsyncIterator[trio.Process]:
    """A mock of logind."""
    require_mocks()
    async with private.mocked(LOGIND.name, "-t", "logind") as process:
        yield process


async def inhibitors(private: PrivateBus) -> list[Any]:
    """Who keeps the machine from sleeping: what, who, why, how."""
    async with private.client() as bus:
        (told,) = await bus.call(LOGIND, "ListInhibitors", returns="a(ssssuu)", timeout_s=SOON_S)
    return [each[:4] for each in told]


async def until_inhibited(private: PrivateBus, count: int, within_s: float = SOON_S) -> list[Any]:
    with trio.fail_after(within_s):
        while len(found := await inhibitors(private)) != count:  # noqa: ASYNC110 - as it is asked
            await trio.sleep(0.01)
    return found


# -- the profile -----------------------------------------------------------------------------------


@pytest.mark.parametrize("remote", [NEW, OLD], ids=["new", "old"])
async def test_the_profile_is_held_while_it_is_wanted(remote: Remote, private: PrivateBus) -> None:
    """Under whichever name the daemon has, with our own; and released within a second."""
    async with profiles(private, remote) as daemon, asking(private) as wish:
        wish.want(performance=True)
        await eventually(lambda: bool(daemon.held))
        ((profile, _, app),) = daemon.held.values()
        wish.want()
        with trio.fail_after(WITHIN_S):
            await eventually(lambda: not daemon.held)

    assert ("performance", APP_ID) == (profile, app)


async def test_the_daemon_itself_is_understood(private: PrivateBus) -> None:
    """The methods of power-profiles-daemon's own interface, as its mock has them."""
    require_mocks()
    async with (
        private.mocked(OLD.name, "-t", "power_profiles_daemon"),
        asking(private) as wish,
        private.client() as bus,
    ):
        wish.want(performance=True)
        await called(bus, "HoldProfile")
        wish.want()
        await called(bus, "ReleaseProfile")


async def called(bus: Any, member: str) -> None:
    control = Remote(OLD.name, OLD.path, MOCK)
    with trio.fail_after(SOON_S):
        while True:
            (calls,) = await bus.call(
                control, "GetMethodCalls", "s", (member,), returns="a(tav)", timeout_s=SOON_S
            )
            if calls:
                return


async def test_requests_in_a_row_are_one_hold(private: PrivateBus) -> None:
    """The desktop does not flicker between two critical requests."""
    async with profiles(private) as daemon, asking(private) as wish:
        wish.want(performance=True)
        await eventually(lambda: bool(daemon.held))
        for _ in range(20):
            wish.want()
            wish.want(performance=True)
            await trio.sleep(0.01)
        wish.want()
        await eventually(lambda: not daemon.held)

    assert 1 == daemon.asked


async def test_a_refusal_is_said_once_and_asked_for_again(
    private: PrivateBus, caplog: pytest.LogCaptureFixture
) -> None:
    """Who does not get it now may get it later; nothing else depends on it."""
    caplog.set_level("INFO")
    async with profiles(private) as daemon, asking(private) as wish:
        daemon.refuses = True
        wish.want(performance=True)
        await eventually(lambda: "nobody gives us" in caplog.text)
        daemon.refuses = False
        await eventually(lambda: bool(daemon.held))

    assert 1 == caplog.text.count("the performance profile")


async def test_a_hold_that_the_user_ended_is_not_renewed(private: PrivateBus) -> None:
    """Whoever changes the profile by hand means it."""
    async with profiles(private) as daemon, asking(private) as wish:
        wish.want(performance=True)
        await eventually(lambda: bool(daemon.held))
        daemon.held.clear()
        await trio.sleep(0.6)
        assert not daemon.held
        wish.want()
        await trio.sleep(0.3)
        wish.want(performance=True)
        await eventually(lambda: bool(daemon.held))

    assert 2 == daemon.asked


async def test_a_hold_that_is_given_too_late_is_not_kept(private: PrivateBus) -> None:
    """Whether it was given cannot be known: our connection goes, and with it whatever it holds."""
    async with profiles(private) as daemon, private.client() as bus:
        gone: list[str] = []
        daemon.takes_s = 5.0
        rule = Rule(sender=DAEMON_OWNER, interface=DAEMON.interface, member="NameOwnerChanged")
        async with (
            bus.subscribed(rule, lambda signal: gone.append(signal.body[2])),
            asking(private) as wish,
        ):
            wish.want(performance=True)
            await eventually(lambda: bool(daemon.held))
            wish.want()
            await eventually(lambda: "" in gone)


async def test_a_daemon_that_is_started_again_is_asked_again(private: PrivateBus) -> None:
    """What the one before gave is nothing to it, and is not given back to it."""
    async with asking(private) as wish:
        wish.want(performance=True)
        async with profiles(private) as first:
            await eventually(lambda: bool(first.held))
        async with profiles(private) as second:
            second.asked = 7
            await eventually(lambda: 8 in second.held)
            wish.want()
            await eventually(lambda: not second.held)


# -- sleep -----------------------------------------------------------------------------------------


async def test_sleep_is_put_off_while_it_is_wanted(private: PrivateBus) -> None:
    """By a delay, not a block; let go of within a second, and no descriptor is left."""
    async with logind(private), asking(private) as wish:
        assert [] == await inhibitors(private)
        before = psutil.Process().num_fds()
        wish.want(awake=True)
        (found,) = await until_inhibited(private, 1)
        wish.want()
        await until_inhibited(private, 0, WITHIN_S)
        # The connection that was opened for it stays.
        assert before + 1 >= psutil.Process().num_fds()

    assert ("sleep", "Ollama Proxy", "delay") == (found[0], found[1], found[3])


async def test_nothing_is_left_when_it_ends(private: PrivateBus) -> None:
    """Whoever is stopped while something is wanted lets go of it."""
    async with logind(private):
        async with asking(private) as wish:
            wish.want(awake=True)
            await until_inhibited(private, 1)
        await until_inhibited(private, 0, WITHIN_S)


async def test_nothing_is_left_when_the_bus_is_lost(directory: Path) -> None:
    """No descriptor outlives the connection that it came by."""
    private = PrivateBus(directory)
    async with asking(private) as wish:
        before = psutil.Process().num_fds()
        async with private.running() as daemon, logind(private):
            wish.want(awake=True)
            await until_inhibited(private, 1)
            daemon.kill()
            await eventually(lambda: psutil.Process().num_fds() <= before + 2)


async def test_a_bus_is_not_gone_to_before_something_is_wanted(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a machine without one it is not even looked for until then."""
    caplog.set_level("DEBUG", "ollama_proxy.bus")
    async with asking(PrivateBus(directory)) as wish:
        await trio.sleep(0.2)
        assert not caplog.records
        wish.want(awake=True)
        await eventually(lambda: bool(caplog.records))


# -- the whole router ------------------------------------------------------------------------------


@asynccontextmanager
async def routed(
    private: PrivateBus, *, hold_performance: bool = False
) -> AsyncIterator[httpx.AsyncClient]:
    """A router whose one backend takes two seconds for a stream."""
    script = Script(tokens=100, interval_s=0.02)
    async with fakes("npu", script=script) as servers:
        config = configured(backend("npu", servers["npu"].url))
        config = attrs.evolve(
            config,
            sensors=attrs.evolve(config.sensors, system_bus=private.address),
            dbus=Dbus(enabled=False, hold_performance=hold_performance),
        )
        async with running(config) as owner, owner.client() as client:
            yield client


@pytest.mark.usefixtures("in_process")
async def test_a_critical_stream_keeps_the_machine_fast_and_awake(private: PrivateBus) -> None:
    """From its start to its end, and not a second longer."""
    async with (
        logind(private),
        profiles(private) as daemon,
        routed(private, hold_performance=True) as client,
    ):
        assert [] == await inhibitors(private)
        headers = {"X-Priority": "critical"}
        async with client.stream("POST", CHAT, json=ask(stream=True), headers=headers) as answer:
            await until_inhibited(private, 1, WITHIN_S)
            await eventually(lambda: bool(daemon.held))
            await answer.aread()
        with trio.fail_after(WITHIN_S):
            await eventually(lambda: not daemon.held)
        await until_inhibited(private, 0, WITHIN_S)


@pytest.mark.usefixtures("in_process")
async def test_a_machine_that_is_put_to_sleep_sleeps_within_a_second(private: PrivateBus) -> None:
    """Though the answer goes on; the profile is left alone where nobody allowed it."""
    async with logind(private), profiles(private) as daemon, routed(private) as client:
        headers = {"X-Priority": "critical"}
        async with client.stream("POST", CHAT, json=ask(stream=True), headers=headers) as answer:
            await until_inhibited(private, 1, WITHIN_S)
            async with private.client() as bus:
                body = (LOGIND.interface, "PrepareForSleep", "b", [("b", True)])
                await tell(bus, LOGIND, "EmitSignal", "sssav", *body)
            await until_inhibited(private, 0, WITHIN_S)
            await answer.aread()

    assert 0 == daemon.asked
