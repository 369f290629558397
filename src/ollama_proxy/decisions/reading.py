"""Makes a question of a line again, or says what is wrong with the line."""

import math
from collections.abc import Iterable, Iterator

import attrs
import msgspec

from ollama_proxy.decisions import form
from ollama_proxy.policy.affinity import Warm
from ollama_proxy.policy.ask import Ask, Call, Priority, Wishes
from ollama_proxy.policy.energy import Appetite, Grade
from ollama_proxy.policy.estimate import Estimates, Learned, Slope, Speeds
from ollama_proxy.policy.fleet import BackendSpec, BackendType, BackendView
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.modes import Mode, Stance
from ollama_proxy.policy.node import Node
from ollama_proxy.policy.others import Others
from ollama_proxy.policy.preempt import Started
from ollama_proxy.policy.question import Question
from ollama_proxy.policy.route import Reason, RouteSettings, Steering, judge_as_of
from ollama_proxy.policy.thermal import ThermalState

_SOMEWHERE = "http://it"  # nor is where a backend listens; whether another proxy reaches it is
_SOMEBODY = "somebody"  # nobody's name is in the log; only who is not "" is told of its own turn


@attrs.frozen(kw_only=True)
class Recorded:
    """One choice from a log.

    Attributes:
        number: of its line, from 1.
        judged: when a choice last looked at what was learned of each view; None: not before.
        gave: what was decided then.
    """

    number: int
    time: str
    request_id: str
    question: Question
    judged: tuple[float | None, ...]
    gave: form.Gave

    def as_it_was(self) -> Question:
        """The question, with what was known as old as it was then."""
        for view, at in zip(self.question.fleet, self.judged, strict=True):
            view.memo.clear()
            if at is not None:
                judge_as_of(view, self.question.ask, self.question.settings, at)
        return self.question


@attrs.frozen
class Unread:
    """A line that could not be used, and why, in a few words after its number."""

    number: int
    why: str


class _Stamp(msgspec.Struct):
    """What every version's lines say of themselves."""

    v: int | None = None
    kind: str = ""


_stamp = msgspec.json.Decoder(_Stamp)
_line = msgspec.json.Decoder(form.Line)


def read(lines: Iterable[bytes]) -> Iterator[Recorded | Unread]:
    """Read a log, line by line."""
    for number, data in enumerate(lines, start=1):
        if data.strip():
            yield _read(number, data)


def _read(number: int, data: bytes) -> Recorded | Unread:
    is_whole = data.endswith(b"\n")
    try:
        stamp = _stamp.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return Unread(number, "damaged" if is_whole else "cut off")
    if stamp.v is None or stamp.v < 1:
        return Unread(number, "not of a decision log")
    if stamp.v != form.VERSION:
        age = "a newer" if stamp.v > form.VERSION else "an older"
        return Unread(
            number, f"of {age} format, {stamp.v} (this ollama-proxy reads {form.VERSION})"
        )
    if stamp.kind != form.KIND:
        return Unread(number, f"a {stamp.kind[:20]!r}, which this ollama-proxy does not know")
    try:
        return _recorded(number, _line.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, OverflowError):
        return Unread(number, "damaged")


def _recorded(number: int, line: form.Line) -> Recorded:
    """Raises ValueError where a word is not one of ours."""
    asked, wished = line.asked, line.wished
    ask = Ask(
        call=Call(asked.call),
        model=asked.model,
        stream=asked.stream,
        prompt_bytes=asked.prompt_bytes,
        answer_limit=asked.answer_limit,
        continues=asked.continues,
        carried=asked.carried,
        within=None if asked.within is None else frozenset(asked.within),
        forwarded=asked.forwarded,
    )
    return Recorded(
        number=number,
        time=line.time,
        request_id=line.request_id,
        question=Question(
            ask=ask,
            wishes=Wishes(
                target=wished.target,
                latency_critical=wished.latency_critical,
                power_efficient=wished.power_efficient,
                max_latency_s=wished.max_latency_s,
                max_power_watts=wished.max_power_watts,
                priority=Priority(wished.priority),
            ),
            fleet=[_view(view, line.busy.get(view.spec.id), ask) for view in line.views],
            settings=_settings(line.settings),
            now=line.now,
            client=_SOMEBODY,
            warm=None if line.warm is None else Warm(*line.warm),
            tried=tuple(line.tried),
            again=line.again,
        ),
        judged=tuple(view.judged for view in line.views),
        gave=line.gave,
    )


@attrs.frozen
class _Standing:
    """A line of those who waited, as far as one request was told of it."""

    busy: form.Busy

    def __len__(self) -> int:
        return self.busy.waiting

    def ahead_s(self, priority: Priority, client: str) -> float:  # noqa: ARG002 - as `Queue` has it
        return self.busy.before_all_s if client == "" else self.busy.ahead_s

    def depth(self, priority: Priority) -> int:  # noqa: ARG002 - as above
        return self.busy.depth

    def is_full_for(self, priority: Priority) -> bool:  # noqa: ARG002 - as above
        return self.busy.full


@attrs.frozen
class _Slot:
    """A slot that was taken."""

    ends: float


@attrs.frozen
class _Work:
    """Work that may have yielded."""

    yields: bool
    has_begun: bool
    put_back: int
    is_continuable: bool
    started: float = 0.0


_IDLE = _Standing(form.Busy(ends=[]))


def _view(view: form.View, busy: form.Busy | None, ask: Ask) -> BackendView:
    return BackendView(
        spec=_spec(view.spec),
        healthy=view.healthy,
        circuit_open=view.circuit_open,
        models=None if view.models is None else frozenset(view.models),
        loaded=None if view.loaded is None else frozenset(view.loaded),
        busy=() if busy is None else tuple(map(_Slot, busy.ends)),
        line=_IDLE if busy is None else _Standing(busy),
        others=None if busy is None or busy.others is None else _others(*busy.others),
        reserved=view.reserved,
        running=() if busy is None else tuple(_Work(*work) for work in busy.yielding),
        preempts=None if view.preempts is None else Started(view.preempts),
        unserved=frozenset({ask.call} if view.unserved else ()),
        uncarried=frozenset({ask.call} if view.uncarried else ()),
        failing=view.failing,
        estimates=Estimates(
            {} if view.speeds is None else {ask.subject: _speeds(view.speeds)},
        ),
        linger_s=Learned(0.0 if busy is None else busy.linger_s, 0.0),
        off_s=Learned(0.0 if busy is None else busy.off_s, 0.0),
        energy=_energy(view, ask),
        heat=ThermalState(view.heat),
        hot=view.hot,
        asleep=view.asleep,
        node=_node(view, ask),
        turned_away=None if view.turned_away is None else Priority(view.turned_away),
    )


def _node(view: form.View, ask: Ask) -> Node | None:
    """What it said of itself, as far as a choice looks at it; of a backend that is no router, nothing."""
    if view.spec.type != BackendType.ROUTER.value:
        return None
    real = view.spec.aliases.get(ask.model, ask.model)
    return Node(
        mode=None if view.mode is None else Mode(view.mode),
        is_draining=view.draining,
        first_s={} if view.ttft_s is None else {real: view.ttft_s},
        tokens_per_s={} if view.tokens_per_s is None else {real: view.tokens_per_s},
    )


def _others(at_work: int, ahead: int, behind: int) -> Others:
    # Of what priority they were makes no difference, but that it was above or below.
    waiting = [behind, *[0] * (Priority.CRITICAL - 1), ahead]
    return Others(at_work=at_work, waiting=waiting, count=at_work + ahead + behind)


def _energy(view: form.View, ask: Ask) -> Appetite:
    appetite = Appetite()
    if view.watts is not None:
        appetite.observe(ask.subject, view.watts, Grade.MEASURED, 0.0, seconds=1.0)
    if view.token_j is not None:
        appetite.observe(ask.subject, view.token_j, Grade.MEASURED, 0.0, seconds=0.0, tokens=1)
    return appetite


def _spec(spec: form.Spec) -> BackendSpec:
    return BackendSpec(
        id=spec.id,
        type=BackendType(spec.type),
        hardware=Hardware(spec.hardware),
        endpoint=_SOMEWHERE,
        enabled=spec.enabled,
        slots=spec.slots,
        models=spec.models,
        exclude=spec.exclude,
        aliases=spec.aliases,
        max_prompt_tokens=spec.max_prompt_tokens,
        power_watts=spec.power_watts,
        avg_latency_s=spec.avg_latency_s,
        preference=spec.preference,
        wake_s=spec.wake_s,
        continues_chat=spec.continues_chat,
    )


def _learned(mean: form.Mean | None) -> Learned | None:
    return None if mean is None else Learned(*mean)


def _speeds(speeds: form.Speeds) -> Speeds:
    return Speeds(
        floor_s=_learned(speeds.floor_s),
        whole_s=_learned(speeds.whole_s),
        load_s=_learned(speeds.load_s),
        prefill_s=_learned(speeds.prefill_s),
        slope=None if speeds.slope is None else Slope(*speeds.slope),
        decode=_learned(speeds.decode),
        tokens_per_byte=_learned(speeds.tokens_per_byte),
        streamed=_learned(speeds.streamed),
        gathered=_learned(speeds.gathered),
        off_first_s=_learned(speeds.off_first_s),
        off_whole_s=_learned(speeds.off_whole_s),
        tells_cache=speeds.tells_cache,
        heard_at=-math.inf if speeds.heard_at is None else speeds.heard_at,
    )


def _settings(settings: form.Settings) -> RouteSettings:
    stance = settings.stance
    return RouteSettings(
        power_aware=settings.power_aware,
        auto_optimize=settings.auto_optimize,
        default_backend=settings.default_backend,
        power_budget_watts=settings.power_budget_watts,
        steering=Steering(
            stance=Stance(
                time_weight=stance.time_weight,
                power_weight=stance.power_weight,
                watts_soft_cap=stance.watts_soft_cap,
                warmest=ThermalState(stance.warmest),
                watts_soft_cap_when_loud=stance.watts_soft_cap_when_loud,
            ),
            reason=Reason(settings.reason),
            is_loud=settings.is_loud,
            on_battery=settings.on_battery,
            all_cool=settings.all_cool,
        ),
    )
