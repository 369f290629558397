"""What a page of another origin may read: of a listed one everything it may ask, of others nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from ollama_proxy.config import Auth
from tests.inbound.test_keys import KEYS
from tests.routers import CHAT, Owner, ask, backend, configured, fakes, running

LISTED, OTHER = "https://friend.example", "https://friend.example.evil"
SHARED = {"access-control-allow-origin": LISTED, "vary": "origin"}
WAYS = pytest.mark.parametrize("lane", [True, False], ids=["lane", "app"])
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-priority",
    "sec-fetch-site": "cross-site",
    "sec-fetch-mode": "cors",
}
pytestmark = pytest.mark.usefixtures("in_process")


@asynccontextmanager
async def house(**changes: Any) -> AsyncIterator[Owner]:
    """A router that asks for keys and has a friend."""
    async with fakes("npu") as fleet:
        made = configured(backend("npu", fleet["npu"].url))
        given: dict[str, Any] = {
            "allowed_origins": (LISTED,),
            "auth": Auth(api_keys=("file:keys",)),
        } | changes
        made = attrs.evolve(made, server=attrs.evolve(made.server, **given))
        async with running(made, KEYS) as owner:
            yield owner


def shared(headers: Any) -> dict[str, str]:
    """What is said of sharing."""
    return {n: v for n, v in headers.items() if n.startswith("access-control") or n == "vary"}


@WAYS
@pytest.mark.parametrize("path", [CHAT, "/metrics", "/nowhere"])
async def test_a_listed_page_may_ask_whether_it_may(path: str, lane: bool) -> None:
    """Without a key, since browsers send none with that question; nothing is served for it."""
    async with house(lane=lane) as owner, owner.client() as client:
        answer = await client.options(path, headers={"origin": LISTED, **PREFLIGHT})

    assert (204, b"") == (answer.status_code, answer.content)
    assert SHARED | {
        "access-control-allow-methods": "GET, HEAD, POST, DELETE",
        "access-control-allow-headers": PREFLIGHT["access-control-request-headers"],
        "access-control-max-age": "600",
    } == shared(answer.headers)


@WAYS
async def test_a_listed_page_reads_answers_and_errors(lane: bool) -> None:
    """On every way, streams included, with its key; also why it is not let in."""
    async with house(lane=lane) as owner, owner.client("owner") as client:
        client.headers["origin"] = LISTED
        answers = [
            await client.post(CHAT, json=ask()),
            await client.post(CHAT, json=ask(stream=True)),
            await client.post(CHAT, json=ask(model="none")),
            await client.post(CHAT, content=b"{"),
            await client.get("/backends"),
            await client.get("/nowhere"),
        ]
        del client.headers["authorization"]
        answers += [await client.post(CHAT, json=ask()), await client.get("/backends")]

    assert [200, 200, 404, 400, 200, 404, 401, 401] == [each.status_code for each in answers]
    assert [SHARED] * len(answers) == [shared(each.headers) for each in answers]


@WAYS
async def test_nobody_else_reads_anything(lane: bool) -> None:
    """Other origins are refused, asking or asking whether they may; programs are told nothing of it."""
    async with house(lane=lane) as owner, owner.client("owner") as client:
        foreign = [
            await client.options(path, headers={"origin": origin, **PREFLIGHT})
            for path in (CHAT, "/metrics")
            for origin in (OTHER, "null", "*", f"{LISTED}, {LISTED}")
        ]
        foreign.append(await client.post(CHAT, json=ask(), headers={"origin": OTHER}))
        own = [
            await client.post(CHAT, json=ask()),
            await client.post(CHAT, json=ask(), headers={"origin": owner.url}),
            await client.options("/metrics", headers=PREFLIGHT | {"sec-fetch-site": "none"}),
            await client.options("/metrics", headers={"origin": LISTED}),
        ]

    assert {403} == {each.status_code for each in foreign}
    assert [200, 200, 405, 405] == [each.status_code for each in own]
    assert [{}] * 12 == [shared(each.headers) for each in (*foreign, *own[:3])]


async def test_a_page_after_a_program_on_one_connection() -> None:
    """What is said of sharing is of one request alone."""
    async with house() as owner, owner.client("owner") as client:
        answers = [
            await client.post(CHAT, json=ask(), headers=headers)
            for headers in ({}, {"origin": LISTED}, {})
        ]

    assert [{}, SHARED, {}] == [shared(each.headers) for each in answers]


async def test_the_dashboards_own_word_on_caching_stays() -> None:
    """One is added to it, none lost."""
    async with house() as owner, owner.client("owner") as client:
        answer = await client.get("/", headers={"origin": LISTED})

    assert {"accept", "origin"} == {each.strip() for each in answer.headers["vary"].split(",")}
