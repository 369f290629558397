"""Choices on their way to disk: bounded, rotated, and never at anybody's expense."""

import errno
import logging
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ollama_proxy import aside
from ollama_proxy.decisions.file import RotatingFile
from ollama_proxy.decisions.log import DecisionLog
from tests.decisions.test_replay import plain

QUESTION = plain()
OUTCOME = QUESTION.decide()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is gathered: threads and a mocked clock do not go together."""
    monkeypatch.setattr(aside, "GATHER_S", 0.0)


@attrs.define(eq=False)
class Disk:
    """A disk in memory.

    Attributes:
        room: how many lines it takes.
        lines: those it took.
        closed: nobody holds its file any more.
    """

    room: int = 1000
    lines: list[bytes] = attrs.field(factory=list)
    closed: bool = False

    def write(self, lines: list[bytes]) -> None:
        """Take what fits."""
        while lines:
            if len(self.lines) >= self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.lines.append(lines.pop(0))

    def close(self) -> None:
        """Note it."""
        self.closed = True


def test_files_rotate_and_the_oldest_goes(tmp_path: Path) -> None:
    """Three files of at most 100 bytes; no line is torn over two."""
    path = tmp_path / "decisions.jsonl"
    file = RotatingFile(path, max_bytes=100, files=3)
    lines = [b"%02d" % number + b"x" * 37 + b"\n" for number in range(20)]
    file.write(list(lines[:7]))
    file.write(list(lines[7:]))
    file.close()

    kept = [tmp_path / f"decisions.jsonl{end}" for end in (".2", ".1", "")]
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert lines[14:] == b"".join(each.read_bytes() for each in kept).splitlines(keepends=True)
    assert all(each.stat().st_size <= 100 for each in kept)
    assert 0o600 == path.stat().st_mode & 0o777


def test_one_file_is_begun_anew(tmp_path: Path) -> None:
    """Where only one may be kept, its end is what is kept."""
    path = tmp_path / "decisions.jsonl"
    file = RotatingFile(path, max_bytes=10, files=1)
    file.write([b"12345\n", b"67890\n"])
    file.close()

    assert [path] == list(tmp_path.iterdir())
    assert b"67890\n" == path.read_bytes()


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    """Whoever was killed in the middle of a line left no line break."""
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(b'{"v":1,"ki')
    file = RotatingFile(path, max_bytes=1000, files=2)
    file.write([b"whole\n"])
    file.close()

    assert [b'{"v":1,"ki', b"whole"] == path.read_bytes().splitlines()


def test_a_full_disk_takes_nothing() -> None:
    """The lines stay with whoever wanted them written; /dev/full is such a disk."""
    file = RotatingFile(Path("/dev/full"), max_bytes=1000, files=2)
    lines = [b"1\n"]
    with pytest.raises(OSError, match="No space left"):
        file.write(lines)

    assert [b"1\n"] == lines


def test_a_directory_that_is_not_there_takes_nothing(tmp_path: Path) -> None:
    """It may be there when the next lines come."""
    file = RotatingFile(tmp_path / "nowhere" / "log", max_bytes=1000, files=2)
    lines = [b"1\n"]
    with pytest.raises(OSError, match="No such file"):
        file.write(lines)
    (tmp_path / "nowhere").mkdir()
    file.write(lines)
    file.close()

    assert b"1\n" == (tmp_path / "nowhere" / "log").read_bytes()


async def test_choices_get_there_in_order(tmp_path: Path) -> None:
    """Those of the last moment, too."""
    path = tmp_path / "decisions.jsonl"
    log = DecisionLog(RotatingFile(path, max_bytes=1 << 20, files=2))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            for number in range(50):
                log.note(f"req-{number}", QUESTION, OUTCOME)
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    told = path.read_text().splitlines()
    assert [f'"request_id":"req-{n}"' in line for n, line in enumerate(told)] == [True] * 50
    assert 0 == log.aside.lost


async def test_a_full_disk_is_said_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """When it begins, and how much it was once it is over."""
    disk = Disk(room=1)
    log = DecisionLog(disk)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            for number in range(4):
                log.note(f"req-{number}", QUESTION, OUTCOME)
                while log.aside.lost < number:  # noqa: ASYNC110 - a thread tells nobody
                    await trio.sleep(0.001)
            disk.room = 2
            log.note("req-4", QUESTION, OUTCOME)
            while len(disk.lines) < 2:  # noqa: ASYNC110 - as above
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()

    assert (2, 3) == (len(disk.lines), log.aside.lost)
    assert [
        "the decision log loses lines: No space left on device",
        "the decision log lost 3 lines",
    ] == [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


async def test_what_comes_too_fast_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """The list is bounded in bytes, however slow the disk is."""
    disk = Disk()
    line = len(DecisionLog(disk).scribe.line("req-0", QUESTION, OUTCOME))
    log = DecisionLog(disk, buffer_bytes=3 * line)
    for _ in range(10):
        log.note("req-0", QUESTION, OUTCOME)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    assert (3, 7) == (len(disk.lines), log.aside.lost)
    assert disk.closed
    assert "faster than they can be taken" in caplog.text


async def test_a_disk_that_hangs_keeps_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At the router's end it is left alone, and what it did not take is counted."""
    monkeypatch.setattr(aside, "FAREWELL_S", 0.01)
    answer = trio.Event()
    token = trio.lowlevel.current_trio_token()

    class Hung(Disk):
        def write(self, lines: list[bytes]) -> None:
            trio.from_thread.run(answer.wait, trio_token=token)
            super().write(lines)

    log = DecisionLog(Hung())
    log.note("req-0", QUESTION, OUTCOME)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            await wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        answer.set()  # for the thread's sake

    assert 1 == log.aside.lost
    assert "nobody took them in time" in caplog.text


async def test_a_name_of_any_length_is_no_line_of_any_length() -> None:
    """The caller's name for a model is bounded by the body alone."""
    question = attrs.evolve(QUESTION, ask=attrs.evolve(QUESTION.ask, model="x" * (1 << 20)))
    log = DecisionLog(Disk())
    log.note("req-0", question, question.decide())

    assert 1 == log.aside.lost
