"""The embedded backend's two faces: a process that comes and goes, and the calls made on it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from ollama_proxy.backends.backend import BackendFailed, Fault, Probe
from ollama_proxy.backends.embedded import EmbeddedBackend
from ollama_proxy.backends.embedded_process import Assembling, Down, EmbeddedState, Ready, Starting
from ollama_proxy.backends.endpoint import Endpoint
from ollama_proxy.backends.pump import Pump
from ollama_proxy.backends.server import Server, ServerSettings
from ollama_proxy.policy.ask import Call
from ollama_proxy.policy.fleet import BackendType
from tests.backends.exchanges import LIMIT_S, errand, lines, recording
from tests.fakes.ollama import Script, open_fake
from tests.fleet import spec


@asynccontextmanager
async def embedded() -> AsyncIterator[EmbeddedBackend]:
    """The backend without its process: tests tell it what the process would."""
    pump = Pump(stall_timeout_s=LIMIT_S)  # never runs: these tests' sinks are written to

    def open_server(url: str) -> Server:
        return Server(Endpoint.parse(url), ServerSettings(), pump)

    backend = EmbeddedBackend(spec(type=BackendType.EMBEDDED, endpoint=""), open_server)
    try:
        yield backend
    finally:
        await backend.aclose()


@pytest.mark.parametrize(
    ("state", "why", "settled"),
    [
        (None, "its model is being loaded", False),
        (Assembling(1, 2), "its model is being loaded", False),
        (Starting(), "its model is being loaded", False),
        (Down("it crashed", 1.0), "it crashed", False),
        (Down("no such file"), "no such file", True),
    ],
)
async def test_until_it_is_ready_it_is_unreachable(
    state: EmbeddedState | None, why: str, settled: bool
) -> None:
    """It says why, and whether waiting will mend it."""
    async with embedded() as backend, recording() as sink:
        if state is not None:
            backend._note(state)
        with pytest.raises(BackendFailed) as probed:
            await backend.probe()
        with pytest.raises(BackendFailed) as called:
            await backend.exchange(errand(Call.OPENAI_CHAT, stream=True), sink)
        with pytest.raises(BackendFailed) as managed:
            async with backend.call("GET", "/health"):
                raise AssertionError("there is nobody")

    assert [(Fault.UNREACHABLE, why)] * 3 == [
        (each.value.fault, str(each.value)) for each in (probed, called, managed)
    ]
    assert (settled, settled) == (backend.settled.is_set(), backend.is_hopeless)


async def test_when_it_is_ready_it_serves_both_dialects(tmp_path: Path) -> None:
    """OpenAI's calls pass, Ollama's are translated."""
    where = tmp_path / "s"
    async with open_fake(Script(models=("tiny",)), unix=where), embedded() as backend:
        backend._note(Ready(f"unix:{where}", "tiny"))
        probe = await backend.probe()
        async with recording() as openai, recording() as ollama:
            await backend.exchange(errand(Call.OPENAI_CHAT, stream=True), openai)
            await backend.exchange(errand(Call.OLLAMA_CHAT, stream=True), ollama)

    assert Probe(models=frozenset({"tiny"})) == probe
    assert openai.body.endswith(b"data: [DONE]\n\n")
    assert lines(ollama.body)[-1]["done"]
    assert backend.settled.is_set()


async def test_it_comes_back_after_a_restart(tmp_path: Path) -> None:
    """A process that died is down; its successor serves, and nothing of the first is left open."""
    where = tmp_path / "s"
    async with embedded() as backend:
        before = psutil.Process().num_fds()
        for _ in range(3):
            async with open_fake(Script(), unix=where):
                backend._note(Ready(f"unix:{where}", "tiny"))
                await backend.probe()
                async with recording() as sink:
                    await backend.exchange(errand(Call.OPENAI_CHAT, stream=True), sink)
            backend._note(Down("its process ended by signal SIGKILL", 1.0))
            with pytest.raises(BackendFailed, match="SIGKILL"):
                await backend.probe()
        await backend.aclose()
        after = psutil.Process().num_fds()

    assert before == after
