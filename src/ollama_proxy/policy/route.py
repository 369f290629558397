"""Which backend serves a request, and why.

The decision, in the order it is made; the tests carry the same numbers:

(1) target: a named backend or hardware narrows the fleet to it; so do those that a proxy which
    carries the call itself can reach.
(2) may serve: enabled, healthy, circuit closed, knows the call, without translation if another
    proxy carries it, can continue an answer if that is what is asked, owner allows the model, prompt fits, model installed, room in its line.
(3) caps: critical heat; power budget; then the deadline against the predicted latency and what such
    predictions were wrong by lately; where nobody can make it, an idle one that nothing was heard
    of lately may try, if its owner's figure allows it.
(4) order: a flag in the request dominates. `latency-critical`: least predicted time;
    `power-efficient`: least joules a token, or least watts while one of them is not measured;
    both: time. Without one, the score.
(5) ties: score, then the owner's preference, then the default backend, then the id.
(6) restraint: who is warm, asleep on battery, or over what the mode lets draw, comes after the
    others; not where a target is named or the fastest is asked for.

The score counts octaves: one point is a factor of two in the product of time and power, which is
what a person trades when nothing else is said. Terms add up, each is explained by itself, and none
depends on who else is a candidate. The mode says what time and power weigh; in balanced, one each:

    latency  -log2(seconds once it is its turn, the model in memory)
    load     what waiting makes of that: -log2(1 + wait / those seconds); -log2(1 + jobs per slot)
             where it would start at once, and whenever that is more
    loaded   what loading makes of that, 1 at the least; 0 in memory, -0.5 unknown
    prefix   what is saved by the beginning of the prompt that was computed there before, half its
             share at the least
    power    -log2(watts), when power_aware; watts are those of its joules per token, once measured
    failing  -8 x share of recent failures
    heat     what a warm part costs, from a quarter of an octave on
    wake     what waking a card that sleeps makes of time and joules

Weighted sums of milliseconds and watts were the alternative; they need a scale for each, and with
any fixed one the ranking of a slow thrifty NPU against a fast hungry card is decided by the scale.
"""

import difflib
import enum
import math
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import attrs

from ollama_proxy.policy.affinity import Warm
from ollama_proxy.policy.ask import Ask, Wishes
from ollama_proxy.policy.candidate import SAFETY, Candidate, Terms
from ollama_proxy.policy.estimate import BYTES_PER_TOKEN, Forecast
from ollama_proxy.policy.fleet import BackendType, BackendView
from ollama_proxy.policy.modes import STANCES, Mode, Stance
from ollama_proxy.policy.refusal import Code, Refusal
from ollama_proxy.policy.restraint import Restraint, restrain
from ollama_proxy.policy.thermal import ThermalState

JUDGED_FOR_S = 60.0  # a 30th of the half-life of what was learned: two percent of it has faded
JUDGED_KEPT = 64
TRY_AGAIN_S = 10.0
_FULL = "has a full line"
COOLING_S = 60.0  # a grade is kept as long at the least
# What is burnt until a woken card sleeps again: ten seconds or so at a tenth of its watts.
WAKE_TAIL_S = 1.0
# Nobody is taken on a part that is critical: it is weighed as if cool, to tell whether heat decided.
_HEAT = {ThermalState.LIGHT: -0.25, ThermalState.MODERATE: -1.0, ThermalState.SEVERE: -3.0}
_RETRY_AFTER_S = 5.0  # one health interval: the soonest that anything can have changed


class Reason(enum.Enum):
    """Why a backend was chosen, in the words of every door."""

    EXPLICIT_TARGET = "explicit-target"
    LATENCY_CRITICAL = "latency-critical"
    POWER_EFFICIENT = "power-efficient"
    DEADLINE = "deadline"
    POWER_BUDGET = "power-budget"
    MODE_PERFORMANCE = "mode-performance"
    MODE_BALANCED = "mode-balanced"
    MODE_EFFICIENCY = "mode-efficiency"
    MODE_QUIET = "mode-quiet"
    MODE_AUTO = "mode-auto"
    MODE_ULTRA_EFFICIENCY = "mode-ultra-efficiency"
    THERMAL = "thermal"
    BATTERY = "battery"
    MODEL_LOADED = "model-loaded"
    ONLY_CANDIDATE = "only-candidate"
    FAILOVER = "failover"
    BALANCED = "balanced"


@attrs.frozen(kw_only=True)
class Steering:
    """What the mode and the machine's state ask of choices.

    Attributes:
        stance: what the mode in force means.
        reason: what is said of a choice that the mode decided.
        is_loud: the fans are louder than the mode allows.
        on_battery: nothing but a battery feeds the machine.
        all_cool: no part is warm, and none sleeps: there is nobody to spare.
    """

    stance: Stance = STANCES[Mode.BALANCED]
    reason: Reason = Reason.BALANCED
    is_loud: bool = False
    on_battery: bool = False
    all_cool: bool = True


@attrs.frozen(kw_only=True)
class RouteSettings:
    """The owner's settings that bear on a choice, and what the machine's state adds to them.

    Attributes:
        power_aware: watts count.
        auto_optimize: what was learned counts, not only what the owner wrote.
        default_backend: the first among equals.
        power_budget_watts: who draws more serves while no other can; None: no budget.
        steering: what the mode and the machine's state ask for now.
        watts_cap: what a backend may draw while one that draws no more can serve; None: whatever
            it does.
        is_calm: nobody is to be spared anything: most of the time.
    """

    power_aware: bool = True
    auto_optimize: bool = True
    default_backend: str = ""
    power_budget_watts: float | None = None
    steering: Steering = attrs.field(factory=Steering)
    # Derived once: each choice asks.
    watts_cap: float | None = attrs.field(init=False, eq=False)
    is_calm: bool = attrs.field(init=False, eq=False)

    @watts_cap.default
    def _least_cap(self) -> float | None:
        stance = self.steering.stance
        caps = (
            self.power_budget_watts,
            stance.watts_soft_cap,
            stance.watts_soft_cap_when_loud if self.steering.is_loud else None,
        )
        return min((cap for cap in caps if cap is not None), default=None)

    @is_calm.default
    def _spares_nobody(self) -> bool:
        return self.steering.all_cool and self.watts_cap is None


class Barred(NamedTuple):
    """A backend that could not serve, and why."""

    id: str
    why_not: str


@attrs.frozen(kw_only=True)
class Decision:
    """A choice and its grounds. `candidates` are all that were eligible, best first."""

    backend: str
    reason: Reason
    candidates: tuple[Candidate, ...]

    @property
    def alternatives(self) -> tuple[str, ...]:
        """The other eligible backends, best first."""
        return tuple(c.id for c in self.candidates[1:])

    @property
    def predicted_s(self) -> float:
        """Seconds expected of the chosen one."""
        return self.candidates[0].predicted_s

    @property
    def watts(self) -> float:
        """Watts expected of the chosen one."""
        return self.candidates[0].watts


@attrs.frozen(kw_only=True)
class Explanation:
    """A decision or refusal with everything that was weighed."""

    outcome: Decision | Refusal
    barred: tuple[Barred, ...]


def choose(
    ask: Ask,
    wishes: Wishes,
    fleet: Sequence[BackendView],
    settings: RouteSettings,
    *,
    now: float,
    client: str = "",
    warm: Warm | None = None,
    tried: Collection[str] = (),
) -> Decision | Refusal:
    """Choose a backend for one request.

    Args:
        ask: what is to be computed.
        wishes: how the caller wants it.
        fleet: every configured backend, as it stands.
        settings: the owner's.
        now: seconds, the engine's clock.
        client: whose turn in line it takes.
        warm: who has the beginning of its prompt.
        tried: ids that already failed this request.
    """
    return _decide(
        ask,
        wishes,
        fleet,
        settings,
        now=now,
        client=client,
        warm=warm,
        tried=tried,
        barred=None,
    )


def explain(
    ask: Ask,
    wishes: Wishes,
    fleet: Sequence[BackendView],
    settings: RouteSettings,
    *,
    now: float,
    client: str = "",
    warm: Warm | None = None,
    tried: Collection[str] = (),
) -> Explanation:
    """As `choose`, and say of every other backend why not."""
    barred: list[Barred] = []
    outcome = _decide(
        ask,
        wishes,
        fleet,
        settings,
        now=now,
        client=client,
        warm=warm,
        tried=tried,
        barred=barred,
    )
    return Explanation(outcome=outcome, barred=tuple(barred))


def _decide(  # noqa: PLR0915 - the numbered tree, once
    ask: Ask,
    wishes: Wishes,
    fleet: Sequence[BackendView],
    settings: RouteSettings,
    *,
    now: float,
    client: str,
    warm: Warm | None,
    tried: Collection[str],
    barred: list[Barred] | None,
) -> Decision | Refusal:
    """As `choose`; why the others are not chosen goes to `barred`, if somebody is to read it."""
    # (1) target
    meant = fleet
    if wishes.target is not None:
        meant = _targets(fleet, wishes.target)
        if not meant:
            return _unknown_target(wishes.target, fleet)
        if barred is not None:
            chosen = {view.spec.id for view in meant}
            barred += [
                Barred(v.spec.id, "is not the target") for v in fleet if v.spec.id not in chosen
            ]
    if ask.within is not None:
        if barred is not None:
            barred += [
                Barred(v.spec.id, "is not in the subset of the proxy")
                for v in meant
                if v.spec.id not in ask.within
            ]
        meant = [view for view in meant if view.spec.id in ask.within]

    # (2) may serve
    able: list[Candidate] = []
    full: list[Candidate] = []
    too_hot: list[Candidate] = []
    is_calm, time_weight = settings.is_calm, settings.steering.stance.time_weight
    kind, priority = ask.kind, wishes.priority
    for view in meant:
        judged = view.memo.get(kind)
        # Taken apart at once: in a large fleet this line is run a thousand times for each request.
        obstacle, candidate, by, until, is_for_all, _, beside = judged or _UNJUDGED
        if until <= now or by is not settings:
            if len(view.memo) >= JUDGED_KEPT:
                view.memo.clear()  # callers choose the names: they must not fill the memory
            judged = view.memo[kind] = _judge(view, ask, settings, now)
            obstacle, candidate, _, _, is_for_all, _, beside = judged
        if tried or not is_for_all:
            obstacle = _obstacle(view, ask, tried)
        if obstacle is not None:
            if barred is not None:
                barred.append(Barred(view.spec.id, obstacle))
            continue
        if candidate is None:
            candidate, beside = _assess(view, ask, settings, now), {}
        if warm is not None and warm.backend == view.spec.id:
            candidate, beside = _assess(view, ask, settings, now, cached=warm.share), {}
        if view.turned_away is not None and priority <= view.turned_away:
            full.append(candidate)
            if barred is not None:
                barred.append(Barred(view.spec.id, _FULL))
            continue
        if not is_calm and view.heat is ThermalState.CRITICAL:
            too_hot.append(candidate)
            if barred is not None:
                barred.append(Barred(view.spec.id, f"is too hot: {view.hot}"))
            continue
        if view.busy or ((others := view.others) is not None and others.count):
            if view.has_room(priority):
                # Nothing of it depends on the time: it is made once for so many beside it.
                taken = view.taken
                known = beside.get(taken)
                if known is None:
                    known = beside[taken] = _load(candidate, view, 0.0, time_weight)
                candidate = known
            else:
                wait_s = view.wait_s(priority, client, candidate.whole_s, now)
                candidate = _load(candidate, view, wait_s, time_weight)
                if view.is_full_for(priority):
                    full.append(candidate)
                    if barred is not None:
                        barred.append(Barred(view.spec.id, _FULL))
                    continue
        able.append(candidate)
    if not able:
        if full:
            return _no_room(full)
        return _all_too_hot(ask, meant) if too_hot else _nobody(ask, wishes, meant, tried)

    # (3) caps
    if (budget := wishes.max_power_watts) is not None:
        hungry = able
        able = [c for c in hungry if c.watts <= budget]
        if barred is not None:
            barred += [
                Barred(c.id, f"draws {c.watts:g} W, over {budget:g} W")
                for c in hungry
                if c.watts > budget
            ]
        if not able:
            least = min(candidate.watts for candidate in hungry)
            return Refusal(
                Code.NO_BACKEND,
                f"No backend for {ask.model!r} draws {budget:g} W or less; the thriftiest draws"
                f" {least:g} W. Raise the budget.",
                retry_after_s=_RETRY_AFTER_S,
            )
    if (limit := wishes.max_latency_s) is not None:
        late = able
        able = [c for c in late if c.safe_s <= limit]
        if not able:
            able = [c for c in late if _is_worth_a_try(c, limit, now)]
        if barred is not None:
            barred += [
                Barred(c.id, f"predicted {_in_ms(c)}, over {limit * 1000:g} ms")
                for c in late
                if c.safe_s > limit
            ]
        if not able:
            best = min(late, key=lambda candidate: candidate.safe_s)
            return Refusal(
                Code.DEADLINE_UNMEETABLE,
                f"No backend is predicted to answer within {limit * 1000:g} ms; the best"
                f" prediction is {_in_ms(best)}.",
                retry_after_s=max(1.0, best.predicted_s),
            )

    # (4) order, (5) ties
    if wishes.latency_critical or wishes.power_efficient:
        able.sort(key=_order(wishes, [*able, *too_hot]))
    else:
        # Sorting is stable. Twice by what is there costs half of once by what must be made.
        able.sort(key=_ties_of)
        able.sort(key=_score_of, reverse=True)

    # (6) restraint
    overruled: Reason | None = None
    if not is_calm:
        if too_hot:
            key = _order(wishes, [*able, *too_hot])
            overruled = Reason.THERMAL if min(map(key, too_hot)) < key(able[0]) else None
        if wishes.target is None and not wishes.latency_critical:
            able, why = restrain(
                able,
                priority=priority,
                warmest=settings.steering.stance.warmest,
                lets_sleep=settings.steering.on_battery,
                watts_cap=settings.watts_cap,
            )
            overruled = overruled or _said_of(why, settings)
    candidates = tuple(able)
    return Decision(
        backend=candidates[0].id,
        reason=_reason(wishes, candidates, settings, overruled, tried=bool(tried)),
        candidates=candidates,
    )


def _said_of(why: Restraint | None, settings: RouteSettings) -> Reason | None:
    """What to say where somebody was set aside; None: what the mode says."""
    match why:
        case Restraint.HEAT:
            return Reason.THERMAL
        case Restraint.SLEEP:
            return Reason.BATTERY
        case Restraint.WATTS if settings.watts_cap == settings.power_budget_watts:
            return Reason.POWER_BUDGET
        case Restraint.WATTS | Restraint.NODE | None:
            return None


def _is_worth_a_try(candidate: Candidate, limit_s: float, now: float) -> bool:
    """Whether a backend that is not expected to be in time is let show that it can be.

    Whoever is only asked for what must be in time, and was late for once, would never be asked again.
    So an idle one may try now and then, if its owner's word, and not merely its bad day, allows it.
    """
    was_heard = -math.inf < candidate.heard_at <= now - TRY_AGAIN_S
    is_idle = not candidate.terms.load
    return was_heard and is_idle and candidate.prior_s <= limit_s


def is_lost(candidate: Candidate, left_s: float) -> bool:
    """Whether a request whose turn it is would most likely end after its deadline.

    It was promised, so the doubt is its own: by the usual error a forecast may be too long.
    """
    return candidate.alone_s - candidate.off_s > left_s


def _in_ms(candidate: Candidate) -> str:
    """A prediction, with what it may be wrong by where that is known."""
    about = f" (give or take {SAFETY * candidate.off_s * 1000:.0f} ms)" if candidate.off_s else ""
    return f"{candidate.predicted_s * 1000:.0f} ms{about}"


def _targets(fleet: Sequence[BackendView], target: str) -> list[BackendView]:
    return [v for v in fleet if v.spec.id == target] or [
        v for v in fleet if v.spec.hardware.value == target.lower()
    ]


def _obstacle(view: BackendView, ask: Ask, tried: Collection[str]) -> str | None:
    spec = view.spec
    if not spec.enabled:
        return "is disabled"
    if spec.id in tried:
        return "failed this request already"
    if not view.healthy:
        return "is unhealthy"
    if view.circuit_open:
        return "failed too often lately"
    if view.node is not None and view.node.is_draining:
        return "is shutting down"
    if _is_second_hop(view, ask):
        return "is a router, and the request came through one"
    if ask.call in view.unserved:
        return f"does not serve {ask.call.path}"
    if ask.continues and not spec.continues(ask.call):
        return "cannot continue an answer"
    if ask.carried and (ask.call in view.uncarried or not spec.carries(ask.call)):
        return f"cannot be asked {ask.call.path} by another proxy"
    return _model_obstacle(view, ask)


def _is_second_hop(view: BackendView, ask: Ask) -> bool:
    """Whether a request would go from router to router to router: two could go on so for ever."""
    return ask.forwarded and view.spec.type is BackendType.ROUTER


def _model_obstacle(view: BackendView, ask: Ask) -> str | None:
    if not view.spec.may_serve(ask.model):
        return f"may not serve {ask.model!r}"
    limit = view.spec.max_prompt_tokens
    if limit and ask.prompt_bytes > limit * BYTES_PER_TOKEN:
        return f"takes prompts of at most {limit} tokens"
    return None if view.has_model(ask.model) else f"does not have {ask.model!r}"


class _Judged(NamedTuple):
    """All that a view means for one kind of request, kept with the view.

    Attributes:
        obstacle: why it could not serve; None if it could.
        candidate: it, as if nobody else were there; None where there is an obstacle.
        settings: those it was judged by.
        until: when it must be judged anew, as what was learned grows old.
        is_for_all: the obstacle is the same for all requests of the kind.
        at: when it was judged.
        beside: what `candidate` is beside so many others, where it starts at once; filled as it is
            asked for.
    """

    obstacle: str | None
    candidate: Candidate | None
    settings: RouteSettings | None
    until: float
    is_for_all: bool
    at: float
    beside: dict[int, Candidate]


_UNJUDGED = _Judged(None, None, None, -math.inf, is_for_all=True, at=-math.inf, beside={})


def judgement(view: BackendView, ask: Ask) -> object | None:
    """What stands for a view and a kind of request, the same object for as long as it does; None: nothing.

    For who notes down what a choice went by: what was learned is told as it was `judged_at`.
    """
    return view.memo.get(ask.kind)


def judged_at(judged: object | None) -> float | None:
    """When a judgement was made, in seconds; None where there is none."""
    return judged.at if isinstance(judged, _Judged) else None


def judge_as_of(view: BackendView, ask: Ask, settings: RouteSettings, at: float) -> None:
    """Let the next choices take a view as it was judged at a time, which may be a minute ago."""
    view.memo[ask.kind] = _judge(view, ask, settings, at)


def _judge(view: BackendView, ask: Ask, settings: RouteSettings, now: float) -> _Judged:
    obstacle = _obstacle(view, ask, ())
    return _Judged(
        obstacle=obstacle,
        candidate=_assess(view, ask, settings, now) if obstacle is None else None,
        settings=settings,
        until=now + JUDGED_FOR_S,
        is_for_all=not view.spec.max_prompt_tokens,
        at=now,
        beside={},
    )


def foresee(view: BackendView, ask: Ask, settings: RouteSettings, now: float) -> None:
    """Judge a backend for requests of a kind before the next one comes.

    What an answer has taught makes void what was judged, and whoever has just been answered is most
    likely to ask again: then nobody waits for it.
    """
    view.memo[ask.kind] = _judge(view, ask, settings, now)


def _assess(
    view: BackendView, ask: Ask, settings: RouteSettings, now: float, *, cached: float = 0.0
) -> Candidate:
    """What is expected of a backend that is idle, and has a share of the prompt in its cache."""
    spec = view.spec
    loaded = view.has_loaded(ask.model)
    prior = view.prior(ask)
    if settings.auto_optimize:
        forecast = view.estimates.forecast(ask, prior, loaded=loaded, now=now)
    else:
        forecast = Forecast(first_s=spec.avg_latency_s, whole_s=spec.avg_latency_s)
    saved_s = 0.0
    if cached and settings.auto_optimize:
        fresh = view.estimates.forecast(ask, prior, loaded=loaded, uncached=1 - cached, now=now)
        saved_s, forecast = forecast.first_s - fresh.first_s, fresh
    alone_s = forecast.first_s if ask.stream else forecast.whole_s
    warm_s = max(alone_s - forecast.load_s, 1e-6)
    watts, token_j = view.watts(ask), view.token_j(ask)
    stance = settings.steering.stance
    time_weight = stance.time_weight
    power_weight = stance.power_weight if settings.power_aware else 0.0
    own = view.stance
    if own is not None:  # whoever saves there saves more than is asked for here
        power_weight = max(power_weight, own.power_weight)
    loading = -0.5 if loaded is None else 0.0 if loaded else -max(1.0, math.log2(alone_s / warm_s))
    wake_s = spec.wake_s if view.asleep else 0.0
    waking = _waking(wake_s, warm_s, time_weight, power_weight) if wake_s else 0.0
    terms = Terms(
        -time_weight * math.log2(warm_s + saved_s),
        -power_weight * math.log2(watts),
        0.0,
        time_weight * loading,
        time_weight * max(0.5 * cached, math.log2(1 + saved_s / warm_s)) if cached else 0.0,
        -8.0 * view.failing,
        _HEAT.get(view.heat, 0.0),
        waking,
    )
    alone_s += wake_s
    return Candidate(
        id=spec.id,
        score=terms.score,
        terms=terms,
        predicted_s=alone_s,
        watts=watts,
        alone_s=alone_s,
        whole_s=max(forecast.whole_s + wake_s, 1e-6),
        off_s=forecast.off_first_s if ask.stream else forecast.off_whole_s,
        # A backend that fails every second time is expected to take twice as long.
        toil=1 / max(1 - view.failing, 0.01),
        ties=(-spec.preference, spec.id != settings.default_backend, spec.id),
        heard_at=view.estimates.heard_at(ask),
        prior_s=prior.first_s,
        token_j=token_j,
        warmth=view.heat.rank,
        asleep=view.asleep,
        spared=own is not None and _would_spare(own, view.heat, watts),
    )


def _would_spare(stance: Stance, heat: ThermalState, watts: float) -> bool:
    """Whether a node's own mode lets no work come that another can do."""
    cap = stance.watts_soft_cap
    return heat.rank > stance.warmest.rank or (cap is not None and watts > cap)


def _waking(wake_s: float, warm_s: float, time_weight: float, power_weight: float) -> float:
    """What it costs that a card must wake first, beside what the work itself takes."""
    return -time_weight * math.log2(1 + wake_s / warm_s) - power_weight * math.log2(
        1 + (wake_s + WAKE_TAIL_S) / warm_s
    )


_tuple = tuple.__new__


def _load(candidate: Candidate, view: BackendView, wait_s: float, time_weight: float) -> Candidate:
    """The same for a backend that is not idle: others share it, or must end first.

    Made for each busy backend and each request, hence of tuples at once (a named tuple's own
    constructor is a call more), and without what would change nothing.
    """
    id_, _, terms, _, watts, alone_s, whole_s, off_s, *rest = candidate
    latency, power, _, loaded, prefix, failing, heat, wake = terms
    longer = 1 + view.taken / view.spec.slots
    if wait_s:
        longer = max(longer, 1 + wait_s / max(alone_s, 1e-6))
        if usual_s := view.off_s.value:
            # Each one before it may take longer than expected, or shorter: errors add up as squares.
            waits = wait_s / whole_s
            off_s = math.hypot(off_s, usual_s * math.sqrt(waits) if waits > 1 else usual_s)
    load = -time_weight * math.log2(longer)
    score = latency + power + load + loaded + prefix + failing + heat + wake
    terms = _tuple(Terms, (latency, power, load, loaded, prefix, failing, heat, wake))
    made = (id_, score, terms, alone_s + wait_s, watts, alone_s, whole_s, off_s, *rest)
    return _tuple(Candidate, made)


def _order(wishes: Wishes, among: Sequence[Candidate]) -> Callable[[Candidate], Any]:
    """What candidates are sorted by, least first: what a flag names, then the score, then ties."""
    if wishes.latency_critical:
        return lambda c: (c.predicted_s * c.toil, -c.score, c.ties)
    if not wishes.power_efficient:
        return lambda c: (-c.score, c.ties)
    if all(c.token_j is not None for c in among):
        return lambda c: ((c.token_j or 0.0) * c.toil, -c.score, c.ties)
    return lambda c: (c.watts * c.toil, -c.score, c.ties)


_score_of = operator.attrgetter("score")
_ties_of = operator.attrgetter("ties")


def _reason(
    wishes: Wishes,
    candidates: tuple[Candidate, ...],
    settings: RouteSettings,
    overruled: Reason | None,
    *,
    tried: bool,
) -> Reason:
    if tried:
        return Reason.FAILOVER
    if overruled is not None:
        return overruled
    if wishes.target is not None:
        return Reason.EXPLICIT_TARGET
    if wishes.latency_critical:
        return Reason.LATENCY_CRITICAL
    if wishes.power_efficient:
        return Reason.POWER_EFFICIENT
    if wishes.max_latency_s is not None:
        return Reason.DEADLINE
    if wishes.max_power_watts is not None:
        return Reason.POWER_BUDGET
    if len(candidates) == 1:
        return Reason.ONLY_CANDIDATE
    if settings.steering.reason not in _EVEN:
        return settings.steering.reason
    first, second = candidates[:2]
    ahead = first.score - second.score
    decided_by_loading = 0 <= ahead <= first.terms.loaded - second.terms.loaded != 0
    return Reason.MODEL_LOADED if decided_by_loading else settings.steering.reason


# Reasons that leave the word to what is in memory.
_EVEN = {Reason.BALANCED, Reason.MODE_BALANCED}


def _unknown_target(target: str, fleet: Sequence[BackendView]) -> Refusal:
    known = ", ".join(sorted(v.spec.id for v in fleet)) or "none"
    return Refusal(
        Code.UNKNOWN_BACKEND,
        f"There is no backend or hardware named {target!r}. Backends: {known}.",
        param="target",
    )


def _all_too_hot(ask: Ask, meant: Sequence[BackendView]) -> Refusal:
    hot = [f"{v.spec.id} ({v.hot})" for v in meant if v.heat is ThermalState.CRITICAL]
    return Refusal(
        Code.NO_BACKEND,
        f"Every backend that could serve {ask.model!r} is too hot now: {', '.join(hot)}.",
        retry_after_s=COOLING_S,
    )


def _no_room(full: Sequence[Candidate]) -> Refusal:
    soonest = min(candidate.predicted_s for candidate in full)
    return Refusal(
        Code.QUEUE_FULL,
        f"Too many requests wait already for {', '.join(candidate.id for candidate in full)}.",
        retry_after_s=max(1.0, soonest),
    )


def _nobody(
    ask: Ask, wishes: Wishes, meant: Sequence[BackendView], tried: Collection[str]
) -> Refusal:
    """Say why nobody is able: the model is nowhere, or those who have it cannot serve now."""
    if ask.within is not None and not tried:
        return Refusal(
            Code.NO_BACKEND,
            f"No backend of the proxy's subset can serve {ask.model!r} now: "
            + (", ".join(f"{v.spec.id} {_obstacle(v, ask, ())}" for v in meant) or "it has none")
            + ".",
            retry_after_s=_RETRY_AFTER_S,
        )
    if tried:
        return Refusal(
            Code.BACKEND_FAILED,
            f"Every backend that could serve {ask.model!r} failed: {', '.join(tried)}.",
        )
    enabled = [v for v in meant if v.spec.enabled and not _is_second_hop(v, ask)]
    fitting = [v for v in enabled if _model_obstacle(v, ask) is None]
    where = f"on {wishes.target!r} " if wishes.target is not None else ""
    if fitting and all(ask.call in v.unserved for v in fitting):
        return Refusal(
            Code.NO_BACKEND,
            f"No backend {where}serves {ask.call.path} for {ask.model!r}.",
            retry_after_s=_RETRY_AFTER_S,
        )
    if fitting or not enabled:
        return Refusal(
            Code.NO_BACKEND,
            f"No backend {where}can serve {ask.model!r} now: "
            + (
                ", ".join(f"{v.spec.id} {_obstacle(v, ask, tried)}" for v in meant)
                or "there is none; describe one in the configuration, or see why [fleet] finds none"
            )
            + ".",
            retry_after_s=_RETRY_AFTER_S,
        )
    too_long = [v for v in enabled if v.spec.may_serve(ask.model) and v.has_model(ask.model)]
    if too_long:
        return Refusal(
            Code.BODY_TOO_LARGE,
            f"The prompt is too long for every backend that has {ask.model!r}: at most"
            f" {max(v.spec.max_prompt_tokens for v in too_long)} tokens.",
        )
    known = {
        name
        for v in enabled
        for name in (*(v.models or ()), *v.spec.aliases)
        if v.spec.may_serve(name)
    }
    near = difflib.get_close_matches(ask.model, sorted(known), n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return Refusal(
        Code.MODEL_NOT_FOUND,
        f"model {ask.model!r} not found {where.strip() or 'on any backend'}.{hint}",
        param="model",
    )
