"""Who watches: each is told what there is, then what changes, at one pace for all of them.

Messages are numbered. Whoever comes back and names the last that was heard gets those that were
missed, while they are kept; else all of it anew. Whoever does not take what is told is let go.
"""

import secrets
from collections import deque
from collections.abc import Iterator
from typing import NoReturn

import attrs
import msgspec
import trio

from ollama_proxy.inbound.live.picture import Picture

EVERY_S = 0.25
SILENCE_S = 15.0  # after so long a word is said for the connection's sake
SEATS = 16
UNTAKEN = 16  # messages: four seconds
REMEMBERED = 40  # messages: ten seconds of the busiest router
_GREETING = b"retry: 2000\n\n"
_NOTHING = b":\n\n"


class Full(Exception):  # noqa: N818 - no fault: as many watch as may
    """There is no seat."""


@attrs.define(eq=False)
class Seat:
    """One who watches. To be iterated over for bytes of an event stream; ends when it is let go."""

    _put: trio.MemorySendChannel[bytes]
    _take: trio.MemoryReceiveChannel[bytes]

    def __aiter__(self) -> "Seat":
        return self

    async def __anext__(self) -> bytes:
        return await self._take.__anext__()

    def offer(self, message: bytes) -> bool:
        """Tell something; False where so much is untaken that it must be let go."""
        try:
            self._put.send_nowait(message)
        except (trio.WouldBlock, trio.BrokenResourceError):
            return False
        return True

    def end(self) -> None:
        """Nothing follows; what was told may still be taken."""
        self._put.close()

    def close(self) -> None:
        """Nobody takes any more."""
        self._put.close()
        self._take.close()


class Audience:
    """All who watch. `run` is what tells them."""

    def __init__(self, picture: Picture) -> None:
        """Begin with nobody."""
        self._picture = picture
        self._seats: dict[Seat, None] = {}
        self._run = secrets.token_hex(4)  # so that another run's numbers mean nothing here
        self._number = 0
        self._past: deque[bytes] = deque(maxlen=REMEMBERED)
        self._told_at = -SILENCE_S
        self._wanted = trio.Event()
        self._is_over = False

    @property
    def size(self) -> int:
        """How many watch."""
        return len(self._seats)

    def join(self, last_heard: str = "") -> Seat:
        """Take a seat; `leave` gives it back.

        Args:
            last_heard: the last message's id, as it was told; anything else is as good as none.

        Raises:
            Full: as many as may are watching.
        """
        if len(self._seats) >= SEATS or self._is_over:
            raise Full
        self.tell()
        seat = Seat(*trio.open_memory_channel[bytes](UNTAKEN))
        seat.offer(b"".join((_GREETING, *self._missed(last_heard))))
        self._seats[seat] = None
        self._wanted.set()
        return seat

    def dismiss_from(self, seat: Seat) -> None:
        """Let go of one who watches; what was told may still be taken."""
        if seat in self._seats:
            self._let_go(seat)

    def leave(self, seat: Seat) -> None:
        """Give a seat back, also one that was taken away."""
        self._seats.pop(seat, None)
        seat.close()

    def dismiss(self) -> None:
        """Let go of everybody, for good."""
        self._is_over = True
        for seat in list(self._seats):
            self._let_go(seat)

    def tell(self) -> None:
        """Tell everybody what has changed, if anything has."""
        now = trio.current_time()
        changed = self._picture.take_changes()
        if changed:
            self._number += 1
            self._past.append(self._message("change", changed))
        elif now - self._told_at < SILENCE_S:
            return
        self._told_at = now
        message = self._past[-1] if changed else _NOTHING
        for seat in [seat for seat in self._seats if not seat.offer(message)]:
            self._let_go(seat)

    async def run(self) -> NoReturn:
        """Tell what changes at its pace while anybody watches, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            while self._seats:
                await trio.sleep(EVERY_S)
                self.tell()

    def _let_go(self, seat: Seat) -> None:
        del self._seats[seat]
        seat.end()

    def _missed(self, last_heard: str) -> Iterator[bytes]:
        run, _, number = last_heard.partition("-")
        behind = self._number - int(number) if number.isdecimal() and len(number) < 16 else -1  # noqa: PLR2004 - digits
        if run == self._run and 0 <= behind <= len(self._past):
            yield from list(self._past)[len(self._past) - behind :]
        else:
            yield self._message("snapshot", self._picture.whole())

    def _message(self, kind: str, value: object) -> bytes:
        head = f"id: {self._run}-{self._number}\nevent: {kind}\ndata: ".encode()
        return head + msgspec.json.encode(value) + b"\n\n"
