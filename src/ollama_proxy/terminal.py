"""How text looks where people read it: tones, and columns that fit the width that there is.

Rule 1: what is laid out is a value, `Line`; `Terminal.show` alone writes.
Rule 2: nothing that somebody else named moves the cursor: what is not printable is replaced.
Rule 3: nothing is cut off unsaid. What does not fit is wrapped, named as left out, or put line by line.
"""

import enum
import re
import shutil
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

import attrs

NOT_KNOWN = "-"
GAP = 2  # columns between two cells
WRAPPED_MIN = 20  # columns below which wrapped words read badly
_UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline


class Tone(enum.Enum):
    """What a piece of text is for its reader; the value is how ANSI terminals are told."""

    PLAIN = ""
    STRONG = "1"
    FAINT = "2"
    GOOD = "32"
    WARN = "33"
    BAD = "31"


@attrs.frozen
class Cell:
    """A piece of text in one tone."""

    text: str
    tone: Tone = Tone.PLAIN


Line = Sequence[Cell]


@attrs.frozen
class Column:
    """A column of a table.

    Attributes:
        title: at its head.
        is_number: whether it is set to the right.
        wraps: whether it holds words that may go on in the next line; for the last one alone.
        rank: where there is no room for all, the highest goes first; 0 stays.
    """

    title: str
    is_number: bool = False
    wraps: bool = False
    rank: int = 0


def cell(value: object, tone: Tone = Tone.PLAIN) -> Cell:
    """A value as it is shown; None is unknown, never 0."""
    if value is None:
        return Cell(NOT_KNOWN, Tone.FAINT)
    return Cell(printable(str(value)), tone)


def printable(text: str) -> str:
    """The same without what a terminal would obey, or show elsewhere than it stands."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _UNPRINTABLE for each in text)


def harmless(text: str) -> str:
    """A text of many lines without what a terminal would obey.

    Milder than `printable`: prose needs joiners and soft hyphens, which are no printable characters.
    """
    return _CONTROLS.sub(_UNPRINTABLE, text)


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in text
    )


# -- tables ----------------------------------------------------------------------------------------


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    width: int | None = None,
    notes: bool = True,
) -> list[Line]:
    """Rows below their titles, in columns as wide as they need.

    Args:
        columns: from left to right.
        rows: a cell for each column.
        width: of the terminal, in columns; None: nobody minds.
        notes: whether it is said which columns were left out.
    """
    kept = list(range(len(columns)))
    while True:
        lines = _grid([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], width)
        if lines is not None:
            break
        i = max(kept, key=lambda i: columns[i].rank)
        if columns[i].rank == 0:
            return _records(columns, rows, width or WRAPPED_MIN)
        kept.remove(i)
    left_out = [each.title for i, each in enumerate(columns) if i not in kept]
    if left_out and notes:
        note = f"(too narrow for {', '.join(left_out)}: --json has all)"
        lines += [[Cell(each, Tone.FAINT)] for each in textwrap.wrap(note, width or len(note))]
    return lines


def _grid(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None
) -> list[Line] | None:
    """The table as one; None where it does not fit."""
    titles = [Cell(each.title, Tone.STRONG) for each in columns]
    all_rows = [titles, *rows] if any(each.title for each in columns) else list(rows)
    widths = [
        max((columns_of(row[i].text) for row in all_rows), default=0) for i in range(len(columns))
    ]
    over = sum(widths) + GAP * (len(widths) - 1) - width if width is not None else 0
    if over > 0:
        if not columns[-1].wraps or widths[-1] - over < WRAPPED_MIN:
            return None
        widths[-1] -= over
    return [line for row in all_rows for line in _lines(columns, row, widths)]


def _lines(columns: Sequence[Column], row: Sequence[Cell], widths: Sequence[int]) -> list[Line]:
    *first, last = row
    line: list[Cell] = []
    for column, each, width in zip(columns, first, widths, strict=False):
        padding = Cell(" " * (width - columns_of(each.text)))
        line += [padding, each] if column.is_number else [each, padding]
        line.append(Cell(" " * GAP))
    if not columns[-1].wraps:
        padding = Cell(" " * (widths[-1] - columns_of(last.text)))
        return [[*line, *([padding, last] if columns[-1].is_number else [last])]]
    indent = Cell(" " * (sum(widths[:-1]) + GAP * len(first)))
    parts = _wrapped(last.text, widths[-1])
    return [
        [*line, Cell(parts[0], last.tone)],
        *([indent, Cell(part, last.tone)] for part in parts[1:]),
    ]


def _wrapped(text: str, width: int) -> list[str]:
    if columns_of(text) <= width:
        return [text]
    # textwrap counts characters; of wide ones half as many go in.
    widest = 1 if text.isascii() else 2
    return textwrap.wrap(text, max(width // widest, 1)) or [""]


def _records(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> list[Line]:
    """Each row as a paragraph, its first cell at the head and the others below it."""
    label = max(columns_of(each.title) for each in columns[1:]) + GAP
    room = max(width - 2 - label, WRAPPED_MIN)
    lines: list[Line] = []
    for head, *rest in rows:
        lines.append([Cell(head.text, Tone.STRONG if head.tone is Tone.PLAIN else head.tone)])
        for column, each in zip(columns[1:], rest, strict=True):
            if not each.text:
                continue
            for n, part in enumerate(_wrapped(each.text, room)):
                title = "" if n else column.title.lower()
                lines.append([Cell("  " + title.ljust(label), Tone.FAINT), Cell(part, each.tone)])
    return lines


# -- where it is shown -----------------------------------------------------------------------------


@attrs.frozen
class Terminal:
    """Where people read, or where a file or program takes what they would.

    Attributes:
        width: in columns; None where nobody looks.
        has_colours: whether tones are shown.
        can_draw: whether its cursor can be moved.
    """

    stream: TextIO
    width: int | None
    has_colours: bool
    can_draw: bool

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str], colours: str = "auto") -> "Terminal":
        """What `stream` is.

        Args:
            stream: such as `sys.stdout`.
            environ: NO_COLOR and TERM are heeded, COLUMNS as everywhere.
            colours: `auto` is where a terminal shows them, `always` or `never`.
        """
        is_terminal = stream.isatty()
        can_draw = is_terminal and environ.get("TERM") != "dumb"
        wanted = can_draw and not environ.get("NO_COLOR")
        return cls(
            stream,
            shutil.get_terminal_size().columns if is_terminal else None,
            colours == "always" or (colours == "auto" and wanted),
            can_draw,
        )

    def show(self, lines: Iterable[Line]) -> None:
        """Write lines."""
        for line in lines:
            self.stream.write("".join(map(self._painted, line)).rstrip() + "\n")

    def _painted(self, each: Cell) -> str:
        if not self.has_colours or not each.tone.value or not each.text:
            return each.text
        return f"\x1b[{each.tone.value}m{each.text}\x1b[0m"
