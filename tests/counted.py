"""Work that can be counted: calls, task switches, trips to the poller. No clock, so no noise.

Time is for tools/bench, on an idle machine; what a change adds to the hot path shows here on any.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import trio


@attrs.define(eq=False)
class Work(trio.abc.Instrument):
    """What the thread that counts did.

    Attributes:
        calls: functions of Python and of C that were called, and coroutines resumed.
        steps: tasks that Trio ran until their next wait.
        polls: times that Trio asked the kernel what is ready.
    """

    calls: int = 0
    steps: int = 0
    polls: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - as Instrument has it
        """Count a step."""
        self.steps += 1

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - as above
        """Count a poll."""
        self.polls += 1


@contextmanager
def counted_calls(work: Work) -> Iterator[None]:
    """Count the calls of this thread in a block.

    The collector rests: what others have it call when it runs, now and then, is nobody's work.
    """
    own = Work.__dict__.values()
    skipped = {function.__code__ for function in own if hasattr(function, "__code__")}

    def count(frame: object, event: str, _argument: object) -> None:
        if event in {"call", "c_call"} and getattr(frame, "f_code", None) not in skipped:
            work.calls += 1

    before = sys.getprofile()
    gc.collect()
    gc.disable()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)
        gc.enable()


def calls_made(act: Callable[[], object]) -> int:
    """How many functions one act calls."""
    work = Work()
    with counted_calls(work):
        act()
    return work.calls
