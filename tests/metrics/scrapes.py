"""A machine with backends at rest, and its page of metrics, read as Prometheus reads it."""

from collections.abc import Iterator
from typing import Any

import attrs
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from trio.testing import MockClock

from ollama_proxy.backends.backend import Probe
from ollama_proxy.engine.climate import Climate, ClimateSettings
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.news import News
from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.answers import status_at
from ollama_proxy.metrics.exposition import Metrics
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL, spec

PREFIX = "ollama_proxy_"


@attrs.frozen
class Scrape:
    """What one scrape told, all names without the prefix."""

    families: list[Metric]

    @property
    def names(self) -> set[str]:
        """The metrics' names, as they are written in queries."""
        return {
            family.name.removeprefix(PREFIX) + ("_total" if family.type == "counter" else "")
            for family in self.families
        }

    def all(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """Every sample of a name, as it is written in queries."""
        for family in self.families:
            for sample in family.samples:
                if sample.name == PREFIX + name:
                    yield sample.labels, sample.value

    def by(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of a name by the values of their labels, these in the order of their names."""
        return {tuple(labels[n] for n in sorted(labels)): value for labels, value in self.all(name)}

    def one(self, name: str, **labels: str) -> float | None:
        """One sample; None where there is none."""
        return next((value for found, value in self.all(name) if found == labels), None)

    @property
    def labels(self) -> dict[str, set[str]]:
        """Which labels a metric's samples have, by its name; none of those without samples."""
        found: dict[str, set[str]] = {}
        for family in self.families:
            for sample in family.samples:
                name = family.name if family.type == "histogram" else sample.name
                found.setdefault(name.removeprefix(PREFIX), set()).update(
                    sample.labels.keys() - {"le"}
                )
        return found

    @property
    def size(self) -> int:
        """How many samples there are."""
        return sum(len(family.samples) for family in self.families)


def read(page: bytes, *, is_openmetrics: bool = False) -> Scrape:
    """Parse a page; a wrong one raises."""
    parse = parse_openmetrics if is_openmetrics else parse_text
    return Scrape(list(parse(page.decode())))


@attrs.frozen
class Machine:
    """A machine, and what is told of it."""

    dispatcher: Dispatcher
    climate: Climate
    metrics: Metrics

    def station(
        self,
        name: str = "npu",
        models: frozenset[str] | None = frozenset({MODEL}),
        /,
        **changes: Any,
    ) -> Station:
        """Let a backend join that is well and tells which models it has."""
        station = Station(ScriptedBackend(spec(name, **changes)), queue_capacity=8)
        station.is_well(Probe(models=models))
        self.dispatcher.add(station)
        return station

    def scrape(self) -> Scrape:
        """What Prometheus would read now."""
        return read(self.metrics.page(is_openmetrics=False))


def watched(dispatcher: Dispatcher, clock: MockClock) -> Machine:
    """A machine of which no sensor has told anything."""
    climate = Climate(
        dispatcher,
        ClimateSettings(),
        News(),
        minute_of_day=lambda: 0,
        clock=clock.current_time,
    )
    metrics = Metrics(
        dispatcher,
        climate,
        status_at=status_at,
        version="1.2.3",
    )
    return Machine(dispatcher, climate, metrics)
