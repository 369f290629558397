"""One task moves the bytes of every stream that passes unchanged.

Most of a token's cost is Trio waking a task for it. So a worker whose stream needs no translation
parks here, and this one task reads, parses and writes for all: a nested, level-triggered epoll,
seen by Trio as one readable descriptor. A write that would block, an end or an error hands the
stream back to its worker, which is cancelled here as anywhere (the abort function takes the stream
out), so that deadlines and leaving callers need nothing of their own.

Refused: `splice(2)` between the two sockets would cost less still, but the answer's framing must be
followed to know its end, and a broken stream must not be passed on as a whole one.
"""

import os
import select
from typing import NoReturn

import attrs
import outcome
import trio

from ollama_proxy.backends.backend import BackendFailed, CallerLeft, Fault, Tap
from ollama_proxy.backends.wire import READ_BYTES, Connection


@attrs.define(eq=False)
class _Flow:
    """One stream on its way, and the worker parked for it."""

    connection: Connection
    tap: Tap
    task: trio.lowlevel.Task
    fed_at: float


class Pump:
    """Moves streams from backends' sockets to callers' sockets."""

    def __init__(self, *, stall_timeout_s: float) -> None:
        """Make ready; `stall_timeout_s` bounds a backend's silence within a started stream."""
        self._epoll = select.epoll()
        self._flows: dict[int, _Flow] = {}
        self.stall_timeout_s = stall_timeout_s

    def __len__(self) -> int:
        return len(self._flows)

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Move bytes until cancelled. Never returns, and raises nothing of its own."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            task_status.started()
            try:
                await self._move()
            finally:
                self._epoll.close()
        raise AssertionError("unreachable: _move only ends by cancellation")

    async def carry(self, connection: Connection, tap: Tap) -> None:
        """Park until the whole answer on `connection` was written to `tap`.

        Raises:
            BackendFailed: it broke off, sent garbage, or fell silent.
            CallerLeft: the other side is gone, or does not read.
        """
        while not connection.complete:
            rest = await self._park(connection, tap)
            if rest:
                await tap.flush(rest)

    async def _park(self, connection: Connection, tap: Tap) -> bytes:
        descriptor = connection.descriptor
        assert descriptor is not None, "only plain sockets can be pumped"  # noqa: S101 - the caller's promise
        flow = _Flow(connection, tap, trio.lowlevel.current_task(), trio.current_time())
        self._flows[descriptor] = flow
        self._epoll.register(descriptor, select.EPOLLIN)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._take_out(descriptor)
            return trio.lowlevel.Abort.SUCCEEDED

        rest: bytes = await trio.lowlevel.wait_task_rescheduled(abort)
        return rest

    def _take_out(self, descriptor: int) -> _Flow:
        self._epoll.unregister(descriptor)
        return self._flows.pop(descriptor)

    def _hand_back(self, descriptor: int, result: "outcome.Outcome[bytes]") -> None:
        trio.lowlevel.reschedule(self._take_out(descriptor).task, result)

    async def _move(self) -> NoReturn:
        epoll, flows = self._epoll, self._flows
        while True:
            await trio.lowlevel.wait_readable(epoll.fileno())
            now = trio.current_time()
            for descriptor, _ in epoll.poll(0):
                flow = flows[descriptor]
                flow.fed_at = now
                try:
                    self._advance(descriptor, flow)
                except (BackendFailed, CallerLeft) as error:
                    self._hand_back(descriptor, outcome.Error(error))

    def _advance(self, descriptor: int, flow: _Flow) -> None:
        """One read, one parse, one write."""
        connection, tap = flow.connection, flow.tap
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise BackendFailed(Fault.BROKE, "it reset the connection") from error
        connection.feed(data)
        chunks = connection.take()
        if not chunks and not connection.complete:
            return
        framed = tap.frame(chunks, complete=connection.complete)
        try:
            written = os.write(tap.descriptor, framed)
        except BlockingIOError:
            written = 0
        except OSError as error:
            raise CallerLeft from error
        if written < len(framed) or connection.complete:
            self._hand_back(descriptor, outcome.Value(framed[written:]))

    async def _sweep(self) -> NoReturn:
        """Give up streams whose backend has been silent for too long."""
        while True:
            await trio.sleep(self.stall_timeout_s / 4)
            self._give_up_silent(trio.current_time())

    def _give_up_silent(self, now: float) -> None:
        # Whoever did not run for that long (stopped, or starved) was told things meanwhile.
        told = {descriptor for descriptor, _ in self._epoll.poll(0)}
        limit = now - self.stall_timeout_s
        silent = {d for d, flow in self._flows.items() if flow.fed_at < limit}
        for descriptor in silent - told:
            error = BackendFailed(Fault.SILENT, f"it sent nothing for {self.stall_timeout_s:g} s")
            self._hand_back(descriptor, outcome.Error(error))
