"""h2load on the gRPC port: many streams on many connections, each answered."""

import shutil
from pathlib import Path

import attrs
import trio

from ollama_proxy.config import Server
from ollama_proxy.inbound.grpc.messages import framed
from tests.real.parts import require
from tests.routers import configured, running

REQUESTS = 3000


async def test_every_stream_is_answered(tmp_path: Path) -> None:
    """Ten connections with twenty calls at once each: none fails, none is cut off for a flood."""
    program = shutil.which("h2load")
    require(program is not None, "h2load is not installed")
    assert program is not None
    asked = tmp_path / "asked"
    asked.write_bytes(framed(b""))
    config = attrs.evolve(configured(), server=Server(http_port=0, grpc_port=0))
    async with running(config) as owner:
        address = owner.said[0].partition("grpc=")[2].split()[0]
        load = ["-n", str(REQUESTS), "-c", "10", "-m", "20", "-d", str(asked)]
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        done = await trio.run_process(
            [program, *load, *headers, f"http://{address}/grpc.health.v1.Health/Check"],
            capture_stdout=True,
            capture_stderr=True,
        )
    told = done.stdout.decode()

    assert f"{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout" in told, told
    assert f"status codes: {REQUESTS} 2xx" in told
