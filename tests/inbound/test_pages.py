"""A page of somebody else can neither read nor cause anything, whichever way it comes in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import httpx
import pytest

from tests.fakes.ollama import Fake
from tests.inbound.test_keys import rejection, socket_of
from tests.routers import CHAT, Owner, ask, backend, configured, fakes, idle, running

pytestmark = pytest.mark.usefixtures("in_process")

FRIEND = "https://friend.example"
FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://localhost:3000"},
    {"origin": f"{FRIEND}.evil.example"},
    {"origin": f"{FRIEND}, https://evil.example"},
    {"origin": "file://"},
    {"origin": "*"},
    {"host": "evil.example"},
    {"host": "evil.example:8080", "origin": "http://evil.example:8080"},
    {"host": "."},
    {"host": "0.0.0.0"},  # noqa: S104 - not bound to
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
]


@asynccontextmanager
async def house(*, lane: bool = True) -> AsyncIterator[tuple[Fake, Owner, httpx.AsyncClient]]:
    """A router that has a friend, and a client."""
    async with fakes("npu") as fleet:
        config = configured(backend("npu", fleet["npu"].url))
        server = attrs.evolve(config.server, allowed_origins=(FRIEND,), lane=lane)
        async with running(attrs.evolve(config, server=server)) as owner, owner.client() as client:
            yield fleet["npu"], owner, client
            await idle(client)


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "general"])
async def test_it_causes_no_inference(lane: bool) -> None:
    """Not a byte goes to a backend; each refusal is 403, and nothing invites a browser to read it."""
    async with house(lane=lane) as (fake, _, client):
        answers = [await client.post(CHAT, json=ask(), headers=page) for page in FOREIGN]
        asked = [record.path for record in fake.log if record.path == CHAT]

    assert [403] * len(FOREIGN) == [each.status_code for each in answers]
    assert [] == asked
    assert not [n for each in answers for n in each.headers if n.startswith("access-control-")]


@pytest.mark.parametrize("path", ["/efficiency", "/api/pull", "/v1/route", "/api/show", "/nowhere"])
async def test_it_changes_nothing(path: str) -> None:
    """Neither the mode nor a model, with what a form or a script may send unasked."""
    kinds = ("text/plain", "application/x-www-form-urlencoded", "application/json")
    async with house() as (_, _, client):
        before = (await client.get("/efficiency")).json()
        statuses = {
            (
                await client.post(
                    path, content=b'{"mode":"quiet"}', headers=page | {"content-type": k}
                )
            ).status_code
            for page in FOREIGN
            for k in kinds
        }
        after = (await client.get("/efficiency")).json()

    assert statuses <= {403, 415}
    assert before["mode"] == after["mode"]


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "general"])
@pytest.mark.parametrize("kind", ["text/plain", "Text/Plain; charset=utf-8", "multipart/form-data"])
async def test_an_old_browsers_form_is_refused(lane: bool, kind: str) -> None:
    """It names no origin, but its type is one of a form."""
    async with house(lane=lane) as (fake, _, client):
        headers = {"content-type": kind}
        inference = await client.post(CHAT, json=ask(), headers=headers)
        mode = await client.post("/efficiency", content=b'{"mode":"quiet"}', headers=headers)
        asked = [record.path for record in fake.log if record.path == CHAT]

    assert (415, 415, []) == (inference.status_code, mode.status_code, asked)
    assert "application/json" in inference.json()["error"]["message"]


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "general"])
@pytest.mark.parametrize("kind", [None, "application/json", "application/x-www-form-urlencoded"])
async def test_programs_are_heard(lane: bool, kind: str | None) -> None:
    """Curl's `-d` among them, as Ollama's own documentation has it."""
    async with house(lane=lane) as (_, _, client):
        body = httpx.Request("POST", "http://h", json=ask()).content
        headers = {} if kind is None else {"content-type": kind}
        answer = await client.post("/api/chat", content=body, headers=headers)

    assert 200 == answer.status_code


@pytest.mark.parametrize(
    "path", ["/backends", "/metrics", "/v1/models", "/health", "/openapi.json"]
)
async def test_it_reads_nothing(path: str) -> None:
    """A link may lead here; what a page loads by itself may not."""
    async with house() as (_, _, client):
        statuses = [(await client.get(path, headers=page)).status_code for page in FOREIGN]
        link = await client.get(
            path, headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        )

    assert ([403] * len(FOREIGN), 200) == (statuses, link.status_code)


@pytest.mark.parametrize("path", ["/v1/stream/ws", "/v1/realtime?model=fake"])
async def test_it_opens_no_socket(path: str) -> None:
    """403 before there is one; programs, which name no origin, and friends get theirs."""
    async with house() as (_, owner, _):
        pages = [page["origin"] for page in FOREIGN if page.keys() == {"origin"}]
        statuses = [
            (await rejection(owner, path, extra_headers=[(b"origin", o.encode())])).status_code
            for o in pages
        ]
        for headers in ([], [(b"origin", FRIEND.encode())], [(b"origin", owner.url.encode())]):
            async with socket_of(owner.url, path, extra_headers=headers):
                pass

    assert [403] * len(pages) == statuses
