"""Nodes by DNS, in virtual time."""

import logging

import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.discovery.dns import DnsSettings, watch_dns
from ollama_proxy.policy.roster import Source
from tests.discovery.heard import Heard
from tests.fakes.names import Names


async def watched(names: Names, seconds: float, name: str = "nodes.example") -> Heard:
    """What is reported in so many seconds."""
    heard = Heard()
    settings = DnsSettings(name=name, port=8080, scheme="http", refresh_s=15.0)
    with names.in_place(), trio.move_on_after(seconds):
        await watch_dns(settings, heard.report(Source.DNS))
    return heard


async def test_each_address_is_a_node(autojump_clock: MockClock) -> None:
    """Of either family, as often as there is a question."""
    names = Names({"nodes.example": ["10.0.0.1", "10.0.0.2", "fd00::1"]})
    heard = await watched(names, 40)

    assert ["http://10.0.0.1:8080", "http://10.0.0.2:8080", "http://[fd00::1]:8080"] == heard.urls
    assert [0, 15, 30] == [round(at - names.asked[0]) for at in names.asked]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nodes.example", ["http://10.0.0.1:8080"]),
        ("fleet.localhost", ["http://10.0.0.1:8080", "http://127.0.0.1:8080"]),
        ("localhost", ["http://10.0.0.1:8080", "http://127.0.0.1:8080"]),
    ],
)
async def test_no_name_leads_where_no_node_is(
    name: str, expected: list[str], autojump_clock: MockClock
) -> None:
    """Nor to this machine, unless it is this machine's own name."""
    addresses = ["10.0.0.1", "127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0"]  # noqa: S104 - refused
    heard = await watched(Names({name: addresses}), 1, name)

    assert expected == heard.urls


@pytest.mark.parametrize("is_silent", [False, True], ids=["error", "silence"])
async def test_a_resolver_that_fails_is_asked_ever_less_often(
    is_silent: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Up to once a minute, and it is said once."""
    names = Names({})
    names.is_silent = is_silent
    with caplog.at_level(logging.INFO):
        heard = await watched(names, 600)

    assert {None} == set(heard.lists)
    assert names.asked[-1] - names.asked[-2] >= 60
    assert len(names.asked) < 20
    assert 1 == len(caplog.records)
    assert "nodes cannot be looked for by somebody" in caplog.text


async def test_a_resolver_that_is_back_is_believed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """And it is said once."""
    names = Names({})

    async def mend() -> None:
        await trio.sleep(20)
        names.addresses["nodes.example"] = ["10.0.0.1"]

    with caplog.at_level(logging.INFO):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mend)
            heard = await watched(names, 300)

    assert ["http://10.0.0.1:8080"] == heard.urls
    assert 1 == caplog.text.count("are told of by somebody again")


async def test_a_name_of_nobody_is_an_empty_fleet(autojump_clock: MockClock) -> None:
    """An answer without an address of use is an answer."""
    heard = await watched(Names({"nodes.example": []}), 1)

    assert [] == heard.urls
