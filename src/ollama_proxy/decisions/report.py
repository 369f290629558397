"""What came of deciding a log again: how much went elsewhere, and what that would have meant.

Figures are what the policy expected, then and now: nobody measured what did not happen. Those of a
request count once, at its first choice; joules are watts for as long as a slot is taken.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ollama_proxy.decisions.form import Gave
from ollama_proxy.decisions.outcome import differences, gave
from ollama_proxy.decisions.reading import Recorded, Unread
from ollama_proxy.policy.refusal import Refusal
from ollama_proxy.policy.route import Decision

TOLD = 5  # differences that are told one by one; the others are counted
NUMBERED = 8  # lines that could not be used, by each reason, whose numbers are told


@attrs.define
class Side:
    """What was expected of all requests, under one policy."""

    backends: Counter[str] = attrs.field(factory=Counter)
    refusals: Counter[str] = attrs.field(factory=Counter)
    first_s: list[float] = attrs.field(factory=list)
    whole_s: list[float] = attrs.field(factory=list)
    watts: list[float] = attrs.field(factory=list)
    joules: float = 0.0
    in_time: int = 0

    def add(self, gave: Gave, *, stream: bool, limit_s: float | None) -> None:
        """One request more."""
        if gave.backend is None:
            self.refusals[gave.code or "unknown"] += 1
            return
        self.backends[gave.backend] += 1
        (self.first_s if stream else self.whole_s).append(gave.predicted_s)
        self.watts.append(gave.watts)
        self.joules += gave.watts * gave.whole_s
        self.in_time += limit_s is not None and gave.predicted_s <= limit_s

    def figures(self) -> dict[str, Any]:
        """For machines. Seconds, watts, joules; null where there is nothing to tell."""
        return {
            "placed": self.backends.total(),
            "refused": self.refusals.total(),
            "first_token_s": _spread(self.first_s),
            "answer_s": _spread(self.whole_s),
            "watts_mean": _mean(self.watts),
            "joules": self.joules,
            "deadlines_met": self.in_time,
            "backends": dict(self.backends),
            "refusals": dict(self.refusals),
        }


@attrs.define
class Report:
    """Sums up.

    Attributes:
        decisions: that were decided again.
        requests: those of them that were a request's first.
        deadlines: requests that had one.
        elsewhere: requests that would go to another backend, be refused, or not be any more.
        differing: decisions that came out otherwise in anything.
        told: the first of those, in words.
        unread: lines that could not be used, by why: the first ones' numbers.
        unread_lines: how many they are, by why.
    """

    decisions: int = 0
    requests: int = 0
    deadlines: int = 0
    elsewhere: int = 0
    differing: int = 0
    told: list[str] = attrs.field(factory=list)
    unread: dict[str, list[int]] = attrs.field(factory=dict)
    unread_lines: Counter[str] = attrs.field(factory=Counter)
    was: Side = attrs.field(factory=Side)
    would: Side = attrs.field(factory=Side)

    def pass_over(self, line: Unread) -> None:
        """A line could not be used."""
        numbers = self.unread.setdefault(line.why, [])
        if len(numbers) < NUMBERED:
            numbers.append(line.number)
        self.unread_lines[line.why] += 1

    def compare(self, recorded: Recorded, outcome: Decision | Refusal) -> None:
        """A choice was decided again."""
        self.decisions += 1
        found = differences(recorded.gave, outcome)
        if found:
            self.differing += 1
            if len(self.told) < TOLD:
                self.told.append(_in_words(recorded, found))
        question = recorded.question
        if question.again:
            return
        now, limit_s = gave(outcome), question.wishes.max_latency_s
        self.requests += 1
        self.deadlines += limit_s is not None
        self.elsewhere += now.backend != recorded.gave.backend
        self.was.add(recorded.gave, stream=question.ask.stream, limit_s=limit_s)
        self.would.add(now, stream=question.ask.stream, limit_s=limit_s)

    def figures(self) -> dict[str, Any]:
        """For machines."""
        return {
            "decisions": self.decisions,
            "requests": self.requests,
            "differing": self.differing,
            "differences": self.told,
            "elsewhere": self.elsewhere,
            "deadlines": self.deadlines,
            "unread": {
                why: {"lines": self.unread_lines[why], "first": numbers}
                for why, numbers in self.unread.items()
            },
            "was": self.was.figures(),
            "would": self.would.figures(),
        }

    def rows(self) -> list[tuple[object, ...]]:
        """For people."""
        was, would = self.was, self.would
        rows: list[tuple[object, ...]] = [
            ("", "was", "would be"),
            ("placed", was.backends.total(), would.backends.total()),
            ("refused", was.refusals.total(), would.refusals.total()),
        ]
        for name, of in (("first token", "first_s"), ("whole answer", "whole_s")):
            before, after = _spread(getattr(was, of)), _spread(getattr(would, of))
            if before["mean"] is not None or after["mean"] is not None:
                rows += [
                    (f"{name}, mean ms", _ms(before["mean"]), _ms(after["mean"])),
                    (f"{name}, 95 % ms", _ms(before["p95"]), _ms(after["p95"])),
                ]
        rows += [
            ("watts, mean", _rounded(_mean(was.watts)), _rounded(_mean(would.watts))),
            ("joules", _rounded(was.joules), _rounded(would.joules)),
        ]
        if self.deadlines:
            of_all = f"of {self.deadlines}"
            rows.append(("deadlines met", f"{was.in_time} {of_all}", f"{would.in_time} {of_all}"))
        for name in sorted(was.backends | would.backends):
            rows.append((f"to {name}", was.backends[name], would.backends[name]))
        for code in sorted(was.refusals | would.refusals):
            rows.append((code, was.refusals[code], would.refusals[code]))
        return rows

    def notes(self) -> list[str]:
        """What could not be used, one sentence each kind."""
        notes = []
        for why, numbers in self.unread.items():
            more = self.unread_lines[why] - len(numbers)
            lines = "line" if len(numbers) == 1 else "lines"
            told = ", ".join(map(str, numbers)) + (f" and {more} more" if more else "")
            notes.append(f"{lines} {told}: {why}; passed over")
        return notes


def _in_words(recorded: Recorded, found: Mapping[str, tuple[object, object]]) -> str:
    what = "; ".join(f"{name} was {was}, is {now}" for name, (was, now) in found.items())
    return f"line {recorded.number} ({recorded.time}, {recorded.request_id}): {what}"


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"mean": None, "p50": None, "p95": None}
    ordered = sorted(values)
    return {
        "mean": _mean(ordered),
        "p50": ordered[len(ordered) // 2],
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
    }


def _ms(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds * 1000:.0f}"


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"
