"""Asks the desktop for what requests want while they run, and gives it back: what is decided elsewhere.

Law: nothing outlasts its reason by more than a second, whatever fails. A lock is an open file that we
close; a profile's hold is bound to our connection.
"""

import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import NoReturn, Protocol

import attrs
import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import (
    INVALID_SIGNATURE,
    NO_OWNER,
    NO_REPLY,
    SERVICE_UNKNOWN,
    BusAbsent,
    CallFailed,
    Owner,
    Pace,
    Remote,
)
from ollama_proxy.bus.persistence import stay_connected
from ollama_proxy.policy.courtesy import Wants
from ollama_proxy.sensors.profiles import REMOTES

APP_ID = "ie.fio.OllamaProxy"
LOOKS_EACH_S = 0.25  # while there is something to give back
LOGIND = Remote(
    "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"
)
_NOBODY = {SERVICE_UNKNOWN, NO_OWNER}
# It may have been given all the same.
_IN_DOUBT = {NO_REPLY, INVALID_SIGNATURE}

log = logging.getLogger("ollama_proxy.desktop")


class Favour(Protocol):
    """Something that one is given, and gives back."""

    what: str

    @property
    def is_held(self) -> bool:
        """Whether we have it."""

    def watching(self, bus: Bus) -> AbstractAsyncContextManager[None]:
        """As long as this lasts, it is noticed when whoever gave it is gone."""

    def is_wanted(self, wants: Wants) -> bool:
        """Whether it is wanted now."""

    async def take(self, bus: Bus) -> None:
        """Ask for it.

        Raises:
            CallFailed: it is not given.
            BusAbsent: whether it is given cannot be known; the connection must go, and it with that.
        """

    async def give_back(self, bus: Bus) -> None:
        """Need it no more."""

    def drop(self) -> None:
        """The bus is lost: keep nothing that would last."""


@attrs.define
class Awake:
    """logind puts the machine's sleep off while we hold this."""

    what: str = "a delay of sleep"
    _lock: "_Closing | None" = None

    @property
    def is_held(self) -> bool:
        """See `Favour`."""
        return self._lock is not None

    def watching(self, bus: Bus) -> AbstractAsyncContextManager[None]:  # noqa: ARG002 - as below
        """See `Favour`. logind remembers its locks when it is started again."""
        return nullcontext()

    def is_wanted(self, wants: Wants) -> bool:
        """See `Favour`."""
        return wants.awake

    async def take(self, bus: Bus) -> None:
        """See `Favour`."""
        body = ("sleep", "Ollama Proxy", "An answer is being written", "delay")
        (self._lock,) = await bus.call(LOGIND, "Inhibit", "ssss", body, returns="h")

    async def give_back(self, bus: Bus) -> None:  # noqa: ARG002 - a lock is no call
        """See `Favour`."""
        self.drop()

    def drop(self) -> None:
        """See `Favour`."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class _Closing(Protocol):
    def close(self) -> None: ...


@attrs.define
class Performance:
    """power-profiles-daemon keeps its "performance" profile while we hold this."""

    what: str = "the performance profile"
    _given: tuple[Remote, int] | None = None

    @property
    def is_held(self) -> bool:
        """See `Favour`."""
        return self._given is not None

    @asynccontextmanager
    async def watching(self, bus: Bus) -> AsyncIterator[None]:
        """See `Favour`. To a daemon that was started again our cookie is nothing, or another's."""

        def forget(owner: Owner) -> None:
            if self._given is not None and self._given[0].name == owner.name:
                self._given = None

        new, old = REMOTES
        async with bus.following(new.name, forget), bus.following(old.name, forget):
            yield

    def is_wanted(self, wants: Wants) -> bool:
        """See `Favour`."""
        return wants.performance

    async def take(self, bus: Bus) -> None:
        """See `Favour`. The daemon has two names, and older ones have one of them."""
        body = ("performance", "A critical request is being served", APP_ID)
        for remote in REMOTES:
            try:
                (cookie,) = await bus.call(remote, "HoldProfile", "sss", body, returns="u")
            except CallFailed as failure:
                if failure.name in _IN_DOUBT:
                    raise BusAbsent(f"{failure}, and may hold the profile for us") from failure
                if failure.name not in _NOBODY or remote is REMOTES[-1]:
                    raise
            else:
                self._given = (remote, cookie)
                return

    async def give_back(self, bus: Bus) -> None:
        """See `Favour`. That it has ended already, by the user's choice, is well."""
        if self._given is not None:
            remote, cookie = self._given
            self._given = None
            try:
                await bus.call(remote, "ReleaseProfile", "u", (cookie,))
            except CallFailed as failure:
                log.debug("the profile's hold had ended: %s", failure)

    def drop(self) -> None:
        """See `Favour`. It ends with our connection."""
        self._given = None


class Desktop:
    """Asks for favours as long as `run` runs; for each by itself, as one may keep us waiting."""

    def __init__(self, wants: Callable[[], Wants], favours: list[Favour]) -> None:
        """Begin with nothing asked for."""
        self._wants = wants
        self._favours = favours
        self._stirred = trio.Event()

    def stir(self) -> None:
        """Something may be wanted."""
        self._stirred.set()
        self._stirred = trio.Event()

    async def run(self, where: str, *, pace: Pace | None = None) -> None:
        """Ask and give back until cancelled. The bus is not gone to before something is wanted.

        Error handling: what is not given is logged once, and asked for ever less often. That there is
        no bus is said by the sensors on it.
        """
        while True:
            stirred = self._stirred
            if any(favour.is_wanted(self._wants()) for favour in self._favours):
                break
            await stirred.wait()
        await stay_connected(where, self._ask_for_all, pace=pace, quietly=True)

    async def _ask_for_all(self, bus: Bus) -> None:
        async with trio.open_nursery() as nursery:
            for favour in self._favours:
                nursery.start_soon(self._watch, bus, favour, name=favour.what)

    async def _watch(self, bus: Bus, favour: Favour) -> None:
        async with favour.watching(bus):
            await self._ask_for(bus, favour)

    async def _ask_for(self, bus: Bus, favour: Favour) -> NoReturn:
        is_refused = False
        pause_s, again_at = bus.pace.first_pause_s, -math.inf
        try:
            while True:
                stirred = self._stirred
                is_wanted = favour.is_wanted(self._wants())
                if favour.is_held and not is_wanted:
                    await favour.give_back(bus)
                elif is_wanted and not favour.is_held and trio.current_time() >= again_at:
                    try:
                        await favour.take(bus)
                    except CallFailed as failure:
                        if not is_refused:
                            log.info("nobody gives us %s: %s", favour.what, failure)
                        is_refused = True
                        again_at = trio.current_time() + pause_s
                        pause_s = bus.pace.longer(pause_s)
                    else:
                        is_refused, pause_s = False, bus.pace.first_pause_s
                if favour.is_held or is_wanted:
                    await trio.sleep(LOOKS_EACH_S)
                else:
                    await stirred.wait()
        finally:
            favour.drop()
