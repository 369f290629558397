"""Nodes by Avahi: who in the local network announces `_ollama-proxy._tcp`, browsed over D-Bus.

Rule 1: what is announced is said by anybody; it is looked at, and whether it is used others decide.
Rule 2: a service is resolved when it comes, and again and again, as addresses change in silence.
"""

import re
from collections.abc import Sequence
from typing import Any, NoReturn

import attrs
import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import BusAbsent, CallFailed, Owner, Pace, Remote, Rule, Signal
from ollama_proxy.bus.opening import open_bus
from ollama_proxy.discovery.report import Report, SourceLost, keep_asking
from ollama_proxy.policy.roster import FoundNode
from ollama_proxy.policy.whereabouts import leads_astray, name_in, url_of

NAME = "org.freedesktop.Avahi"
SERVER = Remote(NAME, "/", NAME + ".Server")
TYPE = "_ollama-proxy._tcp"
ANY = -1  # interface, protocol
MOST_SERVICES = 1024  # one node is a service on each of its interfaces, by IPv4 and by IPv6
MOST_TXT_BYTES = 1300  # RFC 6763, 6.2: what fits into a packet
RESOLVED_AT_ONCE = 8
RESOLVE_S = 10.0
RERESOLVE_S = 60.0
ALL_FOR_NOW_S = 5.0
_BROWSER = NAME + ".ServiceBrowser"
_ITEM = "iisssu"
_RESOLVED = "iissssisqaayu"
_LOCAL = 8  # AVAHI_LOOKUP_RESULT_LOCAL: announced by this machine

# Interface, protocol, name, type, domain.
_Key = tuple[int, int, str, str, str]


async def watch_avahi(where: str, report: Report, *, pace: Pace | None = None) -> NoReturn:
    """Report the nodes until cancelled.

    Args:
        where: the bus.
        report: of this source.
        pace: how patient to be.

    Error handling: without a bus, or without Avahi, the source is lost.
    """

    async def ask() -> None:
        failed: BaseException | None = None
        try:
            async with open_bus(where, pace) as bus:
                await _watch(bus, report)
        except* (BusAbsent, CallFailed) as failures:
            failed = failures
        while isinstance(failed, BaseExceptionGroup):
            failed = failed.exceptions[0]
        raise SourceLost(str(failed)) from failed

    await keep_asking(report, ask)


async def _watch(bus: Bus, report: Report) -> NoReturn:
    """Browse whenever somebody owns Avahi's name."""
    changed = trio.Event()

    def change(_: Owner) -> None:
        changed.set()

    async with bus.following(NAME, change) as owner:
        while True:
            changed = trio.Event()
            if owner.unique is None:
                report.lost("avahi-daemon does not run")
                await changed.wait()
                continue
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_browse, bus, owner, report)
                await changed.wait()
                nursery.cancel_scope.cancel()


async def _browse(bus: Bus, owner: Owner, report: Report) -> NoReturn:
    """Report what one avahi-daemon lists."""
    found = _Found()

    def rule(member: str) -> Rule:
        # Any browser's: the first signals may come before the answer that names ours.
        return Rule(sender=owner, interface=_BROWSER, member=member)

    async with (
        bus.subscribed(rule("ItemNew"), found.came),
        bus.subscribed(rule("ItemRemove"), found.went),
        bus.subscribed(rule("AllForNow"), found.is_all),
        bus.subscribed(rule("Failure"), found.broke),
    ):
        await bus.call(SERVER, "ServiceBrowserNew", "iissu", (ANY, ANY, TYPE, "", 0), returns="o")
        with trio.move_on_after(ALL_FOR_NOW_S):
            await found.whole.wait()
        while True:
            found.changed = trio.Event()
            if found.failure:
                raise CallFailed(_BROWSER, found.failure)
            await _resolve_all(bus, found)
            report.nodes(node for nodes in found.nodes.values() for node in nodes)
            with trio.move_on_after(RERESOLVE_S):
                await found.changed.wait()
                continue
            found.due |= found.nodes.keys()


@attrs.define(eq=False)
class _Found:
    """What a browser has told. Its methods are called with signals.

    Attributes:
        nodes: by service; none where it is not resolved, or cannot be used.
        due: services to resolve.
        whole: set when all that was known at the beginning has been told.
        changed: set when there is more to do.
        failure: what the browser died of.
    """

    nodes: dict[_Key, tuple[FoundNode, ...]] = attrs.field(factory=dict)
    due: set[_Key] = attrs.field(factory=set)
    whole: trio.Event = attrs.field(factory=trio.Event)
    changed: trio.Event = attrs.field(factory=trio.Event)
    failure: str = ""

    def came(self, signal: Signal) -> None:
        if signal.signature != _ITEM or len(self.nodes) >= MOST_SERVICES:
            return
        key: _Key = signal.body[:5]
        self.nodes.setdefault(key, ())
        self.due.add(key)
        self.changed.set()

    def went(self, signal: Signal) -> None:
        if signal.signature == _ITEM:
            key: _Key = signal.body[:5]
            self.nodes.pop(key, None)
            self.due.discard(key)
            self.changed.set()

    def is_all(self, _: Signal) -> None:
        self.whole.set()

    def broke(self, signal: Signal) -> None:
        self.failure = signal.body[0] if signal.signature == "s" else "the browser failed"
        self.whole.set()
        self.changed.set()


async def _resolve_all(bus: Bus, found: _Found) -> None:
    """Ask for each service that is due; who does not answer is as it was."""
    due, found.due = found.due, set()
    limiter = trio.CapacityLimiter(RESOLVED_AT_ONCE)

    async def resolve(key: _Key) -> None:
        async with limiter:
            try:
                body = await bus.call(
                    SERVER,
                    "ResolveService",
                    "iisssiu",
                    (*key, ANY, 0),
                    returns=_RESOLVED,
                    timeout_s=RESOLVE_S,
                )
            except CallFailed:
                return
        if key in found.nodes:  # it may have gone meanwhile
            found.nodes[key] = nodes_of(body)

    async with trio.open_nursery() as nursery:
        for key in due:
            nursery.start_soon(resolve, key)


def nodes_of(body: Sequence[Any]) -> tuple[FoundNode, ...]:
    """What an answer to ResolveService tells of: a node's door, its door for paired routers, or both.

    None where it is of no use.
    """
    _, _, _, _, _, host, _, address, port, txt, flags = body
    said = read_txt(txt)
    node_id = said.get("id", "")
    if not port or leads_astray(address, is_local=bool(flags & _LOCAL)):
        return ()
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", node_id):
        return ()

    def at(scheme: str, port: int, *, is_proved: bool) -> FoundNode:
        return FoundNode(
            url=url_of(scheme, address, port),
            id=node_id,
            machine=host,
            name=name_in(host),
            is_proved=is_proved,
        )

    nodes = []
    paired = said.get("pair", "")
    paired_port = int(paired) if re.fullmatch(r"[0-9]{1,5}", paired) else 0
    if paired_port != port:
        nodes.append(at("https" if said.get("tls") == "1" else "http", port, is_proved=False))
    if 0 < paired_port < 1 << 16:
        nodes.append(at("https", paired_port, is_proved=True))
    return tuple(nodes)


def read_txt(entries: Sequence[bytes | Sequence[int]]) -> dict[str, str]:
    """Keys in lower case and their values, as RFC 6763 has it: of one key the first counts."""
    said: dict[str, str] = {}
    if sum(map(len, entries)) > MOST_TXT_BYTES:
        return said
    for entry in entries:
        key, equals, value = bytes(entry).partition(b"=")
        if key and equals:
            said.setdefault(
                key.decode("ascii", "replace").lower(), value.decode("utf-8", "replace")
            )
    return said
