"""Notices, shown on the desktop of whoever is logged in, by org.freedesktop.Notifications."""

import html
import logging

import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import CallFailed, Owner, Pace, Remote, Rule, Signal
from ollama_proxy.bus.persistence import stay_connected
from ollama_proxy.policy.notice import Event, Notice, Notices

APP_NAME = "Ollama Proxy"
DESKTOP_ENTRY = "ie.fio.OllamaProxy"
_SERVICE = "org.freedesktop.Notifications"
DESKTOP = Remote(_SERVICE, "/org/freedesktop/Notifications", _SERVICE)
_AS_LONG_AS_USUAL = -1

log = logging.getLogger("ollama_proxy.notifier")


class Notifier:
    """Shows what follows from the events it is told, as long as `run` runs."""

    def __init__(self, notices: Notices) -> None:
        """Begin with notices of which none was shown."""
        self._notices = notices
        self._told = trio.Event()
        self._shown: dict[str, int] = {}  # the desktop's id of what each slot shows
        self._is_silent = False  # the desktop did not take the last notice

    def tell(self, event: Event) -> None:
        """Something has happened."""
        self._notices.happened(event, trio.current_time())
        self._told.set()

    async def run(self, where: str = "session", *, pace: Pace | None = None) -> None:
        """Show notices until cancelled.

        Error handling: without a bus, or a desktop on it, what there is to say waits; it is logged
        once, and nothing goes up.
        """
        await stay_connected(where, self._show_all, pace=pace)

    async def _show_all(self, bus: Bus) -> None:
        self._shown.clear()
        async with bus.following(_SERVICE, self._forget_all) as owner:
            rule = Rule(sender=owner, interface=_SERVICE, member="NotificationClosed")
            async with bus.subscribed(rule, self._closed):
                while True:
                    self._told = trio.Event()
                    for notice in self._notices.due(trio.current_time()):
                        await self._show(bus, notice)
                    with trio.move_on_at(self._notices.next_at()):
                        await self._told.wait()

    async def _show(self, bus: Bus, notice: Notice) -> None:
        hints = {
            "urgency": ("y", int(notice.urgency)),
            "desktop-entry": ("s", DESKTOP_ENTRY),
        }
        try:
            (shown,) = await bus.call(
                DESKTOP,
                "Notify",
                "susssasa{sv}i",
                (
                    APP_NAME,
                    self._shown.get(notice.slot, 0),
                    notice.icon,
                    notice.summary,
                    html.escape(notice.body, quote=False),  # desktops take it for markup
                    [],
                    hints,
                    _AS_LONG_AS_USUAL,
                ),
                returns="u",
                starts=True,
            )
        except CallFailed as failure:
            if not self._is_silent:
                log.warning("no desktop shows notices: %s", failure)
            self._is_silent = True
            return
        self._is_silent = False
        self._shown[notice.slot] = shown
        self._notices.shown(notice)

    def _forget_all(self, _: Owner) -> None:
        self._shown.clear()

    def _closed(self, signal: Signal) -> None:
        if signal.signature == "uu":
            self._shown = {k: v for k, v in self._shown.items() if v != signal.body[0]}
