"""Makes a line of a choice, at once and cheaply: what it went by is live, and gone a moment later.

A view as far as it is frozen, with what was learned, is encoded once for each judgement that the
policy keeps of it (`route.judgement`): mostly it serves many requests. That is also why it is right:
a choice goes by what was learned when it was judged, not by what is learned since.
"""

from collections.abc import Callable

import attrs
import msgspec

from ollama_proxy.decisions import form
from ollama_proxy.decisions.outcome import gave
from ollama_proxy.policy.ask import NO_WISHES, Ask, Priority, Wishes
from ollama_proxy.policy.estimate import Learned, Speeds
from ollama_proxy.policy.fleet import BackendSpec, BackendView, canonical_model
from ollama_proxy.policy.question import Question
from ollama_proxy.policy.refusal import Refusal
from ollama_proxy.policy.route import Decision, RouteSettings, judged_at, judgement

KEPT = 1024  # encoded views; callers choose the models' names
_encode = msgspec.json.Encoder().encode


@attrs.define(eq=False)
class Scribe:
    """Writes lines.

    Attributes:
        time: what time it is on the wall, for people.
    """

    time: Callable[[], str]
    _views: dict[tuple[str, str], tuple[object, msgspec.Raw]] = attrs.field(factory=dict)
    _settings: tuple[RouteSettings | None, msgspec.Raw] = (None, msgspec.Raw())

    def line(self, request_id: str, question: Question, outcome: Decision | Refusal) -> bytes:
        """One choice as a line of JSON, its end included.

        Args:
            request_id: whose.
            question: what was asked just now; nothing that it shows has changed since.
            outcome: what was decided.
        """
        ask, wishes = question.ask, question.wishes
        busy = {
            view.spec.id: _busy(view, wishes.priority, question.client)
            for view in question.fleet
            if view.busy or (view.others is not None and view.others.count)
        }
        written = form.Written(
            form.VERSION,
            form.KIND,
            self.time(),
            request_id,
            question.now,
            form.Asked(
                ask.call.value,
                ask.model,
                ask.stream,
                ask.prompt_bytes,
                ask.answer_limit,
                ask.continues,
                ask.carried,
                None if ask.within is None else sorted(ask.within),
                ask.forwarded,
            ),
            gave(outcome),
            self._of_settings(question.settings),
            [self._of_view(view, ask) for view in question.fleet],
            None if wishes is NO_WISHES else _wished(wishes),
            None if question.warm is None else (question.warm.backend, question.warm.share),
            list(question.tried),
            question.again,
            busy,
        )
        return _encode(written) + b"\n"

    def _of_settings(self, settings: RouteSettings) -> msgspec.Raw:
        known, raw = self._settings
        if known is not settings:
            raw = msgspec.Raw(_encode(_of_settings(settings)))
            self._settings = (settings, raw)
        return raw

    def _of_view(self, view: BackendView, ask: Ask) -> msgspec.Raw:
        judged = judgement(view, ask)
        key = (view.spec.id, ask.kind)
        known = self._views.get(key)
        if known is not None and known[0] is judged and judged is not None:
            return known[1]
        raw = msgspec.Raw(_encode(_of_view(view, ask, judged)))
        if judged is not None:
            if len(self._views) >= KEPT:
                self._views.clear()
            self._views[key] = (judged, raw)
        return raw


def _of_view(view: BackendView, ask: Ask, judged: object | None) -> form.View:
    speeds = view.estimates.subjects.get(ask.subject)
    names = _spellings(view.spec, ask.model)
    node, real = view.node, view.spec.real_name(ask.model)
    return form.View(
        spec=_of_spec(view.spec),
        healthy=view.healthy,
        circuit_open=view.circuit_open,
        models=None if view.models is None else [n for n in names if n in view.models],
        loaded=None if view.loaded is None else [n for n in names if n in view.loaded],
        unserved=ask.call in view.unserved,
        uncarried=ask.carried and (ask.call in view.uncarried or not view.spec.carries(ask.call)),
        reserved=view.reserved,
        preempts=None if view.preempts is None else view.preempts.value,
        failing=view.failing,
        speeds=None if speeds is None else _of_speeds(speeds),
        token_j=view.token_j(ask),
        watts=view.found_watts(ask),
        heat=view.heat.value,
        hot=view.hot,
        asleep=view.asleep,
        mode=None if node is None or node.mode is None else node.mode.value,
        draining=node is not None and node.is_draining,
        ttft_s=None if node is None else node.first_of(ask, real),
        tokens_per_s=None if node is None else node.pace_of(ask, real),
        turned_away=None if view.turned_away is None else view.turned_away.value,
        judged=judged_at(judged),
    )


def _spellings(spec: BackendSpec, model: str) -> list[str]:
    """All names by which the model may stand in a backend's list, be it by an alias or not."""
    names: dict[str, None] = {}
    for name in (model, spec.real_name(model)):
        names |= dict.fromkeys((name, canonical_model(name), name.removesuffix(":latest")))
    return list(names)


def _of_spec(spec: BackendSpec) -> form.Spec:
    return form.Spec(
        id=spec.id,
        type=spec.type.value,
        hardware=spec.hardware.value,
        power_watts=spec.power_watts,
        avg_latency_s=spec.avg_latency_s,
        enabled=spec.enabled,
        slots=spec.slots,
        models=spec.models,
        exclude=spec.exclude,
        aliases=dict(spec.aliases),
        max_prompt_tokens=spec.max_prompt_tokens,
        preference=spec.preference,
        wake_s=spec.wake_s,
        continues_chat=spec.continues_chat,
    )


def _mean(learned: Learned | None) -> form.Mean | None:
    return None if learned is None else (learned.value, learned.at)


def _of_speeds(speeds: Speeds) -> form.Speeds:
    slope = speeds.slope
    return form.Speeds(
        floor_s=_mean(speeds.floor_s),
        whole_s=_mean(speeds.whole_s),
        load_s=_mean(speeds.load_s),
        prefill_s=_mean(speeds.prefill_s),
        slope=None if slope is None else (slope.x, slope.y, slope.variance, slope.covariance),
        decode=_mean(speeds.decode),
        tokens_per_byte=_mean(speeds.tokens_per_byte),
        streamed=_mean(speeds.streamed),
        gathered=_mean(speeds.gathered),
        off_first_s=_mean(speeds.off_first_s),
        off_whole_s=_mean(speeds.off_whole_s),
        tells_cache=speeds.tells_cache,
        heard_at=speeds.heard_at,  # -inf is written as null
    )


def _of_settings(settings: RouteSettings) -> form.Settings:
    steering = settings.steering
    stance = steering.stance
    return form.Settings(
        stance=form.Stance(
            time_weight=stance.time_weight,
            power_weight=stance.power_weight,
            watts_soft_cap=stance.watts_soft_cap,
            warmest=stance.warmest.value,
            watts_soft_cap_when_loud=stance.watts_soft_cap_when_loud,
        ),
        reason=steering.reason.value,
        power_aware=settings.power_aware,
        auto_optimize=settings.auto_optimize,
        default_backend=settings.default_backend,
        power_budget_watts=settings.power_budget_watts,
        is_loud=steering.is_loud,
        on_battery=steering.on_battery,
        all_cool=steering.all_cool,
    )


def _wished(wishes: Wishes) -> form.Wished:
    return form.Wished(
        wishes.target,
        wishes.latency_critical,
        wishes.power_efficient,
        wishes.max_latency_s,
        wishes.max_power_watts,
        wishes.priority.value,
    )


def _busy(view: BackendView, priority: Priority, client: str) -> form.Busy:
    line = view.line
    busy = form.Busy(
        ends=[each.ends for each in view.busy],
        off_s=view.off_s.value,
        linger_s=view.linger_s.value,
    )
    if len(line):
        busy.waiting = len(line)
        busy.ahead_s = line.ahead_s(priority, client)
        busy.before_all_s = line.ahead_s(priority, "")
        busy.depth = line.depth(priority)
    if (others := view.others) is not None and others.count:
        ahead = others.ahead(priority)
        busy.others = others.at_work, ahead, others.count - others.at_work - ahead
    busy.full = line.is_full_for(priority)
    if priority is Priority.CRITICAL:
        busy.yielding = [
            (work.yields, work.has_begun, work.put_back, work.is_continuable)
            for work in view.running
        ]
    return busy
