"""tools/bench runs as a command and reports every path of every case."""

import json
import subprocess
import sys
from pathlib import Path

import trio

from tests.fakes.ollama import open_fake
from tests.real.envoys import require_envoy

COMMAND = Path(__file__).resolve().parents[1] / "tools" / "bench"


async def test_peer_is_measured_beside_direct(tmp_path: Path) -> None:
    """Without a router, direct and a peer get a row for each case, and figures in it."""
    report = tmp_path / "report.json"
    with trio.fail_after(60):
        async with open_fake() as fake:
            flags = ["--quick", "--router", "", "--cases", "1,prompt", "--json", str(report)]
            paths = ["--fake", fake.url, "--peer", f"direct2={fake.url}"]
            done = await trio.run_process(
                [sys.executable, str(COMMAND), *flags, *paths],
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
            )

    assert 0 == done.returncode, done.stdout.decode()
    rows = json.loads(report.read_text())["rows"]
    assert [
        ("1", "direct"),
        ("1", "direct2"),
        ("prompt", "direct"),
        ("prompt", "direct2"),
    ] == [(row["case"], row["path"]) for row in rows]
    assert all(row["whole"]["p50_ms"] > 0 for row in rows)
    assert [False, True] == [row["added_token"] is not None for row in rows[:2]]


async def test_every_door_of_ours_is_measured(tmp_path: Path) -> None:
    """The lane, Quart, a WebSocket and gRPC each get a row with the delay of a token in it."""
    report = tmp_path / "report.json"
    flags = ["--quick", "--cases", "1", "--json", str(report)]
    with trio.fail_after(60):
        done = await trio.run_process(
            [sys.executable, str(COMMAND), *flags],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )

    assert 0 == done.returncode, done.stdout.decode()
    rows = json.loads(report.read_text())["rows"]
    assert ["direct", "lane", "quart", "ws", "grpc"] == [row["path"] for row in rows]
    assert all(row["token"]["p50_ms"] > 0 for row in rows)


async def test_a_fleet_is_measured(tmp_path: Path) -> None:
    """Tokens through Envoy with a picker and without, and what a fleet costs and loses."""
    require_envoy()
    report = tmp_path / "report.json"
    flags = ["--fleet", "--quick", "--cases", "1", "--json", str(report)]
    with trio.fail_after(200):
        done = await trio.run_process(
            [sys.executable, str(COMMAND), *flags],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )

    assert done.returncode in {0, 1}, (
        done.stdout.decode()
    )  # a bound may be missed on a busy machine
    told = json.loads(report.read_text())
    assert ["direct", "envoy", "envoy+picker"] == [row["path"] for row in told["rows"]]
    assert not any(row["fault"] for row in told["rows"])
    names = " ".join(figure["name"] for figure in told["figures"])
    for part in ("4 nodes", "400 nodes", "a lost node: failed", "out for Envoy", "rolling restart"):
        assert part in names
