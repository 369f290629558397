"""`ollama-proxy pull`: has a backend fetch a model, and shows how far it is.

Law: what the server says is shown, and nothing is kept here. Who leaves has it stopped; who asks again
has it go on where the server had come to.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from time import monotonic  # noqa: TID251 - nothing here waits, so nothing runs on Trio
from typing import Any

import attrs
import httpx

from ollama_proxy.client import (
    OK,
    UNREACHED,
    Unanswered,
    client_settings,
    complain,
    decoded,
    read_fault,
    router_url,
    unanswered,
)
from ollama_proxy.terminal import Terminal, columns_of, printable

CONNECT_S = 10.0
BAR = 30  # columns
GO_ON = "the same command goes on where it stopped"


@attrs.frozen(kw_only=True)
class Step:
    """How far a download is.

    Attributes:
        status: what the server does now, in its words.
        done: bytes of the present layer that are there; None where nothing is counted.
        total: bytes that it has, > 0.
    """

    status: str
    done: int | None = None
    total: int = 0

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> "Step":
        """A line of the server's; figures that are none are as if it had told none."""
        status, total, done = (told.get(key) for key in ("status", "total", "completed"))
        words = printable(str(status or ""))
        if not isinstance(total, int) or total <= 0:
            return cls(status=words)
        done = done if isinstance(done, int) else 0
        return cls(status=words, done=min(max(done, 0), total), total=total)


def drawn(step: Step, width: int, rate: float | None = None) -> str:
    """A step as one line.

    Args:
        step: how far it is.
        width: columns that there are; what does not fit goes, the least telling first.
        rate: bytes per second; None where nobody knows.
    """
    if step.done is None:
        return _shortened(step.status, width)
    share = step.done / step.total
    bar = "#" * int(share * BAR)
    facts = [
        f"{share * 100:3.0f} %",
        f"{sized(step.done)} of {sized(step.total)}",
        f"[{bar.ljust(BAR, '.')}]",
    ]
    if rate is not None and rate > 0:
        facts.append(f"{sized(rate)}/s, {_lasting((step.total - step.done) / rate)} left")
    while facts and columns_of("  ".join([step.status, *facts])) > width:
        facts.pop()
    return _shortened("  ".join([step.status, *facts]), width)


def _shortened(text: str, width: int) -> str:
    return text if columns_of(text) <= width else text[: max(width // 2 - 3, 1)] + "..."


def sized(count: float) -> str:
    """A number of bytes as people say it."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:  # noqa: PLR2004 - what a kilo is
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _lasting(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@attrs.define
class Display:
    """Where steps are shown: in one line that changes, or each once where no cursor can be moved.

    Attributes:
        terminal: where.
        is_open: whether a line stands there that may still change.
    """

    terminal: Terminal
    is_open: bool = False
    _status: str = ""
    _began_at: float = 0.0
    _began_with: int = 0

    def show(self, step: Step, now: float) -> None:
        """Show a step; `now` in seconds."""
        is_news = step.status != self._status
        if is_news:
            self.close()
            self._status, self._began_at, self._began_with = step.status, now, step.done or 0
        stream = self.terminal.stream
        if self.terminal.can_draw:
            rate = None
            if step.done is not None and now > self._began_at:
                rate = (step.done - self._began_with) / (now - self._began_at)
            width = (self.terminal.width or BAR) - 1  # the last column would wrap
            stream.write(f"\r{drawn(step, width, rate)}\x1b[K")
            self.is_open = True
        elif is_news:
            size = f" ({sized(step.total)})" if step.total else ""
            stream.write(f"{step.status}{size}\n")
        stream.flush()

    def close(self) -> None:
        """What stands there stays."""
        if self.is_open:
            self.terminal.stream.write("\n")
            self.is_open = False


def pull(arguments: argparse.Namespace) -> int:
    """Have a model fetched; returns the exit code."""
    display = Display(Terminal.of(sys.stdout, os.environ, arguments.color))
    try:
        url = router_url(arguments)
        is_done = False
        for told in _lines(arguments, url):
            if arguments.json:
                print(json.dumps(told), flush=True)
            elif "error" not in told:
                display.show(Step.read(told), monotonic())
            if "error" in told:
                display.close()
                return complain(read_fault(told))
            is_done = told.get("status") == "success"
    except Unanswered as error:
        display.close()
        return complain(str(error))
    except KeyboardInterrupt:
        display.close()
        complain(f"stopped; {GO_ON}")
        raise
    display.close()
    return OK if is_done else complain(f"the download broke off; {GO_ON}")


def _lines(arguments: argparse.Namespace, url: str) -> Iterator[dict[str, Any]]:
    """What the server says. Raises Unanswered."""
    headers = {"X-Target-Backend": arguments.target} if arguments.target else {}
    body = {"model": arguments.model, "stream": True}
    # Between two lines anything may pass: a server that verifies gigabytes says nothing meanwhile.
    settings = client_settings(arguments, timeout=httpx.Timeout(None, connect=CONNECT_S))
    has_begun = False
    try:
        with (
            httpx.Client(**settings) as client,
            client.stream("POST", f"{url}/api/pull", json=body, headers=headers) as answer,
        ):
            if answer.status_code != HTTPStatus.OK:
                answer.read()
                raise Unanswered(read_fault(decoded(url, answer)[1]))
            for line in answer.iter_lines():
                has_begun = True
                if line:
                    yield _read(line, url)
    except UNREACHED as error:
        if has_begun:
            raise Unanswered(f"the download broke off ({error}); {GO_ON}") from error
        raise Unanswered(unanswered(url, error)) from error


def _read(line: str, url: str) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise Unanswered(f"what {url} says of the download is not understood")
    return told
