"""One request and its answer between the ASGI server and Quart, and what is held meanwhile.

Quart-Trio's own exchange is replaced in three points:

* it enters an answer's body only after the head was sent, so that a client that leaves in between
  would keep its backend: here a request holds a stack, which is left however the request ends;
* it ends answers after `RESPONSE_TIMEOUT` without a word: here a job's own deadline is the only one;
* it reads a body as fast as it comes: here one that is passed on is read as fast as it is taken.
"""

from contextlib import AsyncExitStack
from typing import cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart import g, has_websocket_context, request, websocket
from quart.wrappers import Request, Websocket
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest
from quart_trio.wrappers.request import TrioBody

from ollama_proxy.inbound.admission import Visitor

UNBOUNDED_PATHS = "/api/blobs/"  # layers of models: gigabytes, passed on and never held


class HoldingRequest(TrioRequest):
    """A request with the stack of what it holds."""

    held: AsyncExitStack


def holding() -> AsyncExitStack:
    """What the present request holds: left, last in first out, when it ends, whichever way.

    Its synchronous callbacks run in the instant in which a client is seen to have left.
    """
    return cast("HoldingRequest", request).held


def asked() -> Request | Websocket:
    """What is being answered: a request, or one to open a WebSocket."""
    return websocket if has_websocket_context() else request


def visitor() -> Visitor:
    """Who asks: let in by the gate, which sees every request first."""
    return cast("Visitor", g.visitor)


def raw_headers() -> list[tuple[bytes, bytes]]:
    """The present request's headers as they came, with lower-case names."""
    return list(asked().scope["headers"])


class PassingBody(TrioBody):
    """A body of any length, of which no more is read before it was taken."""

    def __init__(self) -> None:
        """Begin with no limit."""
        super().__init__(None, None)
        self._taken = trio.Event()

    async def __anext__(self) -> bytes:
        data = await super().__anext__()
        self._taken.set()
        return data

    async def wait_taken(self) -> None:
        """Wait until nothing is held."""
        while self._data:
            self._taken = trio.Event()
            await self._taken.wait()


class Exchange(TrioASGIHTTPConnection):
    """One request's way through the app."""

    def _create_request_from_scope(self, send: ASGISendCallable) -> Request:
        asked = super()._create_request_from_scope(send)
        if asked.path.startswith(UNBOUNDED_PATHS):
            asked.body = PassingBody()
        return asked

    async def handle_messages(  # type: ignore[override]  # as Quart-Trio itself overrides it
        self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
    ) -> None:
        """Take the body until the client leaves."""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            if message["type"] == "http.request":
                request.body.append(message.get("body", b""))
                if not message.get("more_body", False):
                    request.body.set_complete()
                if isinstance(request.body, PassingBody):
                    await request.body.wait_taken()
        nursery.cancel_scope.cancel()

    async def handle_request(  # type: ignore[override]  # as above
        self, nursery: trio.Nursery, request: Request, send: ASGISendCallable
    ) -> None:
        """Answer, and let go of everything."""
        async with AsyncExitStack() as stack:
            cast("HoldingRequest", request).held = stack
            response = await self.app.handle_request(request)
            await self._send_response(send, response)
        nursery.cancel_scope.cancel()
