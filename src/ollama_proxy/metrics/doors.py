"""What is open and held at the doors, and how often somebody went as far as may be."""

from collections.abc import Iterator, Mapping

import attrs
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ollama_proxy.metrics.series import PREFIX


@attrs.frozen(kw_only=True)
class DoorState:
    """One door, now.

    Attributes:
        connections: how many are open.
        held_bytes: of requests.
        reached: how often each bound was, by its name; of a fixed few.
    """

    connections: int
    held_bytes: int
    reached: Mapping[str, int]


def families(doors: Mapping[str, DoorState], lost_lines: int) -> Iterator[Metric]:
    """All of them, by door."""
    connections = GaugeMetricFamily(
        PREFIX + "connections", "Connections that are open.", labels=("door",)
    )
    held = GaugeMetricFamily(
        PREFIX + "buffered_bytes", "Bytes of requests that are held.", labels=("door",)
    )
    reached = CounterMetricFamily(
        PREFIX + "bounds_reached_total",
        "How often a client went as far as it may, and was refused or closed for it.",
        labels=("door", "bound"),
    )
    for name, door in doors.items():
        connections.add_metric((name,), door.connections)
        held.add_metric((name,), door.held_bytes)
        for bound, count in sorted(door.reached.items()):
            reached.add_metric((name, bound), count)
    yield from (connections, held, reached)
    yield CounterMetricFamily(
        PREFIX + "log_lines_lost_total",
        "Lines of the log that were left out, since they were too many.",
        value=lost_lines,
    )
