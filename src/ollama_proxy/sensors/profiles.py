"""Which power profile is active: power-profiles-daemon's word, or whoever speaks in its place.

It is only read, and never started: starting it would stop what the owner runs in its place.
"""

from functools import partial
from typing import NoReturn

import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import Properties, Remote
from ollama_proxy.bus.remote import keep_current
from ollama_proxy.policy.readings import Findings, Profile
from ollama_proxy.sensors.upower import Publish

NAME = "profile"
_WORD_MAX = 64
_NEW, _OLD = "org.freedesktop.UPower.PowerProfiles", "net.hadess.PowerProfiles"
# The newer name first. One daemon has both for a while, and they say the same.
REMOTES = (
    Remote(_NEW, "/org/freedesktop/UPower/PowerProfiles", _NEW),
    Remote(_OLD, "/net/hadess/PowerProfiles", _OLD),
)


async def sense_profiles(bus: Bus, publish: Publish) -> NoReturn:
    """Publish under the name "profile" until cancelled; None when nobody says it, and at the end.

    Raises:
        CallFailed: the bus does not let us watch.
    """
    said: dict[Remote, Findings | None] = dict.fromkeys(REMOTES)

    def heard(remote: Remote, properties: Properties | None) -> None:
        said[remote] = _findings(properties)
        publish(NAME, next((said[one] for one in REMOTES if said[one]), None))

    try:
        async with trio.open_nursery() as nursery:
            for remote in REMOTES:
                nursery.start_soon(keep_current, bus, remote, partial(heard, remote))
            await trio.sleep_forever()
    finally:
        publish(NAME, None)


def _findings(properties: Properties | None) -> Findings | None:
    active = _word(properties.text("ActiveProfile")) if properties is not None else ""
    if properties is None or not active:
        return None
    degraded = _word(properties.text("PerformanceDegraded"))
    return Findings(profile=Profile(active=active, degraded=degraded))


def _word(said: str | None) -> str:
    """A name as a daemon says it: of the user's own bus, or of whoever took the daemon's name there."""
    return said if said is not None and len(said) <= _WORD_MAX and said.isprintable() else ""
