"""Other routers in the running fleet: they come and go without a reload, and with one."""

import logging
import signal
import socket
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any

import attrs
import httpx
import pytest
import trio

from ollama_proxy.config import Config, Fleet
from tests.fakes.names import Names
from tests.fakes.ollama import Behaviour, Fake, Script, open_fake
from tests.routers import (
    CHAT,
    MODEL,
    Owner,
    ask,
    backend,
    configured,
    fakes,
    idle,
    running,
    until,
)

pytestmark = pytest.mark.usefixtures("in_process")


def with_fleet(*backends: Any, **keys: Any) -> Config:
    """A configuration that looks for nodes."""
    return attrs.evolve(configured(*backends), fleet=Fleet(node_id="me", **keys))


def ids(backends: Iterable[dict[str, Any]]) -> list[str]:
    return sorted(each["id"] for each in backends)


def name_of(fake: Fake) -> str:
    return "node-" + fake.url.removeprefix("http://").replace(":", "-")


async def test_listed_nodes_are_backends(caplog: pytest.LogCaptureFixture) -> None:
    """From the first request on, beside those that are configured."""
    async with fakes("npu", "cpu") as fleet:
        config = with_fleet(backend("npu", fleet["npu"].url), nodes=(fleet["cpu"].url,))
        with caplog.at_level(logging.INFO):
            async with running(config) as owner, owner.client() as client:
                shown = (await client.get("/backends")).json()
                target = {"x-target-backend": ids(shown)[0]}
                answer = await client.post(CHAT, json=ask(), headers=target)
                await idle(client)

    assert [name_of(fleet["cpu"]), "ollama-npu"] == ids(shown)
    assert 200 == answer.status_code
    assert ("router", "cloud") == (shown[-1]["type"], shown[-1]["hardware"])
    assert f"has joined the fleet: {fleet['cpu'].url}, told of by the configuration" in caplog.text


async def test_a_reload_keeps_what_was_found_and_heeds_the_list() -> None:
    """Without a request lost; who is listed no more leaves, and finishes what it has."""
    async with fakes("npu", "cpu", "igpu", script=Script(tokens=5, interval_s=0.05)) as fleet:
        urls = [fleet[name].url for name in ("cpu", "igpu")]
        config = with_fleet(backend("npu", fleet["npu"].url), nodes=(urls[0],))
        async with running(config) as owner, owner.client() as client:
            gone = {"x-target-backend": name_of(fleet["cpu"])}
            request = client.stream("POST", CHAT, json=ask(stream=True), headers=gone)
            async with request as answer:
                owner.config = with_fleet(backend("npu", fleet["npu"].url), nodes=(urls[1],))
                owner.signal(signal.SIGHUP)
                await until(
                    client,
                    lambda shown: ids(shown) == [name_of(fleet["igpu"]), "ollama-npu"],
                )
                text = (await answer.aread()).decode()
            await idle(client)

    assert text.rstrip().endswith("data: [DONE]")


async def test_without_anybody_it_is_said_what_to_do() -> None:
    """A fleet of none is one: the router runs, and answers 503."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        config = with_fleet(dns=f"nobody.invalid:{closed.getsockname()[1]}")
        async with running(config) as owner, owner.client() as client:
            answer = await client.post(CHAT, json=ask())
            metrics = (await client.get("/metrics")).text

    assert 503 == answer.status_code
    assert "see why [fleet] finds none" in answer.text
    assert 'ollama_proxy_fleet_source_up{source="dns"} 0.0' in metrics


async def test_a_name_of_the_network_is_a_fleet(caplog: pytest.LogCaptureFixture) -> None:
    """Each of its addresses is a node; a resolver that fails loses none, and it is said once."""
    async with AsyncExitStack() as stack:
        fake = await stack.enter_async_context(open_fake(None))
        names = Names({"fleet.localhost": ["127.0.0.1"]})
        stack.enter_context(names.in_place())
        port = fake.url.rpartition(":")[2]
        config = with_fleet(dns=f"fleet.localhost:{port}", refresh_s=1.0)
        owner: Owner = await stack.enter_async_context(running(config))
        client: httpx.AsyncClient = await stack.enter_async_context(owner.client())
        answers = [(await client.post(CHAT, json=ask())).status_code]
        names.is_broken = True
        while "cannot be looked for" not in caplog.text:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.05)
        answers.append((await client.post(CHAT, json=ask())).status_code)
        told = (await client.get("/metrics")).text
        await idle(client)

    assert [200, 200] == answers
    assert 'ollama_proxy_fleet_source_up{source="dns"} 0.0' in told
    assert 'ollama_proxy_fleet_nodes{source="dns"} 1.0' in told
    assert 1 == caplog.text.count("cannot be looked for")


def free_port() -> int:
    """A port that nobody has; whoever is quick might take it meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def telling(node_id: str, machine: str) -> Script:
    """One that tells who it is."""
    told = f'{{"protocol":1,"id":"{node_id}","machine":"{machine}","models":["{MODEL}"]}}'
    head = f"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {len(told)}\r\n\r\n"
    return Script(behaviour=Behaviour.VERBATIM, misbehaves_at=("/node",), verbatim=head + told)


async def test_of_two_that_tell_the_same_id_one_is_used_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where an owner looks, for as long as it is so; and once in the log."""
    async with (
        open_fake(telling("twin", "a")) as first,
        open_fake(telling("twin", "b")) as second,
    ):
        config = with_fleet(nodes=(first.url, second.url))
        async with running(config) as owner, owner.client() as client:
            await until(client, lambda shown: len(shown) == 1 and shown[0]["last_error"])
            answer = await client.post(CHAT, json=ask())
            [shown] = (await client.get("/backends")).json()
            await idle(client)

    assert (200, True) == (answer.status_code, shown["healthy"])
    assert "two machines that tell the same node id, twin" in shown["last_error"]
    assert 1 == caplog.text.count("two machines that tell the same node id")


async def test_a_router_that_finds_itself_leaves_itself_out() -> None:
    """As soon as it has told itself who it is; others stay."""
    async with fakes("cpu") as fleet:
        port = free_port()
        config = with_fleet(nodes=(f"http://127.0.0.1:{port}", fleet["cpu"].url))
        config = attrs.evolve(config, server=attrs.evolve(config.server, http_port=port))
        async with running(config) as owner, owner.client() as client:
            await until(client, lambda shown: ids(shown) == [name_of(fleet["cpu"])])
            answer = await client.post(CHAT, json=ask())
            await idle(client)

    assert 200 == answer.status_code
