"""A whole router that writes its choices down, and one that cannot."""

from pathlib import Path

import attrs
import pytest

from ollama_proxy import cli
from tests.fakes.ollama import Script
from tests.routers import CHAT, ask, backend, configured, fakes, running

pytestmark = pytest.mark.usefixtures("in_process")

PRIVATE = "the cat is ill"
WISHES: tuple[dict[str, str], ...] = (
    {},
    {"x-latency-critical": "true"},
    {"x-max-power-watts": "1"},
)
STATUSES = [200, 200, 503]


async def statuses(log: Path) -> list[int]:
    """Of a few requests through a router that is to write its choices to a file."""
    found = []
    async with fakes("npu", "igpu", script=Script(tokens=2)) as fleet:
        made = configured(*(backend(name, fake.url) for name, fake in fleet.items()))
        seen = attrs.evolve(made.observability, decision_log=str(log))
        async with (
            running(attrs.evolve(made, observability=seen)) as owner,
            owner.client() as client,
        ):
            for wishes in WISHES:
                answer = await client.post(
                    CHAT,
                    json=ask(messages=[{"role": "user", "content": PRIVATE}]),
                    headers={"x-client-id": PRIVATE, **wishes},
                )
                found.append(answer.status_code)
    return found


async def test_what_a_router_decided_is_decided_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log of a router that has ended holds all of it, and nothing that anybody said."""
    log = tmp_path / "decisions.jsonl"

    assert STATUSES == await statuses(log)
    assert 0 == cli.main(["replay", str(log)])
    assert "3 decisions of 3 requests: all the same\n" == capsys.readouterr().out
    assert PRIVATE not in log.read_text()


async def test_a_log_that_cannot_be_written_hurts_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, once, and that is all."""
    assert STATUSES == await statuses(tmp_path / "nowhere" / "decisions.jsonl")
    assert 1 == caplog.text.count("the decision log loses lines: No such file or directory")
