"""What a source of nodes says, and how one that fails is tried again: ever less often, and told once."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import NoReturn

import attrs
import trio

from ollama_proxy.policy.roster import FoundNode, Source

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0

log = logging.getLogger("ollama_proxy.discovery")


class SourceLost(Exception):  # noqa: N818 - read as a sentence in the log
    """A source of nodes cannot be asked, or answers what cannot be used; the message says why."""


@attrs.define(eq=False)
class Report:
    """Where one source reports.

    Attributes:
        source: which.
        where: what it asks, for people.
        on_nodes: hears the nodes it lists, each time they were listed.
        on_lost: hears that it is lost.
        is_up: whether it works; None until it has been tried.
        lists: how many times it has listed nodes.
        told: set once it has said something.
    """

    source: Source
    where: str
    on_nodes: Callable[[Source, tuple[FoundNode, ...]], None]
    on_lost: Callable[[Source], None]
    is_up: bool | None = None
    lists: int = 0
    told: trio.Event = attrs.field(factory=trio.Event)

    def nodes(self, nodes: Iterable[FoundNode]) -> None:
        """It works, and lists these."""
        if self.is_up is False:
            log.info("nodes are told of by %s again", self.where)
        self.is_up = True
        self.lists += 1
        self.on_nodes(self.source, tuple(nodes))
        self.told.set()

    def lost(self, why: str) -> None:
        """It works no more."""
        if self.is_up is not False:
            log.warning(
                "nodes cannot be looked for by %s: %s; those that are known are kept for a while",
                self.where,
                why,
            )
        self.is_up = False
        self.on_lost(self.source)
        self.told.set()


async def keep_asking(report: Report, ask: Callable[[], Awaitable[None]]) -> NoReturn:
    """Ask a source until cancelled.

    Args:
        report: of the source.
        ask: listens for as long as the source tells something; it reports, and ends or raises
            SourceLost when nothing more will come.

    Error handling: SourceLost is reported; other errors go up.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        begun, lists = trio.current_time(), report.lists
        try:
            await ask()
        except SourceLost as lost:
            report.lost(str(lost))
        if report.lists > lists and trio.current_time() - begun > pause_s:
            pause_s = FIRST_PAUSE_S  # for so long it has worked
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
