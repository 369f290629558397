"""From samples to figures: percentiles, what a path adds to the direct one, and the table of them."""

from collections.abc import Mapping, Sequence
from statistics import median

import attrs

PERCENTS = (50, 90, 99)


@attrs.frozen
class Spread:
    """Percentiles of one quantity, in milliseconds."""

    p50_ms: float
    p90_ms: float
    p99_ms: float

    def minus(self, other: "Spread") -> "Spread":
        """What this has more than `other`, percentile by percentile."""
        own, others = attrs.astuple(self), attrs.astuple(other)
        return Spread(*(a - b for a, b in zip(own, others, strict=True)))


def spread(samples_ns: Sequence[int]) -> Spread | None:
    """Percentiles by nearest rank; None without samples."""
    if not samples_ns:
        return None
    ranked = sorted(samples_ns)
    last = len(ranked) - 1
    return Spread(*(ranked[round(last * percent / 100)] / 1e6 for percent in PERCENTS))


@attrs.frozen(kw_only=True)
class Row:
    """What one path did in one case; what was not measured is None.

    Attributes:
        requests: how many were counted.
        added_first: what it adds to the direct path's time to the first token, in this run.
        added_first_rounds_ms: the same at p50, round by round: how sure the figure is.
        added_token_rounds_ms: as above, of a token.
        grown_kib_per_stream: how much memory the process took for each stream at its peak.
        fault: why there is nothing, "" when there is.
    """

    case: str
    path: str
    requests: int = 0
    first: Spread | None = None
    token: Spread | None = None
    whole: Spread | None = None
    added_first: Spread | None = None
    added_token: Spread | None = None
    added_whole: Spread | None = None
    added_first_rounds_ms: tuple[float, ...] = ()
    added_token_rounds_ms: tuple[float, ...] = ()
    tokens_per_s: float | None = None
    cpu_us_per_token: float | None = None
    requests_per_s: float | None = None
    cpu_us_per_request: float | None = None
    memory_mib: float | None = None
    peak_mib: float | None = None
    grown_kib_per_stream: float | None = None
    ready_s: float | None = None
    fault: str = ""


def beside(row: Row, direct: Row | None) -> Row:
    """The row with what it adds to the direct one."""
    if direct is None or row is direct:
        return row

    def more(own: Spread | None, other: Spread | None) -> Spread | None:
        return own.minus(other) if own is not None and other is not None else None

    return attrs.evolve(
        row,
        added_first=more(row.first, direct.first),
        added_token=more(row.token, direct.token),
        added_whole=more(row.whole, direct.whole),
    )


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Text in columns, the first two to the left and figures to the right."""
    rows = [headings, *lines]
    widths = [max(len(row[at]) for row in rows) for at in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)  # noqa: PLR2004 - the two names
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _three(values: Spread | None, *, plus: bool = False) -> str:
    if values is None:
        return "-"
    sign = "+" if plus else ""
    return " ".join(f"{value:{sign}7.2f}" for value in attrs.astuple(values))


def latency_table(rows: Sequence[Row]) -> str:
    """Delays of every row that has any, as `p50 p90 p99` in milliseconds."""
    headings = ("case", "path", "first token", "added", "a token", "added", "whole", "added")
    lines = [
        (
            row.case,
            row.path,
            _three(row.first),
            _three(row.added_first, plus=True),
            _three(row.token),
            _three(row.added_token, plus=True),
            _three(row.whole),
            _three(row.added_whole, plus=True),
        )
        for row in rows
        if row.first is not None
    ]
    return table(headings, lines)


def ratio_table(rows: Sequence[Row], ours: str, rivals: Sequence[str]) -> str:
    """What rivals add as a multiple of what we add: the median over rounds, and least to most."""
    headings = ("case", "rival / ours", "first token", "a token", "CPU/token", "memory/stream")
    by_place = {(row.case, row.path): row for row in rows}
    lines = []
    for (case, path), row in by_place.items():
        own = by_place.get((case, ours))
        if path in rivals and own is not None and not row.fault and not own.fault:
            lines.append((
                case,
                path,
                _ratio(row.added_first_rounds_ms, own.added_first_rounds_ms),
                _ratio(row.added_token_rounds_ms, own.added_token_rounds_ms),
                _ratio([row.cpu_us_per_token], [own.cpu_us_per_token]),
                _ratio([row.grown_kib_per_stream], [own.grown_kib_per_stream]),
            ))
    return table(headings, lines)


def _ratio(theirs: Sequence[float | None], ours: Sequence[float | None]) -> str:
    """Round by round; nothing is said where ours is not above zero."""
    ratios = sorted(
        their / own
        for their, own in zip(theirs, ours, strict=False)
        if their is not None and own is not None and own > 0
    )
    if not ratios:
        return "-"
    middle = f"{median(ratios):.1f}x"
    return middle if len(ratios) == 1 else f"{middle} ({ratios[0]:.1f} to {ratios[-1]:.1f})"


# Field of Row -> heading and how it is shown.
COSTS: Mapping[str, tuple[str, str]] = {
    "tokens_per_s": ("tokens/s", ".0f"),
    "cpu_us_per_token": ("CPU us/token", ".1f"),
    "requests_per_s": ("requests/s", ".0f"),
    "cpu_us_per_request": ("CPU us/request", ".0f"),
    "memory_mib": ("memory MiB", ".1f"),
    "peak_mib": ("peak MiB", ".1f"),
    "grown_kib_per_stream": ("KiB/stream", ".0f"),
    "ready_s": ("ready s", ".2f"),
}


def cost_table(rows: Sequence[Row]) -> str:
    """Processor time, memory and throughput of every row that has any."""
    lines = []
    for row in rows:
        values = [getattr(row, name) for name in COSTS]
        if any(value is not None for value in values):
            shown = [
                "-" if value is None else f"{value:{form}}"
                for value, (_, form) in zip(values, COSTS.values(), strict=True)
            ]
            lines.append((row.case, row.path, *shown))
    return table(("case", "path", *(heading for heading, _ in COSTS.values())), lines)
