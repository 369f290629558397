"""What a source reports, for its tests."""

import attrs
import trio

from ollama_proxy.discovery.report import Report
from ollama_proxy.policy.roster import FoundNode, Source


@attrs.define(eq=False)
class Heard:
    """Who hears a source.

    Attributes:
        lists: each list of nodes that it reported, and None each time it was lost.
        times: when.
    """

    lists: list[tuple[FoundNode, ...] | None] = attrs.field(factory=list)
    times: list[float] = attrs.field(factory=list)
    _more: trio.Event = attrs.field(factory=trio.Event)

    def report(self, source: Source, where: str = "somebody") -> Report:
        """Where the source reports."""
        return Report(source, where, lambda _, nodes: self._hear(nodes), lambda _: self._hear(None))

    def _hear(self, said: tuple[FoundNode, ...] | None) -> None:
        self.lists.append(said)
        self.times.append(trio.current_time())
        self._more.set()
        self._more = trio.Event()

    async def until(self, *urls: str) -> tuple[FoundNode, ...]:
        """Wait until these, and no others, are what is listed."""
        with trio.fail_after(20):
            while self.urls != sorted(urls):
                await self._more.wait()
        return self.lists[-1] or ()

    async def until_lost(self) -> None:
        """Wait until the source is lost."""
        with trio.fail_after(20):
            while not self.lists or self.lists[-1] is not None:
                await self._more.wait()

    @property
    def urls(self) -> list[str] | None:
        """What was listed last; None where nothing was, or the source is lost."""
        last = self.lists[-1] if self.lists else None
        return None if last is None else sorted(node.url for node in last)
