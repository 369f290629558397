"""What is true at the moment of a scrape: lines, slots, heat, power, mode. Unknown is no sample, never 0."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)

from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.station import Station
from ollama_proxy.metrics.series import PREFIX
from ollama_proxy.policy.estimate import Learned
from ollama_proxy.policy.modes import Mode

Samples = Mapping[tuple[str, ...], float | None]


def state(dispatcher: Dispatcher, climate: Climate, version: str) -> Iterator[Metric]:
    """Everything that is known now."""
    yield InfoMetricFamily(PREFIX + "build", "Which router this is.", {"version": version})
    stations = list(dispatcher.stations.values())
    yield from _work(stations)
    yield from _node(stations)
    yield from _parts(stations, climate)
    yield from _machine(climate)
    yield from _forecasts(stations)
    yield _counter(
        "energy_joules_total",
        "Joules that a backend's requests cost beyond rest: measured by its card's sensor,"
        " apportioned of the package's or the battery's, or estimated by its owner's figure.",
        ("backend", "source"),
        {
            (backend, grade.value): joules
            for (backend, grade), joules in dispatcher.meters.books.backends.items()
            if backend in dispatcher.stations
        },
    )


def _work(stations: Sequence[Station]) -> Iterator[Metric]:
    yield _gauge(
        "backend_up",
        "Whether the last probe was answered; none of those that are switched off.",
        ("backend", "hardware"),
        {
            (each.spec.id, each.spec.hardware.value): each.healthy
            for each in stations
            if each.spec.enabled
        },
    )
    yield _gauge(
        "in_flight",
        "Slots that are taken; one that may still compute what was cancelled is.",
        ("backend",),
        _by_backend(stations, lambda each: each.in_flight),
    )
    yield _gauge(
        "queue_depth",
        "How many wait in line.",
        ("backend", "priority"),
        {
            (each.spec.id, priority.label): depth
            for each in stations
            for priority, depth in each.line.depths.items()
        },
    )


def _node(stations: Sequence[Station]) -> Iterator[Metric]:
    """The same for the machine as one server, as the Gateway API's Model Server Protocol asks for it.

    An endpoint picker reads one sample of a name and cannot sum over labels.
    """
    up = [each for each in stations if each.spec.enabled and each.healthy]
    slots = sum(each.spec.slots for each in up)
    running = sum(each.in_flight for each in stations)
    yield _gauge(
        "node_requests_waiting",
        "How many wait in line, for all backends: TotalQueuedRequests of the Model Server Protocol.",
        (),
        {(): sum(len(each.line) for each in stations)},
    )
    yield _gauge(
        "node_requests_running",
        "Slots that are taken, of all backends: TotalRunningRequests of the Model Server Protocol.",
        (),
        {(): running},
    )
    yield _gauge(
        "node_cache_usage_ratio",
        "0 to 1: slots that are taken, of those of backends that are up; 1 where none is. Stands for"
        " KVCacheUtilization of the Model Server Protocol: a slot holds what was computed for one"
        " request, and backends do not tell more of their caches.",
        (),
        {(): min(1.0, running / slots) if slots else 1.0},
    )
    yield _gauge(
        "model_loaded",
        "1 for each model that a backend has in memory.",
        ("backend", "model"),
        {(each.spec.id, model): 1 for each in up for model in sorted(each.loaded or ())},
    )


def _parts(stations: Sequence[Station], climate: Climate) -> Iterator[Metric]:
    def temperature_c(station: Station) -> float | None:
        grader = climate.grade_of(station.part)
        hottest = grader.hottest if grader is not None else None
        return hottest.temperature_c if hottest is not None else None

    yield _gauge(
        "backend_temperature_celsius",
        "The hottest place of what it computes on; those in one package share it.",
        ("backend",),
        _by_backend(stations, temperature_c),
    )
    yield _gauge(
        "backend_throttled",
        "Whether heat slows down what it computes on.",
        ("backend",),
        _by_backend(stations, lambda each: climate.is_throttled(each.part)),
    )
    yield _gauge(
        "backend_power_watts",
        "What it draws: measured now by its card's own sensor; learned from what its requests drew"
        " beyond rest; told, by a router of itself; configured by its owner. The same thing in up to"
        " three ways: no sum.",
        ("backend", "source"),
        {
            (each.spec.id, source): watts
            for each in stations
            for source, watts in (
                ("measured", climate.card_watts(each.part)),
                ("learned", each.energy.watts()),
                ("told", None if each.node is None else each.node.watts),
                ("configured", each.spec.power_watts),
            )
        },
    )


def _machine(climate: Climate) -> Iterator[Metric]:
    found = climate.conditions
    yield _gauge(
        "fan_rpm",
        "Revolutions a minute.",
        ("name",),
        {(fan.name,): fan.rpm for fan in found.fans},
    )
    yield _gauge(
        "efficiency_mode",
        "1 for the mode that was chosen, 0 for the others.",
        ("mode",),
        {(mode.value,): mode is climate.mode for mode in Mode},
    )
    yield _gauge(
        "efficiency_effective_mode",
        "1 for the mode in force, which auto chooses by itself; 0 for the others.",
        ("mode",),
        {(mode.value,): mode is climate.effective.mode for mode in Mode if mode is not Mode.AUTO},
    )
    yield _gauge("battery_percent", "Charge, 0 to 100.", (), {(): found.battery_percent})
    yield _gauge(
        "on_battery",
        "Whether nothing but a battery feeds the machine.",
        (),
        {(): found.on_battery},
    )


def _forecasts(stations: Sequence[Station]) -> Iterator[Metric]:
    yield _gauge(
        "forecast_error_ratio",
        "How far forecasts were off, as a share of what came: mean of about the last twenty.",
        ("backend",),
        _by_backend(stations, lambda each: _value(each.calibration.error)),
    )
    yield _gauge(
        "forecast_bias_ratio",
        "The same with its sign: above 0 where things took longer than forecast.",
        ("backend",),
        _by_backend(stations, lambda each: _value(each.calibration.bias)),
    )
    yield _counter(
        "forecasts_total",
        "Forecasts that were held against what came.",
        ("backend",),
        _by_backend(stations, lambda each: each.calibration.requests),
    )
    yield _counter(
        "backend_deadline_total",
        "What became of deadlines that were taken on, by backend.",
        ("backend", "outcome"),
        {
            (each.spec.id, outcome): count
            for each in stations
            for outcome, count in (
                ("met", each.calibration.deadlines_met),
                ("missed", each.calibration.deadlines_missed),
            )
        },
    )


def _by_backend(
    stations: Iterable[Station], tell: Callable[[Station], float | None]
) -> dict[tuple[str, ...], float | None]:
    return {(each.spec.id,): tell(each) for each in stations}


def _value(learned: Learned | None) -> float | None:
    return None if learned is None else learned.value


def _gauge(name: str, meaning: str, labels: Sequence[str], samples: Samples) -> GaugeMetricFamily:
    family = GaugeMetricFamily(PREFIX + name, meaning, labels=labels)
    for values, value in samples.items():
        if value is not None:
            family.add_metric(values, float(value))
    return family


def _counter(
    name: str, meaning: str, labels: Sequence[str], samples: Samples
) -> CounterMetricFamily:
    family = CounterMetricFamily(PREFIX + name, meaning, labels=labels)
    for values, value in samples.items():
        if value is not None:
            family.add_metric(values, float(value))
    return family
