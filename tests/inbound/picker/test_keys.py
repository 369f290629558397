"""Whose key is asked for: Envoy's own for asking at all, and its caller's for what is asked."""

import hashlib

import pytest

from ollama_proxy.inbound.admission import Admission, Rules
from ollama_proxy.policy.access import Key
from ollama_proxy.policy.peers import parse_networks
from tests.inbound.picker.envoy import (
    CHAT,
    DESTINATION,
    at_home,
    changes,
    heads,
    node,
    refused,
)


def key(secret: str, *permissions: str) -> Key:
    """One that is good."""
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return Key.parse(" ".join([f"sha256:{digest}", *permissions, f"name={secret}"]))


KEYS = Rules(keys=(key("envoy", "infer"), key("caller", "infer"), key("viewer", "read")))
PAGE = "https://chat.example"
ENVOY = {"headers": ((b"authorization", b"Bearer envoy"),)}


async def test_envoy_without_a_key() -> None:
    """Is nobody whose word about its callers is heard."""
    async with at_home(node(), admission=Admission(KEYS)) as home:
        stream = home.stream()
        heard = await home.client.ended(stream.id)

    assert 16 == heard.status


@pytest.mark.parametrize(
    ("given", "status"), [([], 401), (["Bearer wrong"], 401), (["Bearer viewer"], 403)]
)
async def test_a_caller_who_may_not(given: list[str], status: int) -> None:
    """Envoy's key vouches for nobody."""
    async with at_home(node(), admission=Admission(KEYS)) as home:
        more = [("authorization", each) for each in given]
        got, _, _ = refused(await home.stream(**ENVOY).ask(None, *more))

    assert status == got


@pytest.mark.parametrize(("origin", "status"), [(PAGE, 204), ("https://evil.example", 403)])
async def test_a_browser_asks_first_what_a_page_may_send(origin: str, status: int) -> None:
    """Without the page's key, as browsers do; a page that is listed may, and no other."""
    asked = [
        (":method", "OPTIONS"),
        (":path", CHAT),
        (":authority", "localhost"),
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ]
    async with at_home(node(), admission=Admission(KEYS), origins=(PAGE,)) as home:
        stream = home.stream(**ENVOY)
        await stream.say(request_headers=heads(asked, end=True))
        got, _, headers = refused(await stream.hear())
        booked = len(home.turned)

    allowed = (
        headers.get("access-control-allow-origin"),
        headers.get("access-control-allow-headers"),
    )
    assert (status, booked) == (got, int(status != 204))
    assert allowed == ((PAGE, "authorization") if status == 204 else (None, None))


async def test_a_caller_who_may() -> None:
    """By its own key, under whose name the request is booked; the key goes no further."""
    async with at_home(node(), admission=Admission(KEYS)) as home:
        stream = home.stream(**ENVOY)
        answer = await stream.ask(None, ("authorization", "Bearer caller"))
        await stream.end()
        await home.settle()
        [fact] = home.facts
    response = answer.request_body.response

    assert DESTINATION in changes(response)
    assert "authorization" in response.header_mutation.remove_headers
    assert "caller" == fact.key_name


async def test_lists_are_for_either() -> None:
    """As at the HTTP door: one who may only look, may see what there is."""
    async with at_home(node(), admission=Admission(KEYS)) as home:
        given = ("authorization", "Bearer viewer")
        answer = await home.stream(**ENVOY).ask(b"", given, method="GET", path="/v1/models/a")

    assert DESTINATION in changes(answer.request_headers.response)


async def test_rates_count_for_callers() -> None:
    """Where Envoy is believed about where they are; for itself nothing counts."""
    rules = Rules(rate=0.001, burst=1, trusted_proxies=parse_networks(["192.0.2.9"]))
    async with at_home(node(slots=9), admission=Admission(rules)) as home:
        said = [
            await home.stream().ask(None, ("x-forwarded-for", address))
            for address in ("198.51.100.1", "198.51.100.2", "198.51.100.1")
        ]
    status, content, headers = refused(said[2])

    assert ["request_body", "request_body"] == [each.WhichOneof("response") for each in said[:2]]
    assert (429, "rate_limit_exceeded") == (status, content["error"]["code"])
    assert int(headers["retry-after"]) > 0


async def test_who_is_not_believed_counts_itself() -> None:
    """All of its callers are one."""
    rules = Rules(rate=0.001, burst=1)
    async with at_home(node(slots=9), admission=Admission(rules)) as home:
        await home.stream().ask(None, ("x-forwarded-for", "198.51.100.1"))
        status, _, _ = refused(await home.stream().ask(None, ("x-forwarded-for", "198.51.100.2")))

    assert 429 == status
