"""`ollama-proxy replay`: what it says of a log that is whole, one that is not, and one that lies."""

import json
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest

from ollama_proxy import cli
from ollama_proxy.decisions.writing import Scribe
from ollama_proxy.policy.ask import Wishes
from ollama_proxy.policy.question import Question
from tests.decisions.test_replay import plain

IN_TIME = plain(wishes=Wishes(max_latency_s=0.5))
LATE = plain(wishes=Wishes(max_latency_s=0.001))


def lines(*questions: Question) -> list[bytes]:
    """A log of them."""
    scribe = Scribe(lambda: "2026-03-29T12:00:00.000+00:00")
    return [scribe.line(f"req-{n}", q, q.decide()) for n, q in enumerate(questions, start=1)]


@attrs.frozen
class Told:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> "Replay":
    """The command, given a log."""
    return Replay(tmp_path / "decisions.jsonl", capsys)


@attrs.frozen
class Replay:
    """Runs the command over lines."""

    path: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, log: Sequence[bytes], *flags: str) -> Told:
        """Run it."""
        self.path.write_bytes(b"".join(log))
        code = cli.main(["replay", str(self.path), *flags])
        said = self.capsys.readouterr()
        return Told(code, said.out, said.err)


def test_without_changes_all_is_the_same(replay: Replay) -> None:
    """And it says how much that was; a choice that was made again is no request more."""
    told = replay(lines(plain(), plain(again=True), IN_TIME, LATE))

    assert Told(0, "4 decisions of 3 requests: all the same\n", "") == told


def test_what_came_out_otherwise_is_told_first(replay: Replay) -> None:
    """A log whose decisions this policy would not make ends with exit code 1."""
    good, *_ = lines(plain())
    lie = good.replace(b'"backend":"npu"', b'"backend":"cpu"', 1)
    told = replay([good, *[lie] * 7])

    assert 1 == told.code
    said = told.out.splitlines()
    assert "7 of 8 decisions came out otherwise:" == said[0]
    assert said[1].startswith(
        "line 2 (2026-03-29T12:00:00.000+00:00, req-1): backend was cpu, is npu"
    )
    assert (7, "... and 2 more") == (len(said), said[-1])


def test_another_mode_is_reported(replay: Replay) -> None:
    """Who went elsewhere, and what was to be expected of latency, joules and deadlines."""
    told = replay(lines(plain(), IN_TIME, LATE), "--mode", "Performance", "--json")
    figures = json.loads(told.out)

    assert (0, 3, 2) == (told.code, figures["requests"], figures["elsewhere"])
    was, would = figures["was"], figures["would"]
    assert {"npu": 1, "igpu": 1} == was["backends"]
    assert {"nvidia": 2} == would["backends"]
    means = [side["first_token_s"]["mean"] for side in (was, would)]
    assert [0.6, 0.15] == pytest.approx(means)
    assert [7.2, 16.5] == pytest.approx([was["joules"], would["joules"]])
    assert (2, 1, 1) == (figures["deadlines"], was["deadlines_met"], would["deadlines_met"])
    assert {"deadline_unmeetable": 1} == was["refusals"] == would["refusals"]


def test_people_get_a_table(replay: Replay) -> None:
    """What was beside what would be."""
    told = replay(lines(plain(), IN_TIME), "--mode", "performance")

    head, *rows = told.out.splitlines()
    assert "2 of 2 requests would have gone elsewhere" == head
    cells = {row[:22].strip(): row[22:].split("  ") for row in rows}
    assert "to nvidia" in told.out
    assert any(name.startswith("first token, mean ms") for name in cells)
    assert "deadlines met" in told.out


def test_another_configuration_is_reported(replay: Replay, tmp_path: Path) -> None:
    """With its backends alone, as it describes them."""
    config = tmp_path / "other.toml"
    config.write_text(
        '[[backends]]\nid = "cpu"\nhardware = "cpu"\nendpoint = "http://127.0.0.1:1"\n'
        "[backends.characteristics]\npower_watts = 1.0\n"
    )
    told = replay(lines(plain()), "--config", str(config), "--json")

    assert {"cpu": 1} == json.loads(told.out)["would"]["backends"]


def test_the_rest_of_a_damaged_log_is_used(replay: Replay) -> None:
    """A line cut off at the end, one damaged in the middle, and lines of other versions."""
    good, other, third = lines(plain(), IN_TIME, plain())
    newer = good.replace(b'{"v":1,', b'{"v":2,', 1)
    told = replay([
        good,
        b'\x00\xff{"v":1\n',
        newer,
        newer,
        b"[1, 2]\n",
        b'{"hello": 1}\n',
        other,
        third[:200],
    ])

    assert (0, "2 decisions of 2 requests: all the same\n") == (told.code, told.out)
    assert [
        "note: lines 2, 5: damaged; passed over",
        "note: lines 3, 4: of a newer format, 2 (this ollama-proxy reads 1); passed over",
        "note: line 6: not of a decision log; passed over",
        "note: line 8: cut off; passed over",
    ] == told.err.splitlines()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"power_watts":3.0', b'"power_watts":0.0'),
        (b'"type":"ollama"', b'"type":"oracle"'),
        (b'"avg_latency_s":0.8', b'"avg_latency_s":-1'),
        (b'"views":[', b'"views":[{},'),
        (b'"latency_critical":true', b'"priority":77'),
    ],
    ids=["watts", "word", "seconds", "shape", "number"],
)
def test_a_line_that_makes_no_sense_is_damaged(replay: Replay, old: bytes, new: bytes) -> None:
    """Valid JSON is not yet a decision; nothing of it brings the command down."""
    good, spoilt = lines(plain(), plain(wishes=Wishes(latency_critical=True)))
    assert old in spoilt
    told = replay([good, spoilt.replace(old, new, 1)])

    assert (0, "note: line 2: damaged; passed over\n") == (told.code, told.err)


def test_an_unknown_field_is_passed_over(replay: Replay) -> None:
    """What a later version adds without a new format is no harm."""
    (good,) = lines(plain())
    told = replay([good.replace(b'"kind":', b'"colour":"blue","kind":', 1)])

    assert (0, "") == (told.code, told.err)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x7fELF\x00" * 100, b"x" * (3 << 20)])
def test_what_is_no_log_is_refused(replay: Replay, content: bytes) -> None:
    """With exit code 2, in one sentence, whatever its size."""
    told = replay([content])

    assert 2 == told.code
    assert "holds no decision that could be made again" in told.err


def test_what_cannot_be_read_is_named(
    replay: Replay, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is not there, an unknown mode, a faulty configuration: exit code 2 and why."""
    assert 2 == cli.main(["replay", str(tmp_path / "nowhere")])
    assert "nowhere: cannot be read: No such file" in capsys.readouterr().err
    assert "no 'turbo' among performance, balanced" in replay(lines(plain()), "--mode", "turbo").err
    faulty = replay(lines(plain()), "--config", str(tmp_path / "missing.toml"))
    assert (2, True) == (faulty.code, "there is no such file" in faulty.err)
