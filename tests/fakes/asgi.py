"""One exchange with an ASGI app, in memory: what was sent and when, with a client that can leave.

Ours, because Quart-Trio's own test client hangs once an answer has more than ten pieces.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import attrs
import msgspec
import trio
from hypercorn.typing import ASGIFramework

Pairs = list[tuple[bytes, bytes]]


@attrs.define(eq=False)
class Exchange:
    """A request that is made by `run`, and its answer so far.

    Attributes:
        leave: set it, and the client hangs up.
        reading: while it is not set, the client takes nothing.
        status: of the answer; 0 until its head is there.
        headers: of the answer, lower-case names.
        pieces: of the body, with the time at which each was there.
        ended: the answer was finished, not broken off.
    """

    app: ASGIFramework
    method: str
    path: str
    body: bytes | Iterable[bytes] = b""
    sent_headers: Pairs = attrs.field(factory=list)
    leave: trio.Event = attrs.field(factory=trio.Event)
    reading: trio.Event = attrs.field(factory=trio.Event)
    status: int = 0
    headers: dict[str, str] = attrs.field(factory=dict)
    pieces: list[tuple[float, bytes]] = attrs.field(factory=list)
    ended: bool = False
    _changed: trio.Event = attrs.field(factory=trio.Event)

    async def run(self) -> None:
        """Make the request, and return when the app has."""
        bodies = [self.body] if isinstance(self.body, bytes) else list(self.body)
        messages = [
            {"type": "http.request", "body": body, "more_body": i + 1 < len(bodies)}
            for i, body in enumerate(bodies)
        ]

        async def receive() -> Any:
            await trio.lowlevel.checkpoint()
            if messages:
                return messages.pop(0)
            await self.leave.wait()
            return {"type": "http.disconnect"}

        scope: Any = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": unquote(self.path.partition("?")[0]),
            "raw_path": self.path.encode(),
            "query_string": self.path.partition("?")[2].encode(),
            "root_path": "",
            "headers": self.sent_headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
            "state": {},
            "extensions": {},
        }
        await self.app(scope, receive, self._send)

    async def _send(self, message: Any) -> None:
        await self.reading.wait()
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {n.decode(): v.decode() for n, v in message["headers"]}
        else:
            if message["body"]:
                self.pieces.append((trio.current_time(), message["body"]))
            self.ended = not message["more_body"]
        self._changed.set()
        self._changed = trio.Event()

    async def wait_for_pieces(self, count: int) -> None:
        """Wait until so many pieces are there."""
        while len(self.pieces) < count:
            await self._changed.wait()

    @property
    def content(self) -> bytes:
        """The body so far."""
        return b"".join(piece for _, piece in self.pieces)

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.content)


def begin(
    app: ASGIFramework,
    method: str,
    path: str,
    *,
    json: object = None,
    body: bytes | Iterable[bytes] = b"",
    is_reading: bool = True,
    **headers: str,
) -> Exchange:
    """Prepare an exchange from loopback; `x_priority="high"` is a header."""
    given = {"host": "127.0.0.1:8080"} | {n.replace("_", "-"): v for n, v in headers.items()}
    content = msgspec.json.encode(json) if json is not None else body
    if isinstance(content, bytes) and content:
        given.setdefault("content-length", str(len(content)))
    exchange = Exchange(
        app,
        method,
        path,
        content,
        [(n.encode("latin-1"), v.encode("latin-1")) for n, v in given.items()],
    )
    if is_reading:
        exchange.reading.set()
    return exchange


async def fetch(app: ASGIFramework, method: str, path: str, **given: Any) -> Exchange:
    """Make a whole exchange."""
    exchange = begin(app, method, path, **given)
    await exchange.run()
    return exchange
