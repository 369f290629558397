"""One task a backend: is it there, and what does it have?"""

import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import attrs
import trio

from ollama_proxy.backends.backend import BackendFailed
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.station import Station

LINGER_INTERVAL_S = 0.05
DOUBT_INTERVAL_S = 0.02
PLACE_KEPT_S = 0.1

log = logging.getLogger("ollama_proxy.health")


@attrs.frozen(kw_only=True)
class HealthSettings:
    """How often backends are probed, in seconds."""

    interval_s: float = 5.0
    first_interval_s: float = 0.5
    timeout_s: float = 5.0


async def watch_health(
    dispatcher: Dispatcher,
    station: Station,
    settings: HealthSettings,
    limiter: trio.CapacityLimiter,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Probe a backend until cancelled. Reports itself started after the first probe.

    A backend that is down is asked soon at first, then ever less often up to the interval, so that
    one that is just starting joins at once. One that may still compute what was cancelled is asked
    at once, and again soon, until it answers that it does not.

    Error handling: a probe that fails makes the backend unhealthy; nothing goes up.
    """
    pause_s = settings.first_interval_s
    while True:
        doubted = trio.Event()
        station.watch = doubted.set
        asked_at = trio.current_time()
        async with _place(limiter):
            await _probe(dispatcher, station, settings.timeout_s)
        task_status.started()
        task_status = trio.TASK_STATUS_IGNORED
        if not station.healthy:
            with trio.move_on_after(pause_s):
                await doubted.wait()
                await trio.sleep_until(asked_at + DOUBT_INTERVAL_S)
            pause_s = min(pause_s * 2, settings.interval_s)
            continue
        pause_s = settings.first_interval_s
        with trio.move_on_after(LINGER_INTERVAL_S if station.lingering else settings.interval_s):
            await doubted.wait()
            # A storm of cancels is one question.
            await trio.sleep_until(asked_at + DOUBT_INTERVAL_S)


@asynccontextmanager
async def _place(limiter: trio.CapacityLimiter) -> AsyncIterator[None]:
    """A place among those who probe, given up by whoever must wait for its answer.

    The limit is for the work of asking: a few servers that are silent must not keep the others from
    being asked.
    """
    borrower = object()
    await limiter.acquire_on_behalf_of(borrower)

    async def give_up() -> None:
        await trio.sleep(PLACE_KEPT_S)
        limiter.release_on_behalf_of(borrower)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            yield
            nursery.cancel_scope.cancel()
    finally:
        with contextlib.suppress(RuntimeError):  # it was given up
            limiter.release_on_behalf_of(borrower)


async def _probe(dispatcher: Dispatcher, station: Station, timeout_s: float) -> None:
    was_healthy, had_models = station.healthy, station.models
    lingered, heat, slots = station.lingering, station.heat, station.spec.slots
    own = len(station.running)
    try:
        with trio.fail_after(timeout_s):
            probe = await station.backend.probe()
    except BackendFailed as failure:
        why = str(failure)
    except trio.TooSlowError:
        if lingered and not station.is_router:
            # It computes what was cancelled, and nothing else meanwhile: it is busy, not down. A router
            # answers whatever it has to do.
            station.settle(lingered + len(station.running), lingered, trio.current_time())
            dispatcher.stayed_busy(station)
            return
        why = f"it did not answer a probe within {timeout_s:g} s"
    else:
        station.is_well(probe)
        station.settle(probe.computing, lingered, trio.current_time())
        if station.lingering:
            dispatcher.stayed_busy(station)
        if station.is_router:
            dispatcher.node_told(station, heat=heat, has_less=station.hears(own))
        if (
            not was_healthy
            or had_models != station.models
            or lingered != station.lingering
            or slots < station.spec.slots
        ):
            dispatcher.health_changed(station)
        if not was_healthy:
            log.info("backend %s is up", station.spec.id)
        return
    if was_healthy or station.last_error is None:
        log.warning("backend %s is down: %s", station.spec.id, why)
    station.is_down(why)
    if was_healthy:
        dispatcher.health_changed(station)
