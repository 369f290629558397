"""Which sensors run: what is there, through hot-plugging, renumbering and the machine's sleep."""

import attrs
import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.policy.readings import Findings
from ollama_proxy.sensors.senses import Senses
from ollama_proxy.sensors.sensor import Sensor
from tests.fakes.sensor import ScriptedSensor, VirtualCalls, told


@attrs.define
class Room:
    """Senses at work, and what they published last of each sensor."""

    senses: Senses
    there: list[Sensor]
    calls: VirtualCalls
    last: dict[str, Findings | None] = attrs.field(factory=dict)
    looked_at: list[float] = attrs.field(factory=list)
    forgotten: list[str] = attrs.field(factory=list)


async def open_room(nursery: trio.Nursery, *there: Sensor) -> Room:
    """Begin to sense; returns after the first discovery."""
    calls = VirtualCalls(nursery)

    def discover() -> list[Sensor]:
        room.looked_at.append(trio.current_time())
        return list(room.there)

    room = Room(
        Senses(
            discover,
            lambda *told: room.last.update([told]),
            forget=lambda name: room.forgotten.append(name),  # noqa: PLW0108 - there is no room yet
            block=calls,
        ),
        [*there],
        calls,
    )
    await nursery.start(room.senses.run)
    return room


def reads(room: Room) -> float:
    """How often the sensor "a" was read, by what it told last."""
    found = room.last["a"]
    assert found is not None
    return found.loads[0].share or 0.0


async def test_what_is_there_is_read(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Each sensor by its own task."""
    room = await open_room(nursery, ScriptedSensor("a", "a"), ScriptedSensor("b", "b"))
    await trio.sleep(1)

    assert {"a": told(1), "b": told(1)} == room.last


async def test_what_is_plugged_in_is_found_within_a_minute(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """And what was there goes on undisturbed."""
    first = ScriptedSensor("a", "a")
    room = await open_room(nursery, first)
    room.there = [ScriptedSensor("a", "a"), ScriptedSensor("b", "b")]
    await trio.sleep(61)

    assert told(1) == room.last["b"]
    assert (31, 0) == (len(first.read_at), first.closed)


async def test_what_is_gone_is_told_and_closed(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Case 31: and when it returns it is read again."""
    first = ScriptedSensor("a", "a")
    room = await open_room(nursery, first)
    await trio.sleep(1)
    room.there = []
    await trio.sleep(60)
    assert (["a"], 1) == (room.forgotten, first.closed)

    room.there = [ScriptedSensor("a", "a")]
    await trio.sleep(60)

    assert room.last["a"] is not None


async def test_a_new_number_is_the_same_sensor(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It is read at its new place, by one task, and never told as gone."""
    old, new = ScriptedSensor("a", "hwmon3"), ScriptedSensor("a", "hwmon4")
    room = await open_room(nursery, old)
    heard: list[Findings | None] = []
    room.senses.publish = lambda _, findings: heard.append(findings)
    room.there = [new]
    await trio.sleep(70)

    assert (1, 0) == (old.closed, new.closed)
    assert new.read_at
    assert None not in heard


async def test_a_device_that_fails_is_looked_for_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Case 33: within seconds, and without spinning while it is found and fails again."""
    sensor = ScriptedSensor("a", "a")
    room = await open_room(nursery, sensor)
    await trio.sleep(1)
    sensor.pull_out()
    await trio.sleep(59)

    assert 10 <= len(room.looked_at) <= 13
    assert room.last["a"] is None


async def test_resume_looks_again(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Also while the machine was awake all the time."""
    room = await open_room(nursery)
    await trio.sleep(10)
    room.there = [ScriptedSensor("a", "a")]

    room.senses.resume()
    await trio.sleep(0.1)

    assert told(1) == room.last["a"]


async def test_nothing_is_read_while_the_machine_sleeps(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Case 70: all is closed when `pause` returns; two seconds after waking all is found anew."""
    sensor = ScriptedSensor("a", "a")
    room = await open_room(nursery, sensor)
    await trio.sleep(1)
    room.there = [again := ScriptedSensor("a", "a")]

    await room.senses.pause()
    assert 1 == sensor.closed
    await trio.sleep(600)
    assert (1, 1, told(1)) == (len(sensor.read_at), len(room.looked_at), room.last["a"])
    room.senses.resume()
    await trio.sleep(1.9)
    assert [] == again.read_at
    await trio.sleep(0.2)

    assert 1 == len(again.read_at)


async def test_a_machine_that_falls_asleep_again_at_once_is_left_alone(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Resumed and paused in one breath: paused."""
    sensor = ScriptedSensor("a", "a")
    room = await open_room(nursery, sensor)
    await trio.sleep(1)
    await room.senses.pause()
    room.senses.resume()

    await room.senses.pause()
    await trio.sleep(600)

    assert 1 == len(sensor.read_at)


async def test_what_vanished_while_the_machine_slept_is_told(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its last values do not stay."""
    room = await open_room(nursery, ScriptedSensor("a", "a"))
    await trio.sleep(1)
    await room.senses.pause()
    room.there = []
    room.senses.resume()
    await trio.sleep(3)

    assert ["a"] == room.forgotten


async def test_a_device_that_hung_and_returned_is_not_read_beside_itself(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Case 11: the abandoned read holds the device's place until it ends."""
    room = await open_room(nursery)
    room.calls.takes_s["sensor a"] = 1000.0
    room.there = [ScriptedSensor("a", "a")]
    room.senses.resume()
    await trio.sleep(6)
    room.there = []
    room.senses.resume()
    await trio.sleep(6)
    room.there = [ScriptedSensor("a", "a")]
    room.senses.resume()
    await trio.sleep(6)

    assert 1 == room.calls.at_once


async def test_a_fault_in_discovery_costs_only_what_is_new(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told loudly; what is known is read on, and looked for again."""
    room = await open_room(nursery, ScriptedSensor("a", "a"))
    working = room.senses.discover

    def fail() -> list[Sensor]:
        raise ValueError("ours")

    room.senses.discover = fail
    await trio.sleep(130)
    assert reads(room) >= 64
    assert any(record.levelname == "ERROR" for record in caplog.records)

    room.senses.discover = working
    room.there.append(ScriptedSensor("b", "b"))
    await trio.sleep(61)
    assert room.last["b"] is not None


async def test_a_discovery_that_hangs_keeps_nobody_waiting(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It is given up; what is known is read on."""
    room = await open_room(nursery, ScriptedSensor("a", "a"))
    room.calls.takes_s["sensor discovery"] = 10_000.0
    await trio.sleep(200)

    assert reads(room) >= 99
