"""One HTTP server that computes answers: how every dialect makes its calls on it.

An answer begins for the caller when its first body byte is there, not when its head is: until then
a backend that fails can be replaced unseen. A whole answer is gathered first for the same reason,
up to a size where holding it back would cost more than it saves.
"""

import re
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import httpx
import trio

from ollama_proxy.backends import translate
from ollama_proxy.backends.backend import (
    BackendFailed,
    CallRejected,
    CallUnserved,
    Errand,
    Fault,
    Head,
    ModelMissing,
    Reply,
    Served,
    Sink,
    Way,
)
from ollama_proxy.backends.body import error_code, error_message, with_model
from ollama_proxy.backends.endpoint import Endpoint
from ollama_proxy.backends.pump import Pump
from ollama_proxy.backends.report import read_stream, read_whole
from ollama_proxy.backends.translate import GarbledAnswer, Translation
from ollama_proxy.backends.transport import Transport
from ollama_proxy.backends.wire import NO_NAME, Connection, Pool, distrust
from ollama_proxy.policy.ask import Call, Dialect, Framing
from ollama_proxy.policy.refusal import Code, RequestRefused

GATHER_MAX_BYTES = 1 << 20
FETCH_MAX_BYTES = 16 << 20
TRANSLATE_MAX_BYTES = 64 << 20
ERROR_MAX_BYTES = 64 << 10
CONTROL_TIMEOUT_S = 5.0
_STREAM_TYPES = {f.value.encode(): f for f in Framing} | {b"application/ndjson": Framing.NDJSON}
_TRANSLATED_HEADERS = {
    framing: ((b"content-type", framing.value.encode()), (b"cache-control", b"no-cache"))
    for framing in Framing
}
_JSON_TYPE = (b"content-type", b"application/json")
_JSON_HEADERS = (_JSON_TYPE,)


@attrs.frozen(kw_only=True)
class ServerSettings:
    """How patiently, with which key, and under what trust a server is called. Seconds."""

    connect_timeout_s: float = 2.0
    api_key: str = attrs.field(default="", repr=False)
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context


class Server:
    """Makes calls on one server: inference over the wire, everything else with httpx."""

    def __init__(self, endpoint: Endpoint, settings: ServerSettings, pump: Pump) -> None:
        """Open nothing yet."""
        self.endpoint = endpoint
        self._settings = settings
        self._pump = pump
        self._pool = Pool(endpoint, settings.connect_timeout_s, settings.tls)
        self._control: httpx.AsyncClient | None = None
        key = settings.api_key
        self._fixed_head = (
            f"host: {endpoint.authority}\r\ncontent-type: application/json\r\n"
            + (f"authorization: Bearer {key}\r\n" if key else "")
        ).encode()

    @property
    def idle_connections(self) -> int:
        """How many connections are kept for the next request."""
        return self._pool.idle

    # -- inference -----------------------------------------------------------------------------

    async def exchange(
        self,
        errand: Errand,
        sink: Sink,
        *,
        path: str,
        model: str,
        translation: Translation | None = None,
    ) -> Served:
        """Make one inference call and give its answer to `sink`.

        Args:
            errand: the call.
            sink: takes the answer.
            path: where on the server.
            model: the model's name on the server.
            translation: None passes the bytes unchanged.

        Raises:
            BackendFailed, CallUnserved, ModelMissing, CallRejected, CallerLeft.
        """
        if translation is not None and translation.ready is not None:
            head = Head(status=200, headers=_JSON_HEADERS, length=len(translation.ready))
            await sink.begin(head, translation.ready, complete=True)
            return Served(status=200, computed=False)
        if translation is not None:
            body: bytes | bytearray = translation.request()
        elif model != errand.model:
            body = with_model(errand.body, model)
        else:
            body = errand.body
        connection = await self._send(path, errand.headers, body, sink)
        try:
            served = await self._answer(connection, errand, sink, translation)
        except BaseException:
            # Closing is what makes a server stop computing for someone who left.
            connection.close()
            raise
        self._pool.release(connection)
        return served

    def way(self, errand: Errand, *, path: str, model: str) -> Way:
        """How somebody else makes the call that `exchange` would. Raises CallUnserved."""
        if self.endpoint.tls or self.endpoint.unix_path:
            raise CallUnserved
        key = self._settings.api_key
        return Way(
            host=self.endpoint.host,
            port=self.endpoint.port,
            path=path,
            model=model,
            body=None if model == errand.model else partial(with_model, errand.body, model),
            headers=((b"authorization", f"Bearer {key}".encode()),) if key else (),
        )

    async def _send(
        self,
        path: str,
        headers: tuple[tuple[bytes, bytes], ...],
        body: bytes | bytearray,
        sink: Sink,
    ) -> Connection:
        """Send a request and wait for its answer's head.

        A kept connection may have died unseen in the moment of its use. When nothing at all was
        received on it, the request is sent once more, on a fresh one.
        """
        passed = b"".join([b"%b: %b\r\n" % header for header in headers])
        head = b"POST %b HTTP/1.1\r\n%b%bcontent-length: %d\r\n\r\n" % (
            path.encode(),
            self._fixed_head,
            passed,
            len(body),
        )
        connection = await self._pool.acquire()
        sink.connected(is_fresh=not connection.reused)
        try:
            return await self._request(connection, head, body, sink)
        except BackendFailed as failure:
            stale = connection.reused and connection.is_untouched and failure.fault is Fault.BROKE
            if not stale:
                raise
        connection = await self._pool.acquire(fresh=True)
        sink.connected(is_fresh=True)
        return await self._request(connection, head, body, sink)

    async def _request(
        self, connection: Connection, head: bytes, body: bytes | bytearray, sink: Sink
    ) -> Connection:
        try:
            await connection.send(head, body)
            sink.asked()
            while connection.head is None:
                await connection.read()
        except BaseException:
            connection.close()
            raise
        return connection

    async def _answer(
        self, connection: Connection, errand: Errand, sink: Sink, translation: Translation | None
    ) -> Served:
        head = connection.head
        assert head is not None, "_send returns with the head"  # noqa: S101 - its promise
        if head.status >= 400:  # noqa: PLR2004 - RFC 9110: 4xx and 5xx are errors
            return await self._pass_on_error(connection, head, sink, translation)
        if head.status >= 300:  # noqa: PLR2004 - RFC 9110: 3xx sends elsewhere
            # Endpoints come from the configuration alone: a server may not name another.
            raise BackendFailed(Fault.REFUSED, "it redirected the call", status=head.status)
        framing = _framing(head)
        if framing is None:
            body = await self._pass_whole(connection, head, sink, translation)
            return Served(status=head.status, report=read_whole(body))
        connection.mark = framing.mark
        if translation is None:
            await self._pass_stream(connection, head, sink)
            tokens = connection.pieces
        else:
            tokens = await self._translate_stream(connection, errand, sink, translation)
        # Read now and not as it passes: that would be paid for with every token.
        return Served(status=head.status, tokens=tokens, report=read_stream(connection.tail))

    async def _pass_whole(
        self, connection: Connection, head: Head, sink: Sink, translation: Translation | None
    ) -> bytes:
        """Pass an answer on; gives back what the server said, as far as it was held back."""
        if translation is not None:
            body = await connection.gather(TRANSLATE_MAX_BYTES)
            if not connection.complete:
                raise BackendFailed(Fault.GARBLED, "its answer is too long to translate")
            try:
                whole = translation.whole(body)
            except GarbledAnswer as error:
                raise BackendFailed(Fault.GARBLED, f"its answer makes no sense: {error}") from error
            translated = Head(status=head.status, headers=_JSON_HEADERS, length=len(whole))
            await sink.begin(translated, whole, complete=True)
            return body
        first = await connection.gather(GATHER_MAX_BYTES)
        if connection.complete:
            head = attrs.evolve(head, length=len(first))
        await sink.begin(head, first, complete=connection.complete)
        await self._pass_rest(connection, sink)
        return first

    async def _pass_stream(self, connection: Connection, head: Head, sink: Sink) -> None:
        first = connection.take()
        while not first and not connection.complete:
            await connection.read()
            first = connection.take()
        # The head's bytes were parsed before the mark was known.
        data = b"".join(first)
        connection.pieces = data.count(connection.mark)
        await sink.begin(head, data, complete=connection.complete)
        await self._pass_rest(connection, sink)

    async def _pass_rest(self, connection: Connection, sink: Sink) -> None:
        if connection.complete:
            return
        tap = sink.tap() if connection.descriptor is not None else None
        if tap is not None:
            await self._pump.carry(connection, tap)
            return
        while not connection.complete:
            await connection.read()
            data = b"".join(connection.take())
            if data or connection.complete:
                await sink.write(data, complete=connection.complete)

    async def _translate_stream(
        self, connection: Connection, errand: Errand, sink: Sink, translation: Translation
    ) -> int:
        pieces = translation.pieces()
        begun = False
        head = Head(status=200, headers=_TRANSLATED_HEADERS[errand.call.framing])
        while True:
            try:
                out = b"".join([pieces.feed(chunk) for chunk in connection.take()])
                if connection.complete and pieces.error is None:
                    out += pieces.finish()
            except GarbledAnswer as error:
                raise BackendFailed(Fault.GARBLED, f"its answer makes no sense: {error}") from error
            complete = connection.complete and pieces.error is None
            if (out or complete) and not begun:
                await sink.begin(head, out, complete=complete)
                begun = True
            elif out or complete:
                await sink.write(out, complete=complete)
            if pieces.error is not None:
                raise BackendFailed(Fault.REFUSED, f"it broke off: {pieces.error}")
            if complete:
                return pieces.tokens
            await connection.read()

    async def _pass_on_error(
        self,
        connection: Connection,
        head: Head,
        sink: Sink,
        translation: Translation | None,
    ) -> Served:
        """Tell whose fault an error answer is; the caller's own is passed on to the caller."""
        body = await connection.gather(ERROR_MAX_BYTES)
        message = error_message(body)
        status = head.status
        if status in {404, 405, 501} and _knows_no_such_path(status, message, body):
            raise CallUnserved
        if status == 404:  # noqa: PLR2004 - the model is not there
            raise ModelMissing
        if status in {401, 403, 407, 408, 425, 429} or status >= 500:  # noqa: PLR2004 - not the caller's fault
            raise BackendFailed(
                Fault.REFUSED,
                f"it answered {status}" + (f": {message}" if message else ""),
                status=status,
                code=_code(body),
                retry_after_s=_retry_after_s(head),
            )
        if translation is not None or not connection.complete:
            raise CallRejected(status, message or f"it answered {status}")
        await sink.begin(attrs.evolve(head, length=len(body)), body, complete=True)
        return Served(status=status)

    # -- everything else -----------------------------------------------------------------------

    @asynccontextmanager
    async def call(
        self,
        method: str,
        path: str,
        *,
        body: AsyncIterator[bytes] | bytes | None = None,
        timeout_s: float | None = CONTROL_TIMEOUT_S,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> AsyncIterator[Reply]:
        """Make a management call.

        Args:
            method: HTTP method.
            path: on the server, its base path included.
            body: what to send.
            timeout_s: for connecting and for each wait; None waits for ever (a pull is slow).
            headers: besides those that every call has.

        Raises:
            BackendFailed: no answer, or one that breaks off.
        """
        try:
            async with self._client().stream(
                method,
                self.endpoint.origin + path,
                content=body,
                timeout=httpx.Timeout(timeout_s, connect=self._settings.connect_timeout_s),
                headers=[*headers, *((_JSON_TYPE,) if body is not None else ())],
            ) as response:
                yield Reply(
                    status=response.status_code,
                    headers=tuple((k.lower(), v) for k, v in response.headers.raw),
                    body=response.aiter_raw(),
                )
        except httpx.TimeoutException as error:
            raise BackendFailed(Fault.SILENT, "it did not answer in time") from error
        except httpx.ConnectError as error:
            why = distrust(error) or "no connection could be made to it"
            raise BackendFailed(Fault.UNREACHABLE, why) from error
        except httpx.HTTPError as error:
            raise BackendFailed(
                Fault.BROKE, distrust(error) or "it broke off the answer"
            ) from error
        except UnicodeError as error:  # not of bodies: they pass as bytes
            raise BackendFailed(Fault.UNREACHABLE, NO_NAME.format(self.endpoint.host)) from error
        except OSError as error:  # of the files that it is to be trusted by
            raise BackendFailed(Fault.UNREACHABLE, f"TLS cannot begin: {error}") from error

    async def fetch(
        self,
        path: str,
        *,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        most_bytes: int = FETCH_MAX_BYTES,
    ) -> tuple[int, bytes]:
        """GET a small answer whole: status and body.

        Args:
            path: on the server, its base path included.
            headers: besides those that every call has.
            most_bytes: that an answer may have.

        Raises:
            BackendFailed: no answer, or one that is far too long.
        """
        async with self.call("GET", path, headers=headers) as reply:
            body = bytearray()
            async for chunk in reply.body:
                body += chunk
                if len(body) > most_bytes:
                    raise BackendFailed(Fault.GARBLED, "its answer is far too long")
            return reply.status, bytes(body)

    def _client(self) -> httpx.AsyncClient:
        if self._control is None:
            # No trust in the environment: a proxy variable would send prompts elsewhere. Trusted are the
            # system's certificates, as on the wire, and not those that httpx brings along.
            self._control = httpx.AsyncClient(
                trust_env=False,
                follow_redirects=False,
                transport=Transport(
                    self._settings.tls() if self.endpoint.tls else None,
                    unix_path=self.endpoint.unix_path or None,
                ),
                headers={"authorization": f"Bearer {self._settings.api_key}"}
                if self._settings.api_key
                else None,
            )
        return self._control

    def forget_connections(self) -> None:
        """Close the idle connections. See `Backend`."""
        self._pool.close()

    async def aclose(self) -> None:
        """Close every idle connection."""
        self._pool.close()
        if self._control is not None:
            with trio.move_on_after(1, shield=True):
                await self._control.aclose()


def translated(errand: Errand, target: Dialect, *, model: str) -> Translation:
    """An errand in the words of a server that speaks `target`, where `model` is its model's name.

    Raises:
        CallUnserved: those words cannot say it.
        CallRejected: the caller got a field wrong, or wants what cannot be carried over.
    """
    try:
        translation = translate.translation(
            errand.call,
            target,
            bytes(errand.body),
            model=model,
            now=time.time(),
            identity=uuid.uuid4().hex,
        )
    except RequestRefused as error:
        raise CallRejected(400, error.refusal.message) from error
    if translation is None:
        raise CallUnserved
    return translation


def _framing(head: Head) -> Framing | None:
    """How the answer is cut into pieces; None for a whole one."""
    for name, value in head.headers:
        if name == b"content-type":
            return _STREAM_TYPES.get(value.partition(b";")[0].strip().lower())
    return None


def _code(body: bytes) -> Code | None:
    """What an error is called, in the words that routers such as this have; None: in no such word."""
    try:
        return Code(error_code(body))
    except ValueError:
        return None


def _retry_after_s(head: Head) -> float | None:
    """When to come again, where an answer says so in seconds."""
    told = next((value for name, value in head.headers if name == b"retry-after"), b"")
    return float(told) if re.fullmatch(rb"[0-9]{1,6}", told) else None


def _knows_no_such_path(status: int, message: str, body: bytes) -> bool:
    """Whether an error says that the call itself is unknown, rather than the model.

    Only what servers are known to say counts: taking one missing model for a missing call would
    keep every model's requests away.
    """
    if status in {405, 501}:
        return True
    said = (message or body[:200].decode(errors="replace")).strip().lower().rstrip(".")
    return (
        not said
        or said in {"not found", "file not found", "404 not found", '{"detail":"not found"}'}
        or "page not found" in said
        or "invalid url" in said
        or said.startswith("<")
    )


def inference_path(endpoint: Endpoint, call: Call) -> str:
    """Where a call lives on an OpenAI-style server.

    By that world's convention a base URL with a path includes the version (`/v1`, OpenVINO's
    `/v3`, Lemonade's `/api/v1`), so a base path stands in place of `/v1`.
    """
    if endpoint.base_path and call.path.startswith("/v1/"):
        return endpoint.base_path + call.path.removeprefix("/v1")
    return call.path
