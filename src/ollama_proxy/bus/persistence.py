"""How one stays connected to a bus that comes and goes: tried ever less often, told once."""

import logging
from collections.abc import Awaitable, Callable

import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import BusAbsent, CallFailed, Pace
from ollama_proxy.bus.opening import open_bus

log = logging.getLogger("ollama_proxy.bus")


async def stay_connected(
    where: str,
    use: Callable[[Bus], Awaitable[None]],
    *,
    pace: Pace | None = None,
    quietly: bool = False,
) -> None:
    """Connect to a bus and use it; when it is lost, connect and use it anew. Ends when `use` does.

    Args:
        where: "session", "system", or an address as D-Bus writes it.
        use: is cancelled when the connection is lost.
        pace: how soon a bus that is absent is looked for again.
        quietly: another says so already when it is absent.

    Error handling: the bus's absence, and calls that fail in `use` and that it lets through, are
    logged once until it works again, and end in a new connection; other errors go up.
    """
    pace = pace or Pace()
    pause_s = pace.first_pause_s
    is_known_absent = False
    absent, back = (logging.DEBUG,) * 2 if quietly else (logging.WARNING, logging.INFO)
    while True:
        try:
            async with open_bus(where, pace) as bus:
                if is_known_absent:
                    log.log(back, "the %s bus is back", where)
                is_known_absent, pause_s = False, pace.first_pause_s
                await use(bus)
                return
        except* (BusAbsent, CallFailed) as failures:
            if not is_known_absent:
                log.log(absent, "the %s bus cannot be used: %s", where, _first(failures))
            is_known_absent = True
        await trio.sleep(pause_s)
        pause_s = pace.longer(pause_s)


def _first(failures: BaseExceptionGroup[Exception]) -> BaseException:
    """Of failures that are nested as the tasks were."""
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
