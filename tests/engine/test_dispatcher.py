"""Which worker gets which job, and what becomes of a job that failed; in exact virtual times."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.backends.backend import Errand, Head, Probe, Report, Served, Sink
from ollama_proxy.engine.attempt import Attempt
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.endings import Ending
from ollama_proxy.engine.ledger import Outcome
from ollama_proxy.engine.station import Station
from ollama_proxy.policy.ask import Call, Priority
from ollama_proxy.policy.estimate import MODELS_MAX
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.refusal import Code
from ollama_proxy.policy.route import Reason
from tests.counted import calls_made
from tests.engine.floor import Floor, Listener, backend, open_floor
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL, spec


class TestPlaces:
    """Slots, and the line before them."""

    async def test_a_free_slot_serves_at_once(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Nothing but the backend takes time."""
        floor = open_floor(
            nursery, autojump_clock, backend().say("hel", after=0.5).say("lo", after=0.25)
        )

        caller = await floor.ask()

        assert [(0.5, "hel"), (0.75, "lo"), (0.75, "done")] == caller.heard
        await floor.assert_at_rest()

    async def test_a_finished_job_lets_the_next_one_start(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """It starts at exactly that time, and its time in line is told."""
        floor = open_floor(nursery, autojump_clock, backend().say("a", after=1.0))
        callers = [floor.submit() for _ in range(3)]

        await callers[-1].ended.wait()

        assert [1.0, 2.0, 3.0] == [caller.heard[0][0] for caller in callers]
        assert [0.0, 1.0, 2.0] == [floor.fact(caller).queue_s for caller in callers]
        await floor.assert_at_rest()

    async def test_the_urgent_go_first(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Who is more urgent overtakes those in line, among equals the first comes first."""
        floor = open_floor(nursery, autojump_clock, backend().say("a", after=1.0), preempts=None)
        order: list[str] = []
        for priority in [0, 0, 1, 3, 1, 3, 2]:
            caller = floor.submit(priority=Priority(priority))
            caller.on_done = lambda job: order.append(job.request_id)

        await trio.sleep(7.5)

        assert ["1", "4", "6", "7", "3", "5", "2"] == order

    async def test_slots_are_never_exceeded(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """As many work at once as there are slots, no more and no fewer."""
        played = backend(slots=3).say("a", after=1.0)
        floor = open_floor(nursery, autojump_clock, played)
        callers = [floor.submit() for _ in range(7)]

        await callers[-1].ended.wait()

        assert 3 == played.busiest
        assert [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0] == [caller.heard[0][0] for caller in callers]

    async def test_a_full_line_turns_away(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Who finds no place hears so at once, and when one may be free."""
        floor = open_floor(nursery, autojump_clock, backend().hang(), capacity=2)
        for _ in range(3):
            floor.submit()

        caller = floor.submit()

        assert [(0.0, "queue_full"), (0.0, "done")] == caller.heard
        assert caller.refusal is not None
        assert caller.refusal.retry_after_s == pytest.approx(4 * 0.8)

    async def test_without_a_line_free_slots_still_serve(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """A capacity of 0 means that nobody waits, not that nobody is served."""
        floor = open_floor(nursery, autojump_clock, backend().say("a", after=1.0), capacity=0)
        callers = [floor.submit(), floor.submit()]

        await callers[0].ended.wait()

        assert [["a", "done"], ["queue_full", "done"]] == [caller.said for caller in callers]

    async def test_a_full_line_is_walked_around(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Nobody is turned away while another backend has room."""
        floor = open_floor(
            nursery, autojump_clock, backend("npu").hang(), backend("igpu").say("a"), capacity=1
        )
        for _ in range(2):
            floor.submit(power_efficient=True)

        caller = await floor.ask(power_efficient=True)

        assert ["a", "done"] == caller.said
        assert "igpu" == floor.fact(caller).backend

    async def test_nobody_fits(self, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
        """A refusal of the policy's is told before submit returns."""
        floor = open_floor(nursery, autojump_clock, backend())

        caller = floor.submit(model="nobody-has-it")

        assert ["model_not_found", "done"] == caller.said
        assert (Outcome.REFUSED, Code.MODEL_NOT_FOUND, None) == (
            floor.outcome(caller),
            floor.fact(caller).code,
            floor.fact(caller).backend,
        )
        await floor.assert_at_rest()

    async def test_a_caller_may_come_again_from_its_end(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """The next request may be submitted while the dispatcher ends this one."""
        floor = open_floor(nursery, autojump_clock, backend().say("a"))
        caller = floor.submit()
        caller.on_done = lambda _: floor.submit()

        await wait_all_tasks_blocked()

        assert [["a", "done"]] * 2 == [each.said for each in floor.callers]
        await floor.assert_at_rest()


async def test_submitting_costs_the_same_however_many_wait(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Nothing on the way in looks at those who wait."""
    floor = open_floor(nursery, autojump_clock, backend().hang(), capacity=10_000)
    costs = []
    for waiting in (10, 2000):
        while len(floor.station().line) < waiting:
            floor.submit(max_latency_s=1e6)
        caller = floor.job(max_latency_s=1e6)
        costs.append(calls_made(lambda job=caller.job: floor.dispatcher.submit(job)))  # type: ignore[misc]

    assert costs[1] <= costs[0]


class TestFailover:
    """Before the first byte, each alternative gets one chance."""

    async def test_the_next_best_takes_over(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """The caller sees nothing of the failure but the time it took."""
        floor = open_floor(
            nursery,
            autojump_clock,
            backend("npu").pause(0.5).refuse(),
            backend("igpu").say("a", after=0.25),
        )

        caller = await floor.ask()

        assert [(0.75, "a"), (0.75, "done")] == caller.heard
        fact = floor.fact(caller)
        assert (Outcome.SERVED, "igpu", Reason.FAILOVER, 0.0) == (
            fact.outcome,
            fact.backend,
            fact.reason,
            fact.queue_s,
        )
        await floor.assert_at_rest()

    async def test_each_is_tried_once(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """When all fail, each was asked once, best first, and the caller hears of the last."""
        names = ["npu", "igpu", "nvidia", "cpu"]
        fleet = [backend(name).refuse() for name in names]
        floor = open_floor(nursery, autojump_clock, *fleet)

        caller = await floor.ask()

        assert [1, 1, 1, 1] == [len(each.errands) for each in fleet]
        assert names == caller.job.tried
        assert caller.refusal is not None
        assert (Code.BACKEND_FAILED, "Backend cpu failed: it answered 503.") == (
            caller.refusal.code,
            caller.refusal.message,
        )
        await floor.assert_at_rest()

    async def test_it_waits_in_the_alternatives_line(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Who was failed elsewhere has no slot of its own there."""
        igpu = backend("igpu").say("a", after=1.0)
        floor = open_floor(nursery, autojump_clock, backend("npu").refuse(), igpu)
        first = floor.submit(target="igpu")

        second = await floor.ask()

        assert [(1.0, "a"), (2.0, "a")] == [first.heard[0], second.heard[0]]
        assert 1 == igpu.busiest

    async def test_never_after_the_first_byte(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Half an answer is not begun again by another."""
        igpu = backend("igpu").say("a")
        floor = open_floor(
            nursery, autojump_clock, backend("npu").say("hel").die_mid_stream(), igpu
        )

        caller = await floor.ask()

        assert ["hel", "backend_failed", "done"] == caller.said
        assert [] == igpu.errands
        assert Outcome.BROKEN is floor.outcome(caller)
        await floor.assert_at_rest()

    async def test_not_where_the_owner_forbids_it(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """With `retry_before_first_byte` off the first failure is the last."""
        igpu = backend("igpu").say("a")
        floor = open_floor(
            nursery, autojump_clock, backend("npu").refuse(), igpu, retry_before_first_byte=False
        )

        caller = await floor.ask()

        assert ["backend_failed", "done"] == caller.said
        assert [] == igpu.errands

    async def test_a_named_target_has_no_alternative(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Who asked for one backend is not served by another."""
        igpu = backend("igpu").say("a")
        floor = open_floor(nursery, autojump_clock, backend("npu").refuse(), igpu)

        caller = await floor.ask(target="npu")

        assert ["backend_failed", "done"] == caller.said
        assert [] == igpu.errands

    async def test_a_kind_of_hardware_has_its_others(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Who asked for a kind of hardware, in any case, may be served by any of it."""
        first = backend("first", hardware=Hardware.NPU).refuse()
        second = backend("second", hardware=Hardware.NPU).say("a")
        floor = open_floor(nursery, autojump_clock, first, backend("igpu").say("b"), second)

        caller = await floor.ask(target="NPU")

        assert ["a", "done"] == caller.said

    @pytest.mark.parametrize(
        ("played", "code", "retry_after_s"),
        [
            (backend().refuse(503), Code.BACKEND_FAILED, None),
            (backend().refuse(429), Code.QUEUE_FULL, 5.0),
            (backend().garble(), Code.BACKEND_FAILED, None),
            (backend().die_mid_stream(), Code.BACKEND_FAILED, None),
            (backend().lack_the_model(), Code.MODEL_NOT_FOUND, None),
            (backend().not_know_the_call(), Code.NO_BACKEND, 5.0),
            (backend().reject(422), Code.INVALID_REQUEST, None),
        ],
        ids=["503", "429", "garbled", "broke", "no-model", "no-call", "rejected"],
    )
    async def test_what_a_failure_is_to_the_caller(
        self,
        nursery: trio.Nursery,
        autojump_clock: MockClock,
        played: ScriptedBackend,
        code: Code,
        retry_after_s: float | None,
    ) -> None:
        """Each way to fail has its code, and a time to come back where one helps."""
        floor = open_floor(nursery, autojump_clock, played)

        caller = await floor.ask()

        assert caller.refusal is not None
        assert (code, retry_after_s) == (caller.refusal.code, caller.refusal.retry_after_s)
        assert code is floor.fact(caller).code
        await floor.assert_at_rest()


def fails(times: int, name: str = "npu", **changes: int) -> ScriptedBackend:
    """A backend that fails so often, and then plays what follows."""
    played = backend(name, **changes)
    for _ in range(times):
        played.refuse().then()
    return played


async def fail(floor: Floor, times: int) -> list[Listener]:
    """Let so many jobs end, one after the other."""
    return [await floor.ask() for _ in range(times)]


class TestCircuit:
    """A backend that fails again and again is left alone."""

    async def test_the_fifth_failure_in_a_row_opens(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """The sixth request is refused without asking the backend."""
        played = backend().refuse()
        floor = open_floor(nursery, autojump_clock, played)
        await fail(floor, 5)

        caller = floor.submit()

        assert ["no_backend", "done"] == caller.said
        assert 5 == len(played.errands)

    async def test_half_open_lets_one_through(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """After the pause one attempt is made, and until it has ended no other."""
        played = fails(5, slots=4).say("a", after=1.0)
        floor = open_floor(nursery, autojump_clock, played)
        await fail(floor, 5)
        await trio.sleep(5.0)

        first, second = floor.submit(), floor.submit()
        await first.ended.wait()
        third = await floor.ask()

        assert [["a", "done"], ["no_backend", "done"], ["a", "done"]] == [
            caller.said for caller in (first, second, third)
        ]

    async def test_a_failed_attempt_opens_again(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """The next pause is twice as long."""
        played = fails(6).say("a")
        floor = open_floor(nursery, autojump_clock, played)
        await fail(floor, 5)
        await trio.sleep(5.0)
        await fail(floor, 1)

        heard = []
        for pause_s in (9.9, 0.1):
            await trio.sleep(pause_s)
            heard.append((await floor.ask()).said[0])

        assert ["no_backend", "a"] == heard

    async def test_those_in_line_go_elsewhere(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """When the circuit opens, those who wait are decided anew instead of failing in turn."""
        npu, igpu = backend("npu").refuse(), backend("igpu").say("a")
        floor = open_floor(nursery, autojump_clock, npu, igpu, retry_before_first_byte=False)
        callers = [floor.submit(power_efficient=True) for _ in range(8)]

        await wait_all_tasks_blocked()

        assert 5 == len(npu.errands)
        assert ["backend_failed"] * 5 + ["a"] * 3 == [caller.said[0] for caller in callers]
        await floor.assert_at_rest()

    async def test_those_in_line_with_nowhere_to_go_are_refused(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """They hear that the backend failed too often, and when to come back."""
        npu = backend("npu").refuse()
        floor = open_floor(nursery, autojump_clock, npu)
        callers = [floor.submit() for _ in range(8)]

        await wait_all_tasks_blocked()

        assert 5 == len(npu.errands)
        assert ["backend_failed"] * 5 + ["no_backend"] * 3 == [c.said[0] for c in callers]
        await floor.assert_at_rest()

    async def test_who_left_does_not_count(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Callers who lose patience do not make a backend a bad one."""
        floor = open_floor(nursery, autojump_clock, backend().hang())
        for _ in range(6):
            caller = floor.submit()
            await wait_all_tasks_blocked()
            floor.dispatcher.withdraw(caller.job)
            await wait_all_tasks_blocked()

        assert 0 == floor.station().circuit.failures
        assert not floor.station().view(trio.current_time()).circuit_open
        await floor.assert_at_rest()

    async def test_an_attempt_whose_caller_left_proves_nothing(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Another may be made at once."""
        floor = open_floor(nursery, autojump_clock, fails(5).hang().then().say("a"))
        await fail(floor, 5)
        await trio.sleep(5.0)
        attempt = floor.submit()
        await wait_all_tasks_blocked()
        floor.dispatcher.withdraw(attempt.job)
        await wait_all_tasks_blocked()

        assert ["a", "done"] == (await floor.ask()).said

    @pytest.mark.parametrize(
        ("played", "attempt", "following"),
        [
            (fails(5).not_know_the_call(), {}, {"call": Call.OLLAMA_CHAT}),
            (fails(5).lack_the_model(), {}, {"model": "other"}),
            (fails(5).hang(), {"max_latency_s": 1.0}, {}),
            (fails(5).say("unread"), {"is_reading": False}, {}),
        ],
        ids=["no-call", "no-model", "deadline", "unread"],
    )
    async def test_an_attempt_that_told_nothing_proves_nothing(
        self,
        nursery: trio.Nursery,
        autojump_clock: MockClock,
        played: ScriptedBackend,
        attempt: dict[str, Any],
        following: dict[str, Any],
    ) -> None:
        """So it is when the call, the model or the caller was at fault."""
        floor = open_floor(nursery, autojump_clock, played.then().say("a"))
        floor.station().is_well(Probe(models=frozenset({MODEL, "other"})))
        await fail(floor, 5)
        await trio.sleep(5.0)
        await floor.ask(**attempt)

        assert ["a", "done"] == (await floor.ask(**following)).said

    async def test_who_came_before_the_opening_is_not_the_attempt(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """An old request's end does not let a second one through beside the attempt."""
        played = backend(slots=3).say("old").hang().then()
        for _ in range(5):
            played.refuse().then()
        floor = open_floor(nursery, autojump_clock, played.hang())
        old = floor.submit()
        await wait_all_tasks_blocked()
        await fail(floor, 5)
        await trio.sleep(5.0)
        floor.submit()
        await wait_all_tasks_blocked()

        floor.dispatcher.withdraw(old.job)
        await wait_all_tasks_blocked()

        assert ["no_backend", "done"] == floor.submit().said

    async def test_a_missed_deadline_does_not_count(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """How little time a caller gave says nothing of the backend."""
        floor = open_floor(nursery, autojump_clock, backend().hang())
        for _ in range(6):
            await floor.ask(max_latency_s=1.0)

        assert (0, 0) == (floor.station().circuit.failures, floor.station().errors_total)

    async def test_failures_after_the_first_byte_count(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """A backend that breaks its answers off is no better than one that gives none."""
        floor = open_floor(nursery, autojump_clock, backend().say("hel").die_mid_stream())
        await fail(floor, 5)

        assert ["no_backend", "done"] == floor.submit().said
        assert 5 == floor.station().errors_total


class TestWhatABackendCannot:
    """What a backend was seen not to do is not asked of it again."""

    async def test_an_unserved_call_is_remembered(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """The first caller is served elsewhere, the next one is sent there at once."""
        npu, igpu = backend("npu").not_know_the_call(), backend("igpu").say("a")
        floor = open_floor(nursery, autojump_clock, npu, igpu)

        callers = [await floor.ask(), await floor.ask()]

        assert [["a", "done"]] * 2 == [caller.said for caller in callers]
        assert (1, 2) == (len(npu.errands), len(igpu.errands))
        assert 0 == floor.station("npu").circuit.failures

    async def test_other_calls_are_still_served(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """A server without one path has its others."""
        npu = backend("npu").not_know_the_call().then().say("a")
        floor = open_floor(nursery, autojump_clock, npu)
        await floor.ask()

        same = await floor.ask()
        other = await floor.ask(call=Call.OLLAMA_CHAT)

        assert [["no_backend", "done"], ["a", "done"]] == [same.said, other.said]

    async def test_it_is_forgotten_when_the_backend_comes_back(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """It may be another version now."""
        npu = backend("npu").not_know_the_call().then().say("a")
        floor = open_floor(nursery, autojump_clock, npu)
        await floor.ask()
        station = floor.station()
        station.is_down("it was stopped")
        floor.dispatcher.health_changed(station)
        station.is_well(await npu.probe())
        floor.dispatcher.health_changed(station)

        assert ["a", "done"] == (await floor.ask()).said

    async def test_a_missing_model_is_struck_off(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """The list was out of date; nobody else is sent there for this model."""
        npu, igpu = backend("npu").lack_the_model(), backend("igpu").say("a")
        floor = open_floor(nursery, autojump_clock, npu, igpu)

        callers = [await floor.ask(), await floor.ask()]

        assert [["a", "done"]] * 2 == [caller.said for caller in callers]
        assert (1, frozenset()) == (len(npu.errands), floor.station("npu").models)

    async def test_a_rejected_call_is_the_callers_fault(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """It is not tried elsewhere, and the backend has proved to be well."""
        npu = fails(4).reject().then().refuse().then().say("a")
        igpu = backend("igpu").say("b")
        floor = open_floor(nursery, autojump_clock, npu, igpu, retry_before_first_byte=False)
        await fail_at(floor, "npu", 4)

        rejected = await floor.ask(target="npu")
        await fail_at(floor, "npu", 1)
        served = await floor.ask(target="npu")

        assert rejected.refusal is not None
        assert (Code.INVALID_REQUEST, "it makes no sense") == (
            rejected.refusal.code,
            rejected.refusal.message,
        )
        assert (["a", "done"], []) == (served.said, igpu.errands)


async def fail_at(floor: Floor, target: str, times: int) -> None:
    """Let so many jobs for one backend end."""
    for _ in range(times):
        await floor.ask(target=target)


class Ready(ScriptedBackend):
    """Has its answer ready, and computes nothing."""

    async def exchange(self, errand: Errand, sink: Sink) -> Served:  # noqa: ARG002 - as `Backend` has it
        """Answer at once."""
        await sink.begin(Head(status=200, headers=()), b"ready", complete=True)
        return Served(status=200, computed=False)


class Telling(ScriptedBackend):
    """Takes three seconds, and says for what."""

    async def exchange(self, errand: Errand, sink: Sink) -> Served:  # noqa: ARG002 - as `Backend` has it
        """Answer, and report."""
        await trio.sleep(3.0)
        await sink.begin(Head(status=200, headers=()), b"a", complete=True)
        return Served(status=200, report=Report(load_s=2.0, prompt_tokens=100, prefill_s=0.5))


class TestLearning:
    """Only an answer teaches how fast a backend answers."""

    async def test_a_stream_teaches_its_first_token_and_its_pace(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """The pace is that of the pieces after the first."""
        played = backend().say("a", after=0.4).say("b", after=0.25).say("c", after=0.25)
        floor = open_floor(nursery, autojump_clock, played)

        await floor.ask()

        learned = floor.station().estimates
        floor_s, decode = learned.subjects[MODEL].floor_s, learned.subjects[MODEL].decode
        assert floor_s is not None
        assert floor_s.value == pytest.approx(0.8 + 0.25 * (0.4 - 0.8))
        assert decode is not None
        assert decode.value == pytest.approx(4.0)
        assert learned.subjects[MODEL].whole_s is None

    async def test_a_whole_answer_teaches_its_whole_time(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """When its first byte came says nothing."""
        floor = open_floor(
            nursery, autojump_clock, backend().say("a", after=0.4).say("b", after=0.8)
        )

        await floor.ask(stream=False)

        learned = floor.station().estimates
        whole_s = learned.subjects[MODEL].whole_s
        assert whole_s is not None
        assert whole_s.value == pytest.approx(0.8 + 0.25 * (1.2 - 0.8))
        assert (None, None) == (learned.subjects[MODEL].floor_s, learned.subjects[MODEL].decode)

    async def test_what_a_server_reports_is_believed(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Loading and prefill are not taken for its usual slowness."""
        floor = open_floor(nursery, autojump_clock)
        station = floor.open(Telling(spec("npu")))
        station.is_well(Probe(models=frozenset({MODEL}), loaded=frozenset()))
        caller = floor.job()
        caller.job.ask = floor.asked(prompt_bytes=400)

        floor.dispatcher.submit(caller.job)
        await caller.ended.wait()

        learned = station.estimates.subjects[MODEL]
        assert learned.load_s is not None
        assert learned.prefill_s is not None
        assert learned.floor_s is not None
        assert (2.0, 0.005) == (learned.load_s.value, learned.prefill_s.value)
        assert learned.floor_s.value == pytest.approx(0.8 + 0.25 * (0.5 - 0.8))

    async def test_waiting_is_not_the_backends_slowness(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Time counts from the attempt's start, not from the arrival."""
        floor = open_floor(nursery, autojump_clock, backend().say("a", after=0.8))
        callers = [floor.submit() for _ in range(4)]

        await callers[-1].ended.wait()

        floor_s = floor.station().estimates.subjects[MODEL].floor_s
        assert floor_s is not None
        assert floor_s.value == pytest.approx(0.8)

    @pytest.mark.parametrize(
        "played",
        [
            backend().with_status(400).say("no", after=0.1),
            backend().pause(0.1).refuse(),
            backend().say("a", after=0.1).die_mid_stream(),
            backend().pause(0.1).reject(),
            backend().pause(0.1).lack_the_model(),
            backend().pause(0.1).not_know_the_call(),
            backend().say("a", after=0.1).hang(),
            backend(avg_latency_s=2.0).hang(),
        ],
        ids=["4xx", "failed", "broke", "rejected", "no-model", "no-call", "left", "left-early"],
    )
    async def test_nothing_else_teaches(
        self, nursery: trio.Nursery, autojump_clock: MockClock, played: ScriptedBackend
    ) -> None:
        """Errors, failures and callers who left do not make a backend seem fast or slow."""
        floor = open_floor(nursery, autojump_clock, played)
        caller = floor.submit()
        await trio.sleep(1.0)
        floor.dispatcher.withdraw(caller.job)
        await wait_all_tasks_blocked()

        assert {} == floor.station().estimates.subjects
        await floor.assert_at_rest()

    @pytest.mark.parametrize("wanted", [{}, {"max_latency_s": 0.9}], ids=["left", "deadline"])
    async def test_a_silence_that_is_overdue_teaches(
        self, nursery: trio.Nursery, autojump_clock: MockClock, wanted: dict[str, Any]
    ) -> None:
        """A backend that hangs stops being chosen for what it was believed to be."""
        hung = backend("npu", avg_latency_s=0.1).hang()
        floor = open_floor(nursery, autojump_clock, hung, backend("igpu").say("a"))
        for _ in range(12):
            caller = floor.submit(**wanted)
            await trio.sleep(1.0)
            floor.dispatcher.withdraw(caller.job)
            await wait_all_tasks_blocked()

        learned = floor.station("npu").estimates.subjects[MODEL].floor_s
        assert learned is not None
        assert learned.value > 0.9
        assert len(hung.errands) < 12

    async def test_what_no_server_computed_teaches_nothing(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """An answer that the router had ready would make the server look fast."""
        floor = open_floor(nursery, autojump_clock, Ready(spec("npu")))

        await floor.ask()

        assert {} == floor.station().estimates.subjects

    async def test_vectors_teach_nothing_of_answers(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """An embedding takes milliseconds where an answer of the same model takes seconds."""
        floor = open_floor(nursery, autojump_clock, backend().say("a", after=0.01))

        await floor.ask(call=Call.OPENAI_EMBEDDING, stream=False)

        assert MODEL not in floor.station().estimates.subjects

    async def test_one_requests_500_shuts_nobody_out(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """An image for a model without eyes is answered 500 by a server that is well."""
        played = backend().refuse(500)
        for _ in range(6):
            played.then().refuse(500)
        played.then().say("a")
        floor = open_floor(nursery, autojump_clock, played)
        callers = [await floor.ask() for _ in range(8)]

        assert ["a", "done"] == callers[-1].said

    async def test_an_error_passed_on_is_an_answer(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """The caller's own fault is told in the backend's words, and booked as served."""
        floor = open_floor(nursery, autojump_clock, backend().with_status(404).say("no"))

        caller = await floor.ask()

        assert (Outcome.SERVED, 404) == (floor.outcome(caller), floor.fact(caller).status)

    async def test_made_up_names_do_not_pile_up(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Of models that a backend takes without knowing them, those used last are remembered."""
        floor = open_floor(nursery, autojump_clock, backend().say("a", after=0.1))
        floor.station().models = None
        floor.station().touch()

        for number in [*range(MODELS_MAX), 0, *range(MODELS_MAX, MODELS_MAX + 10)]:
            await floor.ask(model=f"made-up-{number}")

        known = floor.station().estimates.subjects
        kept = [number for number in (0, 1, 10, 11) if f"made-up-{number}" in known]
        assert (MODELS_MAX, [0, 11]) == (len(known), kept)


class TestEnding:
    """The router takes no more, then waits no more."""

    async def test_draining_refuses_the_new_alone(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Those in line and at work go on to their ends."""
        floor = open_floor(nursery, autojump_clock, backend().say("a", after=1.0))
        running, waiting = floor.submit(), floor.submit()

        floor.dispatcher.drain()
        late = floor.submit()
        await waiting.ended.wait()

        assert [(1.0, "a"), (2.0, "a"), (0.0, "shutting_down")] == [
            caller.heard[0] for caller in (running, waiting, late)
        ]
        await floor.assert_at_rest()

    async def test_failover_goes_on_while_draining(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """A job that was taken on is served as ever."""
        floor = open_floor(
            nursery, autojump_clock, backend("npu").pause(1.0).refuse(), backend("igpu").say("a")
        )
        caller = floor.submit()

        floor.dispatcher.drain()
        await caller.ended.wait()

        assert [(1.0, "a"), (1.0, "done")] == caller.heard

    async def test_stopping_ends_all_at_once(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Whoever works, waits or was just handed over hears why."""
        npu = backend("npu", slots=2).say("hel").hang()
        floor = open_floor(nursery, autojump_clock, npu)
        begun = floor.submit()
        await wait_all_tasks_blocked()
        await trio.sleep(1.0)
        handed, waiting = floor.submit(), floor.submit()

        floor.dispatcher.stop()
        late = floor.submit()
        await wait_all_tasks_blocked()

        assert ["hel", "shutting_down", "done"] == begun.said
        assert [["shutting_down", "done"]] * 3 == [c.said for c in (handed, waiting, late)]
        assert 1 == len(npu.errands)
        assert [Outcome.BROKEN] + [Outcome.REFUSED] * 3 == [
            floor.outcome(caller) for caller in (begun, handed, waiting, late)
        ]
        assert 0 == floor.station().circuit.failures
        await floor.assert_at_rest()

    async def test_stopping_twice_is_harmless(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """The second time finds nothing to do."""
        floor = open_floor(nursery, autojump_clock, backend().hang())
        for _ in range(3):
            floor.submit()

        floor.dispatcher.stop()
        floor.dispatcher.stop()

        await floor.assert_at_rest()

    async def test_who_is_stopped_is_not_tried_elsewhere(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """A backend that fails in the moment of the stop does not send its job on."""
        igpu = backend("igpu").say("a")
        floor = open_floor(nursery, autojump_clock, backend("npu").pause(1.0).refuse(), igpu)
        caller = floor.submit()

        class Stopping(Dispatcher):
            """Stops just before it hears of the failure."""

            def finished(self, station: Station, attempt: Attempt, ending: Ending) -> None:
                self.stop()
                super().finished(station, attempt, ending)

        floor.dispatcher.__class__ = Stopping
        await caller.ended.wait()

        assert (["shutting_down", "done"], []) == (caller.said, igpu.errands)
        await floor.assert_at_rest()

    async def test_workers_that_are_cancelled_leave_nobody_behind(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """If the workers' nursery ends before its time, all who wait hear so too."""
        async with trio.open_nursery() as doomed:
            floor = open_floor(nursery, autojump_clock)
            floor.nursery = doomed
            floor.open(backend(slots=2).hang())
            callers = [floor.submit() for _ in range(5)]
            await wait_all_tasks_blocked()
            doomed.cancel_scope.cancel()

        assert [["shutting_down", "done"]] * 5 == [caller.said for caller in callers]
        await floor.assert_at_rest()


class TestFleet:
    """Backends join and leave while the router works."""

    async def test_removing_moves_those_in_line(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Who waits is decided anew, who is at work finishes there."""
        npu, igpu = backend("npu").say("n", after=1.0), backend("igpu").say("i", after=0.25)
        floor = open_floor(nursery, autojump_clock, npu, igpu)
        station = floor.station("npu")
        running, waiting = floor.submit(), floor.submit(power_efficient=True)

        floor.dispatcher.remove(station)
        await station.wait_retired()

        assert [(1.0, "n"), (0.25, "i")] == [running.heard[0], waiting.heard[0]]
        assert 1.0 == autojump_clock.current_time()
        await floor.assert_at_rest()

    async def test_removing_the_last_refuses_those_in_line(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """There is nobody else: they hear so at once."""
        floor = open_floor(nursery, autojump_clock, backend().say("a", after=1.0))
        station = floor.station()
        running, waiting = floor.submit(), floor.submit()

        floor.dispatcher.remove(station)
        late = floor.submit()
        await running.ended.wait()

        assert [(1.0, "a"), (0.0, "no_backend"), (0.0, "no_backend")] == [
            caller.heard[0] for caller in (running, waiting, late)
        ]
        assert (0, 0) == (station.in_flight, len(station.line))

    async def test_a_removed_backend_that_fails_is_not_asked_again(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Failover looks at those who are still there."""
        npu, igpu = backend("npu").pause(1.0).refuse(), backend("igpu").say("a")
        floor = open_floor(nursery, autojump_clock, npu, igpu)
        caller = floor.submit()

        floor.dispatcher.remove(floor.station("npu"))
        await caller.ended.wait()

        assert [(1.0, "a"), (1.0, "done")] == caller.heard
        await floor.assert_at_rest()

    async def test_a_successor_takes_over_the_line(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """A backend that joins under a known id takes the place of the one that had it."""
        floor = open_floor(nursery, autojump_clock, backend().say("old", after=1.0))
        former = floor.station()
        running, waiting = floor.submit(), floor.submit()

        floor.open(backend().say("new", after=0.25))
        await former.wait_retired()

        assert [(1.0, "old"), (0.25, "new")] == [running.heard[0], waiting.heard[0]]
        await floor.assert_serves_next()

    async def test_removing_the_former_again_leaves_the_successor(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """A station is removed by itself, not by its id."""
        floor = open_floor(nursery, autojump_clock, backend().say("old"))
        former = floor.station()
        successor = floor.open(backend().say("new"))

        floor.dispatcher.remove(former)

        assert successor is floor.station()
        assert ["new", "done"] == (await floor.ask()).said

    async def test_a_backend_that_goes_down_gives_up_its_line(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Those in line go elsewhere or are refused; the one at work may yet finish."""
        floor = open_floor(
            nursery,
            autojump_clock,
            backend("npu").say("n", after=1.0),
            backend("igpu").say("i", after=0.25),
        )
        station = floor.station("npu")
        running = floor.submit()
        moved, refused = floor.submit(power_efficient=True), floor.submit(target="npu")

        go_down(floor.dispatcher, station)
        await running.ended.wait()

        assert [(1.0, "n"), (0.25, "i"), (0.0, "no_backend")] == [
            caller.heard[0] for caller in (running, moved, refused)
        ]
        await floor.assert_at_rest()

    async def test_who_moves_keeps_its_order(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """The urgent are first in the new line too."""
        floor = open_floor(
            nursery, autojump_clock, backend("npu").hang(), backend("igpu").say("i", after=1.0)
        )
        floor.submit(target="npu")
        callers = [
            floor.submit(power_efficient=True, priority=Priority(priority))
            for priority in (1, 3, 1)
        ]

        go_down(floor.dispatcher, floor.station("npu"))
        await trio.sleep(3.5)

        assert [2.0, 1.0, 3.0] == [caller.heard[0][0] for caller in callers]


def go_down(dispatcher: Dispatcher, station: Station) -> None:
    """As a probe that failed."""
    station.is_down("it was stopped")
    dispatcher.health_changed(station)


async def test_explaining_changes_nothing(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """What would be decided is told without a place being taken."""
    floor = open_floor(nursery, autojump_clock, backend("npu"), backend("igpu"))
    job = floor.job().job

    outcomes = [floor.dispatcher.explain(job).outcome for _ in range(3)]

    assert outcomes[0] == outcomes[2]
    assert (0, []) == (floor.station().in_flight, floor.facts)
