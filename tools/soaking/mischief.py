"""What is done to a router and its backends while they are visited: one thing after the other, at random.

Rule 1: each leaves the programs running; what it did to a backend's script `mend` takes back.
Rule 2: nothing here judges: visitors and `House.settles` do.
"""

import contextlib
import functools
import random
import signal
from collections.abc import Awaitable, Callable

import trio

from soaking import visitors
from tests.fault.house import NAMES, House
from tests.fault.test_backends import FAULTS
from tests.inbound.killers import KILLERS

PAUSE_S = 1.5
CROWD = 60
# So many tokens as nobody reads who does not read; who wants fewer says so.
ENDLESS = {"tokens": 1_000_000, "token_bytes": 200}
INTERVALS_S = (0.0, 0.002, 0.01)


async def mend(house: House, chance: random.Random) -> None:
    """Let all backends be well, and as fast as it happens."""
    for each in NAMES:
        await house.script(each, **ENDLESS, interval_s=chance.choice(INTERVALS_S))


async def spoil(house: House, chance: random.Random) -> None:
    """A backend answers some requests badly."""
    fault = chance.choice(list(FAULTS.values()))
    await house.script(
        chance.choice(NAMES),
        **ENDLESS,
        behaviour="verbatim",
        verbatim=fault.says,
        then=fault.then,
        times=chance.randrange(1, 20),
    )


async def kill(house: House, chance: random.Random) -> None:
    """A backend dies, and comes back as its user would have it."""
    program = house.backends[chance.choice(NAMES)]
    program.kill()
    await trio.sleep(chance.random())
    await trio.to_thread.run_sync(program.start_again)
    await mend(house, chance)


async def freeze(house: House, chance: random.Random) -> None:
    """A backend, or the router, does nothing for a while, as in a suspended machine."""
    program = chance.choice([house.router, *house.backends.values()])
    program.send(signal.SIGSTOP)
    try:
        await trio.sleep(chance.random())
    finally:
        program.send(signal.SIGCONT)


async def reload(house: House, chance: random.Random) -> None:
    """The configuration is read again, and has changed."""
    path = house.router.directory / "config.toml"
    aging = f"[scheduler]\naging_s = {chance.choice((5, 10, 20))}\n"
    path.write_text(path.read_text().partition("[scheduler]")[0] + aging)
    house.router.send(signal.SIGHUP)


async def babble(house: House, chance: random.Random) -> None:
    """Somebody says what once killed a server."""
    async with house.connected() as client:
        with contextlib.suppress(trio.BrokenResourceError):
            for piece in chance.choice(list(KILLERS.values())):
                await client.send(piece)
            await trio.sleep(0.1)


async def crowd_in(house: House, chance: random.Random) -> None:
    """Many come at once, and leave soon."""
    async with trio.open_nursery() as nursery:
        for _ in range(CROWD):
            nursery.start_soon(visitors.say_half, house, chance)


async def block(house: House, chance: random.Random) -> None:  # noqa: ARG001 - as its fellows
    """Somebody stops reading."""
    await visitors.stop_reading(house)


MISCHIEF: tuple[Callable[[House, random.Random], Awaitable[None]], ...] = (
    spoil,
    spoil,
    spoil,
    mend,
    mend,
    kill,
    freeze,
    reload,
    babble,
    crowd_in,
    block,
)


async def make(house: House, chance: random.Random, done: dict[str, int]) -> None:
    """Do one thing after the other until cancelled, and count what was done.

    What has begun is done to its end: a backend that was killed comes back.
    """
    while True:
        await trio.sleep(chance.random() * PAUSE_S)
        act = chance.choice(MISCHIEF)
        with trio.CancelScope(shield=True):
            await functools.partial(act, house, chance)()
        done[act.__name__] = done.get(act.__name__, 0) + 1
