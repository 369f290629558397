"""What systemd is told of us: ready, reloading, stopping, how we are, and that we still turn.

The protocol is sd_notify(3): lines in a datagram to the socket that NOTIFY_SOCKET names.
"""

import contextlib
import math
import socket
import time
from collections.abc import Mapping

import attrs
import trio

# It reads at once, or is stuck itself; the loop should not be stuck with it.
SEND_MAX_S = 1.0
_MICRO = 1_000_000


@attrs.define
class ServiceManager:
    """Whoever started us, if it listens.

    Attributes:
        address: its socket, as Python has it; "" where nobody listens.
        watchdog_s: how long we may be silent; infinite where nobody watches.
    """

    address: str = ""
    watchdog_s: float = math.inf
    _is_up: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], *, pid: int) -> "ServiceManager":
        """The one that the environment tells of. `pid`: ours, since a parent's watchdog is not."""
        address = environ.get("NOTIFY_SOCKET", "")
        if address.startswith("@"):
            address = "\0" + address[1:]
        interval = environ.get("WATCHDOG_USEC", "")
        is_watched = address and interval.isdecimal() and int(interval) > 0
        if not is_watched or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
            return cls(address)
        return cls(address, int(interval) / _MICRO)

    def ready(self, status: str) -> None:
        """Every door is open; `status` is for people."""
        self._is_up = True
        self._tell("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """Things are different now; `status` is for people."""
        if self._is_up:
            self._tell(f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is read again; `reloaded` follows."""
        if self._is_up:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._tell("RELOADING=1", f"MONOTONIC_USEC={now}")

    def reloaded(self, status: str) -> None:
        """That is over, whatever came of it. It is no news before all is open, or while stopping."""
        if self._is_up:
            self.ready(status)

    def stopping(self, within_s: float) -> None:
        """We are about to end, in so many seconds at most: the unit's own limit knows no `drain_s`."""
        self._is_up = False
        most = f"EXTEND_TIMEOUT_USEC={math.ceil(within_s * _MICRO)}"
        self._tell("STOPPING=1", most, "STATUS=finishing what is in flight")

    async def keep_watchdog(self) -> None:
        """Show until cancelled that the loop turns; returns at once where nobody watches."""
        while self.watchdog_s < math.inf:
            self._tell("WATCHDOG=1")
            await trio.sleep(self.watchdog_s / 2)

    def _tell(self, *lines: str) -> None:
        if not self.address:
            return
        # A manager that does not listen is no fault of ours.
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
            contextlib.suppress(OSError),
        ):
            notify.settimeout(SEND_MAX_S)
            notify.sendto("\n".join(lines).encode(), self.address)
