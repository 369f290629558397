"""What the router writes about itself: log lines, and one line a request.

No prompt, answer, header or key is ever written: the facts that come here do not carry them.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial

import attrs
import structlog
import trio
from structlog.typing import EventDict

from ollama_proxy.engine.ledger import Change, Fact, Ledger, Outcome, TurnedAway
from ollama_proxy.journal import JournalHandler, leads_to_journal
from ollama_proxy.policy.rates import Bucket
from ollama_proxy.policy.refusal import Code

LINES_PER_S = 5.0  # of requests that became no job, in the long run
LINES_AT_ONCE = 20.0
access = logging.getLogger("ollama_proxy.access")
audit = logging.getLogger("ollama_proxy.audit")


def _text(value: str) -> str:
    """A caller's text, made harmless for a terminal and a line-based log."""
    return value.encode("unicode_escape").decode()[:120]


def _when(_: object, __: str, told: EventDict) -> EventDict:
    """When it happened, not when somebody came to write it down."""
    created = told["_record"].created
    told["time"] = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    return told


def _when_here(_: object, __: str, told: EventDict) -> EventDict:
    """The same as a clock on this machine's wall shows it."""
    told["time"] = datetime.fromtimestamp(told["_record"].created, UTC).astimezone()
    told["time"] = told["time"].isoformat(" ", timespec="milliseconds")[
        : len("2026-01-01 00:00:00.000")
    ]
    return told


def _facts(_: object, __: str, told: EventDict) -> EventDict:
    """What a line is about, each fact by its name."""
    told.update(getattr(told["_record"], "facts", {}))
    return told


def _for_machines() -> logging.Formatter:
    """One JSON object a line."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name],
        processors=[
            _when,
            _facts,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(default=str),
        ],
    )


class _Plain(logging.Formatter):
    """The same line as in colour, without it."""

    default_msec_format: str | None = "%s.%03d"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """See `logging.Formatter`."""
        return f"{self.formatTime(record)} [{record.levelname.lower():<9}] {record.message}"


def _for_people(*, in_colour: bool) -> logging.Formatter:
    """A line in words. Tracebacks are plain: others show the values of variables, prompts included."""
    if not in_colour:
        return _Plain()  # the other takes five times as long, for each request
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_log_level],
        processors=[
            _when_here,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.dev.ConsoleRenderer(
                colors=in_colour,
                timestamp_key="time",
                pad_event_to=0,
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ],
    )


class Ration(logging.Filter):
    """So many lines a second in the long run, and as many at once; how many were left out is said.

    Without it who makes the router complain, or asks for nonsense as fast as it can, fills the disk.

    Attributes:
        lost: lines that were left out, from the beginning.
    """

    def __init__(self, lines_per_s: float, out: logging.Handler) -> None:
        """Begin with all of it to spend.

        Args:
            lines_per_s: how many.
            out: where it is said how many lines were left out.
        """
        super().__init__()
        self.lost = 0
        self._unsaid = 0
        self._lines = Bucket(lines_per_s, lines_per_s)
        self._out = out

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written. Time is what the lines say it is: it may jump, and go back."""
        if self._lines.take(record.created):
            self.lost += 1
            self._unsaid += 1
            return False
        if self._unsaid:
            message = f"{self._unsaid} lines of the log were left out (log_lines_per_s)"
            self._unsaid = 0
            self._out.emit(
                logging.LogRecord(record.name, logging.WARNING, "", 0, message, None, None)
            )
        return True


def lost_lines() -> int:
    """How many lines of this process's log were left out."""
    filters = [each for out in logging.getLogger().handlers for each in out.filters]
    return sum(each.lost for each in filters if isinstance(each, Ration))


def set_up_logging(*, level: str, log_format: str, lines_per_s: float) -> None:
    """Write log lines to stderr, or, where that is systemd's journal, to the journal itself.

    Args:
        level: debug, info, warning or error.
        log_format: `console` for people, `json` for machines.
        lines_per_s: how many at most, in the long run.
    """
    # Found out for each line, and told by none (logging's HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - as above
    out: logging.Handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        form = _for_machines()
    else:
        form = _for_people(in_colour=sys.stderr.isatty() and "NO_COLOR" not in os.environ)
    if leads_to_journal(sys.stderr, os.environ):
        out = JournalHandler(otherwise=out)
        if log_format != "json":
            form = logging.Formatter("%(message)s")  # the journal knows when, and how grave
    out.setFormatter(form)
    out.addFilter(Ration(lines_per_s, out))
    root = logging.getLogger()
    root.handlers[:] = [out]
    # Of libraries only what is wrong: they tell of every connection, and of every header that they
    # have decoded, keys among them.
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    logging.getLogger("ollama_proxy").setLevel(level.upper())
    logging.getLogger("hypercorn.access").setLevel("WARNING")


_LINE = (
    "{door} {call} {model} -> {backend} ({reason}) {outcome}"
    " queue={queue_ms} first={first_ms} whole={whole_ms}"
    " tokens={tokens} energy={energy_j} priority={priority} key={key_name} id={request_id}"
)
_UNITS = {"queue_ms": "ms", "first_ms": "ms", "whole_ms": "ms", "energy_j": "J"}


def _in_words(facts: Mapping[str, object]) -> str:
    """The facts as a line for people: `-` where there is nothing to tell, times with their unit."""
    shown = {name: "-" if fact is None else fact for name, fact in facts.items()}
    for name, unit in _UNITS.items():
        if facts[name] is not None:
            shown[name] = f"{facts[name]}{unit}"
    return _LINE.format_map(shown)


_NAMES = (
    *("door", "call", "model", "backend", "reason", "outcome", "status", "queue_ms", "first_ms"),
    *("whole_ms", "tokens", "energy_j", "energy_source", "priority", "request_id", "key_name"),
)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def log_fact(fact: Fact, status_at: Callable[[str, Code], int]) -> None:
    """Write one line for one request that ended; `status_at`: HTTP's for a refusal at a door."""
    if not access.isEnabledFor(logging.INFO):
        return
    energy = fact.energy
    ended = fact.outcome.value if fact.code is None else f"{fact.outcome.value}:{fact.code.value}"
    facts = {
        "door": fact.door,
        "call": fact.call.path,
        "model": _text(fact.model),
        "backend": fact.backend,
        "reason": fact.reason.value if fact.reason is not None else None,
        "outcome": ended,
        "status": fact.status if fact.code is None else status_at(fact.door, fact.code),
        "queue_ms": _milliseconds(fact.queue_s),
        "first_ms": _milliseconds(fact.first_s),
        "whole_ms": _milliseconds(fact.whole_s),
        # As metrics and traces count them: of an answer in one piece, its pieces tell nothing.
        "tokens": fact.answer_tokens,
        "energy_j": None if energy is None else round(energy.joules, 3),
        "energy_source": None if energy is None else energy.grade.value,
        "priority": fact.priority.label,
        "request_id": fact.request_id,
        "key_name": fact.key_name or None,
    }
    access.info("%s", _in_words(facts), extra={"facts": facts})


@attrs.define
class _Sparing:
    """Writes at most `LINES_PER_S` in the long run; the others are counted, and the next line says how many.

    What costs its sender next to nothing would fill a disk at the price of a loop.

    Attributes:
        now: seconds.
        unsaid: how many had no line since the last one.
    """

    now: Callable[[], float] = trio.current_time
    unsaid: int = 0
    _lines: Bucket = attrs.field(factory=partial(Bucket, LINES_PER_S, LINES_AT_ONCE))

    def _may_write(self) -> bool:
        """Whether there is a line for one more; else it is counted."""
        if self._lines.take(self.now()):
            self.unsaid += 1
            return False
        return True


class ChangeLog(_Sparing):
    """Writes one line for each change that somebody makes, unless they come in floods."""

    def write(self, change: Change) -> None:
        """Write it, or count it."""
        if not self._may_write():
            return
        facts = {
            "door": change.door,
            "address": _text(change.address) or None,
            "key_name": change.key_name or None,
            "change": _text(change.what),
        }
        line = "{change} by {door} from {address} key={key_name}".format_map({
            name: "-" if fact is None else fact for name, fact in facts.items()
        })
        if self.unsaid:
            line += f" ({self.unsaid} more changes were made since the last such line)"
            facts["unsaid"] = str(self.unsaid)
        self.unsaid = 0
        audit.info("%s", line, extra={"facts": facts})


class TurnedAwayLog(_Sparing):
    """Writes one line for each request that became no job, unless they come in floods."""

    def write(self, request: TurnedAway) -> None:
        """Write it, or count it."""
        if not (access.isEnabledFor(logging.INFO) and self._may_write()):
            return
        facts = dict.fromkeys(_NAMES) | {
            "door": request.door,
            "call": _text(request.path),
            "outcome": f"{Outcome.REFUSED.value}:{request.code.value}",
            "status": request.status,
            "request_id": _text(request.request_id) or None,
        }
        if self.unsaid:
            facts["unsaid"] = self.unsaid
        line = _in_words(facts)
        if self.unsaid:
            line += f" ({self.unsaid} more were turned away since the last such line)"
        self.unsaid = 0
        access.info("%s", line, extra={"facts": facts})


def observe(ledger: Ledger, *, access_log: bool, status_at: Callable[[str, Code], int]) -> None:
    """Keep the books that were asked for, that of changes in any case; `status_at`: HTTP's for a refusal."""
    ledger.changes_read_by(ChangeLog().write)
    if access_log:
        ledger.read_by(partial(log_fact, status_at=status_at))
        ledger.door_read_by(TurnedAwayLog().write)
