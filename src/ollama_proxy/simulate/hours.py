"""A clock that jumps to whatever is next; one for all who share a run.

Law: what is due at the same time happens in the order in which it was set, and alarms after that.
"""

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any

from ollama_proxy.engine.alarms import Alarm, Alarms
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.job import Job


class Hours:
    """Virtual time, in seconds, and what is due when."""

    def __init__(self) -> None:
        """Begin at 0 s, with nothing to do."""
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._alarms: list[tuple[float, int, Dispatcher]] = []
        self._order = itertools.count()

    @property
    def is_over(self) -> bool:
        """Whether nothing is due any more but alarms."""
        return not self._heap

    def at(self, when: float, act: Callable[[Any], None], what: object) -> None:
        """Do something then."""
        heapq.heappush(self._heap, (when, next(self._order), act, what))

    def heed(self, dispatcher: Dispatcher) -> None:
        """Ring for a dispatcher's alarms, from now on."""
        dispatcher.alarms = _Heard(lambda when: self._ring(when, dispatcher))

    def _ring(self, when: float, dispatcher: Dispatcher) -> None:
        heapq.heappush(self._alarms, (when, next(self._order), dispatcher))

    def run(self) -> None:
        """Let it all happen."""
        heap, alarms, pop = self._heap, self._alarms, heapq.heappop
        while heap or alarms:
            at = heap[0][0] if heap else math.inf
            if alarms and alarms[0][0] < at:
                due, _, dispatcher = pop(alarms)
                # One that was rung with another before, or swept out, is due no more.
                if dispatcher.alarms.next_at <= due:
                    self.now = due
                    dispatcher.ring(due)
            else:
                self.now, _, act, what = pop(heap)
                act(what)


class _Heard(Alarms):
    """Alarms that are told on, so that nobody asks a hundred dispatchers after each event."""

    def __init__(self, told: Callable[[float], None]) -> None:
        super().__init__()
        self._told = told

    def set(self, job: Job, when: float, alarm: Alarm) -> None:
        """See `Alarms`."""
        super().set(job, when, alarm)
        self._told(when)
