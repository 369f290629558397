"""What tells of nodes, and of how many."""

from collections.abc import Iterator, Mapping

import attrs
from prometheus_client.core import GaugeMetricFamily, Metric

from ollama_proxy.metrics.series import PREFIX


@attrs.frozen(kw_only=True)
class SourceState:
    """One source, now.

    Attributes:
        nodes: how many it lists, or listed last.
        is_up: whether it works.
    """

    nodes: int
    is_up: bool


def families(sources: Mapping[str, SourceState]) -> Iterator[Metric]:
    """All of them; the label is of a fixed few."""
    nodes = GaugeMetricFamily(
        PREFIX + "fleet_nodes", "Nodes that a source lists, or listed last.", labels=("source",)
    )
    is_up = GaugeMetricFamily(
        PREFIX + "fleet_source_up", "Whether what tells of nodes works.", labels=("source",)
    )
    for name, source in sources.items():
        nodes.add_metric((name,), source.nodes)
        is_up.add_metric((name,), source.is_up)
    yield from (nodes, is_up)
