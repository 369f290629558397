"""gRPC's own client for Node, which shares no code with the others, reads proto/ and calls the door."""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import attrs
import grpc
import httpx
import pytest

from tests.numb import NUMB_TOML
from tests.real.node import MODULES, require_modules
from tests.real.processes import ROOT, running, started
from tests.real.test_grpc import CONFIG, Bench

Code = grpc.StatusCode
CLIENT = ROOT / "tests/real/node/grpc_client.js"


@attrs.frozen
class Told:
    """What came of a call.

    Attributes:
        code: its status.
        details: the status's words.
        head: the initial metadata.
        answers: one, or those of a stream.
    """

    code: grpc.StatusCode
    details: str
    head: dict[str, str]
    answers: list[dict[str, Any]]


def call(bench: Bench, scene: str) -> Told:
    """One of the client's calls."""
    done = subprocess.run(
        ["node", str(CLIENT), scene, bench.target, str(ROOT / "proto")],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "NODE_PATH": str(MODULES)},
    )
    assert 0 == done.returncode, done.stderr
    told = json.loads(done.stdout)
    one = told.get("answer")
    return Told(
        code=next(code for code in Code if code.value[0] == told["code"]),
        details=told.get("details") or "",
        head=told.get("head") or {},
        answers=told.get("answers", [] if one is None else [one]),
    )


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    require_modules()
    directory = tmp_path_factory.mktemp("node")
    fake = [str(ROOT / "tools" / "fake-ollama"), "--tokens", "5", "--only-listed"]
    with running(fake, directory) as url:
        (directory / "config.toml").write_text(CONFIG.format(url=url) + NUMB_TOML)
        with started(["-m", "ollama_proxy", "serve"], directory) as program:
            yield Bench(program, url)


@pytest.fixture
def bench(processes: Bench) -> Iterator[Bench]:
    yield processes
    httpx.post(f"{processes.fake}/fake/reset", trust_env=False).raise_for_status()
    processes.idle()


def asked(bench: Bench) -> dict[str, Any]:
    """The latest that the backend was asked for a text."""
    log = httpx.get(f"{bench.fake}/fake/log", trust_env=False).json()
    found: dict[str, Any] = next(each for each in reversed(log) if each["method"] == "POST")
    return found


def test_generate(bench: Bench) -> None:
    """A whole answer has the text, the decision and the figures, and the decision as metadata."""
    told = call(bench, "generate")
    [answer] = told.answers

    assert (Code.OK, " tok" * 5, "it") == (told.code, answer["response"], answer["backend"])
    assert ("it", "stop", 5) == (
        answer["routing"]["backend"],
        answer["finish_reason"],
        answer["stats"]["tokens_generated"],
    )
    assert ("it", answer["routing"]["reason"]) == (
        told.head["x-backend-used"],
        told.head["x-routing-reason"],
    )


def test_a_stream(bench: Bench) -> None:
    """Piece by piece, and only the last is done."""
    told = call(bench, "stream")

    assert (Code.OK, " tok" * 5) == (
        told.code,
        "".join(a.get("response", "") for a in told.answers),
    )
    assert [True] == [each["done"] for each in told.answers if each.get("done")]
    assert told.answers[-1]["done"]


def test_a_chat(bench: Bench) -> None:
    """Messages within messages are understood both ways."""
    told = call(bench, "chat")
    said = [each["message"]["content"] for each in told.answers if each.get("message")]

    assert (Code.OK, " tok" * 5) == (told.code, "".join(said))


def test_a_deadline(bench: Bench) -> None:
    """The client gives up when it said it would, and the backend is free."""
    bench.script(behaviour="hang")
    told = call(bench, "deadline")
    bench.idle()

    assert Code.DEADLINE_EXCEEDED is told.code
    assert asked(bench)["client_left_s"] is not None


def test_a_cancel(bench: Bench) -> None:
    """After the first piece, the backend stops."""
    bench.script(tokens=2000, interval_s=0.01)
    told = call(bench, "cancel")
    bench.idle()

    assert Code.CANCELLED is told.code
    assert asked(bench)["client_left_s"] is not None
    assert asked(bench)["tokens_sent"] < 2000


def test_an_unknown_model(bench: Bench) -> None:
    """The status and its words arrive without any answer."""
    told = call(bench, "unknown")

    assert (Code.NOT_FOUND, []) == (told.code, told.answers)
    assert "nothing:1b" in told.details


def test_what_is_unknown_is_left_out(bench: Bench) -> None:
    """A figure that nobody knows is no 0 to this client either."""
    told = call(bench, "backends")
    [it, other] = told.answers[0]["backends"]

    assert (Code.OK, "it", 4, True) == (told.code, it["id"], it["slots"], it["healthy"])
    assert "energy_j_per_token" not in other


def test_health(bench: Bench) -> None:
    """The standard check serves the whole, and knows no strangers."""
    well, stranger = call(bench, "health"), call(bench, "stranger")

    assert (Code.OK, [{"status": "SERVING"}]) == (well.code, well.answers)
    assert Code.NOT_FOUND is stranger.code
