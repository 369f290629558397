"""A scenario as it is written down: backends, traffic and settings, or every fault it has at once.

Times are seconds and powers watts unless a key's name says otherwise.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from ollama_proxy.config import Efficiency, Router, Scheduler
from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.simulate.conditions import HELD, Change
from ollama_proxy.simulate.lines import read_lines
from ollama_proxy.simulate.physics import PartConfig
from ollama_proxy.tables import (
    ABOVE_0,
    Check,
    ConfigFaults,
    Fault,
    KeyPath,
    dotted,
    parse,
    structure,
    within,
)

_NOT_NEGATIVE = Check(">= 0", lambda value: value >= 0)
_SHARE = within(0, 1)
_PICKERS_MAX = 64
_PICKERS = Check(
    f"some numbers from 1 to {_PICKERS_MAX}",
    lambda found: bool(found) and all(1 <= n <= _PICKERS_MAX for n in found),
)
_COUNT = within(1, 1_000_000)
_TOKENS = within(1, 10_000_000)
_TIME = Check(
    'a time of the day such as "21:30"',
    lambda text: re.fullmatch(r"([01]?[0-9]|2[0-3]):[0-5][0-9]", text) is not None,
)
_NAME = Check("a name that is not empty", bool)
_PRIORITY = Check(
    "one of " + ", ".join(p.label for p in Priority),
    lambda text: text in {p.label for p in Priority},
)


@attrs.frozen(kw_only=True)
class Drift:
    """From `at_s` on, a backend works at `speed` times its figures: 0.5 is a throttled one."""

    at_s: float = attrs.field(validator=_NOT_NEGATIVE)
    speed: float = attrs.field(validator=ABOVE_0)


@attrs.frozen(kw_only=True)
class Absence:
    """A backend is gone from `at_s` until `until_s`, and comes back with nothing in its memory."""

    at_s: float = attrs.field(validator=_NOT_NEGATIVE)
    until_s: float = attrs.field(validator=_NOT_NEGATIVE)


@attrs.frozen(kw_only=True)
class ModelConfig:
    """A model. `size` multiplies its loading time and divides the speeds of every backend."""

    name: str = attrs.field(validator=_NAME)
    size: float = attrs.field(default=1.0, validator=ABOVE_0)


@attrs.frozen(kw_only=True)
class MachineConfig:
    """A backend, as it really is, and what its owner believes of it.

    Attributes:
        id: its name; where there are many, a number follows.
        count: how many of them.
        slots: requests it serves at once; each at the full speed.
        models: which it has; () is all of the scenario's.
        memory: how many models fit in its memory; the least recently used goes.
        load_s: loading a model of size 1.
        floor_s: to the first token of an empty prompt.
        jitter: sigma of a lognormal factor on prefill and decode.
        uneven: the same between the `count` of them, once for all requests.
        failing: share of requests that it breaks off before the first byte.
        cancel_linger_s: how long prefill runs on, at most, once it was cancelled.
        tells_loaded: whether a probe says which models are in memory.
        tells_computing: whether a probe says how many requests are computed.
        watts_busy: with all slots at work; what is between goes by slots.
        prior_watts: what the owner believes; 0 is the truth.
        prior_latency_ms: as above, to the first token; 0 is `floor_s` and 500 tokens of prefill.
        prior_off: both are wrong by up to so many octaves either way, each copy by its own.
        priority: as in config.toml.
        drift: when its speed changes.
        absent: when it is not there. Only of a fleet's, as `lies` is.
        lies: as a node, it tells that nobody is there.
    """

    id: str = attrs.field(validator=_NAME)
    hardware: Hardware = Hardware.CPU
    count: int = attrs.field(default=1, validator=_COUNT)
    slots: int = attrs.field(default=1, validator=within(1, 1024))
    models: tuple[str, ...] = ()
    memory: int = attrs.field(default=1, validator=within(1, 1024))
    load_s: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    floor_s: float = attrs.field(default=0.02, validator=_NOT_NEGATIVE)
    prefill_tokens_per_s: float = attrs.field(validator=ABOVE_0)
    decode_tokens_per_s: float = attrs.field(validator=ABOVE_0)
    jitter: float = attrs.field(default=0.0, validator=within(0, 2))
    uneven: float = attrs.field(default=0.0, validator=within(0, 2))
    failing: float = attrs.field(default=0.0, validator=_SHARE)
    cancel_linger_s: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    tells_loaded: bool = True
    tells_computing: bool = True
    watts_idle: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    watts_busy: float = attrs.field(default=10.0, validator=ABOVE_0)
    prior_watts: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    prior_latency_ms: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    prior_off: float = attrs.field(default=0.0, validator=within(0, 4))
    priority: int = 0
    drift: tuple[Drift, ...] = ()
    absent: tuple[Absence, ...] = ()
    lies: bool = False


@attrs.frozen(kw_only=True)
class TrafficConfig:
    """One class of requests: how they come, and what they are.

    Attributes:
        rate_per_s: mean of a Poisson stream; or
        keep: so many are asked at any time: who was answered asks again.
        on_s: the stream comes in bursts of this mean length; 0: it never pauses.
        off_s: the mean pause between two.
        starts_s: when the first may come.
        ends_s: when no more come; 0: never.
        clients: how many callers share it, evenly.
        prompt_tokens: the median.
        prompt_sigma: of the lognormal around it.
        answer_tokens: as above; the router is not told.
        continues: share of requests that go on with their client's last conversation, whose prompt
            and answer they begin with.
        talk_tokens: a conversation that has grown to this many starts anew.
        background: it is left out of the run that shows the others alone.
    """

    name: str = attrs.field(validator=_NAME)
    model: str = attrs.field(default="", validator=Check("text", lambda _: True))
    rate_per_s: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    keep: int = attrs.field(default=0, validator=within(0, 1_000_000))
    on_s: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    off_s: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    starts_s: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    ends_s: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    priority: str = attrs.field(default=Priority.NORMAL.label, validator=_PRIORITY)
    clients: int = attrs.field(default=1, validator=_COUNT)
    prompt_tokens: int = attrs.field(default=500, validator=_TOKENS)
    prompt_sigma: float = attrs.field(default=0.0, validator=within(0, 3))
    answer_tokens: int = attrs.field(default=100, validator=_TOKENS)
    answer_sigma: float = attrs.field(default=0.0, validator=within(0, 3))
    continues: float = attrs.field(default=0.0, validator=_SHARE)
    talk_tokens: int = attrs.field(default=8192, validator=_TOKENS)
    stream: bool = True
    max_latency_ms: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    latency_critical: bool = False
    power_efficient: bool = False
    background: bool = False


@attrs.frozen(kw_only=True)
class FleetConfig:
    """Each backend is a node, with a router of its own, and pickers that know not of each other choose.

    Attributes:
        nodes: how many there are; the backends' `count`s are their mix then. 0: as they are counted.
        pickers: how many, in a run each; all of them on the same requests, dealt at random.
        refresh_s: how often each picker asks each node what it has to do; meanwhile it goes by what it
            was told then, and by what it sent itself.
        jitter: share of `refresh_s` by which it asks earlier or later.
        late_s: how old an answer is when it is there.
        load: share of what the nodes can serve that is asked for: the rates of `traffic` are its mix
            then. 0: as they are written.
        seeds: how many runs of each, on other requests and other nodes of the kind.
    """

    nodes: int = attrs.field(default=0, validator=within(0, 10_000))
    pickers: tuple[int, ...] = attrs.field(default=(1, 2, 4), validator=_PICKERS)
    refresh_s: float = attrs.field(default=1.0, validator=ABOVE_0)
    jitter: float = attrs.field(default=0.0, validator=_SHARE)
    late_s: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    load: float = attrs.field(default=0.0, validator=within(0, 10))
    seeds: int = attrs.field(default=3, validator=within(1, 1000))


@attrs.frozen(kw_only=True)
class Scenario:
    """All of it.

    Attributes:
        requests: how many come of the classes with a rate and of the trace; of all, if there are
            neither.
        duration_s: nobody comes after this; 0: only `requests` ends it.
        warm_up_s: who comes before is "cold" in the report, who comes after "calibrated".
        warm_up_requests: the same by number; the later of the two holds.
        trace: a file of recorded requests, one JSON object a line, beside the scenario.
        conditions: how the machine was meanwhile. In the file these are tables, or the name of a file
            with one JSON object a line, beside the scenario.
        parts: those whose temperature is computed from what the backends draw.
        battery_wh: of a full battery, whose charge is computed; 0: it is as `conditions` say.
        base_watts: what the machine draws beside its backends, from that battery.
        starts_at: the time of the day at 0 s.
        efficiency: as in config.toml. Without it the mode is `auto` if there are `conditions` or
            `parts`, else `balanced`.
        scheduler: as in config.toml.
        router: as in config.toml.
        fleet: how the backends are chosen from afar. Without it they are one machine's.
    """

    title: str = ""
    seed: int = 1
    requests: int = attrs.field(default=10_000, validator=within(1, 100_000_000))
    duration_s: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    warm_up_s: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    warm_up_requests: int = attrs.field(default=0, validator=within(0, 100_000_000))
    trace: str = ""
    conditions: tuple[Change, ...] = ()
    parts: tuple[PartConfig, ...] = ()
    battery_wh: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    base_watts: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    starts_at: str = attrs.field(default="12:00", validator=_TIME)
    efficiency: Efficiency | None = None
    scheduler: Scheduler = attrs.field(factory=Scheduler)
    router: Router = attrs.field(factory=Router)
    fleet: FleetConfig | None = None
    models: tuple[ModelConfig, ...] = ()
    backends: tuple[MachineConfig, ...] = ()
    traffic: tuple[TrafficConfig, ...] = ()

    @property
    def has_climate(self) -> bool:
        """Whether anything but the backends' own figures bears on a choice."""
        return bool(self.conditions or self.parts or self.efficiency is not None)

    def minute_of_day(self, now: float) -> int:
        """The time of the day, 0 to 1439, so many seconds from the start."""
        hours, minutes = map(int, self.starts_at.split(":"))
        return (hours * 60 + minutes + int(now // 60)) % 1440


def fleet_of(scenario: Scenario) -> FleetConfig:
    """A scenario's fleet, which its caller knows to be there."""
    assert scenario.fleet is not None, "only a fleet has nodes and pickers"  # noqa: S101 - as said
    return scenario.fleet


@attrs.frozen(kw_only=True)
class Recorded:
    """One request of a trace; what is left out is as in `TrafficConfig`."""

    at_s: float = attrs.field(validator=_NOT_NEGATIVE)
    model: str = ""
    prompt_tokens: int = attrs.field(validator=_TOKENS)
    answer_tokens: int = attrs.field(validator=_TOKENS)
    priority: str = attrs.field(default=Priority.NORMAL.label, validator=_PRIORITY)
    client: str = ""
    stream: bool = True
    max_latency_ms: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    latency_critical: bool = False
    power_efficient: bool = False


def load(path: Path) -> Scenario:
    """Read a scenario.

    Raises:
        ConfigFaults: with every fault there is.
    """
    raw = parse(path)
    recorded = raw.pop("conditions") if isinstance(raw.get("conditions"), str) else ""
    scenario, found = structure(raw, Scenario)
    if scenario is not None:
        changes = read_lines(path.parent / recorded, Change) if recorded else scenario.conditions
        in_order = tuple(sorted(changes, key=lambda change: change.at_s))
        scenario = attrs.evolve(scenario, conditions=in_order)
        found = list(_contradictions(scenario))
    if found or scenario is None:
        raise ConfigFaults(tuple(f"{dotted(key)}: {message}" for key, message in found), path)
    return scenario


def _contradictions(scenario: Scenario) -> Iterator[Fault]:
    """What only two keys together get wrong."""
    if not scenario.backends:
        yield ("backends",), "there must be one at least"
    if not scenario.traffic and not scenario.trace:
        yield ("traffic",), "there must be one at least, or a trace"
    yield from _twice("backends", [backend.id for backend in scenario.backends])
    yield from _twice("traffic", [traffic.name for traffic in scenario.traffic])
    yield from _twice("parts", [part.name for part in scenario.parts])
    for index, part in enumerate(scenario.parts):
        if any(change.tells_heat(part.name) for change in scenario.conditions):
            yield ("parts", index), f"the zone {part.name!r} is told by conditions as well"
    if scenario.battery_wh and any(c.percent is not HELD for c in scenario.conditions):
        yield ("battery_wh",), "the percent is told by conditions as well"
    yield from _of_fleet(scenario)
    known = {model.name for model in scenario.models} or {""}
    for index, backend in enumerate(scenario.backends):
        for model in backend.models:
            if model not in known:
                yield ("backends", index, "models"), f"there is no [[models]] named {model!r}"
    for index, traffic in enumerate(scenario.traffic):
        where: KeyPath = ("traffic", index)
        if traffic.model not in known:
            yield (*where, "model"), f"there is no [[models]] named {traffic.model!r}"
        if (traffic.rate_per_s > 0) == (traffic.keep > 0):
            yield where, "must have either rate_per_s or keep"
        if (traffic.on_s > 0) != (traffic.off_s > 0):
            yield where, "must have both on_s and off_s, or neither"


def _of_fleet(scenario: Scenario) -> Iterator[Fault]:
    fleet = scenario.fleet
    for index, backend in enumerate(scenario.backends):
        for number, absence in enumerate(backend.absent):
            if absence.until_s <= absence.at_s:
                yield ("backends", index, "absent", number), "until_s must be after at_s"
        for key in ("absent", "lies"):
            if fleet is None and getattr(backend, key):
                yield ("backends", index, key), "only a [fleet] heeds it"
    if fleet is None:
        return
    if scenario.has_climate:
        yield ("fleet",), "nodes have no conditions, parts or efficiency here"
    if scenario.trace and fleet.load:
        yield ("fleet", "load"), "a trace has its own times"
    for index, traffic in enumerate(scenario.traffic):
        if fleet.load and traffic.keep:
            yield ("traffic", index, "keep"), "has no rate that fleet.load could change"


def _twice(table: str, names: list[str]) -> Iterator[Fault]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield (table, index), f"{name!r} is already used by {table}[{names.index(name)}]"


def read_trace(path: Path) -> list[Recorded]:
    """Read a recorded log, in the order of its times.

    Raises:
        ConfigFaults: with every fault there is, up to a screenful.
    """
    return sorted(read_lines(path, Recorded), key=lambda request: request.at_s)
