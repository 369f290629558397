"""The door itself: the names it has, the calls it answers, the changes it tells.

It opens when a bus is there and nobody else has the names, also long after the router's start, and
again after a bus was lost. Nothing else waits for it.
"""

import contextlib
import logging
import math
from collections.abc import Callable

import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import DAEMON, CallFailed, CallRefused, Owner, Pace
from ollama_proxy.bus.persistence import stay_connected
from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.ledger import Fact, Ledger
from ollama_proxy.engine.news import BackendChanged, HeatChanged, Item, ModeChanged, News, Routed
from ollama_proxy.inbound.dbus.backends import export_backends
from ollama_proxy.inbound.dbus.efficiency import export_efficiency
from ollama_proxy.inbound.dbus.holders import Holders
from ollama_proxy.inbound.dbus.routing import Records, export_routing
from ollama_proxy.inbound.dbus.system_state import export_system_state
from ollama_proxy.inbound.dbus.telling import GAUGES_S, Emission, Pacer, Telling
from ollama_proxy.inbound.dbus.thermal import export_thermal
from ollama_proxy.inbound.dbus.tree import LIMITS_EXCEEDED, NAME, Exported, Tree
from ollama_proxy.inbound.dbus.values import text_of

ROUTED_PER_S = 10
_DO_NOT_QUEUE = 4
_IS_OURS = {1, 4}  # it is ours now, or was already
_GOODBYE_S = 1.0

log = logging.getLogger("ollama_proxy.dbus")


class BusDoor:
    """Serves the router on a bus, as long as `run` runs.

    Attributes:
        opened: all names are ours; a new event after the bus was lost.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        climate: Climate,
        news: News,
        ledger: Ledger,
        *,
        minute_of_day: Callable[[], int],
    ) -> None:
        """Make ready, closed.

        Args:
            dispatcher: knows the backends, and how it would decide.
            climate: has the mode and the machine's state.
            news: what is told.
            ledger: what is counted.
            minute_of_day: local time, for quiet hours.
        """
        self.opened = trio.Event()
        self._climate = climate
        self._dispatcher = dispatcher
        self._records = Records()
        self._holders: Holders | None = None
        self._objects = (
            export_efficiency(climate, dispatcher, self._follow),
            export_backends(dispatcher, climate),
            export_routing(dispatcher, self._records),
            export_thermal(climate),
            export_system_state(climate, minute_of_day),
        )
        self._efficiency, self._backends, self._routing, self._thermal, _ = self._objects
        self._tree = Tree(self._objects)
        self._telling = Telling(self._objects)
        self._routed = Pacer(ROUTED_PER_S)
        self._is_stirred = False
        self._wake = trio.Event()
        self._leaving = trio.Event()
        self._left = trio.Event()
        climate.watched_by(self._looked)
        news.read_by(self._heard)
        news.followed_by(self._followed)
        ledger.read_by(self._counted)

    async def run(self, where: str, *, pace: Pace | None = None) -> None:
        """Serve until `leave`.

        Error handling: without a bus, or the names, it waits for them, and nothing goes up. Names that
        are taken are logged once; that there is no bus is said by whoever shows notices on it.
        """
        await stay_connected(where, self._serve, pace=pace, quietly=True)

    async def leave(self) -> None:
        """Give the names back, so that nobody calls any more; then close."""
        self._leaving.set()
        if self.opened.is_set():
            with trio.move_on_after(_GOODBYE_S):
                await self._left.wait()

    # -- one connection ----------------------------------------------------------------------------

    async def _serve(self, bus: Bus) -> None:
        async with trio.open_nursery() as nursery:
            self._holders = Holders(bus, self._climate, nursery)
            bus.on_call = self._tree.answer
            try:
                nursery.start_soon(self._stay, bus, name="dbus")
                await self._leaving.wait()
                if self.opened.is_set():
                    with contextlib.suppress(CallFailed):
                        await _release_names(bus, self._names)
            finally:
                # Before the nursery closes: a call may be under way.
                self._holders = None
                self.opened = trio.Event()
                self._left.set()
            nursery.cancel_scope.cancel()

    @property
    def _names(self) -> list[str]:
        return [NAME, *(each.interface.name for each in self._objects)]

    async def _stay(self, bus: Bus) -> None:
        # Begun before: who finds the first name asks while the others are still being taken, and
        # what changes after that answer must be told.
        self._telling.begin()
        await _take_names(bus, self._names)
        self._left = trio.Event()
        self.opened.set()
        self._telling.look_at_states()
        self._is_stirred = True
        log.info("on the bus as %s", NAME)
        await self._keep_telling(bus)

    async def _follow(self, name: str) -> None:
        if self._holders is None:
            raise CallRefused(LIMITS_EXCEEDED, "The bus was lost.")
        await self._holders.follow(name)

    # -- what has changed --------------------------------------------------------------------------

    def _looked(self) -> None:
        if self.opened.is_set():
            self._telling.look_at_states()
            self._stir()

    def _counted(self, fact: Fact) -> None:
        self._records.count(fact)
        if self.opened.is_set():
            self._stir()

    def _followed(self, routed: Routed) -> None:
        self._records.keep(routed)
        if not self.opened.is_set():
            return
        if self._routed.lets(routed.at):
            body = (text_of(routed.request_id), routed.decision.backend)
            self._tell(self._routing, "RequestRouted", (*body, routed.decision.reason.value))
        self._stir()

    def _heard(self, item: Item) -> None:
        match item:
            case ModeChanged():
                body = (item.old.value, item.new.value)
                self._tell(self._efficiency, "ModeChanged", (*body, text_of(item.reason)))
            case HeatChanged():
                body = (item.old.value, item.new.value)
                self._tell(self._thermal, "StateChanged", (*body, text_of(item.why)))
            case BackendChanged():
                if self.opened.is_set():
                    self._telling.look_at_states()
                why = text_of(item.why)
                self._tell(self._backends, "BackendChanged", (item.id, item.healthy, why))
        self._stir()

    def _tell(self, exported: Exported, member: str, body: tuple[object, ...]) -> None:
        if self.opened.is_set():
            signature = exported.interface.signals[member]
            self._telling.due.append(
                Emission(exported.path, exported.interface.name, member, signature, body)
            )

    def _stir(self) -> None:
        """Gauges may have changed. Who tells them is not woken before it is time to."""
        is_time = trio.current_time() - self._telling.gauges_at >= GAUGES_S
        self._is_stirred = True
        if is_time or self._telling.due:
            self._wake.set()

    async def _keep_telling(self, bus: Bus) -> None:
        telling = self._telling
        while True:
            self._wake = trio.Event()
            now = trio.current_time()
            if (self._is_stirred or self._dispatcher.jobs) and telling.look_at_gauges(now):
                self._is_stirred = False
            while telling.due:
                await self._emit(bus, telling.due.popleft())
            next_at = telling.gauges_at + GAUGES_S
            # Until then a stir wakes nobody, so that it must be looked whether there was one.
            is_resting = not self._is_stirred and not self._dispatcher.jobs and now >= next_at
            with trio.move_on_at(math.inf if is_resting else next_at):
                await self._wake.wait()

    async def _emit(self, bus: Bus, emission: Emission) -> None:
        try:
            with trio.fail_after(bus.pace.timeout_s):
                await bus.emit(
                    emission.path,
                    emission.interface,
                    emission.member,
                    emission.signature,
                    emission.body,
                )
        except trio.TooSlowError:
            raise CallFailed(LIMITS_EXCEEDED, "the bus takes nothing any more") from None


async def _take_names(bus: Bus, names: list[str]) -> None:
    """Own every name, sooner or later: who has one is waited for, with none of ours kept meanwhile."""
    is_told = False
    while True:
        taken: list[str] = []
        for name in names:
            left = trio.Event()

            def changed(owner: Owner, left: trio.Event = left) -> None:
                if owner.unique is None:
                    left.set()

            # Watched before it is asked for, or its owner might leave between the two.
            async with bus.following(name, changed) as owner:
                body = (name, _DO_NOT_QUEUE)
                (answer,) = await bus.call(DAEMON, "RequestName", "su", body, returns="u")
                if answer in _IS_OURS:
                    taken.append(name)
                    continue
                await _release_names(bus, taken)
                if not is_told:
                    log.warning(
                        "%s is taken on the bus (by %s): another router runs; waiting for its end",
                        name,
                        owner.unique,
                    )
                is_told = True
                await left.wait()
                break
        else:
            return


async def _release_names(bus: Bus, names: list[str]) -> None:
    for name in names:
        await bus.call(DAEMON, "ReleaseName", "s", (name,), returns="u")
