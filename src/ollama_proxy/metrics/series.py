"""Sums by labels, and spreads over buckets, until somebody scrapes them.

Not the library's own Counter and Histogram: those lock, note when each series was made and are sought
by label names at every step, for threads and processes that are not here.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

PREFIX = "ollama_proxy_"


class Counter:
    """What only grows, by the values of its labels."""

    def __init__(
        self, name: str, meaning: str, *labels: str, known: Iterable[tuple[str, ...]] = ()
    ) -> None:
        """Begin at 0.

        Args:
            name: without the prefix; ends in `_total`.
            meaning: for people.
            labels: their names.
            known: label values that are shown from the start; the others are from their first time.
        """
        self._name, self._meaning, self._labels = PREFIX + name, meaning, labels
        self._sums: dict[tuple[str, ...], float] = dict.fromkeys(known, 0.0)
        if not labels:
            self._sums[()] = 0.0

    def add(self, *values: str, by: float = 1.0) -> None:
        """Grow by so much."""
        self._sums[values] = self._sums.get(values, 0.0) + by

    def keep(self, holds: Callable[[Mapping[str, str]], bool]) -> None:
        """Forget all whose labels no longer hold."""
        labels = self._labels
        self._sums = {
            values: total
            for values, total in self._sums.items()
            if holds(dict(zip(labels, values, strict=True)))
        }

    def family(self) -> CounterMetricFamily:
        """As Prometheus has it."""
        family = CounterMetricFamily(self._name, self._meaning, labels=self._labels)
        for values, total in self._sums.items():
            family.add_metric(values, total)
        return family


class Histogram:
    """How often something took how long, in seconds."""

    def __init__(self, name: str, meaning: str, bounds_s: Sequence[float]) -> None:
        """Begin with nothing.

        Args:
            name: without the prefix.
            meaning: for people.
            bounds_s: the upper ends of its buckets, rising; beyond the last is one more.
        """
        self._name, self._meaning = PREFIX + name, meaning
        self._bounds_s = tuple(bounds_s)
        self._counts = [0] * (len(self._bounds_s) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds_s, seconds)] += 1
        self._sum_s += seconds

    def family(self) -> HistogramMetricFamily:
        """As Prometheus has it."""
        buckets, total = [], 0
        for bound_s, count in zip((*self._bounds_s, math.inf), self._counts, strict=True):
            total += count
            buckets.append((floatToGoString(bound_s), float(total)))
        return HistogramMetricFamily(self._name, self._meaning, buckets, self._sum_s)
