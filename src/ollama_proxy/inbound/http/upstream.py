"""Calls to one station's server that are no jobs: what it lists, and what is done to its models.

What goes wrong with a server becomes a value here: None, or a refusal.
"""

from collections.abc import AsyncIterator

import attrs
import trio

from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.job import BackendFailed, Head
from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.http.pipe import Pipe
from ollama_proxy.policy.refusal import Code, Refusal

ANSWER_MAX_BYTES = 16 << 20
PROBE_TIMEOUT_S = 5.0


@attrs.frozen
class Told:
    """A whole answer to a small question."""

    status: int
    content_type: bytes
    body: bytes


def _content_type(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return next((value for name, value in headers if name == b"content-type"), b"application/json")


async def ask(
    station: Station, method: str, path: str, *, body: bytes | None = None, within_s: float
) -> Told | None:
    """Ask a server something. None: no answer, not in time, or one far too long."""
    with trio.move_on_after(within_s):
        try:
            async with station.backend.call(method, path, body=body) as answer:
                whole = bytearray()
                async for piece in answer.body:
                    whole += piece
                    if len(whole) > ANSWER_MAX_BYTES:
                        return None
                return Told(answer.status, _content_type(answer.headers), bytes(whole))
        except BackendFailed:
            return None
    return None


async def carry(
    dispatcher: Dispatcher,
    station: Station,
    method: str,
    path: str,
    *,
    body: AsyncIterator[bytes] | bytes | None,
    pipe: Pipe,
    changes_models: bool,
) -> None:
    """Make a call and put its answer into a pipe as it comes.

    Where the call changes what the server has, it is probed before the answer's end is told, so
    that the caller's next request finds the model it has just pulled.
    """
    try:
        async with station.backend.call(method, path, body=body) as answer:
            head = Head(
                status=answer.status,
                headers=((b"content-type", _content_type(answer.headers)),),
            )
            await pipe.begin(head, b"", complete=False)
            async for piece in answer.body:
                await pipe.write(piece, complete=False)
        if changes_models:
            await _probe(dispatcher, station)
        await pipe.write(b"", complete=True)
    except BackendFailed as failure:
        pipe.refuse(Refusal(Code.BACKEND_FAILED, f"Backend {station.spec.id} failed: {failure}."))
    finally:
        pipe.end()


async def _probe(dispatcher: Dispatcher, station: Station) -> None:
    with trio.move_on_after(PROBE_TIMEOUT_S):
        try:
            probe = await station.backend.probe()
        except BackendFailed:
            return  # its health is watched elsewhere, and will be told there
        station.is_well(probe)
        dispatcher.health_changed(station)
