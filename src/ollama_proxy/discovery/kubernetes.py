"""Nodes by Kubernetes: the ready endpoints of a service, watched through the cluster's API.

The list is read, then its changes are followed; a watch that ends or is too old begins with the list
again. The token is read anew each time, as the cluster replaces it; it goes over TLS alone.
"""

import functools
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import attrs
import httpx
import msgspec
import trio

from ollama_proxy.discovery.report import Report, SourceLost, keep_asking
from ollama_proxy.policy.roster import FoundNode
from ollama_proxy.policy.whereabouts import Service, leads_astray, name_in, url_of

MOST_BYTES = 8 << 20  # of a list, and of an event
MOST_SLICES = 1000  # Kubernetes puts 100 endpoints into each
PAGE = 500
WATCH_S = 290  # then the API ends a watch, and the list is read anew
TIMEOUT_S = 10.0
_TOKEN_BYTES = 64 << 10
_GONE = 410  # the watch would begin before all that is still known
_OK = 200


@attrs.frozen(kw_only=True)
class KubernetesSettings:
    """What is asked, and whom.

    Attributes:
        service: whose endpoints are nodes.
        api: the URL of the API.
        files: the directory with `token` and `ca.crt`.
        scheme: http or https.
    """

    service: Service
    api: str
    files: str
    scheme: str


class _Reference(msgspec.Struct):
    name: str = ""
    uid: str = ""


class _Conditions(msgspec.Struct):
    ready: bool | None = None


class _Endpoint(msgspec.Struct, rename="camel"):
    addresses: list[str] = []
    conditions: _Conditions | None = None
    target_ref: _Reference | None = None


class _Port(msgspec.Struct):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class _Meta(msgspec.Struct, rename={"version": "resourceVersion", "rest": "continue"}):
    name: str = ""
    version: str = ""
    rest: str = ""


class _Slice(msgspec.Struct, rename="camel"):
    metadata: _Meta
    address_type: str = ""
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


class _List(msgspec.Struct):
    metadata: _Meta
    items: list[_Slice] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    message: str = ""
    code: int = 0


async def watch_kubernetes(settings: KubernetesSettings, report: Report) -> NoReturn:
    """Report the nodes until cancelled.

    Error handling: an API that is not there, refuses us, or talks nonsense is a lost source.
    """

    async def ask() -> None:
        try:
            async with _client(settings) as client:
                await _Watch(settings, client, report).follow()
        except httpx.HTTPError as error:
            raise SourceLost(_in_words(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SourceLost(f"what the API says cannot be read: {error}") from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise SourceLost(f"{settings.api} is no address of an API: {error}") from error

    await keep_asking(report, ask)


@asynccontextmanager
async def _client(settings: KubernetesSettings) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"accept": "application/json"}
    verify: ssl.SSLContext | bool = False
    if settings.api.startswith("https:"):
        files = trio.Path(settings.files)
        try:
            # What no header can carry is no token.
            async with await (files / "token").open(encoding="ascii") as file:
                token = (await file.read(_TOKEN_BYTES)).strip()
            verify = ssl.create_default_context(cafile=str(files / "ca.crt"))
        except (OSError, ValueError) as error:  # ValueError: bytes that are no text
            raise SourceLost(
                f"the service account's files in {settings.files} cannot be read: {_without_content(error)}"
            ) from error
        headers["authorization"] = f"Bearer {token}"
    async with httpx.AsyncClient(
        base_url=settings.api, headers=headers, verify=verify, timeout=TIMEOUT_S, trust_env=False
    ) as client:
        yield client


class _Watch:
    """One list and its changes, until the watch ends."""

    def __init__(
        self, settings: KubernetesSettings, client: httpx.AsyncClient, report: Report
    ) -> None:
        """Begin with nothing."""
        self._settings = settings
        self._client = client
        self._report = report
        self._slices: dict[str, _Slice] = {}
        self._path = (
            f"/apis/discovery.k8s.io/v1/namespaces/{settings.service.namespace}/endpointslices"
        )
        self._wanted = {"labelSelector": f"kubernetes.io/service-name={settings.service.name}"}

    async def follow(self) -> None:
        """List, and follow the changes; ends when the API ends the watch in order."""
        version = await self._list()
        self._tell()
        wanted = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
        }
        silence_s = httpx.Timeout(TIMEOUT_S, read=WATCH_S + TIMEOUT_S)
        async with self._answer(wanted, silence_s) as answer:
            lines = _Lines()
            await _read(
                answer,
                lambda data: all(
                    self._heed(msgspec.json.decode(line, type=_Event)) for line in lines.feed(data)
                ),
            )

    def _heed(self, event: _Event) -> bool:
        """Take an event in; whether the watch goes on."""
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=_Status)
            if status.code == _GONE:
                return False
            raise SourceLost(f"the watch failed: {status.message} ({status.code})")
        if event.type != "BOOKMARK":
            self._change(event.type, msgspec.json.decode(event.object, type=_Slice))
            self._tell()
        return True

    async def _list(self) -> str:
        """Read the whole list. Gives back of which version it is."""
        rest, left = "", MOST_BYTES
        while True:
            wanted = {"limit": str(PAGE), **({"continue": rest} if rest else {})}
            content = bytearray()
            async with self._answer(wanted) as answer:
                await _read(answer, functools.partial(_append, content, left))
            left -= len(content)
            page = msgspec.json.decode(content, type=_List)
            for each in page.items or ():
                self._change("ADDED", each)
            rest = page.metadata.rest
            if not rest:
                return page.metadata.version

    @asynccontextmanager
    async def _answer(
        self, wanted: Mapping[str, str], patience: httpx.Timeout | float = TIMEOUT_S
    ) -> AsyncIterator[httpx.Response]:
        asked: dict[str, Any] = {"params": {**self._wanted, **wanted}, "timeout": patience}
        async with self._client.stream("GET", self._path, **asked) as answer:
            if answer.status_code in {401, 403}:
                raise SourceLost(
                    f"the API answered {answer.status_code}: this pod's service account needs a role"
                    " that may list and watch endpointslices of discovery.k8s.io in namespace"
                    f" {self._settings.service.namespace}"
                )
            if answer.status_code != _OK:
                raise SourceLost(f"the API answered {answer.status_code}")
            yield answer

    def _change(self, kind: str, changed: _Slice) -> None:
        if kind == "DELETED":
            self._slices.pop(changed.metadata.name, None)
            return
        self._slices[changed.metadata.name] = changed
        if len(self._slices) > MOST_SLICES:
            raise SourceLost(f"there are more than {MOST_SLICES} endpoint slices")

    def _tell(self) -> None:
        self._report.nodes(node for each in self._slices.values() for node in self._nodes(each))

    def _nodes(self, found: _Slice) -> Iterator[FoundNode]:
        port = _port(found.ports or (), self._settings.service.port)
        if port is None or found.address_type not in {"IPv4", "IPv6"}:
            return
        for endpoint in found.endpoints or ():
            # Nothing said is ready, as the API has it; who is about to end is not.
            is_ready = endpoint.conditions is None or endpoint.conditions.ready is not False
            # Of several addresses any will do.
            address = endpoint.addresses[0] if endpoint.addresses else ""
            if is_ready and not leads_astray(address, is_local=False):
                who = endpoint.target_ref or _Reference()
                yield FoundNode(
                    url=url_of(self._settings.scheme, address, port),
                    machine=who.uid,
                    name=name_in(who.name),
                )


def _port(ports: Iterator[_Port] | list[_Port] | tuple[_Port, ...], wanted: str) -> int | None:
    """Which port of a slice is meant; a number is meant whatever the slice says."""
    if wanted.isdigit():
        return int(wanted) if 0 < int(wanted) < 1 << 16 else None
    for port in ports:
        if port.port and port.protocol in {None, "TCP"} and wanted in {"", port.name}:
            return port.port
    return None


def _append(content: bytearray, most: int, data: bytes) -> bool:
    content += data
    if len(content) > most:
        raise SourceLost(f"the list is larger than {MOST_BYTES >> 20} MiB")
    return True


async def _read(answer: httpx.Response, take: Callable[[bytes], bool]) -> None:
    """Give a body piece by piece to `take`, until it wants no more.

    httpx reads through generators within generators. Left in the middle they would be ended some time
    later, by nobody; cancelled, they end at once, from within.
    """
    failure: Exception | None = None
    with trio.CancelScope() as enough:
        async for data in answer.aiter_bytes():
            if enough.cancel_called:
                continue
            try:
                goes_on = take(data)
            except (SourceLost, msgspec.DecodeError, UnicodeDecodeError) as error:
                failure, goes_on = error, False
            if not goes_on:
                enough.cancel()
    if failure is not None:
        raise failure


def _without_content(error: OSError | ValueError) -> str:
    """What is wrong with a file, and nothing of what is in it: an UnicodeError shows bytes."""
    return "token is no text of ASCII" if isinstance(error, UnicodeError) else str(error)


def _in_words(error: BaseException) -> str:
    """What an error says, or what caused it where it says nothing itself."""
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__ if cause is None else f"{type(error).__name__}: {cause}"


@attrs.define
class _Lines:
    """Cuts a body that does not end into lines; httpx's own would hold one of any length."""

    _held: bytes = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now. Raises SourceLost: one is too long."""
        *whole, self._held = (self._held + data).split(b"\n")
        if len(self._held) > MOST_BYTES:
            raise SourceLost(f"an event is larger than {MOST_BYTES >> 20} MiB")
        return [line for line in whole if line.strip()]
