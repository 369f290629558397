"""What is written about the router has a bound in time."""

import logging
import re

import attrs

from ollama_proxy.observe import Ration, _for_people


@attrs.define(eq=False, slots=False)
class Paper(logging.Handler):
    """Keeps what is written."""

    lines: list[str] = attrs.field(factory=list)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        """Write it down."""
        self.lines.append(record.getMessage())


def write(paper: Paper, text: str, at: float) -> None:
    """One line at a time of day."""
    record = logging.LogRecord("test", logging.ERROR, "", 0, text, None, None)
    record.created = at
    paper.handle(record)


def test_lines_a_second_are_bounded_and_the_loss_is_said() -> None:
    """As many at once as in a second; then no more until time has passed, whatever they say."""
    paper = Paper()
    ration = Ration(2, paper)
    paper.addFilter(ration)
    for text in ("one", "two", "three", "four"):
        write(paper, text, 1000.0)
    write(paper, "five", 1000.5)

    assert ["one", "two", "2 lines of the log were left out (log_lines_per_s)", "five"] == (
        paper.lines
    )
    assert 2 == ration.lost


def test_a_clock_that_goes_back_silences_nothing() -> None:
    """What was earned is kept, and more is earned from there on."""
    paper = Paper()
    paper.addFilter(Ration(1, paper))
    for at, text in ((1000.0, "one"), (10.0, "lost"), (11.0, "two")):
        write(paper, text, at)

    assert ["one", "two"] == [line for line in paper.lines if "left out" not in line]


def test_a_line_is_the_same_with_colours_and_without() -> None:
    """Who writes to a file reads what a terminal shows, its colours aside."""
    record = logging.LogRecord("test", logging.WARNING, "", 0, "%d of %s", (1, "two"), None)
    plain, coloured = (_for_people(in_colour=each).format(record) for each in (False, True))

    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).rstrip() == plain
