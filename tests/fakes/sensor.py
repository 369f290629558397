"""A sensor that does as it is told, and a place for blocking calls where time is virtual."""

import errno
import os
from collections.abc import Callable
from typing import TypeVar

import attrs
import trio

from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.readings import Findings, Load

_T = TypeVar("_T")


def told(number: int) -> Findings:
    """The findings of a sensor's read, by which it was."""
    return Findings(loads=(Load(name="read", hardware=Hardware.CPU, share=float(number)),))


@attrs.define
class ScriptedSensor:
    """A sensor.

    Attributes:
        read_at: when it was read.
        ends_with: what its reads end with instead of findings.
        closed: how often it was closed.
    """

    name: str = "s"
    key: str = "s 0"
    interval_s: float = 2.0
    read_at: list[float] = attrs.field(factory=list)
    ends_with: Exception | None = None
    closed: int = 0

    def read(self, now: float) -> Findings:
        """Tell how often it was read."""
        self.read_at.append(now)
        if self.ends_with is not None:
            raise self.ends_with
        return told(len(self.read_at))

    def close(self) -> None:
        """Count."""
        self.closed += 1

    def pull_out(self) -> None:
        """The device is gone from now on."""
        self.ends_with = OSError(errno.ENODEV, os.strerror(errno.ENODEV))


@attrs.define
class VirtualCalls:
    """Satisfies `Blocking` without threads: calls take as long as is said of their name.

    A call that is abandoned goes on taking its limiter's place, as a thread would.
    """

    nursery: trio.Nursery
    takes_s: dict[str, float] = attrs.field(factory=dict)
    at_once: int = 0

    async def __call__(
        self, call: Callable[[], _T], *, name: str, limiter: trio.CapacityLimiter
    ) -> _T:
        """See `Blocking`."""
        thread = object()
        await limiter.acquire_on_behalf_of(thread)
        done = trio.Event()

        async def take() -> None:
            self.at_once += 1
            await trio.sleep(self.takes_s.get(name, 0.0))
            self.at_once -= 1
            limiter.release_on_behalf_of(thread)
            done.set()

        self.nursery.start_soon(take)
        await done.wait()
        return call()
