"""What is wanted of the desktop, from jobs and readings."""

import trio
from trio.testing import MockClock

from ollama_proxy.engine.climate import Climate, ClimateSettings
from ollama_proxy.engine.courtesy import Courtesy
from ollama_proxy.engine.news import News
from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.courtesy import GRACE_S, CourtesySettings, Wants
from ollama_proxy.policy.readings import Findings
from tests.engine.floor import Floor, backend, open_floor

ALL = CourtesySettings(hold_performance=True, inhibit_sleep=True)


def courtesy_of(floor: Floor) -> tuple[Courtesy, Climate]:
    climate = Climate(floor.dispatcher, ClimateSettings(), News(), minute_of_day=lambda: 0)
    return Courtesy(floor.dispatcher, climate, ALL), climate


async def test_who_is_at_a_backend_counts_and_nobody_else(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Neither one that waits in line, nor one that has ended."""
    floor = open_floor(nursery, autojump_clock, backend().say("a", after=5).say("b", after=5))
    courtesy, _ = courtesy_of(floor)
    floor.submit(stream=False)
    second = floor.submit(priority=Priority.CRITICAL)
    seen = [courtesy.wants()]
    await trio.sleep(12)
    seen.append(courtesy.wants())
    await second.ended.wait()
    seen.append(courtesy.wants())

    assert [Wants(), Wants(performance=True, awake=True), Wants()] == seen


async def test_a_sleep_is_waited_for_from_when_it_was_told(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """And after the wake all is as before."""
    floor = open_floor(nursery, autojump_clock, backend().hang())
    courtesy, climate = courtesy_of(floor)
    floor.submit()
    seen = []
    for pause_s, sleeping in ((0.0, True), (GRACE_S - 0.1, True), (0.2, True), (60.0, False)):
        await trio.sleep(pause_s)
        climate.publish("logind", Findings(sleeping=sleeping))
        climate.look()
        seen.append(courtesy.wants().awake)

    assert [True, True, False, True] == seen
