"""Which worker gets which job, and what becomes of a job that failed.

Every method is synchronous and ends with nothing left undone: whatever changed, `_assign` was
called for whom it concerns, and whoever waits elsewhere was asked whether here is better now. Who
is awaited, and for how long, is the workers' business.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence

import attrs
import trio

from ollama_proxy.backends.backend import (
    BackendFailed,
    CallRejected,
    CallUnserved,
    Errand,
    Fault,
    ModelMissing,
    Served,
    Transcript,
)
from ollama_proxy.engine.alarms import Alarm, Alarms
from ollama_proxy.engine.attempt import Attempt, Halt
from ollama_proxy.engine.endings import (
    FULL_LEAST_S,
    FULL_MOST_S,
    Beaten,
    CallerGone,
    CallerStalled,
    DeadlinePassed,
    Ending,
    PutBack,
    RouterFaulted,
    RouterStopped,
    failed,
    in_a_word,
    may_linger,
    missing,
    too_late,
    unread,
    unserved,
)
from ollama_proxy.engine.job import Job, Stage
from ollama_proxy.engine.journey import Leg, set_out
from ollama_proxy.engine.ledger import Fact, Ledger, Outcome
from ollama_proxy.engine.lessons import (
    NO_REPORT,
    calibrate,
    fate_of_deadline,
    learn,
    learn_decline,
    learn_silence,
)
from ollama_proxy.engine.meters import Meters
from ollama_proxy.engine.news import BackendChanged, News, Routed
from ollama_proxy.engine.station import Station
from ollama_proxy.policy.affinity import Affinity, Warm
from ollama_proxy.policy.ask import Ask, Priority
from ollama_proxy.policy.energy import spent
from ollama_proxy.policy.fleet import BackendView
from ollama_proxy.policy.hedge import Budget, hedge_at
from ollama_proxy.policy.preempt import Started
from ollama_proxy.policy.question import Question
from ollama_proxy.policy.refusal import Code, Refusal
from ollama_proxy.policy.route import (
    Decision,
    Explanation,
    Reason,
    RouteSettings,
    Steering,
    explain,
    is_lost,
)
from ollama_proxy.policy.thermal import ThermalState

# How many are asked, when a slot finds nobody in its own line, whether they would rather go there:
# each costs a choice, and the others are asked at the next change.
INVITED_MAX = 4
# Who is moved at its last moment has so much more time than the forecast, to be in time in the end.
LAST_MOMENT_SLACK = 0.25
# Takes down a choice: the request's id, what was asked, what came of it.
Note = Callable[[str, Question, Decision | Refusal], None]


@attrs.frozen(kw_only=True)
class DispatchSettings:
    """How jobs are placed. Times in seconds.

    Attributes:
        hedge_budget: second attempts' share of all work; 0: there are none.
    """

    route: RouteSettings = attrs.field(factory=RouteSettings)
    retry_before_first_byte: bool = True
    first_byte_timeout_s: float = 300.0
    stall_timeout_s: float = 120.0
    hedge_budget: float = 0.0


_FAULTED = Refusal(Code.INTERNAL, "The router made a mistake; its log says which.")
_STOPPING = Refusal(Code.SHUTTING_DOWN, "The router is shutting down.", retry_after_s=5.0)
_PREEMPTED = Refusal(
    Code.PREEMPTED,
    "A more urgent request took this one's place; ask again, with a higher priority if need be.",
    retry_after_s=5.0,
)


class Dispatcher:
    """Places jobs on stations. One for the whole router.

    Attributes:
        stations: by the ids of their backends, in the owner's order.
        is_draining: it takes no more jobs.
        jobs: those that have not ended.
        affinity: who has the beginnings of which prompts.
        alarms: what is due when.
        meters: what they cost in joules.
        ledger: where they are booked.
        used_at: when a job was last on a part of the machine; `inf` while one is.
    """

    def __init__(
        self,
        settings: DispatchSettings,
        ledger: Ledger,
        *,
        clock: Callable[[], float] = trio.current_time,
        transcribe: Callable[[Errand], Transcript | None] = lambda _: None,
        news: News | None = None,
        note: Note | None = None,
        traces: bool = False,
    ) -> None:
        """Begin with no stations; `add` them.

        Args:
            settings: how jobs are placed.
            ledger: where they are booked.
            news: where it is told that a backend was lost, or is back, and who was given what.
            clock: seconds.
            transcribe: begins to note an answer, where another attempt could go on with it.
            note: is told each choice, with all that it went by, at once.
            traces: where each job has been is noted, and told with its fact.
        """
        self.stations: dict[str, Station] = {}
        self.is_draining = False
        self.jobs: set[Job] = set()
        self.affinity = Affinity()
        self.alarms = Alarms()
        self.meters = Meters()
        self.used_at: dict[str, float] = {}
        self._on_part: Counter[str] = Counter()  # attempts
        self.ledger = ledger
        self._news = news or News()
        self._well: dict[str, bool] = {}  # as it was told last
        self._now = clock
        self._transcribe = transcribe
        self._note = note
        self._traces = traces
        self._hedging = Budget(0.0)
        self._crowded: dict[Station, None] = {}  # whose line may hold somebody
        self._sooner = trio.Event()
        self._steering = Steering()
        self.settings = settings

    @property
    def settings(self) -> DispatchSettings:
        """How jobs are placed; those placed already stay where they are."""
        return self._settings

    @settings.setter
    def settings(self, settings: DispatchSettings) -> None:
        self._settings = settings
        self._hedging.share = settings.hedge_budget
        self.steer(self._steering)

    def steer(self, steering: Steering) -> None:
        """Heed the mode and the machine's state, from the next choice on."""
        self._steering = steering
        if steering != self._settings.route.steering:
            route = attrs.evolve(self._settings.route, steering=steering)
            self._settings = attrs.evolve(self._settings, route=route)

    # -- stations ----------------------------------------------------------------------------------

    def add(self, station: Station) -> None:
        """A backend joins; the one that had its id, if any, leaves."""
        former = self.stations.get(station.spec.id)
        self.stations[station.spec.id] = station
        station.energy = self.meters.appetite(station.spec.id)
        self._well.setdefault(station.spec.id, station.healthy)
        if former is not None and former is not station:
            self.remove(former)
        self._invite(station)

    def remove(self, station: Station) -> None:
        """A backend leaves: those in its line go elsewhere, those at its slots finish."""
        station.retire()
        if self.stations.get(station.spec.id) is station:
            del self.stations[station.spec.id]
            del self._well[station.spec.id]
        self._replace(station)
        self._crowded.pop(station, None)

    def health_changed(self, station: Station) -> None:
        """A probe found a station up or down, or one that it had kept busy at rest.

        One that has not joined yet, or has left, is nobody's choice.
        """
        if self.stations.get(station.spec.id) is not station:
            return
        if self._well[station.spec.id] is not station.healthy:
            self._well[station.spec.id] = station.healthy
            self._news.tell(
                BackendChanged(
                    id=station.spec.id, healthy=station.healthy, why=station.last_error or ""
                )
            )
        if not station.healthy:
            self._replace(station)
        self._assign(station)
        self._invite(station)

    def heat_changed(self, station: Station) -> None:
        """What a station computes on has become warmer or cooler: too hot, it starts nothing."""
        if self.stations.get(station.spec.id) is not station:
            return
        if station.heat is ThermalState.CRITICAL:
            self._replace(station)
        else:
            self._invite(station)

    def node_told(self, station: Station, *, heat: ThermalState, has_less: bool) -> None:
        """A router has said how it is.

        Args:
            station: it.
            heat: its grade before.
            has_less: there is less of others' work there than was thought.
        """
        if self.stations.get(station.spec.id) is not station:
            return
        if station.is_delicate and self._steering.all_cool:
            self.steer(attrs.evolve(self._steering, all_cool=False))
        if station.heat is not heat:
            self.heat_changed(station)
        self._assign(station)
        if has_less:
            self._invite(station)

    def stayed_busy(self, station: Station) -> None:
        """A station goes on with what was cancelled: would those in its line rather go elsewhere?"""
        if self.stations.get(station.spec.id) is not station:
            return
        for job in station.line.foremost(INVITED_MAX):
            self._reconsider(job, self._views(self._now()))
        self._assign(station)

    # -- jobs --------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Take a job on: it gets a place, or its caller a refusal, before this returns.

        One that was withdrawn already has ended, and is not taken on.
        """
        if job.stage is Stage.DONE:
            return
        self.jobs.add(job)
        if self._traces:
            job.journey = set_out(
                job.errand, arrived=job.arrived, answer_limit=job.ask.answer_limit
            )
        job.stall_timeout_s = self._settings.stall_timeout_s
        # Another proxy cannot ask elsewhere as its callers could, and needs us for a moment only.
        if self.is_draining and job.carriage is None:
            self._refuse(job, _STOPPING)
        elif (refusal := self._place(job)) is not None:
            self._refuse(job, refusal)

    def explain(self, job: Job) -> Explanation:
        """What would be decided for a job now, with everything that was weighed; nothing happens."""
        ask, now = job.ask, self._now()
        return explain(
            ask,
            job.wishes,
            self._views(now),
            self._settings.route,
            now=now,
            client=job.client,
            warm=self._warm(ask),
        )

    def withdraw(self, job: Job) -> None:
        """The caller has left. No harm at any stage, nor twice."""
        if job.stage is Stage.DONE or job.left:
            return
        job.left = True
        if job.stage is Stage.RUNNING:
            # The worker hears of it and ends the attempt.
            for attempt in job.attempts:
                attempt.halt(Halt.CALLER_LEFT)
            return
        self._leave_line(job)
        self._close(job, Outcome.LEFT)

    def give_up(self, job: Job, refusal: Refusal) -> None:
        """Its door can let a job wait in line no longer. No harm at any other stage."""
        if job.stage is Stage.WAITING:
            self._leave_line(job)
            self._refuse(job, refusal)

    def finished(self, station: Station, attempt: Attempt, ending: Ending) -> None:
        """A worker has ended an attempt: book it, then try elsewhere or end the job."""
        now = self._now()
        job = attempt.job
        attempt.asked()
        job.attempts.remove(attempt)
        if attempt.leg is not None:
            attempt.leg.ended, attempt.leg.ending = now, in_a_word(ending)
        station.free(attempt, now, lingers=may_linger(attempt, ending))
        self._pay(attempt, ending, now)
        self._book(station, attempt, ending, now)
        # The job's fate may be sealed already, or hang on another attempt.
        is_moot = job.stage is Stage.DONE or (bool(job.attempts) and not attempt.answered)
        is_put_back = not is_moot and isinstance(ending, PutBack)
        if not is_moot and not is_put_back:
            self._settle(station, job, ending)
        elif is_moot and isinstance(ending, BackendFailed | CallUnserved | ModelMissing):
            job.tried.append(station.spec.id)
        if isinstance(ending, RouterStopped) and not job.stopped:
            # The workers themselves are ending: nobody will serve those in line.
            self.stop()
        if isinstance(ending, BackendFailed) and station.circuit.is_open(now):
            # Those behind it would only fail one after the other.
            self._replace(station)
        elif isinstance(ending, BackendFailed) and ending.fault is Fault.FULL:
            # They have their places, and keep them where nobody else has a better one.
            for waiting in station.line.everybody():
                self._reconsider(waiting, self._views(now))
        self._assign(station)
        if is_put_back:
            # Only now: the slot is for whom it was cleared.
            self._put_back(station, attempt)
        self._invite(station)

    def _pay(self, attempt: Attempt, ending: Ending, now: float) -> None:
        """Add what an attempt cost in joules to its job's bill."""
        job = attempt.job
        tokens = ending.tokens if isinstance(ending, Served) else None
        if isinstance(ending, Served) and ending.report is not None:
            tokens = ending.report.answer_tokens or tokens
        is_answer = isinstance(ending, Served) and ending.status < 400 and ending.computed  # noqa: PLR2004 - an error is none
        subject = job.ask.subject if is_answer else None
        bill = self.meters.ended(attempt, tokens, subject, now)
        if bill is not None:
            job.paid[bill.grade] = job.paid.get(bill.grade, 0.0) + bill.joules
        if (part := attempt.part) is not None:
            self._on_part[part] -= 1
            if not self._on_part[part]:
                self.used_at[part] = now

    def _book(self, station: Station, attempt: Attempt, ending: Ending, now: float) -> None:
        """Note what the end of an attempt tells of the backend."""
        job = attempt.job
        match ending:
            case Served():
                learn(
                    station,
                    attempt,
                    ending,
                    now,
                    affinity=self.affinity,
                    settings=self._settings.route,
                )
            case BackendFailed(fault=Fault.FULL):
                # It is well. Nor is it one that fails: it has said when to come again.
                station.has_proved_nothing(attempt)
                pause_s = min(max(ending.retry_after_s or FULL_LEAST_S, FULL_LEAST_S), FULL_MOST_S)
                is_for_all = ending.code is not Code.QUEUE_FULL
                up_to = Priority.CRITICAL if is_for_all else job.priority
                station.turns_away(up_to, now + pause_s)
            case BackendFailed(fault=Fault.DECLINED):
                station.has_proved_nothing(attempt)
                if ending.code is Code.DEADLINE_UNMEETABLE:
                    learn_decline(station, attempt, ending, now)
            case BackendFailed():
                # A 500 may be one request's fault (an image for a model without eyes) and comes
                # from a server that is there: it tells against it, but shuts nobody else out.
                # So does one that will not go on with an answer.
                why = f"{job.errand.model}: {ending}"
                is_own = ending.status == 500 or (  # noqa: PLR2004 - RFC 9110
                    job.ask.continues and ending.fault is Fault.REFUSED
                )
                station.has_failed(now, why, is_general=not is_own)
                if ending.fault is Fault.UNREACHABLE and station.watch is not None:
                    # Four more requests need not find out whether it is there at all.
                    station.watch()
            case CallRejected():
                station.has_served(now)
            case CallUnserved():
                station.has_proved_nothing(attempt)
                station.does_not_serve(job.ask.call, carried=job.ask.carried)
            case ModelMissing():
                station.has_proved_nothing(attempt)
                station.lacks(job.ask.model)
            case CallerGone() | DeadlinePassed():
                station.has_proved_nothing(attempt)
                learn_silence(station, attempt, now)
            case Beaten():
                station.has_proved_nothing(attempt)
                self._hedging.settle(job.hedge_s, now - attempt.started)
            case CallerStalled() | RouterFaulted() | RouterStopped() | PutBack():
                station.has_proved_nothing(attempt)
        if not isinstance(ending, PutBack | Beaten):
            station.requests_total += 1

    def _settle(self, station: Station, job: Job, ending: Ending) -> None:
        """Decide what becomes of a job whose only attempt, or the one that answers it, has ended."""
        match ending:
            case Served():
                self._close(job, Outcome.SERVED, served=ending, station=station)
            case BackendFailed():
                self._try_elsewhere(station, job, failed(station, ending))
            case CallUnserved():
                self._try_elsewhere(station, job, unserved(station, job))
            case ModelMissing():
                self._try_elsewhere(station, job, missing(job))
            case CallRejected():
                self._refuse(job, Refusal(Code.INVALID_REQUEST, str(ending)))
            case CallerGone():
                self._close(job, Outcome.LEFT)
            case CallerStalled():
                self._refuse(job, unread(job))
            case RouterFaulted():
                self._refuse(job, _FAULTED)
            case RouterStopped():
                self._refuse(job, _STOPPING)
            case DeadlinePassed():
                self._refuse(job, too_late(job))
            case PutBack() | Beaten():
                raise AssertionError("the former goes back into line, the latter has a rival")

    def drain(self) -> None:
        """Take no more jobs; those in line and at work go on."""
        self.is_draining = True

    def stop(self) -> None:
        """End every job now, telling its caller."""
        self.drain()
        for job in list(self.jobs):
            if job.stage is Stage.RUNNING:
                job.stopped = True
                for attempt in job.attempts:
                    attempt.halt(Halt.ROUTER_STOPS)
            else:
                self._leave_line(job)
                self._refuse(job, _STOPPING)

    async def keep_time(self) -> None:
        """Do what is due at its time: deadlines of those who wait, above all. Until cancelled."""
        while True:
            with trio.move_on_at(self.alarms.next_at):
                await self._sooner.wait()
            self._sooner = trio.Event()
            self.ring(self._now())

    def ring(self, now: float) -> None:
        """Do what is due."""
        for job, alarm in self.alarms.take_due(now):
            match alarm:
                case Alarm.DEADLINE:
                    if job.stage is Stage.WAITING:
                        self._leave_line(job)
                        self._refuse(job, too_late(job))
                case Alarm.LAST_MOMENT:
                    if job.stage is Stage.WAITING:
                        self._reconsider(job, self._views(now))
                case Alarm.HEDGE:
                    self._hedge(job, now)

    # -- how ---------------------------------------------------------------------------------------

    def _views(self, now: float) -> list[BackendView]:
        return [station.kept or station.view(now) for station in self.stations.values()]

    def _choose(self, job: Job, fleet: Sequence[BackendView], now: float) -> Decision | Refusal:
        ask, wishes = job.ask, job.wishes
        if job.promised_s is not None and wishes.max_latency_s is not None:
            # Not its first choice: what has passed counts.
            wishes = attrs.evolve(wishes, max_latency_s=job.deadline - now)
        question = Question(
            ask=ask,
            wishes=wishes,
            fleet=fleet,
            settings=self._settings.route,
            now=now,
            client=job.client,
            warm=self._warm(ask),
            tried=job.tried,
            again=job.promised_s is not None,
        )
        outcome = question.decide()
        if self._note is not None:
            self._note(job.request_id, question, outcome)
        return outcome

    def _warm(self, ask: Ask) -> Warm | None:
        """Who has the beginning of a prompt; of a short one nobody is asked."""
        return self.affinity.find(ask.prefix, ask.prompt_bytes) if ask.prefix else None

    def _place(self, job: Job) -> Refusal | None:
        """Give a job a place in the line of the best backend, or say why there is none."""
        now = self._now()
        if job.deadline <= now:
            return too_late(job)
        outcome = self._choose(job, self._views(now), now)
        if isinstance(outcome, Refusal):
            return outcome
        now = self._now()
        if job.promised_s is None:
            job.promised_s = outcome.predicted_s
            job.overhead_s = now - job.arrived
        self._queue(job, outcome, now)
        return None

    def _queue(self, job: Job, decision: Decision, now: float) -> None:
        """Put a job in the line of the backend that was chosen."""
        station = self.stations[decision.backend]
        job.decision = decision
        if job.journey is not None:
            job.journey.choose(decision, now)
        if station.takes_at_once(job.priority):
            # Nearly always. Through the line and out of it again would come to the same.
            self._start(job, station, decision, now)
            return
        job.stage = Stage.WAITING
        station.line.add(job)
        self._assign(station)
        if job.attempts:
            return
        self._crowded[station] = None
        victim = station.victim()
        if victim is not None:
            victim.halt(Halt.PUT_BACK)
        if job.deadline < math.inf:
            best = decision.candidates[0]
            needs_s = (1 + LAST_MOMENT_SLACK) * best.alone_s + best.off_s
            self._remind(job, job.deadline - needs_s, Alarm.LAST_MOMENT)
            self._remind(job, job.deadline, Alarm.DEADLINE)

    def _remind(self, job: Job, when: float, alarm: Alarm) -> None:
        is_sooner = when < self.alarms.next_at
        self.alarms.set(job, when, alarm)
        if is_sooner:
            self._sooner.set()

    def _assign(self, station: Station) -> None:
        """Give waiting jobs to free slots."""
        while (job := station.next()) is not None:
            assert job.decision is not None, "nobody waits without one"  # noqa: S101 - _queue's promise
            now = self._now()
            if station.is_shut_for(job.priority, now):
                station.line.add(job)  # until a probe is answered, or another place is better
                return
            if is_lost(job.decision.candidates[0], job.deadline - now):
                # Its slot would be taken for nothing, and those behind it would be late for that.
                job.assigned = now
                self._refuse(job, too_late(job))
                continue
            self._start(job, station, job.decision, now)

    def _start(
        self, job: Job, station: Station, decision: Decision, now: float, *, is_hedge: bool = False
    ) -> None:
        best = decision.candidates[0]
        job.stage = Stage.RUNNING
        if job.assigned is None:
            job.assigned = now
        warm = self._warm(job.ask)
        attempt = Attempt(
            job=job,
            decision=decision,
            started=now,
            ends=now + best.whole_s,
            scope=trio.CancelScope(
                deadline=min(job.deadline, now + self._settings.first_byte_timeout_s)
            ),
            cold=station.must_load(job.ask.model),
            uncached=1 - warm.share
            if warm is not None and warm.backend == station.spec.id
            else 1.0,
            transcript=self._new_transcript(job, station),
            part=station.part,
            cost=self.meters.so_far,
            leg=_leave(job, station, now, is_hedge=is_hedge),
            at_work=functools.partial(self._is_at_work, station),
            onward=station.is_router,
        )
        job.attempts.append(attempt)
        station.hand(attempt)
        if self._hedging.share and not is_hedge and job.carriage is None:
            self._hedging.earn(best.whole_s)
            when = hedge_at(job.wishes, started=now, expected_s=best.alone_s, off_s=best.off_s)
            if when is not None and when < job.deadline and len(self.stations) > 1:
                self._remind(job, when, Alarm.HEDGE)

    def _is_at_work(self, station: Station, attempt: Attempt) -> None:
        """A backend has a request, or it turned out that it will not: from now on it counts."""
        job = attempt.job
        self.meters.began(
            attempt, station.spec.id, attempt.part, self._now(), watts=station.usual_watts
        )
        if attempt.part is not None:
            self._on_part[attempt.part] += 1
            self.used_at[attempt.part] = math.inf
        self._news.routed(
            Routed(job.request_id, job.ask.model, job.priority, attempt.decision, attempt.started)
        )

    def _new_transcript(self, job: Job, station: Station) -> Transcript | None:
        """Where an answer is noted that may be broken into; only where its backend could go on."""
        if (
            station.preempts is Started.CONTINUE
            and job.priority is Priority.BEST_EFFORT
            and job.begun is None
            and job.carriage is None
            and job.ask.stream
            and station.spec.continues(job.ask.call)
        ):
            return self._transcribe(job.errand)
        return None

    def _hedge(self, job: Job, now: float) -> None:
        """Make a second attempt at a job whose first is likely to miss."""
        if len(job.attempts) != 1 or job.left or job.stopped:
            return
        busy_with = job.attempts[0].decision.backend
        others = [view for view in self._views(now) if view.spec.id != busy_with]
        outcome = self._choose(job, others, now)
        if isinstance(outcome, Refusal):
            return
        station = self.stations[outcome.backend]
        if not station.view(now).has_room(job.priority):
            return  # a hedge that waits is none, and would make others wait
        work_s = outcome.candidates[0].alone_s
        if self._hedging.spend(work_s):
            job.hedge_s = work_s
            self._start(job, station, outcome, now, is_hedge=True)

    def _try_elsewhere(self, station: Station, job: Job, refusal: Refusal) -> None:
        """Before the first byte, each alternative gets one chance within the deadline."""
        if job.stopped:
            self._refuse(job, _STOPPING)
            return
        is_out = job.begun is not None or job.told
        if job.landed and not job.left and self._follow(station, job):
            return
        if is_out or job.left or not self._settings.retry_before_first_byte:
            self._refuse(job, refusal)
            return
        job.tried.append(station.spec.id)
        job.stage = Stage.NEW
        if self._place(job) is not None:
            # What the last backend said is more use to the caller than that nobody is left.
            self._refuse(job, refusal)
        elif job.decision is not None:
            job.failovers.append((station.spec.id, job.decision.backend))

    def _follow(self, failed: Station, job: Job) -> bool:
        """Another proxy has the answer of a backend that it went to by itself: that is where it is.

        It is there whether there was a slot for it or not. False where that backend has left.
        """
        station = self.stations.get(job.landed)
        job.landed, decision = "", job.decision
        assert decision is not None, "it was sent somewhere"  # noqa: S101 - or nobody could have failed it
        found = [c for c in decision.candidates if station is not None and c.id == station.spec.id]
        if station is None or not found:
            return False
        others = [c for c in decision.candidates if c.id not in {found[0].id, failed.spec.id}]
        job.decision = Decision(
            backend=found[0].id, reason=Reason.FAILOVER, candidates=(found[0], *others)
        )
        job.tried.append(failed.spec.id)
        job.failovers.append((failed.spec.id, found[0].id))
        self._start(job, station, job.decision, self._now())
        return True

    def _put_back(self, station: Station, attempt: Attempt) -> None:
        """One whose slot was taken waits again, at its old place or where it is better now."""
        job = attempt.job
        if job.stopped:
            self._refuse(job, _STOPPING)
            return
        if job.left or (job.begun is not None and not attempt.leave_rest()):
            self._refuse(job, _PREEMPTED)
            return
        job.put_back += 1
        job.stage = Stage.NEW
        job.assigned = None  # its wait goes on
        refusal = self._place(job)
        if refusal is None:
            return
        is_there = self.stations.get(station.spec.id) is station
        is_too_hot = station.heat is ThermalState.CRITICAL
        if is_there and not is_too_hot and job.deadline > self._now():
            # It was admitted: that every place is taken by now is not its loss.
            assert job.decision is not None, "it had a place"  # noqa: S101 - as above
            self._queue(job, job.decision, self._now())
        else:
            self._refuse(job, refusal)

    def _replace(self, station: Station) -> None:
        """Those in this station's line are decided anew."""
        for job in station.line.everybody():
            station.line.remove(job)
            job.stage = Stage.NEW
            if (refusal := self._place(job)) is not None:
                self._leave_line(job)
                self._refuse(job, refusal)

    def _invite(self, station: Station) -> None:
        """A slot that finds nobody in its own line: would somebody in another rather go there?"""
        if not self._crowded or len(station.line) or station.in_flight >= station.spec.slots:
            return
        now = self._now()
        if not station.view(now).healthy:
            return
        left = INVITED_MAX
        for other in list(itertools.islice(self._crowded, INVITED_MAX)):
            del self._crowded[other]
            if not len(other.line):
                continue
            self._crowded[other] = None  # to the end: the next one asks the others first
            for job in other.line.foremost(left):
                self._reconsider(job, [station.view(now), other.view(now)])
                left -= 1
                if not left or not station.has_free_slot:
                    return

    def _reconsider(self, job: Job, fleet: Sequence[BackendView]) -> None:
        """Let a job that waits go to another of `fleet`, if that is better by now."""
        assert job.decision is not None, "nobody waits without one"  # noqa: S101 - _queue's promise
        station = self.stations[job.decision.backend]
        # It must not find itself before itself.
        station.line.remove(job)
        now = self._now()
        outcome = self._choose(job, fleet, now)
        if isinstance(outcome, Refusal) or outcome.backend == station.spec.id:
            # Also where it can hardly be in time any more: it was promised, so it is tried.
            station.line.add(job)
        else:
            self._queue(job, outcome, now)

    def _leave_line(self, job: Job) -> None:
        if job.decision is not None:
            if job.assigned is None:
                job.assigned = self._now()
            station = self.stations.get(job.decision.backend)
            if station is not None:
                station.line.remove(job)

    def _refuse(self, job: Job, refusal: Refusal) -> None:
        if job.left:
            self._close(job, Outcome.LEFT)
            return
        job.caller.refuse(job, refusal)
        outcome = Outcome.REFUSED if job.begun is None else Outcome.BROKEN
        self._close(job, outcome, code=refusal.code)

    def _close(
        self,
        job: Job,
        outcome: Outcome,
        *,
        served: Served | None = None,
        station: Station | None = None,
        code: Code | None = None,
    ) -> None:
        now = self._now()
        stage, job.stage = job.stage, Stage.DONE
        self.jobs.discard(job)
        for attempt in job.attempts:
            attempt.halt(Halt.BEATEN)
        decision = job.decision
        deadline = fate_of_deadline(job, outcome, now)
        if decision is not None and outcome is not Outcome.LEFT:
            station = station or self.stations.get(decision.backend)
            if station is not None:
                calibrate(station, job, outcome, deadline, now)
        told = served.report if served is not None and served.report is not None else NO_REPORT
        pieces = None if served is None or served.tokens is None else job.given + served.tokens
        self.ledger.record(
            Fact(
                request_id=job.request_id,
                door=job.door,
                call=job.ask.call,
                model=job.ask.model,
                stream=job.ask.stream,
                priority=job.priority,
                outcome=outcome,
                stage=stage,
                status=served.status if served is not None else None,
                code=code,
                backend=decision.backend if decision is not None else None,
                reason=decision.reason if decision is not None else None,
                queue_s=job.queue_s,
                promised_s=job.promised_s,
                first_s=None if job.begun is None else job.begun - job.arrived,
                whole_s=now - job.arrived,
                overhead_s=None if job.begun is None else job.overhead_s,
                tokens=pieces,
                prompt_tokens=told.prompt_tokens,
                answer_tokens=pieces
                if told.answer_tokens is None
                else job.given + told.answer_tokens,
                put_back=job.put_back,
                hedged=job.hedge_s > 0,
                failovers=tuple(job.failovers),
                deadline=deadline,
                energy=spent(job.paid, is_final=False) if job.paid else None,
                key_name=job.key_name,
                journey=job.journey,
            )
        )
        job.caller.done(job)


def _leave(job: Job, station: Station, now: float, *, is_hedge: bool) -> Leg | None:
    """An attempt at a job begins; what is noted of it."""
    if job.journey is None:
        return None
    spec = station.spec
    return job.journey.leave(spec.id, spec.type.value, now, is_hedge=is_hedge)
