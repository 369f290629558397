"""Random questions: fleets in every state that a choice may look at, and who asks what of them."""

import attrs
from hypothesis import strategies as st

from ollama_proxy.policy.affinity import Warm
from ollama_proxy.policy.ask import Ask, Call, Priority, Wishes
from ollama_proxy.policy.energy import Appetite, Grade
from ollama_proxy.policy.estimate import Estimates, Learned, Seen
from ollama_proxy.policy.fleet import BackendType, BackendView
from ollama_proxy.policy.modes import STANCES, Mode
from ollama_proxy.policy.node import Node
from ollama_proxy.policy.others import Others
from ollama_proxy.policy.preempt import Started
from ollama_proxy.policy.question import Question
from ollama_proxy.policy.route import Reason, RouteSettings, Steering
from ollama_proxy.policy.thermal import ThermalState
from tests.fleet import FIGURES, MODEL, Taken, spec

NOW = 10_000.0
SECONDS = st.floats(0.0, 1e4)
SOME_SECONDS = st.floats(1e-3, 1e3)
WATTS = st.floats(0.1, 500)
MODELS = st.sampled_from([MODEL, "llama3", "llama3:latest", "gpt-4o-mini", "ü/„nobody“:1b"])
LISTS = st.one_of(st.none(), st.frozensets(MODELS))


@attrs.frozen
class Line:
    """Who waits, as far as one may be told."""

    count: int
    own_s: float
    all_s: float
    is_full: bool

    def __len__(self) -> int:
        return self.count

    def ahead_s(self, priority: Priority, client: str) -> float:  # noqa: ARG002 - as `Queue` has it
        """Less for who has a name; none where nobody waits."""
        if not self.count:
            return 0.0
        return self.all_s if client == "" else self.own_s

    def depth(self, priority: Priority) -> int:  # noqa: ARG002 - as above
        """Half of them."""
        return self.count // 2

    def is_full_for(self, priority: Priority) -> bool:  # noqa: ARG002 - as above
        """For everybody, or nobody."""
        return self.is_full


@attrs.frozen
class Work:
    """What is at a slot."""

    yields: bool
    has_begun: bool
    put_back: int
    is_continuable: bool
    started: float = 0.0


SEEN = st.builds(
    Seen,
    first_s=st.one_of(st.none(), SOME_SECONDS),
    whole_s=SOME_SECONDS,
    pieces=st.one_of(st.none(), st.integers(1, 1000)),
    cold=st.sampled_from([None, True, False]),
    uncached=st.floats(0, 1),
    prompt_tokens=st.one_of(st.none(), st.integers(1, 10_000)),
    cached_tokens=st.one_of(st.none(), st.integers(0, 100)),
    load_s=st.one_of(st.none(), SOME_SECONDS),
    prefill_s=st.one_of(st.none(), SOME_SECONDS),
    decode_s=st.one_of(st.none(), SOME_SECONDS),
)
ASKS = st.builds(
    Ask,
    call=st.sampled_from(Call),
    model=MODELS,
    stream=st.booleans(),
    prompt_bytes=st.integers(0, 100_000),
    answer_limit=st.one_of(st.none(), st.integers(1, 10_000)),
    continues=st.booleans(),
    forwarded=st.booleans(),
    carried=st.booleans(),
    within=st.one_of(st.none(), st.frozensets(st.sampled_from([*FIGURES, "nobody"]))),
)
WISHES = st.one_of(
    st.just(Wishes()),
    st.builds(
        Wishes,
        target=st.sampled_from([None, None, None, *FIGURES, "NPU", "nobody"]),
        latency_critical=st.booleans(),
        power_efficient=st.booleans(),
        max_latency_s=st.one_of(st.none(), SOME_SECONDS),
        max_power_watts=st.one_of(st.none(), WATTS),
        priority=st.sampled_from(Priority),
    ),
)
SETTINGS = st.builds(
    RouteSettings,
    power_aware=st.booleans(),
    auto_optimize=st.booleans(),
    default_backend=st.sampled_from(["", *FIGURES]),
    power_budget_watts=st.one_of(st.none(), WATTS),
    steering=st.builds(
        Steering,
        stance=st.sampled_from(list(STANCES.values())),
        reason=st.sampled_from(Reason),
        is_loud=st.booleans(),
        on_battery=st.booleans(),
        all_cool=st.booleans(),
    ),
)


OTHERS = st.builds(
    lambda at_work, waiting: Others(at_work=at_work, waiting=waiting, count=at_work + sum(waiting)),
    st.integers(0, 4),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
)


NODES = st.builds(
    Node,
    mode=st.none() | st.sampled_from(Mode),
    is_draining=st.booleans(),
    watts=st.none() | WATTS,
    token_j=st.dictionaries(MODELS, WATTS),
    first_s=st.dictionaries(MODELS, SOME_SECONDS),
    tokens_per_s=st.dictionaries(MODELS, WATTS),
)


@st.composite
def views(draw: st.DrawFn, name: str, ask: Ask) -> BackendView:
    """One backend, in any state."""
    described = spec(
        name,
        type=draw(st.sampled_from([BackendType.OLLAMA, BackendType.ROUTER])),
        enabled=draw(st.sampled_from([True, True, True, False])),
        slots=draw(st.integers(1, 4)),
        models=draw(st.sampled_from([("*",), ("llama*", "qwen*"), (MODEL,)])),
        exclude=draw(st.sampled_from([(), ("llama3",)])),
        aliases=draw(st.sampled_from([{}, {"gpt-4o-mini": "llama3"}])),
        max_prompt_tokens=draw(st.sampled_from([0, 0, 5000])),
        power_watts=draw(WATTS),
        avg_latency_s=draw(SOME_SECONDS),
        preference=draw(st.integers(-2, 2)),
        continues_chat=draw(st.booleans()),
    )
    estimates, energy = Estimates(), Appetite()
    for seen in draw(st.lists(SEEN, max_size=3)):
        estimates.observe(ask, seen, described.prior, now=draw(SECONDS))
    for watts in draw(st.lists(WATTS, max_size=2)):
        tokens = draw(st.sampled_from([None, 10.0]))
        energy.observe(ask.subject, watts, Grade.MEASURED, NOW, seconds=3.0, tokens=tokens)
    busy = tuple(map(Taken, draw(st.lists(SECONDS, max_size=described.slots))))
    return BackendView(
        spec=described,
        healthy=draw(st.sampled_from([True, True, True, False])),
        circuit_open=draw(st.sampled_from([True, False, False, False])),
        models=draw(LISTS),
        loaded=draw(LISTS),
        busy=busy,
        line=Line(draw(st.integers(0, 9)), draw(SECONDS), draw(SECONDS), draw(st.booleans())),
        others=draw(st.none() | OTHERS),
        reserved=draw(st.integers(0, described.slots - 1)),
        running=tuple(
            Work(
                draw(st.booleans()),
                draw(st.booleans()),
                draw(st.integers(0, 2)),
                is_continuable=True,
            )
            for _ in busy
        ),
        preempts=draw(st.sampled_from([None, *Started])),
        unserved=frozenset(draw(st.sets(st.sampled_from(Call), max_size=1))),
        uncarried=frozenset(draw(st.sets(st.sampled_from(Call), max_size=1))),
        failing=draw(st.floats(0, 1)),
        estimates=estimates,
        off_s=Learned(draw(SOME_SECONDS), 0.0),
        linger_s=Learned(draw(SOME_SECONDS), 0.0),
        energy=energy,
        heat=draw(st.sampled_from(ThermalState)),
        hot="package 96 °C",
        asleep=draw(st.booleans()),
        node=draw(st.none() | NODES) if described.type is BackendType.ROUTER else None,
        turned_away=draw(st.none() | st.sampled_from(Priority)),
    )


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """Anything that may be asked."""
    ask = draw(ASKS)
    names = draw(st.lists(st.sampled_from(list(FIGURES)), unique=True))
    return Question(
        ask=ask,
        wishes=draw(WISHES),
        fleet=[draw(views(name, ask)) for name in names],
        settings=draw(SETTINGS),
        now=NOW,
        client=draw(st.sampled_from(["", "somebody's address"])),
        warm=draw(st.sampled_from([None, Warm("npu", 0.7)])),
        tried=draw(st.sampled_from([(), (), ("cpu",)])),
    )


MODES = tuple(mode for mode in Mode if mode is not Mode.AUTO)
