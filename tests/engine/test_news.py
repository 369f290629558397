"""Who follows requests is told of each that a backend was given, while that backend is at work."""

import attrs
import trio
from trio.testing import MockClock

from ollama_proxy.backends.backend import BackendFailed, Errand, Fault, Served, Sink
from ollama_proxy.engine.news import News, Routed
from tests.engine.floor import Floor, open_floor
from tests.fakes.backend import ScriptedBackend
from tests.fleet import spec


@attrs.define(eq=False)
class Connecting(ScriptedBackend):
    """Takes a second to connect, and then the request; it notes what was told meanwhile."""

    told: list[Routed] = attrs.field(factory=list)
    before: int = -1
    after: int = -1
    is_reachable: bool = True

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """Connect, and play the script."""
        await trio.sleep(1)
        self.before = len(self.told)
        if not self.is_reachable:
            raise BackendFailed(Fault.UNREACHABLE, "no connection could be made to it")
        sink.asked()
        self.after = len(self.told)
        return await super().exchange(errand, sink)


def followed(nursery: trio.Nursery, clock: MockClock, backend: Connecting) -> Floor:
    """A floor whose news it hears."""
    news = News()
    news.followed_by(backend.told.append)
    return open_floor(nursery, clock, backend, news=news)


async def test_it_is_told_when_the_request_is_out(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Not before: the request would wait for it. Once, however often the backend says so."""
    npu = Connecting(spec("npu"))
    floor = followed(nursery, autojump_clock, npu.say("a"))

    caller = await floor.ask()

    assert (0, 1) == (npu.before, npu.after)
    assert [(caller.job.request_id, "npu")] == [
        (each.request_id, each.decision.backend) for each in npu.told
    ]


async def test_one_that_never_went_out_is_told_too(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """At its end: it was given to that backend, which is what is told."""
    npu = Connecting(spec("npu"), is_reachable=False)
    floor = followed(nursery, autojump_clock, npu)

    caller = await floor.ask()

    assert 0 == npu.before
    assert [caller.job.request_id] == [each.request_id for each in npu.told]
    await floor.assert_at_rest()
