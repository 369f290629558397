"""Where hosts are."""

import socket
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.engine.job import BackendFailed
from ollama_proxy.inbound.grpc.pb import ext_proc_v3_pb2 as pb
from ollama_proxy.inbound.picker.addresses import FRESH_S, Addresses
from tests.fakes.backend import ScriptedBackend
from tests.fleet import spec
from tests.inbound.picker.envoy import DESTINATION, at_home, body, changes, node, refused
from tests.inbound.picker.test_protocol import subset

_NODE = "via_upstream"


class Names(trio.abc.HostnameResolver):
    """A resolver that is told what to say, and counts how often it was asked."""

    def __init__(self, *said: str | None) -> None:
        """Say these in turn, the last ever after; None: no such name."""
        self.said = list(said)
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, *_: Any) -> list[Any]:  # noqa: ARG002 - as Trio has it
        """As Trio asks."""
        self.asked += 1
        address = self.said.pop(0) if len(self.said) > 1 else self.said[0]
        if address is None:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0))]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """Nobody asks."""
        raise NotImplementedError


async def test_a_literal_address_is_known() -> None:
    """Nobody is asked; that of IPv6 stands in brackets."""
    addresses = Addresses()

    assert ["192.0.2.1:80"] == addresses.known("192.0.2.1", 80)
    assert ["[2001:db8::1]:80"] == await addresses.find("2001:db8::1", 80)


async def test_a_name_is_looked_up_once(autojump_clock: MockClock) -> None:
    """And again beside the work, when that is due; not at each request."""
    names = Names("192.0.2.1", "192.0.2.2")
    trio.socket.set_custom_hostname_resolver(names)
    addresses = Addresses()
    before = addresses.known("node.lan", 80)
    found = [await addresses.find("node.lan", 80), await addresses.find("node.lan", 80)]
    fresh = addresses.is_stale("node.lan")
    asked = names.asked
    await trio.sleep(FRESH_S)
    stale = addresses.is_stale("node.lan")
    await addresses.renew("node.lan")

    assert ([], 1, False, True) == (before, asked, fresh, stale)
    assert [["192.0.2.1:80"]] * 2 == found
    assert ["192.0.2.2:80"] == addresses.known("node.lan", 80)


async def test_a_name_that_is_lost_stays_where_it_was(autojump_clock: MockClock) -> None:
    """A resolver that is down for a while takes nobody's node away."""
    trio.socket.set_custom_hostname_resolver(Names("192.0.2.1", None))
    addresses = Addresses()
    await addresses.find("node.lan", 80)
    await trio.sleep(FRESH_S)
    await addresses.renew("node.lan")

    assert ["192.0.2.1:80"] == addresses.known("node.lan", 80)


async def test_a_name_that_is_none() -> None:
    """Its backend is at fault: another is tried."""
    trio.socket.set_custom_hostname_resolver(Names(None))
    with pytest.raises(BackendFailed, match="looked up"):
        await Addresses().find("node.lan", 80)


async def test_a_name_with_two_addresses(autojump_clock: MockClock) -> None:
    """Most servers listen on one of `localhost`'s alone: the proxy is told both, and each is that backend."""

    class Both(Names):
        async def getaddrinfo(self, host: Any, port: Any, *more: Any) -> list[Any]:
            [four] = await super().getaddrinfo(host, port, *more)
            return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)), four, four]

    trio.socket.set_custom_hostname_resolver(Both("127.0.0.1"))
    npu = ScriptedBackend(spec("npu", endpoint="http://localhost:80"))
    async with at_home(npu) as home:
        stream = home.stream()
        pointed = await stream.ask()
        said = pb.ProcessingRequest().attributes
        said["envoy.filters.http.ext_proc"].fields["upstream.address"].string_value = "127.0.0.1:80"
        said["envoy.filters.http.ext_proc"].fields["response.code_details"].string_value = _NODE
        answered = await stream.answer(attributes=said)
        await stream.end()
        await home.settle()
        [fact] = home.facts

    assert "[::1]:80,127.0.0.1:80" == changes(pointed.request_body.response)[DESTINATION]
    assert "npu" == changes(answered.response_headers.response)["x-backend-used"]
    assert (None, "npu") == (fact.code, fact.backend)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
async def test_of_two_addresses_one_in_the_subset(autojump_clock: MockClock, path: str) -> None:
    """What Envoy did not name is told as nobody's, neither the best's nor a fallback's."""

    class Both(Names):
        async def getaddrinfo(self, host: Any, port: Any, *more: Any) -> list[Any]:
            [found] = await super().getaddrinfo(host, port, *more)
            other = "192.0.2.2" if host == "a.lan" else "192.0.2.4"
            return [found, (socket.AF_INET, socket.SOCK_STREAM, 6, "", (other, 0))]

    trio.socket.set_custom_hostname_resolver(Both("192.0.2.1"))
    fleet = [
        ScriptedBackend(spec(name, endpoint=f"http://{host}.lan:80"))
        for name, host in (("npu", "a"), ("nvidia", "b"))
    ]
    listed = ["192.0.2.2:80", "192.0.2.4:80"]
    method, content = ("GET", b"") if path == "/v1/models" else ("POST", body())
    async with at_home(*fleet) as home:
        answer = await home.stream().ask(content, path=path, method=method, **subset(*listed))
    said = getattr(answer, str(answer.WhichOneof("response"))).response

    told = changes(said)[DESTINATION].split(",")
    assert told
    assert set(told) <= set(listed)


async def test_a_name_that_left_the_subset_meanwhile(autojump_clock: MockClock) -> None:
    """It was looked up again while the request waited: nobody is told an address that is not in it."""
    trio.socket.set_custom_hostname_resolver(Names("192.0.2.1", "192.0.2.2"))
    ports = (("npu", 80), ("nvidia", 81))
    fleet = [
        ScriptedBackend(spec(name, endpoint=f"http://node.lan:{port}")) for name, port in ports
    ]
    async with at_home(*fleet) as home:
        first, second, third = (home.stream() for _ in range(3))
        await first.ask(**subset("192.0.2.1:80"))
        await second.ask(**subset("192.0.2.1:80"))
        await trio.sleep(FRESH_S)
        await third.ask(**subset("192.0.2.1:81"))
        await home.settle()
        await first.answer()
        await first.end()
        status, content, _ = refused(await second.hear())
        station = home.dispatcher.stations["npu"]

    assert (503, "no_backend", 0) == (status, content["error"]["code"], station.errors_total)


async def test_nobody_waits_for_a_name_that_is_known(autojump_clock: MockClock) -> None:
    """A resolver that hangs keeps neither a pick nor a slot."""

    class Hanging(Names):
        async def getaddrinfo(self, host: Any, port: Any, *more: Any) -> list[Any]:
            if self.asked:
                await trio.sleep_forever()
            return await super().getaddrinfo(host, port, *more)

    trio.socket.set_custom_hostname_resolver(Hanging("192.0.2.1"))
    npu = ScriptedBackend(spec("npu", endpoint="http://node.lan:80"))
    async with at_home(npu) as home:
        told = []
        for _ in range(2):
            stream = home.stream()
            pointed = await stream.ask()
            told.append(changes(pointed.request_body.response)[DESTINATION])
            await stream.answer()
            await stream.end()
            await home.settle()
            await trio.sleep(FRESH_S)
        busy = home.dispatcher.stations["npu"].in_flight

    assert (["192.0.2.1:80"] * 2, 0) == (told, busy)


async def test_who_comes_into_a_second_line_is_held(autojump_clock: MockClock) -> None:
    """The first choice's name led nowhere, and the next has no slot: Envoy was told nothing, and gave up."""
    trio.socket.set_custom_hostname_resolver(Names(None))
    gone = ScriptedBackend(spec("npu", endpoint="http://gone.lan:80"))
    async with at_home(gone, node("nvidia", 8002, slots=1)) as home:
        first, second = home.stream(), home.stream()
        await first.ask(None, ("x-target-backend", "nvidia"))
        with trio.fail_after(1.0):
            held = await second.ask()

    assert 3600 == held.override_message_timeout.seconds
