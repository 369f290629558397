"""Tells the local network of this router, by Avahi over D-Bus, for as long as its door is open."""

import logging
from typing import NoReturn

import attrs
import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import CallFailed, Owner, Pace, Remote, Rule, Signal
from ollama_proxy.bus.persistence import stay_connected
from ollama_proxy.discovery.avahi import ANY, NAME, SERVER, TYPE

PROTOCOL = 1
MOST_NAMES = 20
_GROUP = NAME + ".EntryGroup"
_COLLISION = NAME + ".CollisionError"
_TAKEN, _FAILED = 3, 4  # states of a group
_RUNNING = 2  # of the server

log = logging.getLogger("ollama_proxy.discovery")


@attrs.frozen(kw_only=True)
class Announcement:
    """What is told.

    Attributes:
        node_id: who we are.
        port: where HTTP is; that of the door for paired routers where nobody else can reach us.
        tls: whether it is encrypted.
        paired_port: of the door for paired routers; 0: there is none.
    """

    node_id: str
    port: int
    tls: bool
    paired_port: int = 0

    @property
    def txt(self) -> list[bytes]:
        """As DNS-SD has it."""
        entries = [f"id={self.node_id}", f"v={PROTOCOL}", f"tls={int(self.tls)}"]
        if self.paired_port:
            entries.append(f"pair={self.paired_port}")
        return [entry.encode() for entry in entries]


async def advertise(where: str, announcement: Announcement, *, pace: Pace | None = None) -> None:
    """Announce until cancelled; Avahi takes it back by itself when our connection ends.

    Error handling: without a bus or Avahi nothing is announced, and it is tried again.
    """

    async def announce(bus: Bus) -> None:
        await _announce(bus, announcement)

    await stay_connected(where, announce, pace=pace)


async def _announce(bus: Bus, announcement: Announcement) -> NoReturn:
    """Announce whenever an avahi-daemon is there."""
    group = _Group()

    def change(_: Owner) -> None:
        group.due.set()

    async with bus.following(NAME, change) as owner:
        running = Rule(sender=owner, interface=SERVER.interface, member="StateChanged")
        states = Rule(sender=owner, interface=_GROUP, member="StateChanged")
        async with (
            bus.subscribed(running, group.server_changed),
            bus.subscribed(states, group.changed),
        ):
            while True:
                group.due = trio.Event()
                if owner.unique is not None:
                    await _register(bus, group, announcement)
                await group.due.wait()


@attrs.define(eq=False)
class _Group:
    """What is registered with one avahi-daemon.

    Attributes:
        path: of the group on the bus; empty where there is none.
        name: under which we are announced; empty: the host's.
        is_taken: somebody else has that name.
        due: set when it must be registered anew.
    """

    path: str = ""
    name: str = ""
    is_taken: bool = False
    due: trio.Event = attrs.field(factory=trio.Event)

    def server_changed(self, signal: Signal) -> None:
        """The host's name has changed, say: what was registered with the old one leads nowhere."""
        if signal.signature == "is" and signal.body[0] == _RUNNING:
            self.due.set()

    def changed(self, signal: Signal) -> None:
        """Somebody in the network has our name, or it did not work."""
        if signal.signature != "is" or signal.path != self.path:
            return
        if signal.body[0] == _TAKEN:
            self.is_taken = True
            self.due.set()
        elif signal.body[0] == _FAILED:
            log.warning("Avahi cannot announce this router: %s", signal.body[1])


async def _register(bus: Bus, group: _Group, announcement: Announcement) -> None:
    try:
        if group.path:
            await _free(bus, group)
        if await bus.call(SERVER, "GetState", returns="i") != (_RUNNING,):
            return  # it says when it does
        if not group.name:
            (group.name,) = await bus.call(SERVER, "GetHostName", returns="s")
        for _ in range(MOST_NAMES):
            if group.is_taken:
                (group.name,) = await bus.call(
                    SERVER, "GetAlternativeServiceName", "s", (group.name,), returns="s"
                )
            group.is_taken = not await _add(bus, group, announcement)
            if not group.is_taken:
                log.info(
                    "this router is announced in the local network as %s, id %s",
                    group.name,
                    announcement.node_id,
                )
                return
        log.warning("Avahi cannot announce this router: %d names are taken", MOST_NAMES)
    except CallFailed as failure:
        log.warning("Avahi cannot announce this router: %s", failure)


async def _add(bus: Bus, group: _Group, announcement: Announcement) -> bool:
    """Register under the name there is; False where somebody has it."""
    (group.path,) = await bus.call(SERVER, "EntryGroupNew", returns="o")
    remote = Remote(NAME, group.path, _GROUP)
    service = (ANY, ANY, 0, group.name, TYPE, "", "", announcement.port, announcement.txt)
    try:
        await bus.call(remote, "AddService", "iiussssqaay", service)
        await bus.call(remote, "Commit")
    except CallFailed as failure:
        if failure.name != _COLLISION:
            raise
        await _free(bus, group)
        return False
    return True


async def _free(bus: Bus, group: _Group) -> None:
    path, group.path = group.path, ""
    try:
        await bus.call(Remote(NAME, path, _GROUP), "Free")
    except CallFailed as failure:
        # It was another avahi-daemon's, which has ended.
        log.debug("no group %s: %s", path, failure)
