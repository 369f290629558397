"""All that the system bus tells of the machine: supply, profile, sleep."""

import time
from collections.abc import Callable

import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import Pace
from ollama_proxy.bus.persistence import stay_connected
from ollama_proxy.sensors.logind import Logind
from ollama_proxy.sensors.profiles import sense_profiles
from ollama_proxy.sensors.upower import Publish, UPower


def slept_s() -> float:
    """How long the machine has slept since it started, in seconds: only one of two clocks stops."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


async def sense_system_bus(
    where: str,
    publish: Publish,
    on_sleep: Callable[[bool], None],
    *,
    pace: Pace | None = None,
    slept_s: Callable[[], float] = slept_s,
) -> None:
    """Publish what is heard on the bus until cancelled.

    Args:
        where: "system", or the address of another bus.
        publish: takes a name ("upower", "profile", "logind") and all that is known under it now;
            None: nothing.
        on_sleep: hears True before the machine sleeps, and False once it woke.
        pace: how patient to be.
        slept_s: how long the machine has slept; for machines without logind.

    Error handling: without a bus, or without the services, nothing is known, and it is looked for
    again; nothing goes up.
    """
    upower = UPower(publish, slept_s)

    def slept(is_asleep: bool) -> None:  # noqa: FBT001 - as `on_sleep`
        if not is_asleep:
            upower.resumed()
        on_sleep(is_asleep)

    logind = Logind(publish, slept)

    async def sense(bus: Bus) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upower.sense, bus)
            nursery.start_soon(sense_profiles, bus, publish)
            nursery.start_soon(logind.sense, bus)

    await stay_connected(where, sense, pace=pace)
