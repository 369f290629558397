"""The properties of a remote object, kept current while its owner lives, dies and comes again."""

import logging
from collections.abc import Callable
from typing import NoReturn

import attrs
import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import (
    NO_OWNER,
    SERVICE_UNKNOWN,
    CallFailed,
    Owner,
    Properties,
    Remote,
    Rule,
    Signal,
)

_NOBODY = {SERVICE_UNKNOWN, NO_OWNER}
PROPERTIES = "org.freedesktop.DBus.Properties"

log = logging.getLogger("ollama_proxy.bus")


@attrs.define(eq=False)
class _Watch:
    """What is known of a remote object, and whether it must be read again."""

    remote: Remote
    on_change: Callable[[Properties | None], None]
    known: Properties | None = None
    is_reading: bool = False
    due: trio.Event = attrs.field(factory=trio.Event)
    complaint: str = ""

    def tell(self, properties: Properties | None) -> None:
        if properties is not None:
            self.complaint = ""
        elif self.known is None:
            return
        self.known = properties
        self.on_change(properties)

    def lose(self, _: Owner) -> None:
        """Its owner is another one, or none."""
        self.tell(None)
        self.due.set()

    def merge(self, signal: Signal) -> None:
        """Its owner says that some properties have changed."""
        if signal.signature != "sa{sv}as":
            return
        interface, news, invalidated = signal.body
        if interface != self.remote.interface:
            return
        # An answer that is under way may be older than this.
        if self.is_reading or (invalidated and self.known is not None):
            self.due.set()
        if self.known is not None:
            self.tell(self.known.changed(news, invalidated))

    def complain(self, failure: CallFailed) -> None:
        if self.complaint != failure.name:
            level = logging.INFO if failure.name in _NOBODY else logging.WARNING
            log.log(
                level, "%s of %s cannot be read: %s", self.remote.path, self.remote.name, failure
            )
        self.complaint = failure.name


async def keep_current(
    bus: Bus,
    remote: Remote,
    on_change: Callable[[Properties | None], None],
    *,
    starts: bool = False,
) -> NoReturn:
    """Tell a remote object's properties whenever they have been read or have changed.

    None is told once nobody owns the name any more, or its owner does not answer. They are read
    when an owner comes, after what was invalidated, and each `reread_s` of the bus's pace, as there
    are services that forget to say what changed.

    Args:
        bus: where.
        remote: of what.
        on_change: is called with what is known now; it neither waits nor raises.
        starts: whether the bus may start the service if nobody owns the name. Who was there and
            left is not started again: somebody stopped it.

    Raises:
        CallFailed: the bus does not let us watch.
    """
    watch = _Watch(remote, on_change)
    pause_s = bus.pace.first_pause_s
    async with bus.following(remote.name, watch.lose) as owner:
        rule = Rule(
            sender=owner,
            path=remote.path,
            interface=PROPERTIES,
            member="PropertiesChanged",
            argument=remote.interface,
        )
        async with bus.subscribed(rule, watch.merge):
            while True:
                watch.due = trio.Event()
                if owner.unique is None and not starts:
                    await watch.due.wait()
                    continue
                asked = owner.unique
                try:
                    properties = await _read(bus, watch, starts=starts)
                except CallFailed as failure:
                    watch.complain(failure)
                    watch.tell(None)
                    if owner.unique == asked:
                        # Its signals are no reason to ask at once who just did not answer.
                        watch.due = trio.Event()
                    wait_s, pause_s = pause_s, bus.pace.longer(pause_s)
                else:
                    # It may have answered with its last breath.
                    watch.tell(properties if owner.unique is not None else None)
                    wait_s, pause_s = bus.pace.reread_s, bus.pace.first_pause_s
                    starts = False
                with trio.move_on_after(wait_s):
                    await watch.due.wait()


async def _read(bus: Bus, watch: _Watch, *, starts: bool) -> Properties:
    remote = watch.remote
    watch.is_reading = True
    try:
        (variants,) = await bus.call(
            Remote(remote.name, remote.path, PROPERTIES),
            "GetAll",
            "s",
            (remote.interface,),
            returns="a{sv}",
            starts=starts,
        )
    finally:
        watch.is_reading = False
    return Properties(variants)
