"""What the router writes about itself: log lines, and one line a request.

No prompt, answer, header or key is ever written: the facts that come here do not carry them.
"""

import json
import logging
import sys
from datetime import UTC, datetime

from ollama_proxy.engine.ledger import Fact, Ledger

access = logging.getLogger("ollama_proxy.access")


def _text(value: str) -> str:
    """A caller's text, made harmless for a terminal and a line-based log."""
    return value.encode("unicode_escape").decode()[:120]


class _JsonLines(logging.Formatter):
    """One JSON object a line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if isinstance(record.args, dict):
            line |= record.args
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up_logging(*, level: str, log_format: str) -> None:
    """Write log lines to stderr.

    Args:
        level: debug, info, warning or error.
        log_format: `console` for people, `json` for machines.
    """
    out = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        out.setFormatter(_JsonLines())
    else:
        out.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [out]
    root.setLevel(level.upper())
    # These tell of every connection and probe.
    for chatty in ("httpx", "httpcore", "hypercorn.access"):
        logging.getLogger(chatty).setLevel("WARNING")


_LINE = (
    "%(door)s %(call)s %(model)s -> %(backend)s (%(reason)s) %(outcome)s"
    " queue=%(queue_ms)sms first=%(first_ms)sms whole=%(whole_ms)sms"
    " tokens=%(tokens)s priority=%(priority)s id=%(request_id)s"
)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def log_fact(fact: Fact) -> None:
    """Write one line for one request that ended."""
    if not access.isEnabledFor(logging.INFO):
        return
    ended = fact.outcome.value if fact.code is None else f"{fact.outcome.value}:{fact.code.value}"
    access.info(
        _LINE,
        {
            "door": fact.door,
            "call": fact.call.path,
            "model": _text(fact.model),
            "backend": fact.backend,
            "reason": fact.reason.value if fact.reason is not None else None,
            "outcome": ended,
            "status": fact.status,
            "queue_ms": _milliseconds(fact.queue_s),
            "first_ms": _milliseconds(fact.first_s),
            "whole_ms": _milliseconds(fact.whole_s),
            "tokens": fact.tokens,
            "priority": fact.priority.label,
            "request_id": fact.request_id,
        },
    )


def observe(ledger: Ledger, *, access_log: bool) -> None:
    """Keep the books that were asked for."""
    if access_log:
        ledger.read_by(log_fact)
