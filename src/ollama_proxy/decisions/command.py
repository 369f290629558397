"""`ollama-proxy replay FILE`: decides a recorded log again, and says what came out otherwise."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ollama_proxy.client import OK, print_table
from ollama_proxy.config import Config, Overrides, find_config, load
from ollama_proxy.decisions.form import LINE_MAX
from ollama_proxy.decisions.reading import Unread, read
from ollama_proxy.decisions.replay import Change, Undecidable, decide_again
from ollama_proxy.decisions.report import Report
from ollama_proxy.policy.modes import Mode, parse_mode
from ollama_proxy.tables import ConfigFaults, describe_faults

DIFFERENT = 1
UNUSABLE = 2


def replay(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code.

    0: all came out the same, or another mode or configuration was asked for. 1: something did not.
    2: there is nothing to decide again, or the arguments make no sense.
    """
    mode: Mode | None = None
    if arguments.mode is not None:
        mode = parse_mode(arguments.mode)
        if mode is None:
            known = ", ".join(each.value for each in Mode)
            return _complain(f"--mode: no {arguments.mode!r} among {known}")
    try:
        change = Change(mode=mode, config=_config(arguments.config))
    except ConfigFaults as faults:
        return _complain(describe_faults(faults))
    report = Report()
    try:
        _decide_all(Path(arguments.file), change, report)
    except OSError as error:
        return _complain(f"{arguments.file}: cannot be read: {error.strerror or error}")
    for note in report.notes():
        print(f"note: {note}", file=sys.stderr)
    if not report.decisions:
        return _complain(f"{arguments.file}: holds no decision that could be made again")
    if arguments.json:
        print(json.dumps(report.figures(), indent=2))
    elif change.is_any:
        print(f"{report.elsewhere} of {report.requests} requests would have gone elsewhere")
        print_table(report.rows())
    else:
        _tell_same(report)
    return DIFFERENT if report.differing and not change.is_any else OK


def _config(path: str | None) -> Config | None:
    if path is None:
        return None
    # The environment's ports and keys bear on no choice; a faulty one is still a fault.
    found = find_config(path, os.environ, Path.cwd())
    return load(found, environ=os.environ, overrides=Overrides()).config


def _decide_all(path: Path, change: Change, report: Report) -> None:
    with path.open("rb") as file:

        def lines() -> Iterator[bytes]:
            # Bounded: what has no line breaks is no log, and need not be in memory to say so.
            while line := file.readline(LINE_MAX + 1):
                yield line

        for each in read(lines()):
            if isinstance(each, Unread):
                report.pass_over(each)
                continue
            try:
                report.compare(each, decide_again(each, change))
            except Undecidable:
                report.pass_over(Unread(each.number, "damaged"))


def _tell_same(report: Report) -> None:
    if not report.differing:
        print(f"{report.decisions} decisions of {report.requests} requests: all the same")
        return
    print(f"{report.differing} of {report.decisions} decisions came out otherwise:")
    for line in report.told:
        print(line)
    if report.differing > len(report.told):
        print(f"... and {report.differing - len(report.told)} more")


def _complain(message: str) -> int:
    print(f"ollama-proxy: {message}", file=sys.stderr)
    return UNUSABLE
