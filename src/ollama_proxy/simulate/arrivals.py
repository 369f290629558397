"""Who asks what, and when: drawn once from a seed, the same for every router.

Those with a rate, and those of a trace, come when they come: they are kept in flat arrays, since
there may be a million. Those that are kept waiting come when others are done, so only their contents
are drawn, one after the other: the n-th of them is the same for every router.
"""

import heapq
import itertools
import math
import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import attrs

from ollama_proxy.backends.backend import Errand
from ollama_proxy.policy.affinity import BLOCK_BYTES, BLOCKS_MAX
from ollama_proxy.policy.ask import Ask, Call, Priority, Wishes
from ollama_proxy.policy.estimate import BYTES_PER_TOKEN
from ollama_proxy.simulate.scenario import Recorded, Scenario, TrafficConfig

_PRIORITIES = {priority.label: priority for priority in Priority}
BLOCK_TOKENS = int(BLOCK_BYTES / BYTES_PER_TOKEN)


class Arrival(NamedTuple):
    """One request.

    Attributes:
        at: when it comes, in seconds.
        kind: the number of its `Kind`.
        client: which of the kind's.
        prompt: tokens.
        answer: tokens.
        first_noise: a normal deviate, for the time to its first token.
        rest_noise: the same for the rest.
        luck: 0 to 1; a backend that breaks off this share breaks this one off.
        talk: the conversation it belongs to; 0 for none.
        known: tokens of the prompt that the conversation had before.
    """

    at: float
    kind: int
    client: int
    prompt: int
    answer: int
    first_noise: float
    rest_noise: float
    luck: float
    talk: int
    known: int


_COLUMNS = "dHIIIffdQI"  # array's types of an Arrival's fields


@attrs.frozen(kw_only=True, eq=False)
class Kind:
    """What all requests of a class share."""

    name: str
    model: str
    stream: bool
    wishes: Wishes
    errand: Errand
    clients: tuple[str, ...]
    background: bool = False
    talks: bool = False

    @property
    def limit_s(self) -> float:
        """The deadline, from arrival; inf for none."""
        limit_s = self.wishes.max_latency_s
        return math.inf if limit_s is None else limit_s

    def ask(self, arrival: Arrival) -> Ask:
        """What a router sees of one of them."""
        blocks = min(arrival.prompt // BLOCK_TOKENS, BLOCKS_MAX) if arrival.talk else 0
        return Ask(
            call=self.errand.call,
            model=self.model,
            stream=self.stream,
            prompt_bytes=int(arrival.prompt * BYTES_PER_TOKEN),
            # Numbers, not hashes: a conversation's blocks are its own.
            prefix=tuple(range(arrival.talk * BLOCKS_MAX, arrival.talk * BLOCKS_MAX + blocks)),
        )


def _kind(given: TrafficConfig | Recorded, name: str, clients: tuple[str, ...]) -> Kind:
    limit_ms = given.max_latency_ms
    return Kind(
        name=name,
        model=given.model,
        stream=given.stream,
        wishes=Wishes(
            priority=_PRIORITIES[given.priority],
            max_latency_s=limit_ms / 1000 if limit_ms else None,
            latency_critical=given.latency_critical,
            power_efficient=given.power_efficient,
        ),
        errand=Errand(call=Call.OPENAI_CHAT, model=given.model, body=b"", stream=given.stream),
        clients=clients,
        background=isinstance(given, TrafficConfig) and given.background,
        talks=isinstance(given, TrafficConfig) and given.continues > 0,
    )


@attrs.frozen(kw_only=True)
class Traffic:
    """All that a scenario's callers ask.

    Attributes:
        kinds: the classes.
        columns: those who come by themselves, in order: an array for each field of an `Arrival`.
        kept: (how many at once, when the first come, until when) and what draws their contents, for
            each class that is kept waiting.
        until: when nobody comes any more, in seconds.
        count_kept: so many of the kept ones come, where there are no others.
    """

    kinds: tuple[Kind, ...]
    columns: tuple["array[int] | array[float]", ...]
    kept: tuple["Kept", ...]
    until: float
    count_kept: float

    def __len__(self) -> int:
        return len(self.columns[0])

    def open(self) -> Iterator[Arrival]:
        """Those who come by themselves."""
        return map(Arrival._make, zip(*self.columns, strict=True))

    def without_background(self) -> "Traffic":
        """The others alone."""
        kinds, columns = self.kinds, tuple(array(code) for code in _COLUMNS)
        for arrival in self.open():
            if not kinds[arrival.kind].background:
                _append(columns, arrival)
        kept = tuple(k for k in self.kept if not kinds[k.kind].background)
        return attrs.evolve(self, columns=columns, kept=kept)


@attrs.frozen(kw_only=True)
class Kept:
    """A class of which so many are asked at any time."""

    kind: int
    at_once: int
    starts_s: float
    draw: Callable[[], Iterator[Arrival]]


def _append(columns: Sequence["array[int] | array[float]"], arrival: Arrival) -> None:
    for column, value in zip(columns, arrival, strict=True):
        column.append(value)  # type: ignore[arg-type] # each is of the column's own type


def traffic(scenario: Scenario, recorded: Sequence[Recorded] = ()) -> Traffic:
    """Draw everything that comes."""
    kinds: list[Kind] = []
    streams: list[Iterator[Arrival]] = []
    kept: list[Kept] = []
    ends = scenario.duration_s or math.inf
    for number, given in enumerate(scenario.traffic):
        clients = tuple(f"{given.name}-{n}" for n in range(given.clients))
        kinds.append(_kind(given, given.name, clients))

        def draw(number: int = number, given: TrafficConfig = given) -> Iterator[Arrival]:
            return _draw(number, given, random.Random(f"{scenario.seed} {given.name}"))  # noqa: S311 - a model's dice

        if given.keep:
            kept.append(Kept(kind=number, at_once=given.keep, starts_s=given.starts_s, draw=draw))
        else:
            streams.append(draw())
    if recorded:
        streams.append(_replay(recorded, kinds, random.Random(f"{scenario.seed} trace")))  # noqa: S311 - as above
    columns = tuple(array(code) for code in _COLUMNS)
    merged = heapq.merge(*streams, key=lambda arrival: arrival.at)
    last = 0.0
    for arrival in itertools.islice(merged, scenario.requests):
        if arrival.at > ends:
            break
        _append(columns, arrival)
        last = arrival.at
    has_open = bool(len(columns[0]))
    return Traffic(
        kinds=tuple(kinds),
        columns=columns,
        kept=tuple(kept),
        until=min(ends, last) if has_open else ends,
        count_kept=math.inf if has_open else scenario.requests,
    )


def _times(given: TrafficConfig, dice: random.Random) -> Iterator[float]:
    """When requests of a class come: in a Poisson stream, with pauses or without."""
    now, rate = given.starts_s, given.rate_per_s
    pause_at = now + dice.expovariate(1 / given.on_s) if given.on_s else math.inf
    ends = given.ends_s or math.inf
    while True:
        now += dice.expovariate(rate)
        while now > pause_at:
            # A Poisson stream forgets: what was left of the gap is drawn anew.
            now = pause_at + dice.expovariate(1 / given.off_s)
            pause_at = now + dice.expovariate(1 / given.on_s)
            now += dice.expovariate(rate)
        if now > ends:
            return
        yield now


def _draw(number: int, given: TrafficConfig, dice: random.Random) -> Iterator[Arrival]:
    """The requests of a class."""
    # Not of the same dice: contents must not depend on how the requests come.
    times = (
        itertools.repeat(given.starts_s)
        if given.keep
        else _times(given, random.Random(f"{dice.random()} times"))  # noqa: S311 - a model's dice
    )
    talks: dict[int, tuple[int, int]] = {}
    begun = number * (1 << 32)
    normal, uniform = dice.gauss, dice.random
    for at in times:
        client = int(uniform() * given.clients)
        fresh = _size(given.prompt_tokens, given.prompt_sigma, normal)
        answer = _size(given.answer_tokens, given.answer_sigma, normal)
        talk = known = 0
        if given.continues:
            talk, known = talks.get(client, (0, 0))
            if not talk or known + fresh > given.talk_tokens or uniform() >= given.continues:
                begun += 1
                talk, known = begun, 0
            talks[client] = talk, known + fresh + answer
        yield Arrival(
            at, number, client, known + fresh, answer, normal(0, 1), normal(0, 1), uniform(), talk, known
        )  # fmt: skip


def _size(median: int, sigma: float, normal: Callable[[float, float], float]) -> int:
    """Tokens, at least one."""
    if not sigma:
        return median
    return max(1, min(10_000_000, round(median * math.exp(normal(0, sigma)))))


def _replay(
    recorded: Sequence[Recorded], kinds: list[Kind], dice: random.Random
) -> Iterator[Arrival]:
    """The requests of a trace; those that ask alike are one kind."""
    known: dict[Recorded, int] = {}
    clients = tuple(sorted({request.client for request in recorded}))
    numbers = {client: number for number, client in enumerate(clients)}
    for request in recorded:
        alike = attrs.evolve(request, at_s=0.0, prompt_tokens=1, answer_tokens=1, client="")
        if alike not in known:
            known[alike] = len(kinds)
            kinds.append(_kind(request, "trace", clients))
    return (
        Arrival(
            request.at_s,
            known[attrs.evolve(request, at_s=0.0, prompt_tokens=1, answer_tokens=1, client="")],
            numbers[request.client],
            request.prompt_tokens,
            request.answer_tokens,
            dice.gauss(0, 1),
            dice.gauss(0, 1),
            dice.random(),
            0,
            0,
        )
        for request in recorded
    )
