"""Our connection to a bus, on a real dbus-daemon of our own."""

import gc
import logging
import os
from collections.abc import AsyncIterator, Sized
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import (
    DAEMON,
    INVALID_SIGNATURE,
    NO_REPLY,
    BusAbsent,
    Call,
    CallFailed,
    CallRefused,
    Properties,
    Remote,
    Rule,
    Signal,
)
from ollama_proxy.bus.opening import open_bus
from ollama_proxy.bus.persistence import stay_connected
from ollama_proxy.bus.remote import PROPERTIES, keep_current
from tests.real.buses import HASTE, SOON_S, PrivateBus, eventually

MANY = 120  # a bus allows 128 answers to be awaited at once
DESCRIPTOR = 2  # any that is open for as long as the tests run
NAME = "org.example.Service"
THING = Remote(NAME, "/thing", "org.example.Thing")


async def echo(call: Call) -> tuple[str, tuple[Any, ...]]:
    """Answers with what it was given; by an error, another type, or not at all if asked to."""
    match call.member:
        case "Refuse":
            raise CallRefused("org.example.No", "not today")
        case "Number":
            return "u", (7,)
        case "Hang":
            await trio.sleep_forever()
            raise AssertionError
        case "Descriptor":
            return "h", (DESCRIPTOR,)
        case _:
            return call.signature, call.body


# -- calls -----------------------------------------------------------------------------------------


async def test_of_many_calls_at_once_each_gets_its_answer(private: PrivateBus) -> None:
    """Nothing is dropped, however many are under way on one connection."""
    answers: set[str] = set()

    async with private.serving(NAME) as service, private.client() as bus:
        service.on_call = echo

        async def ask(word: str) -> None:
            answers.update(await bus.call(THING, "Echo", "s", (word,), returns="s", timeout_s=60))

        async with trio.open_nursery() as nursery:
            for number in range(MANY):
                nursery.start_soon(ask, str(number))

    assert {str(number) for number in range(MANY)} == answers


@pytest.mark.parametrize(
    ("member", "expected"),
    [("Refuse", "org.example.No"), ("Number", INVALID_SIGNATURE), ("Hang", NO_REPLY)],
)
async def test_a_call_that_fails_says_why(member: str, expected: str, private: PrivateBus) -> None:
    """An error, an answer of another type and no answer in time are one kind of failure."""
    async with private.serving(NAME) as service, private.client() as bus:
        service.on_call = echo
        with pytest.raises(CallFailed) as failure:
            await bus.call(THING, member, returns="s", timeout_s=0.2)

    assert expected == failure.value.name


async def test_a_connection_outlives_calls_that_were_given_up(private: PrivateBus) -> None:
    """Who is cancelled while it waits leaves nothing behind that disturbs the next."""
    async with private.serving(NAME) as service, private.client() as bus:
        service.on_call = echo
        for delay in (0, 0.001, 0.01):
            with trio.move_on_after(delay):
                await bus.call(THING, "Echo", "ay", (bytes(100_000),), returns="ay")

        answer = await bus.call(THING, "Echo", "s", ("still",), returns="s", timeout_s=SOON_S)

    assert ("still",) == answer


async def test_who_serves_nothing_says_so(private: PrivateBus) -> None:
    """A caller of a connection that serves nothing need not wait for its time-out."""
    async with private.serving(NAME), private.client() as bus:
        with pytest.raises(CallFailed, match="UnknownObject"):
            await bus.call(THING, "Echo", timeout_s=SOON_S)


@pytest.mark.parametrize("starts", [True, False])
async def test_a_service_is_started_only_on_purpose(starts: bool, directory: Path) -> None:
    """A call to a name that the bus could have owned starts nobody unless it says so."""
    private, mark = PrivateBus(directory), directory / "started"
    private.activates(NAME, f"/usr/bin/touch {mark} /nowhere/fails")
    async with private.running(), private.client() as bus:
        with pytest.raises(CallFailed):
            await bus.call(THING, "Echo", starts=starts, timeout_s=SOON_S)

    assert starts == mark.exists()


async def test_a_descriptor_is_passed(private: PrivateBus) -> None:
    """Who takes one holds it open, as logind's inhibitor locks are held."""
    async with private.serving(NAME) as service, private.client() as bus:
        service.on_call = echo
        (descriptor,) = await bus.call(THING, "Descriptor", returns="h", timeout_s=SOON_S)
        with descriptor as held:
            assert os.fstat(held.fileno())


@pytest.mark.filterwarnings("error::ResourceWarning")
async def test_a_descriptor_that_nobody_takes_is_closed(private: PrivateBus) -> None:
    """Whether its caller has gone or wanted something else."""
    async with private.serving(NAME) as service, private.client() as bus:
        service.on_call = echo
        with pytest.raises(CallFailed):
            await bus.call(THING, "Descriptor", returns="s", timeout_s=SOON_S)
        with trio.move_on_after(0):
            await bus.call(THING, "Descriptor", returns="h")
        await bus.call(THING, "Number", returns="u", timeout_s=SOON_S)
        gc.collect()


# -- signals ---------------------------------------------------------------------------------------


async def test_only_the_owner_of_a_name_is_heard(private: PrivateBus) -> None:
    """A signal that another sends in its place, even to us alone, is not taken for its own."""
    heard: list[Signal] = []
    async with (
        private.serving(NAME) as service,
        private.serving("org.example.Impostor") as impostor,
        private.client() as bus,
        bus.following(NAME, lambda _: None) as owner,
        bus.following("org.example.Impostor", lambda _: None) as other,
        bus.subscribed(
            Rule(sender=owner, path="/thing", interface="org.example.Thing", member="Said"),
            heard.append,
        ),
        # What others want on this connection brings the impostor's signals, too.
        bus.subscribed(
            Rule(sender=other, interface="org.example.Thing", member="Said"), lambda _: None
        ),
    ):
        await impostor.emit("/thing", "org.example.Thing", "Said", "s", ("lie",))
        await impostor.call(DAEMON, "GetId", returns="s")
        await service.emit("/other", "org.example.Thing", "Said", "s", ("elsewhere",))
        await service.emit("/thing", "org.example.Thing", "Said", "s", ("truth",))
        await eventually(lambda: bool(heard))

    assert [("truth",)] == [signal.body for signal in heard]


async def test_signals_come_as_long_as_they_are_wanted(private: PrivateBus) -> None:
    """None comes after the end, and the bus is told."""
    heard: list[Any] = []
    async with (
        private.serving(NAME) as service,
        private.client() as bus,
        bus.following(NAME, lambda _: None) as owner,
    ):
        rule = Rule(sender=owner, interface="org.example.Thing", member="Said")
        async with bus.subscribed(rule, lambda signal: heard.append(signal.body[0])):
            for number in range(300):
                await service.emit("/thing", "org.example.Thing", "Said", "u", (number,))
            await eventually(lambda: len(heard) == 300)
        await service.emit("/thing", "org.example.Thing", "Said", "u", (300,))
        await service.call(DAEMON, "GetId", returns="s")
        with pytest.raises(CallFailed, match="MatchRuleNotFound"):
            await bus.call(DAEMON, "RemoveMatch", "s", (str(rule),))

    assert list(range(300)) == heard


async def test_the_owner_of_a_name_is_followed(private: PrivateBus) -> None:
    """From nobody to somebody to nobody."""
    owners: list[str | None] = []
    async with (
        private.client() as bus,
        bus.following(NAME, lambda owner: owners.append(owner.unique)) as owner,
    ):
        assert owner.unique is None
        async with private.serving(NAME) as service:
            await eventually(lambda: len(owners) == 1)
        await eventually(lambda: len(owners) == 2)

    assert [service.name, None] == owners


# -- properties ------------------------------------------------------------------------------------


@attrs.define
class Thing:
    """A service with properties. `answers` are what GetAll returns in turn, the last for ever."""

    answers: list[tuple[str, tuple[Any, ...]] | None]
    asked: int = 0

    async def answer(self, call: Call) -> tuple[str, tuple[Any, ...]]:
        """Answers GetAll; None: never."""
        if call.member != "GetAll":
            return "", ()
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            await trio.sleep_forever()
            raise AssertionError
        return answer


def variants(**values: object) -> tuple[str, tuple[Any, ...]]:
    signatures = {bool: "b", int: "i", str: "s", float: "d", list: "ai"}
    return "a{sv}", ({k: (signatures[type(v)], v) for k, v in values.items()},)


@pytest.fixture
async def told(private: PrivateBus) -> AsyncIterator[list[Properties | None]]:
    """What is told of the thing, whoever serves it in the test."""
    heard: list[Properties | None] = []
    async with open_bus(private.address, HASTE) as bus, trio.open_nursery() as nursery:
        nursery.start_soon(keep_current, bus, THING, heard.append)
        yield heard
        nursery.cancel_scope.cancel()


async def changed(service: Bus, signature: str, *body: object) -> None:
    await service.emit(THING.path, PROPERTIES, "PropertiesChanged", signature, body)


async def test_properties_are_kept_current(
    private: PrivateBus, told: list[Properties | None]
) -> None:
    """Read when the owner comes, changed as it says, read again after what it invalidates."""
    async with private.serving(NAME) as service:
        thing = Thing([variants(Level=1, Mode="a"), variants(Level=9, Mode="a")])
        service.on_call = thing.answer
        await eventually(lambda: told[-1:] == [Properties(*variants(Level=1, Mode="a")[1])])
        await changed(service, "sa{sv}as", THING.interface, {"Level": ("i", 2)}, [])
        await eventually(lambda: told[-1:] == [Properties(*variants(Level=2, Mode="a")[1])])
        await changed(service, "sa{sv}as", THING.interface, {}, ["Level"])
        await eventually(lambda: told[-1:] == [Properties(*variants(Level=9, Mode="a")[1])])
    await eventually(lambda: told[-1:] == [None])

    assert 2 == thing.asked


async def test_a_change_during_a_read_is_not_lost(
    private: PrivateBus, told: list[Properties | None]
) -> None:
    """A signal that overtakes the answer leads to another read."""
    async with private.serving(NAME) as service:
        thing = Thing([variants(Level=1), variants(Level=2)])

        async def answer(call: Call) -> tuple[str, tuple[Any, ...]]:
            if call.member == "GetAll" and thing.asked == 0:
                await changed(service, "sa{sv}as", THING.interface, {"Level": ("i", 2)}, [])
            return await thing.answer(call)

        service.on_call = answer
        await eventually(lambda: told[-1:] == [Properties(*variants(Level=2)[1])])

    assert 2 == thing.asked


@pytest.mark.parametrize(
    "answer",
    [
        None,
        ("s", ("nonsense",)),
        ("aa{sv}", ([],)),
        ("", ()),
    ],
    ids=["silent", "text", "another type", "nothing"],
)
async def test_an_owner_that_does_not_say_is_asked_again(
    answer: tuple[str, tuple[Any, ...]] | None,
    private: PrivateBus,
    told: list[Properties | None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is known meanwhile, and it is complained of once."""
    async with private.serving(NAME) as service:
        service.on_call = Thing([answer, answer, variants(Level=1)]).answer
        await eventually(lambda: told == [Properties(*variants(Level=1)[1])])

    assert 1 == len([r for r in caplog.records if r.levelno == logging.WARNING])


async def test_signals_of_another_type_change_nothing(
    private: PrivateBus, told: list[Properties | None]
) -> None:
    """What is no PropertiesChanged by its type is passed over."""
    async with private.serving(NAME) as service:
        service.on_call = Thing([variants(Level=1)]).answer
        await eventually(lambda: bool(told))
        await changed(service, "s", THING.interface)
        await changed(service, "su", THING.interface, 3)
        await changed(service, "sa{sv}as", "org.example.Other", {"Level": ("i", 5)}, [])
        await changed(service, "sa{sv}as", THING.interface, {"Level": ("ai", [1])}, [])
        await eventually(lambda: len(told) == 2)

    properties = told[1]
    assert properties is not None
    assert properties.number("Level") is None


async def test_a_service_that_restarts_is_read_anew(
    private: PrivateBus, told: list[Properties | None]
) -> None:
    """Unknown in between, and then what the new owner says."""
    for level in (1, 2):
        async with private.serving(NAME) as service:
            service.on_call = Thing([variants(Level=level)]).answer
            await eventually(lambda: bool(told) and told[-1] is not None)
        await eventually(lambda: told[-1] is None)

    levels = [p.number("Level") if p else None for p in told]
    assert [1, None, 2, None] == levels


def has(things: Sized, count: int) -> bool:
    return len(things) == count


# -- a bus that comes and goes ---------------------------------------------------------------------


async def test_a_bus_that_dies_ends_what_is_done_with_it(directory: Path) -> None:
    """Whoever uses it is cancelled, and the reason is the bus."""
    private = PrivateBus(directory)

    async def use() -> None:
        async with open_bus(private.address):
            daemon.kill()
            await trio.sleep_forever()

    async with private.running() as daemon:
        with pytest.raises(BusAbsent), trio.fail_after(SOON_S):
            await use()


async def test_a_bus_that_comes_back_is_used_again(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its absence at the start and its death are said once each, and its return."""
    caplog.set_level(logging.INFO)
    private = PrivateBus(directory)
    names: list[str] = []

    async def use(bus: Bus) -> None:
        names.append(bus.name)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(stay_connected, private.address, use, pace=HASTE))
        await eventually(lambda: bool(caplog.records))
        for life in (1, 2):
            async with private.running():
                await eventually(partial(has, names, life))
            await eventually(partial(has, caplog.records, 2 * life + 1))
        nursery.cancel_scope.cancel()

    levels = [record.levelname for record in caplog.records]
    assert ["WARNING", "INFO", "WARNING", "INFO", "WARNING"] == levels


async def test_a_bus_that_refuses_a_subscription_is_tried_again(directory: Path) -> None:
    """What is let through of failed calls does not end the program."""
    private = PrivateBus(directory)
    attempts: list[str] = []

    async def use(bus: Bus) -> None:
        attempts.append(bus.name)
        await bus.call(Remote("org.example.Nobody", "/", "a.b"), "C")

    async with private.running(), trio.open_nursery() as nursery:
        nursery.start_soon(partial(stay_connected, private.address, use, pace=HASTE))
        await eventually(lambda: len(attempts) > 2)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("variable", ["DBUS_SYSTEM_BUS_ADDRESS", "DBUS_SESSION_BUS_ADDRESS"])
async def test_the_environment_says_where_the_buses_are(
    variable: str, private: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both by their well-known variables, of whose addresses the first that answers is taken."""
    monkeypatch.setenv(variable, f"unix:path=/nowhere;{private.address}")
    async with open_bus("system" if "SYSTEM" in variable else "session") as bus:
        assert bus.name.startswith(":")


async def test_a_session_without_a_variable_is_found(
    private: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services have only XDG_RUNTIME_DIR."""
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(private.directory))
    async with open_bus("session") as bus:
        assert bus.name.startswith(":")
