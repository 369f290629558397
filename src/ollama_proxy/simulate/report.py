"""What came of a run, in sums and in flat arrays: the figures, for people and for machines.

How each figure is meant:

    deadlines    of the requests that were admitted and had one, the share that kept it. "Cold" are
                 those that came in the warm-up, when nothing was learned; "calibrated" the rest.
    first token  from arrival, the wait in line included; of an answer that is not streamed, its end.
    fairness     Jain's index of the clients' mean slowdown, among those of one priority. A slowdown
                 is the time from arrival to end, as a multiple of the time at the slot. Who was
                 refused is not in it.
    wasted       work that nobody got: cancelled, broken off, or beaten by another attempt.
    off          the mean of |forecast - what came| / what came, of what was promised at admission.
    modes        seconds and joules while each was in force, of all backends, with what they draw at
                 rest; a card that sleeps draws nothing, which joules per token do not count. The
                 rivals know of no climate, and so of no modes.
    in vain      woken on battery while another backend, that was awake, could have served in time.
    metered      by how much the joules that a backend's requests paid, by the router's meters, are
                 off from those that the model knows, both beyond rest. Who shares a part with
                 another pays by time; who wakes a card pays for its rest, too, as nobody else does.
"""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from ollama_proxy.policy.ask import Priority
from ollama_proxy.simulate.arrivals import Arrival, Kind
from ollama_proxy.simulate.model import Machine, quantiles

COLD, CALIBRATED = 0, 1
Figures = dict[str, Any]


@attrs.define(eq=False)
class Tally:
    """The books of one run.

    Attributes:
        kinds: the classes of traffic.
        warm_up_s: who came before is cold.
        warm_up_requests: who came among so many is cold.
        arrived: how many came.
        served: how many got their answer.
        first_s: by priority.
        put_back: how often work was put back.
        stopped: how many answers were stopped in the middle for a more urgent one.
        hedges: how many second attempts were made.
        hedge_s: seconds of work that hedged requests took beyond the attempt that answered.
    """

    kinds: Sequence[Kind]
    warm_up_s: float
    warm_up_requests: int
    arrived: int = 0
    served: int = 0
    tokens: int = 0
    put_back: int = 0
    stopped: int = 0
    hedges: int = 0
    hedge_s: float = 0.0
    ended_at: float = 0.0
    first_s: list["array[float]"] = attrs.field(factory=lambda: [array("f") for _ in Priority])
    _slowness: list[dict[str, list[float]]] = attrs.field(factory=lambda: [{} for _ in Priority])
    _kept: list[list[int]] = attrs.field(factory=lambda: [[0, 0], [0, 0]])
    _refused: list[Counter[str]] = attrs.field(factory=lambda: [Counter(), Counter()])
    _in_vain: list[int] = attrs.field(factory=lambda: [0, 0])
    _ended: Counter[str] = attrs.field(factory=Counter)
    _off: float = 0.0
    _bias: float = 0.0
    _promises: int = 0

    def comes(self, now: float) -> int:
        """Note an arrival; returns which phase it belongs to."""
        self.arrived += 1
        is_cold = now < self.warm_up_s or self.arrived <= self.warm_up_requests
        return COLD if is_cold else CALIBRATED

    def serve(
        self,
        arrival: Arrival,
        *,
        at: float,
        phase: int,
        first_at: float,
        end_at: float,
        slot_s: float,
    ) -> None:
        """Note one that was answered.

        Args:
            arrival: it.
            at: when it came.
            phase: as `comes` said.
            first_at: when the first token was there.
            end_at: when the last was.
            slot_s: how long the attempt that answered took.
        """
        kind = self.kinds[arrival.kind]
        wishes = kind.wishes
        self.served += 1
        self.tokens += arrival.answer
        self.ended_at = max(self.ended_at, end_at)
        first_s = (first_at if kind.stream else end_at) - at
        self.first_s[wishes.priority].append(first_s)
        by_client = self._slowness[wishes.priority]
        slowdown = (end_at - at) / max(slot_s, 1e-9)
        sums = by_client.get(kind.clients[arrival.client])
        if sums is None:
            by_client[kind.clients[arrival.client]] = [slowdown, 1.0]
        else:
            sums[0] += slowdown
            sums[1] += 1.0
        if wishes.max_latency_s is not None:
            self.keep_deadline(phase, met=first_s <= wishes.max_latency_s + 1e-9)

    def keep_deadline(self, phase: int, *, met: bool) -> None:
        """Note what became of a deadline that was promised."""
        self._kept[phase][0] += met
        self._kept[phase][1] += 1

    def turn_away(self, phase: int, code: str, *, in_time: bool) -> None:
        """Note one that was refused at once; `in_time`: it had a deadline."""
        self._refused[phase][code] += 1
        self._in_vain[phase] += in_time

    def end(self, code: str) -> None:
        """Note one that was admitted and not answered."""
        self._ended[code] += 1

    def compare(self, promised_s: float, took_s: float) -> None:
        """Note a forecast and what came of it."""
        off = (took_s - promised_s) / max(took_s, 1e-3)
        self._off += abs(off)
        self._bias += off
        self._promises += 1

    def figures(self, fleet: Sequence[Machine]) -> Figures:
        """All that is reported of the run, ready for JSON. Times in seconds."""
        busy_s = sum(machine.busy_s for machine in fleet)
        joules = sum(machine.joules(self.ended_at) for machine in fleet)
        return {
            "arrived": self.arrived,
            "served": self.served,
            "refused": dict(self._refused[COLD] + self._refused[CALIBRATED]),
            "failed": dict(self._ended),
            "deadlines": {
                name: _kept(met, admitted, refused)
                for name, (met, admitted), refused in zip(
                    ("cold", "calibrated"), self._kept, self._in_vain, strict=True
                )
            },
            "refused_by_phase": {
                name: dict(codes)
                for name, codes in zip(("cold", "calibrated"), self._refused, strict=True)
            },
            "by_priority": {
                priority.label: self._of(priority)
                for priority in Priority
                if self.first_s[priority]
            },
            "put_back": self.put_back,
            "stopped": self.stopped,
            "hedges": self.hedges,
            "hedge_work": self.hedge_s / busy_s if busy_s else 0.0,
            "wasted_s": sum(machine.wasted_s for machine in fleet),
            "wasted_work": sum(m.wasted_s for m in fleet) / busy_s if busy_s else 0.0,
            "wasted_tokens": sum(machine.wasted_tokens for machine in fleet),
            "answer_tokens": self.tokens,
            "joules_per_token": joules / self.tokens if self.tokens else None,
            "cold_loads": sum(machine.loads for machine in fleet),
            "forecast_off": self._off / self._promises if self._promises else None,
            "forecast_bias": self._bias / self._promises if self._promises else None,
            "ended_at_s": self.ended_at,
        }

    def _of(self, priority: Priority) -> Figures:
        values = self.first_s[priority]
        p50, p90, p99 = quantiles(values, 0.5, 0.9, 0.99)
        means = [total / count for total, count in self._slowness[priority].values()]
        return {
            "served": len(values),
            "first_s": {"p50": p50, "p90": p90, "p99": p99},
            "clients": len(means),
            "fairness": sum(means) ** 2 / (len(means) * math.fsum(m * m for m in means)),
        }


def _kept(met: int, admitted: int, refused: int) -> Figures:
    had_one = admitted + refused
    return {
        "admitted": admitted,
        "refused": refused,
        "met": met,
        "rate": met / admitted if admitted else None,
        "of_all": met / had_one if had_one else None,
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def table(runs: Mapping[str, Figures], priorities: Sequence[str]) -> list[list[str]]:
    """Rows for a terminal: a figure each, a column for each run."""
    rows = [["", *runs]]

    def row(name: str, cells: Sequence[object]) -> None:
        rows.append([name, *map(str, cells)])

    row("requests", [run["arrived"] for run in runs.values()])
    row("  served", [run["served"] for run in runs.values()])
    codes = {code for run in runs.values() for code in run["refused"]}
    for code in sorted(codes):
        row(f"  refused: {code}", [run["refused"].get(code, 0) for run in runs.values()])
    for code in sorted({code for run in runs.values() for code in run["failed"]}):
        row(f"  failed: {code}", [run["failed"].get(code, 0) for run in runs.values()])
    for phase in ("cold", "calibrated"):
        if any(run["deadlines"][phase]["admitted"] for run in runs.values()):
            cells = [run["deadlines"][phase] for run in runs.values()]
            row(f"deadlines kept, {phase}", [_percent(cell["rate"]) for cell in cells])
            row("  of admitted", [cell["admitted"] for cell in cells])
            row("  of all that had one", [_percent(cell["of_all"]) for cell in cells])
    for priority in priorities:
        of = [run["by_priority"].get(priority) for run in runs.values()]
        if not any(of):
            continue
        for q in ("p50", "p90", "p99"):
            cells = [_seconds(each["first_s"][q]) if each else "-" for each in of]
            row(f"{priority}, first token {q}, s", cells)
        if any(each and each["clients"] > 1 for each in of):
            cells = [f"{each['fairness']:.3f}" if each else "-" for each in of]
            row(f"{priority}, fairness", cells)
    row("put back / stopped", [f"{run['put_back']} / {run['stopped']}" for run in runs.values()])
    row(
        "hedges, share of work",
        [f"{r['hedges']}, {_percent(r['hedge_work'])}" for r in runs.values()],
    )
    row("wasted work", [_percent(run["wasted_work"]) for run in runs.values()])
    row("wasted tokens", [run["wasted_tokens"] for run in runs.values()])
    row("joules per token", [_seconds(run["joules_per_token"]) for run in runs.values()])
    row("cold loads", [run["cold_loads"] for run in runs.values()])
    row("forecasts off by", [_percent(run["forecast_off"]) for run in runs.values()])
    for name, cells in _climate([run.get("climate") for run in runs.values()]):
        row(name, cells)
    row("simulated, s", [f"{run['ended_at_s']:.0f}" for run in runs.values()])
    row("wall time, s", [f"{run['wall_s']:.1f}" for run in runs.values()])
    row(
        "requests per s of wall time",
        [f"{r['arrived'] / max(r['wall_s'], 1e-9):.0f}" for r in runs.values()],
    )
    return rows


def _climate(of: Sequence[Figures | None]) -> Iterator[tuple[str, list[str]]]:
    """What came of battery and heat, where there were any: rows of a name and their cells."""
    if not any(of):
        return

    def cells(*show: Callable[[Figures], str]) -> list[str]:
        return ["-" if each is None else " / ".join(s(each) for s in show) for each in of]

    def number(key: str, name: str | None = None) -> Callable[[Figures], str]:
        return lambda c: _rounded(c[key] if name is None else c[key].get(name, 0.0))

    yield "mode switches", cells(lambda c: str(len(c["switches"])))
    yield "  most in 10 minutes", cells(number("switches_in_10_min"))
    for mode in _keys(of, "mode_s"):
        yield f"  {mode}, s / J", cells(number("mode_s", mode), number("mode_joules", mode))
    yield "thermal grade changes", cells(number("grade_changes"))
    for part in _keys(of, "critical_s"):
        yield f"  {part} graded critical, s", cells(number("critical_s", part))
    for part in _keys(of, "over_limit_s"):
        yield f"  {part} at its limit, s", cells(number("over_limit_s", part))
    yield "started on a critical part", cells(number("started_on_critical"))
    yield "sleeping cards woken / in vain", cells(number("woken"), number("woken_in_vain"))
    yield "battery left, %", cells(number("percent_left"))
    for backend in _keys(of, "metered"):
        off = [None if c is None else c["metered"].get(backend, {}).get("off") for c in of]
        yield f"metered joules off, {backend}", [_percent(each) for each in off]


def _keys(of: Sequence[Figures | None], table: str) -> list[str]:
    return sorted({key for each in of if each is not None for key in each[table]})


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
