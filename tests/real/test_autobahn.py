"""Autobahn's own cases, run by kosoku, against our sockets with an echo spoken on them."""

import importlib.metadata
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from ollama_proxy.inbound.trust import Gate
from ollama_proxy.inbound.websocket.socket import Socket, SocketLimits
from tests.inbound.websocket.echo import Echo
from tests.real.parts import require

LIMIT_S = 120.0
# A case sends sixteen megabytes at once, another as many in fragments of 64 bytes.
LIMITS = SocketLimits(message_bytes=16 << 20, messages_per_s=1e6, burst=1_000_000)
# Bytes, which no dialect of ours understands: the contract's close code for them is 1003.
BYTES = ("1.2.*", "9.2.*", "9.4.*", "9.6.*", "9.8.*")
# Compression, which is never agreed to: a case tells so without saying anything more.
COMPRESSED = ("12.1.1", "13.1.1")
Cases = dict[str, dict[str, Any]]


async def serve(stream: trio.SocketStream) -> None:
    """Serve one client to its end, as the front door would."""
    async with stream:
        received = bytes(await stream.receive_some(65536))
        socket = Socket(stream, LIMITS, is_draining=lambda: False)
        await socket.serve(received, Gate(bound_host="127.0.0.1"), {"/": Echo})


@asynccontextmanager
async def echoing() -> AsyncIterator[str]:
    """An address at which messages come back."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        host, port = listener.socket.getsockname()
        yield f"{host}:{port}"
        nursery.cancel_scope.cancel()


def is_installed() -> bool:
    """Whether the suite is there."""
    try:
        importlib.metadata.version("kosoku")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


async def run(directory: Path, *selected: str) -> Cases:
    """Run cases; what became of each, by its number."""
    require(is_installed(), "kosoku is not installed")
    program = Path(sys.executable).with_name("kosoku")
    with trio.fail_after(LIMIT_S):
        async with echoing() as address:
            done = await trio.run_process(
                [program, "-p", "2", *selected, "-o", directory, address],
                check=False,  # it fails with the cases
                cwd=directory,
                capture_stdout=True,
                capture_stderr=True,
            )
    assert (directory / "index.json").exists(), done.stderr
    (cases,) = json.loads((directory / "index.json").read_text()).values()
    return dict(cases)


async def test_every_case_is_as_the_rfc_wants_it(tmp_path: Path) -> None:
    """Framing, pings, fragments, UTF-8, closing, sixteen megabytes: none failed, none non-strict."""
    unwanted = [word for case in (*BYTES, "12.*", "13.*") for word in ("-x", case)]
    cases = await run(tmp_path, *unwanted)

    judged = {
        number: case
        for number, case in cases.items()
        if {case["behavior"], case["behaviorClose"]} - {"OK", "INFORMATIONAL"}
    }
    assert {} == judged
    assert 266 == len(cases)


async def test_bytes_are_declined(tmp_path: Path) -> None:
    """However they come: cleanly, with 1003."""
    cases = await run(tmp_path, *(word for case in BYTES for word in ("-i", case)))

    assert 35 == len(cases)
    assert {1003} == {case["remoteCloseCode"] for case in cases.values()}


async def test_compression_is_not_agreed_to(tmp_path: Path) -> None:
    """A few bytes could inflate to any number."""
    cases = await run(tmp_path, *(word for case in COMPRESSED for word in ("-i", case)))

    assert dict.fromkeys(COMPRESSED, "UNIMPLEMENTED") == {
        number: case["behavior"] for number, case in cases.items()
    }
