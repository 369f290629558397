"""Who holds modes, watched as long as they do: a hold ends when its owner leaves the bus."""

import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import CallFailed, CallRefused, Owner
from ollama_proxy.engine.climate import Climate
from ollama_proxy.inbound.dbus.tree import LIMITS_EXCEEDED


class Holders:
    """Those of one connection to a bus. Their holds end with it, too."""

    def __init__(self, bus: Bus, climate: Climate, nursery: trio.Nursery) -> None:
        """Begin with none; the nursery is theirs."""
        self._bus = bus
        self._climate = climate
        self._nursery = nursery
        self._watched: set[str] = set()

    async def follow(self, name: str) -> None:
        """From when this returns on, what a client holds ends when it leaves.

        Raises:
            CallRefused: it has left, or the bus does not let us watch any more.
        """
        if name in self._watched:
            return
        try:
            await self._nursery.start(self._watch, name, name=f"holds of {name}")
        except CallFailed as failure:
            raise CallRefused(LIMITS_EXCEEDED, f"You cannot be watched: {failure}") from None
        if name not in self._watched:
            raise CallRefused(LIMITS_EXCEEDED, "You left the bus.")

    async def _watch(self, name: str, *, task_status: trio.TaskStatus[None]) -> None:
        left = trio.Event()

        def forget() -> None:
            # At once: the next choice must not be made for who is gone.
            self._watched.discard(name)
            self._climate.drop_holds(name)
            left.set()

        def changed(owner: Owner) -> None:
            if owner.unique is None:
                forget()

        async with self._bus.following(name, changed) as owner:
            if owner.unique is not None and not left.is_set():
                self._watched.add(name)
            else:
                left.set()
            task_status.started()
            try:
                await left.wait()
            finally:
                forget()
