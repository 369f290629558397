"""When somebody must look at a job again, soonest first.

Jobs are held weakly, since most end long before their alarms: nothing takes them out of the heap
then, and it must not keep their bodies.
"""

import enum
import heapq
import itertools
import math
import operator
import weakref
from collections.abc import Iterator

from ollama_proxy.engine.job import Job, Stage

_SWEEP_AT_LEAST = 64


class Alarm(enum.Enum):
    """What is due."""

    LAST_MOMENT = "last moment"  # whoever still waits must start now to make its deadline
    DEADLINE = "deadline"  # whoever still waits is too late
    HEDGE = "hedge"  # whoever has no byte yet may have a second attempt


def _matters(job: Job | None, alarm: Alarm) -> bool:
    if job is None:
        return False
    if alarm is Alarm.HEDGE:
        return job.stage is Stage.RUNNING and job.begun is None
    # One that runs may yet be put back.
    return job.stage is not Stage.DONE and job.begun is None


class Alarms:
    """A heap of them. Setting and taking one costs O(log n); the void ones are swept out in time."""

    def __init__(self) -> None:
        """Begin with none."""
        self._heap: list[tuple[float, int, weakref.ref[Job], Alarm]] = []
        self._order = itertools.count()
        self._sweep_at = _SWEEP_AT_LEAST

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_at(self) -> float:
        """When the first is due; inf if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def set(self, job: Job, when: float, alarm: Alarm) -> None:
        """Look at a job then."""
        if len(self._heap) >= self._sweep_at:
            # Of two for the same the later is meant: the job was placed anew since.
            live = {
                (ref, alarm): (at, order, ref, alarm)
                for at, order, ref, alarm in sorted(self._heap, key=operator.itemgetter(1))
                if _matters(ref(), alarm)
            }
            self._heap = list(live.values())
            heapq.heapify(self._heap)
            self._sweep_at = max(2 * len(self._heap), _SWEEP_AT_LEAST)
        heapq.heappush(self._heap, (when, next(self._order), weakref.ref(job), alarm))

    def take_due(self, now: float) -> Iterator[tuple[Job, Alarm]]:
        """Those whose time has come, and which still matter. More may be set meanwhile."""
        while self._heap and self._heap[0][0] <= now:
            _, _, ref, alarm = heapq.heappop(self._heap)
            job = ref()
            if job is not None and _matters(job, alarm):
                yield job, alarm
