"""A best-effort stream gives way to a critical request, and goes on later; in exact virtual times."""

import json
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.backends.backend import Errand, Head, Served, Sink
from ollama_proxy.engine.ledger import Deadline, Outcome
from ollama_proxy.policy.ask import Call, Priority, Wishes
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.preempt import Started
from ollama_proxy.policy.refusal import Code
from ollama_proxy.policy.route import Barred
from tests.engine.floor import Floor, Listener, Socket, backend, open_floor
from tests.engine.storm import CONTINUING, Storm
from tests.fakes.backend import ScriptedBackend
from tests.fleet import spec

CRITICAL = Priority.CRITICAL


def said(text: str, identity: str) -> str:
    """One piece of a completion, on the wire."""
    return json.dumps({
        "id": identity,
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "text": text, "finish_reason": None}],
    })


def openai(name: str = "npu", **changes: Any) -> ScriptedBackend:
    """One that can go on with a completion. Work goes to the NPU, and while that is busy to the iGPU."""
    given: dict[str, Any] = {"type": BackendType.OPENAI}
    if name == "igpu":
        given["power_watts"] = 7.0
    return backend(name, **(given | changes))


def saying(played: ScriptedBackend, *texts: str, identity: str = "first") -> ScriptedBackend:
    """Let it say a piece each second."""
    for text in texts:
        played.say(said(text, identity), after=1.0)
    return played


def open_continuing(
    nursery: trio.Nursery, clock: MockClock, *played: ScriptedBackend, **changes: Any
) -> Floor:
    """A floor where streams that have begun are continued."""
    return open_floor(nursery, clock, *played, preempts=Started.CONTINUE, **changes)


def complete(floor: Floor, **wanted: Any) -> Listener:
    """A best-effort completion, submitted."""
    given: dict[str, Any] = {
        "call": Call.OPENAI_COMPLETION,
        "body": b'{"model":"m","prompt":"One,","stream":true}',
        "priority": Priority.BEST_EFFORT,
    }
    return floor.submit(**(given | wanted))


def heard(caller: Listener) -> list[tuple[float, str]]:
    """What a caller heard, and when: texts, the code of a refusal, and "done"."""
    return [
        (when, json.loads(what)["choices"][0]["text"] if what.startswith("{") else what)
        for when, what in caller.heard
    ]


def ids(caller: Listener) -> set[str]:
    """The ids of the pieces a caller heard."""
    return {json.loads(what)["id"] for what in caller.said if what.startswith("{")}


def prompts(played: ScriptedBackend) -> list[str]:
    """What it was asked to go on from, time after time; whatever has no prompt is left out."""
    bodies = [json.loads(each.body) for each in played.errands]
    return [body["prompt"] for body in bodies if "prompt" in body]


async def test_it_goes_on_elsewhere(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Its caller hears every piece once, in order, of one answer, and a pause."""
    npu = saying(openai("npu"), "a", "b", "x").then().hang()
    igpu = saying(openai("igpu"), "c", "d", identity="later")
    floor = open_continuing(nursery, autojump_clock, npu, igpu)
    caller = complete(floor)

    await trio.sleep(2.5)
    floor.submit(priority=CRITICAL, target="npu")
    await caller.ended.wait()

    assert [(1.0, "a"), (2.0, "b"), (3.5, "c"), (4.5, "d"), (4.5, "done")] == heard(caller)
    assert {"first"} == ids(caller)
    assert (["One,"], ["One,ab"]) == (prompts(npu), prompts(igpu))
    fact = floor.fact(caller)
    assert (Outcome.SERVED, "igpu", 1, 1.0, 4) == (
        fact.outcome,
        fact.backend,
        fact.put_back,
        fact.first_s,
        fact.tokens,
    )
    learned = floor.station("igpu").estimates.subjects[caller.job.ask.subject]
    assert learned.floor_s is not None
    assert 0.4 < learned.floor_s.value < 1.0  # what was believed, and what this part took


async def test_it_had_kept_its_deadline(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """That was for the first byte; what the rest waits for is nobody's miss."""
    npu = saying(openai("npu"), "a", "b", "x").then().hang()
    igpu = saying(openai("igpu"), "c", identity="later")
    floor = open_continuing(nursery, autojump_clock, npu, igpu)
    caller = complete(floor, max_latency_s=2.0)

    await trio.sleep(2.5)
    floor.submit(priority=CRITICAL, target="npu")
    await caller.ended.wait()

    fact = floor.fact(caller)
    assert (1, Deadline.MET) == (fact.put_back, fact.deadline)
    assert 1 == floor.station("igpu").calibration.deadlines_met


async def test_it_waits_for_its_slot(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """With one slot, it goes on when the critical request is served."""
    npu = saying(openai(), "a", "x").then().say("urgent", after=10.0)
    saying(npu.then(), "b", "c")
    floor = open_continuing(nursery, autojump_clock, npu)
    caller = complete(floor)

    await trio.sleep(1.5)
    urgent = floor.submit(priority=CRITICAL)
    await caller.ended.wait()

    assert [(11.5, "urgent"), (11.5, "done")] == urgent.heard
    assert [(1.0, "a"), (12.5, "b"), (13.5, "c"), (13.5, "done")] == heard(caller)
    await floor.assert_at_rest()


async def test_it_gives_way_twice_and_no_more(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A third critical request waits for it; also a part that had said nothing yet gives way."""
    npu = saying(openai(), "a", "x")
    npu.then().say("urgent", after=1.0).then().hang().then().say("urgent", after=1.0)
    saying(npu.then(), "b", "c").then().say("urgent", after=1.0)
    floor = open_continuing(nursery, autojump_clock, npu)
    caller = complete(floor)

    for at in [1.5, 1.5, 2.0]:  # at 1.5, 3, and 5
        await trio.sleep(at)
        floor.submit(priority=CRITICAL)
    await caller.ended.wait()
    await floor.callers[-1].ended.wait()

    assert [(1.0, "a"), (5.0, "b"), (6.0, "c"), (6.0, "done")] == heard(caller)
    assert ["One,", "One,a", "One,a"] == prompts(npu)
    assert (2, 7.0) == (floor.fact(caller).put_back, floor.callers[-1].heard[0][0])
    await floor.assert_at_rest()


async def test_its_deadline_was_for_the_first_piece(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The rest may come later than that."""
    npu = saying(openai(), "a", "x").then().say("urgent", after=10.0)
    saying(npu.then(), "b")
    floor = open_continuing(nursery, autojump_clock, npu)
    caller = complete(floor, max_latency_s=5.0)

    await trio.sleep(1.5)
    floor.submit(priority=CRITICAL)
    await caller.ended.wait()

    assert [(1.0, "a"), (12.5, "b"), (12.5, "done")] == heard(caller)
    assert Outcome.SERVED is floor.outcome(caller)


async def test_who_leaves_while_it_waits(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Nobody goes on for a caller who is gone."""
    npu = saying(openai(), "a", "x").then().say("urgent", after=10.0)
    floor = open_continuing(nursery, autojump_clock, npu)
    caller = complete(floor)
    await trio.sleep(1.5)
    floor.submit(priority=CRITICAL)
    await wait_all_tasks_blocked()

    floor.dispatcher.withdraw(caller.job)

    assert Outcome.LEFT is floor.outcome(caller)
    await trio.sleep(20.0)
    assert 2 == len(npu.errands)
    await floor.assert_at_rest()


async def test_a_router_that_stops_tells_who_waits(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The answer ends with the reason."""
    npu = saying(openai(), "a", "x").then().say("urgent", after=10.0)
    floor = open_continuing(nursery, autojump_clock, npu)
    caller = complete(floor)
    await trio.sleep(1.5)
    floor.submit(priority=CRITICAL)
    await wait_all_tasks_blocked()

    floor.dispatcher.stop()

    assert [(1.0, "a"), (1.5, "shutting_down"), (1.5, "done")] == heard(caller)
    assert Outcome.BROKEN is floor.outcome(caller)
    await floor.assert_at_rest()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_who_cannot_go_on_breaks_it_off(
    nursery: trio.Nursery, autojump_clock: MockClock, when: str
) -> None:
    """A part that fails, with or without a piece, ends the answer as a stream's failure does."""
    npu = saying(openai("npu"), "a", "x").then().hang()
    igpu = openai("igpu")
    if when == "after":
        saying(igpu, "b", identity="later")
    floor = open_continuing(
        nursery, autojump_clock, npu, igpu.die_mid_stream(), backend("cpu").say("c")
    )
    caller = complete(floor)

    await trio.sleep(1.5)
    floor.submit(priority=CRITICAL, target="npu")
    await caller.ended.wait()

    pieces = [(1.0, "a"), (2.5, "b")] if when == "after" else [(1.0, "a")]
    last = pieces[-1][0] if when == "after" else 1.5
    assert [*pieces, (last, "backend_failed"), (last, "done")] == heard(caller)
    assert (Outcome.BROKEN, "igpu") == (floor.outcome(caller), floor.fact(caller).backend)


async def test_an_error_is_no_rest_of_an_answer(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Who is refused to go on says so, and others of the backend's callers are not shut out."""
    npu = saying(openai("npu"), "a", "x").then().hang()
    igpu = openai("igpu").with_status(400).say('{"error":"no"}')
    floor = open_continuing(nursery, autojump_clock, npu, igpu)
    caller = complete(floor)

    await trio.sleep(1.5)
    floor.submit(priority=CRITICAL, target="npu")
    await caller.ended.wait()

    assert [(1.0, "a"), (1.5, "backend_failed"), (1.5, "done")] == heard(caller)
    assert (1, 0) == (
        floor.station("igpu").errors_total,
        floor.station("igpu").circuit.failures,
    )


@pytest.mark.parametrize(
    ("changes", "at"), [({"first_byte_timeout_s": 7.0}, 8.5), ({"stall_timeout_s": 3.0}, 5.5)]
)
async def test_silence_ends_it(
    nursery: trio.Nursery, autojump_clock: MockClock, changes: dict[str, Any], at: float
) -> None:
    """Each part has the time of any attempt, until its first piece and between two."""
    npu = saying(openai("npu"), "a", "x").then().hang()
    igpu = openai("igpu")
    if "stall_timeout_s" in changes:
        saying(igpu, "b")
    floor = open_continuing(nursery, autojump_clock, npu, igpu.hang(), **changes)
    caller = complete(floor)

    await trio.sleep(1.5)
    floor.submit(priority=CRITICAL, target="npu")
    await caller.ended.wait()

    assert [(at, "deadline_exceeded"), (at, "done")] == heard(caller)[-2:]


async def test_only_those_go_on_who_can(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """It rather waits than goes to one that would begin anew."""
    npu = saying(openai("npu"), "a", "x").then().say("urgent", after=10.0)
    saying(npu.then(), "b")
    igpu = backend("igpu").say("from the beginning")
    floor = open_continuing(nursery, autojump_clock, npu, igpu)
    caller = complete(floor)

    await trio.sleep(1.5)
    floor.submit(priority=CRITICAL, target="npu")
    await wait_all_tasks_blocked()
    barred = floor.dispatcher.explain(caller.job).barred
    await caller.ended.wait()

    assert (Barred("igpu", "cannot continue an answer"),) == barred
    assert [(1.0, "a"), (12.5, "b"), (12.5, "done")] == heard(caller)
    assert [] == igpu.errands


@attrs.frozen
class Kept:
    """A best-effort stream that is not broken into."""

    backend: dict[str, Any] = attrs.field(factory=dict)
    wanted: dict[str, Any] = attrs.field(factory=dict)
    piece: str = said("a", "first")


KEPT = {
    "it began where nobody could go on": Kept(backend={"type": BackendType.OLLAMA}),
    "its call cannot be continued": Kept(wanted={"call": Call.ANTHROPIC_MESSAGES}),
    "its backend does not continue chats": Kept(
        wanted={"call": Call.OPENAI_CHAT, "body": b'{"messages":[{"role":"user"}]}'}
    ),
    "it wants what cannot be joined": Kept(wanted={"body": b'{"prompt":"a","n":2}'}),
    "it said what is not understood": Kept(piece='{"strange":1}'),
    "it is not best effort": Kept(wanted={"priority": Priority.NORMAL}),
}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT.keys())
async def test_what_could_not_go_on_is_kept(
    nursery: trio.Nursery, autojump_clock: MockClock, kept: Kept
) -> None:
    """The critical request waits for its end."""
    npu = openai(**kept.backend).say(kept.piece, after=1.0).say(kept.piece, after=5.0)
    floor = open_continuing(nursery, autojump_clock, npu.then().say("urgent"))
    caller = complete(floor, **kept.wanted)

    await trio.sleep(1.5)
    urgent = floor.submit(priority=CRITICAL)
    await urgent.ended.wait()

    assert [1.0, 6.0, 6.0] == [when for when, _ in caller.heard]
    assert [(6.0, "urgent"), (6.0, "done")] == urgent.heard


async def test_who_takes_no_piece_is_not_broken_into(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Nobody would know how much of it is out."""
    npu = saying(openai(), "a", "b").then().say("urgent")
    floor = open_continuing(nursery, autojump_clock, npu)
    caller = complete(floor, is_reading=False)

    await trio.sleep(1.5)
    urgent = floor.submit(priority=CRITICAL)
    await trio.sleep(1.0)
    caller.reading.set()
    await urgent.ended.wait()

    assert [(2.5, "a"), (3.5, "b"), (3.5, "done")] == heard(caller)
    assert (3.5, "urgent") == urgent.heard[0]


async def test_where_it_is_to_be_stopped_it_is_told(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """`stop` stops also what could go on."""
    npu = saying(openai(), "a", "x").then().say("urgent")
    floor = open_floor(nursery, autojump_clock, npu, preempts=Started.STOP)
    caller = complete(floor)

    await trio.sleep(1.5)
    floor.submit(priority=CRITICAL)
    await caller.ended.wait()

    assert [(1.0, "a"), (1.5, Code.PREEMPTED.value), (1.5, "done")] == heard(caller)


class Prompted(ScriptedBackend):
    """Says a piece, and another in the very moment it is told to."""

    cue: trio.Event

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """The first time as told; then by its script."""
        if self.errands:
            return await super().exchange(errand, sink)
        self.errands.append(errand)
        headers = ((b"content-type", b"text/event-stream"),)
        first, second = (f"data: {said(text, 'first')}\n\n".encode() for text in "ab")
        await sink.begin(Head(status=200, headers=headers), first, complete=False)
        await self.cue.wait()
        await sink.write(second)
        raise AssertionError("it was told to end before")


async def test_a_piece_that_comes_too_late_is_said_anew(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Of what came between the end's being decided and its being heard, nothing is out or noted."""
    npu = Prompted(spec("npu", type=BackendType.OPENAI)).then().say("urgent", after=1.0)
    npu.cue = trio.Event()
    floor = open_continuing(nursery, autojump_clock, saying(npu.then(), "b"))
    caller = complete(floor)
    await wait_all_tasks_blocked()

    npu.cue.set()
    floor.submit(priority=CRITICAL)
    await caller.ended.wait()

    assert [(0.0, "a"), (2.0, "b"), (2.0, "done")] == heard(caller)
    assert ["One,", "One,a"] == prompts(npu)


@pytest.mark.parametrize(
    ("priority", "is_pumped"), [(Priority.BEST_EFFORT, False), (Priority.NORMAL, True)]
)
async def test_the_pump_keeps_no_transcript(
    nursery: trio.Nursery, autojump_clock: MockClock, priority: Priority, is_pumped: bool
) -> None:
    """So only those who are never broken into are given to it."""
    floor = open_continuing(nursery, autojump_clock, saying(openai(), "a").hang())
    caller = complete(floor, priority=priority)
    caller.socket = Socket()

    await trio.sleep(1.5)
    (attempt,) = caller.job.attempts

    assert is_pumped is (attempt.tap() is not None)


def test_a_beaten_rival_must_be_out_first() -> None:
    """While a second attempt is on its way out, the job cannot wait in line, so it is kept."""
    storm = Storm(preempts=Started.CONTINUE, hedge_budget=1.0)
    wishes = Wishes(priority=Priority.BEST_EFFORT, latency_critical=True)
    job = storm.submit(wishes, call=Call.OPENAI_CHAT, stream=True, late_s=0.0, client="")
    storm.dispatcher._hedging.saved_s = 10.0
    storm.wait(100.0)
    (_, first), (_, second) = storm.running
    number = 0 if first.decision.backend in CONTINUING else 1
    winner = [first, second][number]
    storm.answer(number)

    assert [first, second] == job.attempts
    assert not winner.is_continuable

    storm.end(1 - number, Served(status=200))

    assert winner.is_continuable
