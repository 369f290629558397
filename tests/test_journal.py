"""What systemd's journal is sent, read from a socket in its place."""

import logging
import math
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from ollama_proxy.journal import JournalHandler, leads_to_journal
from ollama_proxy.observe import set_up_logging


@attrs.frozen
class Journal:
    """A socket in the journal's place, and what comes to stderr in its stead."""

    listening: socket.socket
    log: logging.Logger
    otherwise: list[str]

    def entry(self) -> dict[str, str]:
        """The next entry: its fields, decoded as the protocol says."""
        data, descriptors, *_ = socket.recv_fds(self.listening, 1 << 20, 1)
        for descriptor in descriptors:
            with os.fdopen(descriptor, "rb") as file:
                data = os.pread(file.fileno(), 1 << 24, 0)
        return dict(_decoded(data))


def _decoded(data: bytes) -> Iterator[tuple[str, str]]:
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", data)
            value, end, data = data[8 : 8 + size], data[8 + size : 9 + size], data[9 + size :]
            assert b"\n" == end
        yield name.decode(), value.decode()


class Kept(logging.Handler):
    """Keeps what it is given."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__()
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self._kept.append(record.getMessage())


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    where = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(where))
        listening.settimeout(5)
        otherwise: list[str] = []
        handler = JournalHandler(Kept(otherwise), where)
        log = logging.Logger("ollama_proxy.test", logging.DEBUG)  # noqa: LOG001 - nobody else's
        log.addHandler(handler)
        yield Journal(listening, log, otherwise)
        handler.close()


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")],
)
def test_a_line_has_its_severity(journal: Journal, level: str, priority: str) -> None:
    """Each level is the one of syslog."""
    journal.log.log(getattr(logging, level.upper()), "said %s", level)

    assert {
        "MESSAGE": f"said {level}",
        "PRIORITY": priority,
        "SYSLOG_IDENTIFIER": "ollama-proxy",
        "OLLAMA_PROXY_LOGGER": "ollama_proxy.test",
    } == journal.entry()


def test_facts_are_fields(journal: Journal) -> None:
    """What is told of a request can be searched for; what is not known is left out."""
    facts = {"backend": "npu", "queue_ms": 1.5, "energy_j": None}
    journal.log.info("served", extra={"facts": facts})
    entry = journal.entry()

    assert ("npu", "1.5") == (entry["OLLAMA_PROXY_BACKEND"], entry["OLLAMA_PROXY_QUEUE_MS"])
    assert "OLLAMA_PROXY_ENERGY_J" not in entry


def test_no_text_can_forge_a_field(journal: Journal) -> None:
    """Line breaks stay within their field."""
    journal.log.info("a\nPRIORITY=0", extra={"facts": {"model": "b\n_UID=0\n"}})
    entry = journal.entry()

    assert ("a\nPRIORITY=0", "6") == (entry["MESSAGE"], entry["PRIORITY"])
    assert "b\n_UID=0\n" == entry["OLLAMA_PROXY_MODEL"]
    assert "_UID" not in entry


def test_an_exception_is_told(journal: Journal) -> None:
    """With its traceback, in one entry."""
    try:
        math.sqrt(-1)
    except ValueError:
        journal.log.exception("failed")
    entry = journal.entry()

    assert entry["MESSAGE"].startswith("failed\nTraceback")
    assert entry["MESSAGE"].endswith("ValueError: math domain error")


def test_what_no_datagram_holds(journal: Journal) -> None:
    """Comes whole all the same, in a file that can be changed no more."""
    journal.log.info("x" * 4_000_000)
    entry = journal.entry()

    assert 4_000_000 == len(entry["MESSAGE"])
    assert [] == journal.otherwise


def test_a_journal_that_does_not_keep_up(journal: Journal) -> None:
    """Is not waited for; how many lines it has missed is the first that it hears."""
    sent = 0
    while not (lost := _lost(journal)):
        journal.log.info("line %d", sent)
        sent += 1
    for _ in range(sent - lost):
        journal.entry()
    journal.log.info("last")

    assert "1 lines of the log are lost" in journal.entry()["MESSAGE"]
    assert "last" == journal.entry()["MESSAGE"]
    assert [] == journal.otherwise


def _lost(journal: Journal) -> int:
    (handler,) = journal.log.handlers
    assert isinstance(handler, JournalHandler)
    return handler.lost


def test_a_journal_that_is_gone(journal: Journal) -> None:
    """Its lines go where they went without it, and to its successor once there is one."""
    where = journal.listening.getsockname()
    Path(where).unlink()
    journal.log.info("lost")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as successor:
        successor.bind(where)
        journal.log.info("found")
        entry = attrs.evolve(journal, listening=successor).entry()

    assert (["lost"], "found") == (journal.otherwise, entry["MESSAGE"])


def test_whether_a_stream_leads_to_the_journal(tmp_path: Path) -> None:
    """Only the very file that systemd named: a parent's stderr is not ours."""
    with (tmp_path / "one").open("w") as one, (tmp_path / "other").open("w") as other:
        status = os.fstat(one.fileno())
        environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}

        assert leads_to_journal(one, environment)
        assert not leads_to_journal(other, environment)
        assert not leads_to_journal(one, {})
    assert not leads_to_journal(one, environment)  # closed


def test_a_line_that_cannot_be_formatted(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told on stderr, as other handlers do, and nothing is raised where it was written."""
    journal.log.info("%d", "no number")

    assert "no number" in capsys.readouterr().err


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_only_a_stderr_that_leads_there_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_format: str
) -> None:
    """Started by systemd, the router writes to the journal; in a terminal, to the terminal."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    with (tmp_path / "stderr").open("w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        status = os.fstat(stderr.fileno())
        found = []
        for stream in ("8:1", f"{status.st_dev}:{status.st_ino}"):
            monkeypatch.setenv("JOURNAL_STREAM", stream)
            set_up_logging(level="info", log_format=log_format, lines_per_s=100)
            found.append(type(root.handlers[0]))
        root.handlers[0].close()

    assert [logging.StreamHandler, JournalHandler] == found
