"""A dispatcher with scripted backends at work behind it, and callers who note what they hear."""

import functools
from collections.abc import Callable
from typing import Any

import attrs
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.backends.backend import CallerLeft, Errand, Head, Probe, Tap
from ollama_proxy.backends.continuation import transcribe
from ollama_proxy.engine.crew import Workers
from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.job import Caller, Job
from ollama_proxy.engine.ledger import Fact, Ledger, Outcome
from ollama_proxy.engine.news import News
from ollama_proxy.engine.station import Station
from ollama_proxy.engine.worker import work
from ollama_proxy.policy.ask import Ask, Call, Wishes
from ollama_proxy.policy.preempt import Started
from ollama_proxy.policy.refusal import Refusal
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL, spec

LATE_S = 1000.0  # no test's own story lasts so long


def backend(name: str = "npu", **changes: Any) -> ScriptedBackend:
    """One of the fleet's, with one slot."""
    return ScriptedBackend(spec(name, **changes))


@attrs.define(eq=False)
class Listener(Caller):
    """A caller that notes what it hears, and when.

    Attributes:
        heard: pieces of the answer by their text, refusals by their code, and "done".
        refusal: why there is no answer, or no more of it.
        reading: while it is not set, nothing is taken.
        gone: every byte meets a closed door.
        socket: its way for the pump, if it has one.
        ended: the job is over.
    """

    job: Job = attrs.field(init=False)
    heard: list[tuple[float, str]] = attrs.field(factory=list)
    refusal: Refusal | None = None
    reading: trio.Event = attrs.field(factory=trio.Event)
    gone: bool = False
    socket: Tap | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)
    on_done: Callable[[Job], object] | None = None

    async def begin(self, job: Job, head: Head, first: bytes, *, complete: bool) -> None:  # noqa: ARG002 - as `Caller` has it
        """Take the first bytes."""
        await self.write(first, complete=complete)

    async def write(self, data: bytes, *, complete: bool) -> None:  # noqa: ARG002 - as above
        """Take bytes."""
        if self.gone:
            raise CallerLeft
        await self.reading.wait()
        self._note(data.decode().strip().removeprefix("data: "))

    def tap(self) -> Tap | None:
        """Offer the socket."""
        return self.socket

    def refuse(self, job: Job, refusal: Refusal) -> None:  # noqa: ARG002 - as above
        """Note the refusal."""
        self.refusal = refusal
        self._note(refusal.code.value)

    def done(self, job: Job) -> None:
        """Note the end."""
        self._note("done")
        self.ended.set()
        if self.on_done is not None:
            self.on_done(job)

    def _note(self, what: str) -> None:
        self.heard.append((trio.current_time(), what))

    @property
    def said(self) -> list[str]:
        """What was heard, without the times."""
        return [what for _, what in self.heard]


class Socket(Tap):
    """A way for the pump that leads nowhere."""

    descriptor = -1

    def frame(self, chunks: list[bytes], *, complete: bool) -> bytes:  # noqa: ARG002 - as `Tap` has it
        """Frame nothing."""
        return b"".join(chunks)

    async def flush(self, rest: bytes) -> None:
        """Write nothing."""


@attrs.define(eq=False)
class Floor:
    """What a test of the engine looks at."""

    dispatcher: Dispatcher
    nursery: trio.Nursery
    facts: list[Fact] = attrs.field(factory=list)
    callers: list[Listener] = attrs.field(factory=list)
    preempts: Started | None = Started.KEEP
    reserve_critical_slots: int = 0

    def open(self, played: ScriptedBackend, *, capacity: int = 8, healthy: bool = True) -> Station:
        """Put a backend to work, well and with the fleet's model."""
        station = Station(played, queue_capacity=capacity, jitter=lambda: 0.0)
        station.preempts = self.preempts
        station.reserve_critical_slots = self.reserve_critical_slots
        station.open(
            Workers(
                self.nursery,
                functools.partial(work, self.dispatcher, station),
                slots=max(played.spec.slots, played.spec.slots_max),
                name=played.spec.id,
            )
        )
        if healthy:
            station.is_well(Probe(models=frozenset({MODEL})))
        self.dispatcher.add(station)
        return station

    def station(self, name: str = "npu") -> Station:
        """One of its stations."""
        return self.dispatcher.stations[name]

    def job(self, *, is_reading: bool = True, **wanted: Any) -> Listener:
        """A caller with a job that was not submitted; `wanted` are the job's and its wishes."""
        caller = Listener()
        if is_reading:
            caller.reading.set()
        self.callers.append(caller)
        call = wanted.pop("call", Call.OPENAI_CHAT)
        model = wanted.pop("model", MODEL)
        stream = wanted.pop("stream", True)
        body = wanted.pop("body", b"{}")
        caller.job = Job(
            errand=Errand(call=call, model=model, body=body, stream=stream),
            ask=Ask(call=call, model=model, stream=stream),
            arrived=wanted.pop("arrived", trio.current_time()),
            wishes=Wishes(**wanted),
            caller=caller,
            request_id=str(len(self.callers)),
            door="test",
        )
        return caller

    def asked(self, **changes: Any) -> Ask:
        """What its jobs ask for, but for `changes`."""
        given: dict[str, Any] = {"call": Call.OPENAI_CHAT, "model": MODEL, "stream": True}
        return Ask(**(given | changes))

    def submit(self, *, is_reading: bool = True, **wanted: Any) -> Listener:
        """A caller whose job was submitted, now."""
        caller = self.job(is_reading=is_reading, **wanted)
        self.dispatcher.submit(caller.job)
        return caller

    async def ask(self, **wanted: Any) -> Listener:
        """A caller whose job has ended."""
        caller = self.submit(**wanted)
        await caller.ended.wait()
        return caller

    def outcome(self, caller: Listener) -> Outcome:
        """How a caller's job was booked."""
        return self.fact(caller).outcome

    def fact(self, caller: Listener) -> Fact:
        """What was booked of a caller's job, which it was once."""
        (fact,) = [fact for fact in self.facts if fact.request_id == caller.job.request_id]
        return fact

    async def assert_at_rest(self) -> None:
        """Nobody works or waits; each job was booked once, and its caller told once, at last."""
        await wait_all_tasks_blocked()
        stations = self.dispatcher.stations.values()
        submitted = sorted(caller.job.request_id for caller in self.callers)

        assert [(0, 0)] * len(stations) == [(s.in_flight, len(s.line)) for s in stations]
        assert set() == self.dispatcher.jobs
        assert {} == self.dispatcher.meters._at
        assert submitted == sorted(fact.request_id for fact in self.facts)
        assert [1] * len(self.callers) == [c.said.count("done") for c in self.callers]
        assert ["done"] * len(self.callers) == [c.said[-1] for c in self.callers]

    async def assert_serves_next(self) -> None:
        """All are at rest, and whoever comes next is served."""
        await self.assert_at_rest()
        with trio.fail_after(LATE_S):
            caller = await self.ask()

        assert Outcome.SERVED is self.outcome(caller)


def open_floor(
    nursery: trio.Nursery,
    clock: MockClock,
    *played: ScriptedBackend,
    capacity: int = 8,
    preempts: Started | None = Started.KEEP,
    reserve_critical_slots: int = 0,
    news: News | None = None,
    **changes: Any,
) -> Floor:
    """Put backends to work; `changes` are the dispatcher's settings."""
    ledger = Ledger()
    dispatcher = Dispatcher(
        DispatchSettings(**changes),
        ledger,
        clock=clock.current_time,
        transcribe=transcribe,
        news=news,
    )
    floor = Floor(
        dispatcher, nursery, preempts=preempts, reserve_critical_slots=reserve_critical_slots
    )
    ledger.read_by(floor.facts.append)
    nursery.start_soon(floor.dispatcher.keep_time)
    for each in played:
        floor.open(each, capacity=capacity)
    return floor
