"""The task of one sensor: in time, alone, and honest about what is late or gone."""

import logging
import threading
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.policy.readings import Findings
from ollama_proxy.sensors.load import CpuLoad
from ollama_proxy.sensors.watch import on_thread, watch
from tests.fakes.machine import Machine
from tests.fakes.sensor import ScriptedSensor, VirtualCalls, told

STAT = "/proc/stat"


class Heard:
    """What was published, and when."""

    def __init__(self) -> None:
        self.all: list[tuple[float, str, Findings | None]] = []
        self.came = trio.Event()

    def __call__(self, name: str, findings: Findings | None) -> None:
        """Satisfies `Publish`."""
        self.all.append((trio.current_time(), name, findings))
        self.came.set()

    async def next(self) -> Findings | None:
        """What is published next."""
        self.came = trio.Event()
        await self.came.wait()
        return self.all[-1][2]


def begin(
    nursery: trio.Nursery, sensor: ScriptedSensor, calls: VirtualCalls
) -> tuple[Heard, trio.CancelScope]:
    """Watch a sensor until the scope is cancelled."""
    heard = Heard()
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await watch(sensor, heard, limiter=trio.CapacityLimiter(1), block=calls)

    nursery.start_soon(run)
    return heard, scope


async def test_it_is_read_at_its_interval(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """And each time what it found is published."""
    sensor = ScriptedSensor(interval_s=2.0)
    heard, _ = begin(nursery, sensor, VirtualCalls(nursery))
    begun = trio.current_time()

    await trio.sleep(7)

    assert [0.0, 2.0, 4.0, 6.0] == [at - begun for at in sensor.read_at]
    assert [told(1), told(2), told(3), told(4)] == [findings for _, _, findings in heard.all]


async def test_sensors_are_read_on_one_beat(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Whenever they began, so that they wake the processor once."""
    first, second = ScriptedSensor(), ScriptedSensor("other")
    begin(nursery, first, VirtualCalls(nursery))
    await trio.sleep(0.7)
    begin(nursery, second, VirtualCalls(nursery))
    await trio.sleep(7)

    assert first.read_at[1:] == second.read_at[1:]


async def test_a_late_read_is_reported_lost(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Case 11: half a second after it began, not when it comes back."""
    calls = VirtualCalls(nursery, {"sensor s": 100.0})
    heard, _ = begin(nursery, ScriptedSensor(), calls)
    begun = trio.current_time()

    await trio.sleep(99)

    assert [(begun + 0.5, "s", None)] == heard.all


async def test_a_device_is_never_read_twice_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Case 11: a read that hangs is the only one until it ends, then all goes on as before."""
    calls = VirtualCalls(nursery, {"sensor s": 100.0})
    sensor = ScriptedSensor()
    heard, _ = begin(nursery, sensor, calls)
    await trio.sleep(99)
    assert 1 == calls.at_once
    calls.takes_s.clear()

    await trio.sleep(10)

    assert [None, told(2)] == [findings for _, _, findings in heard.all][:2]


async def test_what_was_read_before_it_hung_is_not_news(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It is as old as the read is long; what is merely late is told."""
    calls = VirtualCalls(nursery, {"sensor s": 1.0})
    heard, _ = begin(nursery, ScriptedSensor(interval_s=2.0), calls)
    await trio.sleep(1.5)
    calls.takes_s["sensor s"] = 3.0
    await trio.sleep(10)

    assert [None, told(1), None] == [findings for _, _, findings in heard.all][:3]


async def test_a_slow_sensor_is_read_ever_more_rarely(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The pause doubles up to a minute, and is as ever once it answers in time."""
    calls = VirtualCalls(nursery, {"sensor s": 1.0})
    sensor = ScriptedSensor(interval_s=4.0)
    begin(nursery, sensor, calls)
    await trio.sleep(1 + 8 + 1 + 16 + 1 + 32 + 1 + 60 + 1 + 30)
    slow = [round(b - a) for a, b in pairwise(sensor.read_at)]
    calls.takes_s.clear()
    sensor.read_at.clear()
    await trio.sleep(45)

    assert [9, 17, 33, 61] == slow
    assert {4} == {round(b - a) for a, b in pairwise(sensor.read_at[1:])}


async def test_a_device_that_is_gone_ends_its_task(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It is published as unknown, closed, and not read again."""
    sensor = ScriptedSensor()
    heard, _ = begin(nursery, sensor, VirtualCalls(nursery))
    await trio.sleep(1)
    sensor.pull_out()
    await trio.sleep(100)

    assert [told(1), None] == [findings for _, _, findings in heard.all]
    assert (2, 1) == (len(sensor.read_at), sensor.closed)


async def test_a_fault_of_ours_leaves_the_device_out(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told loudly, once; the device is closed and unknown, and nobody else is touched."""
    sensor = ScriptedSensor(ends_with=ValueError("ours"))
    heard, _ = begin(nursery, sensor, VirtualCalls(nursery))
    await trio.sleep(200)

    assert heard.all[-1][2] is None
    assert 1 == sensor.closed
    assert ["ERROR"] == [record.levelname for record in caplog.records]


async def test_a_cancelled_sensor_is_closed(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Whatever it holds open would keep its device awake."""
    sensor = ScriptedSensor()
    _, scope = begin(nursery, sensor, VirtualCalls(nursery))
    await trio.sleep(3)

    scope.cancel()
    await trio.sleep(0.1)

    assert 1 == sensor.closed


async def test_the_log_has_a_line_for_each_change(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one for each late read."""
    caplog.set_level(logging.INFO)
    calls = VirtualCalls(nursery, {"sensor s": 1.0})
    begin(nursery, ScriptedSensor(interval_s=4.0), calls)
    await trio.sleep(100)
    calls.takes_s.clear()
    await trio.sleep(200)

    assert [
        "sensor s is silent for over 0.5 s",
        "sensor s answers in time again",
    ] == caplog.messages


async def test_a_thread_that_hangs_holds_up_nothing_else() -> None:
    """With real threads: another sensor tells while the first hangs, which tells when let go."""
    stuck, well = Machine({STAT: "cpu 1 1 1 1 1"}), Machine({STAT: "cpu 1 1 1 1 1"})
    stuck.hang(STAT)
    lost, told_by_well = Heard(), Heard()
    async with trio.open_nursery() as nursery:
        for files, heard in ((stuck, lost), (well, told_by_well)):
            sensor = CpuLoad(files, interval_s=0.001)
            limiter = trio.CapacityLimiter(1)

            async def run(
                sensor: CpuLoad = sensor,
                heard: Heard = heard,
                limiter: trio.CapacityLimiter = limiter,
            ) -> None:
                await watch(sensor, heard, limiter=limiter, timeout_s=0.05)

            nursery.start_soon(run)
        with trio.fail_after(20):
            assert await lost.next() is None
            assert await told_by_well.next() is not None
            assert 1 == len(stuck.opened)
            stuck.let_go()
            while await lost.next() is None:
                pass
        nursery.cancel_scope.cancel()


async def test_a_thread_that_hangs_does_not_keep_the_router_from_ending() -> None:
    """With real threads: cancelled, the task ends although its read never does."""
    files = Machine({STAT: "cpu 1 1 1 1 1"})
    files.hang(STAT)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            heard = Heard()
            limiter = trio.CapacityLimiter(1)

            async def run() -> None:
                await watch(CpuLoad(files), heard, limiter=limiter, timeout_s=0.05)

            nursery.start_soon(run)
            assert await heard.next() is None
            nursery.cancel_scope.cancel()

    assert 1 == limiter.borrowed_tokens
    files.let_go()


async def test_a_thread_is_called_after_its_sensor() -> None:
    """So that a dump of a process that hangs says what it waits for."""
    name = await on_thread(
        lambda: threading.current_thread().name, name="sensor s", limiter=trio.CapacityLimiter(1)
    )

    assert "sensor s" == name
