"""Writes whole messages in their order, whatever becomes of those who had them written."""

import attrs
import trio

from ollama_proxy.engine.job import CallerLeft

PENDING_MAX_BYTES = 64 << 10  # who leaves so much unread is not listened to
_WRITE_BYTES = 65536


@attrs.define(eq=False)
class Pen:
    """A connection's only writer. A message once handed over is never sent in part.

    Attributes:
        is_gone: the other end is gone, or has taken nothing for `patience_s`.
    """

    stream: trio.abc.SendStream
    patience_s: float
    is_gone: bool = False
    _pending: bytearray = attrs.field(factory=bytearray)
    _has_pending: trio.Event = attrs.field(factory=trio.Event)
    _is_flushed: trio.Event = attrs.field(factory=trio.Event)

    def post(self, message: bytes) -> None:
        """Have a message sent; who posts does not wait for that."""
        if self.is_gone:
            return
        if not self._pending:
            self._is_flushed = trio.Event()
        self._pending += message
        self._has_pending.set()

    async def flushed(self) -> None:
        """Wait until everything was taken. Raises CallerLeft."""
        if self._pending:
            await self._is_flushed.wait()
        if self.is_gone:
            raise CallerLeft

    async def send(self, message: bytes) -> None:
        """Have a message sent, and wait for it. Raises CallerLeft. Cancelled, it is sent all the same."""
        self.post(message)
        await self.flushed()

    @property
    def is_behind(self) -> bool:
        """Whether the other end should read before it is listened to again."""
        return len(self._pending) > PENDING_MAX_BYTES

    async def write(self) -> None:
        """Write what is handed over, until the other end is gone."""
        while not self.is_gone:
            await self._has_pending.wait()
            self._has_pending = trio.Event()
            while self._pending and not self.is_gone:
                await self._write_some()
            self._is_flushed.set()

    async def _write_some(self) -> None:
        data = bytes(self._pending[:_WRITE_BYTES])
        with trio.move_on_after(self.patience_s) as patience:
            try:
                await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.is_gone = True
        self.is_gone = self.is_gone or patience.cancelled_caught
        if self.is_gone:
            self._pending.clear()
        else:
            del self._pending[: len(data)]
