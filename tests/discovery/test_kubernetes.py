"""Nodes by Kubernetes: a scripted API over TLS, in process."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ollama_proxy.discovery.kubernetes import KubernetesSettings, watch_kubernetes
from ollama_proxy.policy.roster import MOST_NODES, FoundNode, Source
from ollama_proxy.policy.whereabouts import read_service
from tests.discovery.heard import Heard
from tests.fakes.kubernetes import TOKEN, Api, endpoint, endpoint_slice, open_api

A, B, C = "http://10.1.0.1:8080", "http://10.1.0.2:8080", "http://10.1.0.3:8080"


def settings(api: Api, files: Path, service: str) -> KubernetesSettings:
    wanted = read_service(service)
    assert wanted is not None
    return KubernetesSettings(service=wanted, api=api.url, files=str(files), scheme="http")


@asynccontextmanager
async def watching(api: Api, files: Path, service: str = "ai/router:http") -> AsyncIterator[Heard]:
    """A watch of that API, for as long as this lasts."""
    heard = Heard()
    report = heard.report(Source.KUBERNETES)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_kubernetes, settings(api, files, service), report)
        yield heard
        nursery.cancel_scope.cancel()


async def watched(api: Api) -> None:
    """Wait until somebody follows the changes."""
    with trio.fail_after(20):
        while not api.watches:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.005)


async def test_ready_endpoints_are_nodes(tmp_path: Path) -> None:
    """Who is not ready is none; where nothing is said, the API means that it is."""
    async with open_api(tmp_path / "sa") as api:
        api.put(
            "router-a",
            endpoint("10.1.0.1", pod="router-0"),
            endpoint("10.1.0.2", ready=None),
            endpoint("10.1.0.9", ready=False),
        )
        async with watching(api, tmp_path / "sa") as heard:
            nodes = await heard.until(A, B)

    assert (
        FoundNode(url=A, machine="uid-of-router-0", name="router-0"),
        FoundNode(url=B),
    ) == nodes
    assert {f"Bearer {TOKEN}"} == set(api.tokens)
    assert "kubernetes.io/service-name=router" == api.asked[0]["labelSelector"]


async def test_changes_are_followed(tmp_path: Path) -> None:
    """Pods come, become ready, end; slices come and go; bookmarks say nothing."""
    async with open_api(tmp_path / "sa") as api, watching(api, tmp_path / "sa") as heard:
        await heard.until()
        await watched(api)
        api.put("router-a", endpoint("10.1.0.1"), endpoint("10.1.0.2", ready=False))
        await heard.until(A)
        api.tell("BOOKMARK", {"kind": "EndpointSlice", "metadata": {"resourceVersion": "50"}})
        api.put("router-b", endpoint("10.1.0.3"))
        await heard.until(A, C)
        api.put("router-a", endpoint("10.1.0.1", ready=False), endpoint("10.1.0.2"))
        await heard.until(B, C)
        api.drop("router-b")
        await heard.until(B)

    assert ["1"] == [query["watch"] for query in api.asked if "watch" in query]
    assert "41" == api.asked[-1]["resourceVersion"]


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("ai/router", "http://10.1.0.1:9090"),
        ("ai/router:http", "http://10.1.0.1:8080"),
        ("ai/router:7000", "http://10.1.0.1:7000"),
        ("ai/router:quic", None),
        ("ai/router:missing", None),
    ],
)
async def test_the_port_is_the_one_that_is_named(
    service: str, expected: str | None, tmp_path: Path
) -> None:
    """By name, by number, or the first; another protocol's is none."""
    async with open_api(tmp_path / "sa") as api:
        api.put("router-a", endpoint("10.1.0.1"))
        async with watching(api, tmp_path / "sa", service) as heard:
            await heard.until(*([expected] if expected else []))


async def test_a_list_may_come_in_pages(tmp_path: Path) -> None:
    """All of them count."""
    async with open_api(tmp_path / "sa") as api:
        api.page = 2
        for number in range(1, 6):
            api.put(f"router-{number}", endpoint(f"10.1.0.{number}"))
        async with watching(api, tmp_path / "sa") as heard:
            await heard.until(*(f"http://10.1.0.{number}:8080" for number in range(1, 6)))

    assert [None, "2", "4"] == [query.get("continue") for query in api.asked[:3]]


async def test_addresses_that_lead_astray_are_none(tmp_path: Path) -> None:
    """Whoever may write slices makes no router ask itself or a cloud's secrets; nor by name."""
    async with open_api(tmp_path / "sa") as api:
        api.put("router-a", endpoint("127.0.0.1"), endpoint("169.254.169.254"))
        api.put("router-b", endpoint("metadata.internal"), addressType="FQDN")
        api.put("router-c", endpoint("fd00::1"), endpoint("::1"), addressType="IPv6")
        api.put("router-d", {"addresses": []}, endpoints=None)
        async with watching(api, tmp_path / "sa") as heard:
            await heard.until("http://[fd00::1]:8080")


async def test_a_watch_that_ends_begins_anew(tmp_path: Path) -> None:
    """In order, or since it is too old: with the list, and nothing is lost or said meanwhile."""
    too_old = {"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410}
    async with open_api(tmp_path / "sa") as api:
        api.put("router-a", endpoint("10.1.0.1"))
        async with watching(api, tmp_path / "sa") as heard:
            for _ in range(2):
                await watched(api)
                if len(api.asked) < 3:
                    api.tell("ERROR", too_old)
                else:
                    api.hang_up()
                with trio.fail_after(20):
                    while api.watches:  # noqa: ASYNC110 - nobody tells
                        await trio.sleep(0.005)
            await watched(api)

    assert None not in heard.lists
    assert 3 == len([query for query in api.asked if "watch" not in query])


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ((403, b"{}"), "needs a role that may list and watch endpointslices"),
        ((401, b"{}"), "the API answered 401"),
        ((500, b"oops"), "the API answered 500"),
        ((302, b""), "the API answered 302"),
        ((200, b"<html>"), "what the API says cannot be read"),
        ((200, b'{"metadata": {}, "items": [{"metadata": 7}]}'), "cannot be read"),
        ((200, b" " * (9 << 20)), "the list is larger than 8 MiB"),
        (
            (
                200,
                json.dumps({
                    "metadata": {"resourceVersion": "1"},
                    "items": [endpoint_slice(f"router-{n}") for n in range(1001)],
                }).encode(),
            ),
            "there are more than 1000 endpoint slices",
        ),
    ],
    ids=["forbidden", "unknown", "broken", "elsewhere", "no JSON", "no slice", "large", "many"],
)
async def test_an_api_that_is_of_no_use_is_lost(
    answers: tuple[int, bytes], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Why is said, and no token with it."""
    async with open_api(tmp_path / "sa") as api:
        api.answers = answers
        with caplog.at_level(logging.INFO):
            async with watching(api, tmp_path / "sa") as heard:
                await heard.until_lost()

    assert why in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{}\n", "cannot be read"),
        (b'{"type": "ADDED", "object": []}\n', "cannot be read"),
        (b"x" * (9 << 20), "an event is larger than 8 MiB"),
        (
            b'{"type": "ERROR", "object": {"code": 500, "message": "etcd is away"}}\n',
            "etcd is away (500)",
        ),
    ],
    ids=["no event", "no slice", "large", "error"],
)
async def test_a_watch_that_is_of_no_use_is_lost(
    data: bytes, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And is begun anew."""
    async with open_api(tmp_path / "sa") as api:
        api.put("router-a", endpoint("10.1.0.1"))
        async with watching(api, tmp_path / "sa") as heard:
            await watched(api)
            api.send(data)
            await heard.until_lost()
            await heard.until(A)

    assert why in caplog.text


async def test_without_a_service_account_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a machine that is no pod; nothing was asked."""
    async with open_api(tmp_path / "sa") as api, watching(api, tmp_path / "none") as heard:
        await heard.until_lost()

    assert [] == api.asked
    assert f"the service account's files in {tmp_path}/none cannot be read" in caplog.text


@pytest.mark.parametrize("url", ["https://a..b:443", "https://127.0.0.1:x", "https://xn--a"])
async def test_an_address_that_is_none_is_a_lost_source(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the environment says of the API is not checked before."""
    async with open_api(tmp_path / "sa") as api:
        api.url = url
        async with watching(api, tmp_path / "sa") as heard:
            await heard.until_lost()

    assert "is no address" in caplog.text


async def test_a_token_that_no_header_can_carry_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose file it is, and nothing of what is in it."""
    async with open_api(tmp_path / "sa") as api:
        (tmp_path / "sa" / "token").write_text("s\u00e9cret")
        async with watching(api, tmp_path / "sa") as heard:
            await heard.until_lost()

    assert f"the service account's files in {tmp_path}/sa cannot be read" in caplog.text
    assert "cret" not in caplog.text


async def test_an_api_that_cannot_prove_itself_is_told_no_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its certificate must be of the cluster's authority."""
    async with (
        open_api(tmp_path / "theirs") as api,
        open_api(tmp_path / "ours"),
        watching(api, tmp_path / "ours") as heard,
    ):
        await heard.until_lost()

    assert [] == api.asked
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


async def test_the_token_is_sent_over_tls_alone(tmp_path: Path) -> None:
    """A proxy of kubectl's, say, needs none."""
    async with open_api(tmp_path / "sa", tls=False) as api:
        api.put("router-a", endpoint("10.1.0.1"))
        async with watching(api, tmp_path / "sa") as heard:
            await heard.until(A)

    assert {""} == set(api.tokens)


async def test_more_nodes_than_there_may_be_are_left_out_later(tmp_path: Path) -> None:
    """A thousand endpoints are reported; it is the roster that takes so many."""
    async with open_api(tmp_path / "sa") as api:
        for slice_ in range(10):
            api.put(f"router-{slice_}", *(endpoint(f"10.1.{slice_}.{n}") for n in range(100)))
        async with watching(api, tmp_path / "sa") as heard:
            with trio.fail_after(20):
                while not heard.lists:  # noqa: ASYNC110 - whatever it is
                    await trio.sleep(0.005)

    assert 1000 == len(heard.lists[0] or ()) > MOST_NODES
