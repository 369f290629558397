"""What a router answered, as lines for people.

Law: pure, an answer in and lines out. Unknown is "-", never 0; what was only configured is in
parentheses, since nobody has measured it yet.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ollama_proxy.terminal import NOT_KNOWN, Cell, Column, Line, Tone, cell, printable, table

Answer = Any  # decoded JSON, of the shape that the contract gives the endpoint

_STATES = {
    "healthy": Tone.GOOD,
    "ok": Tone.GOOD,
    "degraded": Tone.WARN,
    "unhealthy": Tone.BAD,
    "down": Tone.BAD,
    "disabled": Tone.FAINT,
}
HEAT = {
    "nominal": Tone.GOOD,
    "light": Tone.PLAIN,
    "moderate": Tone.WARN,
    "severe": Tone.BAD,
    "critical": Tone.BAD,
    "unknown": Tone.FAINT,
}
_NEAR_LIMIT_C = 10.0


# -- single values ---------------------------------------------------------------------------------


def state_of(backend: Mapping[str, Any]) -> Cell:
    """Whether a backend is well, and what else keeps requests from it."""
    if not backend["enabled"]:
        return Cell("disabled", Tone.FAINT)
    if not backend["healthy"]:
        return Cell("unhealthy", Tone.BAD)
    if backend.get("throttled"):
        return Cell("throttled", Tone.WARN)
    if backend.get("asleep"):
        return Cell("asleep", Tone.FAINT)
    return Cell("healthy", Tone.GOOD)


def temperature_of(backend: Mapping[str, Any]) -> Cell:
    """How warm it is, toned by what that means for this part."""
    warmth = backend["temperature_c"]
    tone = HEAT.get(backend.get("thermal_state", ""), Tone.PLAIN)
    return cell(None if warmth is None else f"{warmth:.0f} °C", tone)


def figure(told: Mapping[str, Any], form: str, unit: str = "") -> Cell:
    """A value with its source: in parentheses where its owner said so and nobody measured.

    Args:
        told: `value` and `source`.
        form: as for `format`.
        unit: behind it.
    """
    if told["value"] is None:
        return cell(None)
    text = f"{told['value']:{form}}{unit}"
    return cell(f"({text})", Tone.FAINT) if told["source"] == "configured" else cell(text)


def busy_of(backend: Mapping[str, Any]) -> Cell:
    """How many of its slots are taken."""
    in_flight, slots = backend["in_flight"], backend["slots"]
    return cell(f"{in_flight}/{slots}", Tone.STRONG if in_flight else Tone.PLAIN)


# -- whole answers ---------------------------------------------------------------------------------


def show_health(told: Answer, width: int | None) -> list[Line]:
    """`GET /health`."""
    state = cell(told["status"], _STATES.get(told["status"], Tone.PLAIN))
    if "more" in told:
        return [[state, Cell("; there is more to tell, "), cell(told["more"])]]
    lines: list[Line] = [
        [state, Cell(f": {told['healthy']} of {told['total']} backends healthy")],
    ]
    rows = [
        [cell("  " + name), cell(word, _STATES.get(word, Tone.PLAIN))]
        for name, word in told["backends"].items()
    ]
    return lines + table([Column(""), Column("")], rows, width=width)


def show_backends(told: Answer, width: int | None) -> list[Line]:
    """`GET /backends`."""
    columns = [
        Column("ID"),
        Column("HARDWARE", rank=4),
        Column("STATE"),
        Column("BUSY", is_number=True),
        Column("WAITING", is_number=True),
        Column("TEMP", is_number=True),
        Column("WATTS", is_number=True),
        Column("TOKENS/S", is_number=True),
        Column("FIRST TOKEN", is_number=True, rank=1),
        Column("J/TOKEN", is_number=True, rank=2),
        Column("MODELS", is_number=True, rank=3),
    ]
    rows = []
    for each in told:
        models, joules = each["models"], each["energy_j_per_token"]
        rows.append([
            cell(each["id"]),
            cell(each["hardware"]),
            state_of(each),
            busy_of(each),
            waiting_of(each),
            temperature_of(each),
            figure(each["power_watts"], ".1f"),
            figure(each["latency"]["tokens_per_s"], ".1f"),
            figure(each["latency"]["ttft_ms"], ".0f", " ms"),
            cell(None if joules is None else f"{joules:.2f}"),
            cell(None if models is None else len(models)),
        ])
    if any(each["last_error"] for each in told):
        columns.append(Column("LAST ERROR", wraps=True))
        for row, each in zip(rows, told, strict=True):
            row.append(cell(each["last_error"] or ""))
    return table(columns, rows, width=width)


def waiting_of(backend: Mapping[str, Any]) -> Cell:
    """How many wait for it."""
    waiting = sum(backend["queued"].values())
    return cell(waiting, Tone.WARN if waiting else Tone.PLAIN)


def show_pulse(told: Answer, rate: float | None = None) -> Line:
    """What is under way on all of `GET /backends`.

    Args:
        told: the answer.
        rate: requests per second, where anybody has counted them.
    """
    queued: Counter[str] = Counter()
    for each in told:
        queued.update(each["queued"])
    waiting = sum(queued.values())
    by_priority = ", ".join(f"{n} {name}" for name, n in queued.items() if n)
    facts = [
        f"{sum(each['in_flight'] for each in told)} in flight",
        f"{waiting} waiting" + (f" ({by_priority})" if waiting else ""),
        f"{sum(each['requests_total'] for each in told)} requests",
        f"{sum(each['errors_total'] for each in told)} errors",
    ]
    if rate is not None:
        facts.append(f"{rate:.1f} requests/s")
    return [cell(", ".join(facts))]


def show_decision(told: Answer, width: int | None) -> list[Line]:
    """`POST /v1/route`."""
    columns = [
        Column("CANDIDATE"),
        Column("SCORE", is_number=True),
        Column("FIRST TOKEN", is_number=True),
        Column("WATTS", is_number=True),
        Column("TERMS", wraps=True),
    ]
    rows = []
    for each in told["candidates"]:
        if not each["eligible"]:
            faint = [cell(each["backend"], Tone.FAINT), *[cell(None)] * 3]
            rows.append([*faint, cell(each["why_not"], Tone.FAINT)])
            continue
        is_chosen = each["backend"] == told["backend"]
        watts = each["predicted_watts"]
        rows.append([
            cell(each["backend"], Tone.GOOD if is_chosen else Tone.PLAIN),
            cell(f"{each['score']:.2f}"),
            cell(f"{each['predicted_ttft_ms']:.0f} ms"),
            cell(None if watts is None else f"{watts:.1f}"),
            cell(" ".join(f"{name}={term:+.2f}" for name, term in each["terms"].items())),
        ])
    head: Line = [cell(told["backend"], Tone.GOOD), cell(f" ({told['reason']})")]
    return [head, *table(columns, rows, width=width)]


def show_heat(told: Answer, width: int | None) -> list[Line]:
    """`GET /thermal`."""
    columns = [
        Column("SENSOR"),
        Column("NOW", is_number=True),
        Column("LIMIT", is_number=True),
        Column("PART"),
        Column(""),
    ]
    rows = []
    for zone in told["zones"]:
        limit, is_throttling = zone["limit_c"], zone["throttling"]
        rows.append([
            cell(zone["name"]),
            Cell(_reading(zone, "temperature_c", "°C"), _warmth(zone)),
            cell(None if limit is None else f"{limit:.0f} °C"),
            cell(zone["part"]),
            cell("throttled" if is_throttling else "", Tone.BAD),
        ])
    rows += [
        [cell(each["name"]), cell(_reading(each, key, unit)), cell(None), cell(part), cell("")]
        for each, key, unit, part in _others(told)
    ]
    state = told["state"]
    return [
        [cell(state, HEAT.get(state, Tone.PLAIN))],
        *(table(columns, rows, width=width) if rows else [[cell("no sensor tells anything")]]),
    ]


def _others(told: Answer) -> Iterable[tuple[Answer, str, str, str | None]]:
    for fan in told["fans"]:
        yield fan, "rpm", "RPM", None
    for draw in told["power"]:
        yield draw, "watts", "W", draw["part"]


def _reading(told: Mapping[str, Any], key: str, unit: str) -> str:
    """A value with its unit, or why there is none."""
    value, quality = told[key], told["quality"]
    if value is not None:
        return f"{value:g} {unit}"
    return (
        NOT_KNOWN if quality == "ok" else printable(str(quality))
    )  # some tell of throttling alone


def _warmth(zone: Mapping[str, Any]) -> Tone:
    warmth, limit = zone["temperature_c"], zone["limit_c"]
    if warmth is None:
        return Tone.FAINT
    if limit is None or warmth < limit - _NEAR_LIMIT_C:
        return Tone.PLAIN
    return Tone.BAD if warmth >= limit else Tone.WARN


def show_mode(told: Answer, width: int | None, *, lists_all: bool) -> list[Line]:
    """`GET /efficiency`; with `lists_all` what else could be chosen."""
    lines: list[Line] = [
        [
            cell(told["mode"], Tone.STRONG),
            cell(", in force: "),
            cell(told["effective_mode"], Tone.STRONG),
            cell(f" ({told['reason']})"),
        ]
    ]
    battery = told["battery_percent"]
    if battery is not None:
        source = "on battery" if told["on_battery"] else "on mains"
        lines.append([cell(f"{source}, {battery:.0f} %")])
    if lists_all:
        rows = []
        for each in told["modes"]:
            is_chosen = each["name"] == told["mode"]
            tone = Tone.STRONG if is_chosen else Tone.PLAIN
            mark = "* " if is_chosen else "  "
            rows.append([cell(mark + each["name"], tone), cell(each["description"])])
        lines += table([Column(""), Column("", wraps=True)], rows, width=width)
    return lines
