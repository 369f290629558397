"""When the machine goes to sleep and wakes: logind's word.

Who heard that it goes to sleep hears that it woke, also where logind or the bus is lost meanwhile:
whoever runs is not asleep.
"""

from collections.abc import Callable
from typing import NoReturn

import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import Owner, Rule, Signal
from ollama_proxy.policy.readings import Findings
from ollama_proxy.sensors.upower import Publish

NAME = "logind"
_SERVICE = "org.freedesktop.login1"


class Logind:
    """Sleep and wake, told to `on_sleep` and published under the name "logind"."""

    def __init__(self, publish: Publish, on_sleep: Callable[[bool], None]) -> None:
        """`on_sleep` hears True before a sleep, and False after it."""
        self._publish = publish
        self._on_sleep = on_sleep
        self._is_asleep = False

    async def sense(self, bus: Bus) -> NoReturn:
        """Tell until cancelled.

        Raises:
            CallFailed: the bus does not let us watch.
        """
        try:
            async with bus.following(_SERVICE, self._owner_changed) as owner:
                rule = Rule(
                    sender=owner,
                    path="/org/freedesktop/login1",
                    interface=_SERVICE + ".Manager",
                    member="PrepareForSleep",
                )
                async with bus.subscribed(rule, self._heard):
                    self._owner_changed(owner)
                    await trio.sleep_forever()
        finally:
            self._wake()
            self._publish(NAME, None)

    def _owner_changed(self, owner: Owner) -> None:
        self._wake()
        self._publish(NAME, Findings(sleeping=False) if owner.unique else None)

    def _heard(self, signal: Signal) -> None:
        if signal.signature == "b":
            self._tell(is_asleep=signal.body[0])

    def _wake(self) -> None:
        if self._is_asleep:
            self._tell(is_asleep=False)

    def _tell(self, *, is_asleep: bool) -> None:
        self._is_asleep = is_asleep
        self._on_sleep(is_asleep)
        self._publish(NAME, Findings(sleeping=is_asleep))
