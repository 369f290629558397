"""Text where people read it: columns, widths, tones, and nothing that a terminal would obey."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.terminal import (
    Cell,
    Column,
    Line,
    Terminal,
    Tone,
    cell,
    columns_of,
    harmless,
    printable,
    table,
)

COLUMNS = [Column("ID"), Column("WATTS", is_number=True, rank=1), Column("WHY", wraps=True)]
ROWS = [
    [cell("npu"), cell(3), cell("the one that draws least of all that can serve")],
    [cell("a-gpu"), cell(None), cell("off")],
]


class Screen(io.StringIO):
    """A terminal that keeps what it is told."""

    def isatty(self) -> bool:
        """Whether it is one."""
        return True


def plain(lines: list[Line]) -> list[str]:
    return ["".join(each.text for each in line).rstrip() for line in lines]


def test_columns_are_as_wide_as_they_need() -> None:
    """Words to the left, numbers to the right, unknown as a dash."""
    assert [
        "ID     WATTS  WHY",
        "npu        3  the one that draws least of all that can serve",
        "a-gpu      -  off",
    ] == plain(table(COLUMNS, ROWS))


def test_the_last_column_wraps() -> None:
    """Where the terminal is too narrow for it, its words go on below."""
    assert [
        "ID     WATTS  WHY",
        "npu        3  the one that draws least",
        "              of all that can serve",
        "a-gpu      -  off",
    ] == plain(table(COLUMNS, ROWS, width=40))


def test_what_is_left_out_is_named() -> None:
    """A column that has no room goes, the least wanted first, and is said to be missing."""
    assert [
        "ID     WHY",
        "npu    the one that draws",
        "       least of all that can",
        "       serve",
        "a-gpu  off",
        "(too narrow for WATTS: --json",
        "has all)",
    ] == plain(table(COLUMNS, ROWS, width=29))


def test_where_no_table_fits() -> None:
    """Each row is a paragraph."""
    lines = plain(table(COLUMNS, ROWS, width=20))

    assert "npu" == lines[0]
    assert "  watts  3" == lines[1]
    assert "a-gpu" in lines


@given(
    st.lists(st.lists(st.text(max_size=30), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(34, 90),
)
def test_no_line_is_wider_than_the_terminal(rows: list[list[str]], width: int) -> None:
    """Whatever is named how, and no character of it can move the cursor."""
    lines = plain(table(COLUMNS, [[cell(each) for each in row] for row in rows], width=width))

    assert all(line.isprintable() for line in lines)
    # A single name that is wider than all of the screen is not cut off.
    longest = max(columns_of(printable(row[0])) for row in rows)
    assert max(map(columns_of, lines)) <= max(width, longest + 9)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("qwen2.5:0.5b", "qwen2.5:0.5b"),
        ("\x1b[2J\x1b]0;title\x07x", "�[2J�]0;title�x"),
        ("a\nb\rc\x9bd", "a�b�c�d"),
        ("abc\u202edef", "abc�def"),
        ("größe 模型", "größe 模型"),
    ],
)
def test_names_do_not_move_the_cursor(text: str, shown: str) -> None:
    """What is not printable is replaced, each character by one."""
    assert shown == printable(text)


def test_prose_keeps_its_lines_and_joiners() -> None:
    """But no control character."""
    assert "a\tb\nक\u094d\u200dष �[31m�" == harmless("a\tb\nक\u094d\u200dष \x1b[31m\x9b")


@pytest.mark.parametrize(
    ("text", "columns"), [("npu", 3), ("模型", 4), ("e\u0301", 1), ("°C", 2), ("", 0)]
)
def test_what_a_text_takes(text: str, columns: int) -> None:
    """Wide characters take two columns, combining ones none."""
    assert columns == columns_of(text)


@pytest.mark.parametrize(
    ("environ", "asked", "is_coloured"),
    [
        ({}, "auto", True),
        ({"NO_COLOR": "1"}, "auto", False),
        ({"NO_COLOR": ""}, "auto", True),
        ({"TERM": "dumb"}, "auto", False),
        ({}, "never", False),
        ({"NO_COLOR": "1"}, "always", True),
    ],
)
def test_when_there_are_colours(environ: dict[str, str], asked: str, is_coloured: bool) -> None:
    """On a terminal, unless its owner says otherwise."""
    screen = Screen()
    Terminal.of(screen, environ, asked).show([[Cell("hot", Tone.BAD), Cell(" now")]])

    assert ("\x1b[31mhot\x1b[0m now\n" if is_coloured else "hot now\n") == screen.getvalue()


def test_a_file_gets_neither_colours_nor_breaks() -> None:
    """Nobody looks at its width."""
    file = io.StringIO()
    terminal = Terminal.of(file, {"COLUMNS": "20"})
    terminal.show(table(COLUMNS, ROWS, width=terminal.width))

    assert ("\x1b" in file.getvalue(), file.getvalue().count("\n")) == (False, 3)
