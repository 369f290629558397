"""The protocol's own client, as Home Assistant uses it, against the router as a process."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.numb import NUMB_TOML
from tests.real.parts import require
from tests.real.processes import ROOT, running

MODEL = "fake:latest"
# On asyncio, hence in a process of its own: describes itself, then speaks twice in one conversation,
# each time on a new connection, and says what came.
CLIENT = """
import asyncio, sys
from wyoming.asr import Transcript
from wyoming.client import AsyncTcpClient
from wyoming.handle import Handled, HandledChunk, HandledStart, HandledStop
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

async def main(port):
    async with AsyncTcpClient("127.0.0.1", port, read_timeout=20) as client:
        await client.write_event(Describe().event())
        info = Info.from_event(await client.read_event())
        print("model", info.handle[0].models[0].name, info.handle[0].supports_handled_streaming)
        await client.write_event(Ping(text="you?").event())
        print("pong", Pong.from_event(await client.read_event()).text)
    for _ in range(2):
        async with AsyncTcpClient("127.0.0.1", port, read_timeout=20) as client:
            spoken = Transcript("hi", language="en", context={"conversation_id": "c"})
            await client.write_event(spoken.event())
            assert HandledStart.is_type((await client.read_event()).type)
            pieces = []
            while HandledChunk.is_type((event := await client.read_event()).type):
                pieces.append(HandledChunk.from_event(event).text)
            handled = Handled.from_event(event)
            assert HandledStop.is_type((await client.read_event()).type)
            print("handled", len(pieces), "".join(pieces) == handled.text, handled.context)

asyncio.run(main(int(sys.argv[1])))
"""


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Where a router listens that has a fake backend."""
    with running([str(ROOT / "tools" / "fake-ollama"), "--tokens", "5"], tmp_path) as fake_url:
        own = tmp_path / "router"
        own.mkdir()
        (own / "config.toml").write_text(
            '[server]\nhttp_port = 0\n[[backends]]\nid = "it"\nhardware = "npu"\n'
            f'endpoint = "{fake_url}"\n[wyoming]\nenabled = true\nport = 0\nmodel = "{MODEL}"\n'
            f"{NUMB_TOML}"
        )
        with running(["-m", "ollama_proxy", "serve"], own):
            told = re.search(r"heard on 127\.0\.0\.1:(\d+)", (own / "stderr").read_text())
            assert told
            yield int(told[1])


def test_the_protocols_own_client_is_answered(port: int) -> None:
    """Description, ping, and a conversation over two connections, in pieces and whole."""
    require(importlib.util.find_spec("wyoming") is not None, "wyoming is not installed")
    client = subprocess.run(
        [sys.executable, "-c", CLIENT, str(port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    answer = "handled 5 True {'conversation_id': 'c'}"
    assert [f"model {MODEL} True", "pong you?", answer, answer] == client.stdout.splitlines(), (
        client.stderr
    )
