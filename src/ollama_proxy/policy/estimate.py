"""How fast a backend is with a model, learned from the requests it served.

A decaying mean: an old observation counts less with time as well as with newer ones, so that a
machine that was throttled this morning is not judged by it in the evening. Failures teach nothing
here: a backend that refuses at once is not a fast one.
"""

import math

import attrs

WEIGHT = 0.25  # of one new observation; four or five of them replace what was believed
MODELS_MAX = 1024  # some servers take any name a caller makes up; the least recently fed goes
HALF_LIFE_S = 1800.0  # unused for half an hour, half of the trust goes back to the prior


@attrs.frozen
class Prior:
    """What the owner wrote down, believed until something is measured. Seconds."""

    first_s: float
    whole_s: float


@attrs.frozen
class Learned:
    """A decaying mean in seconds (or per second), and when it was last fed."""

    value: float
    at: float

    def fed(self, observed: float, now: float) -> "Learned":
        """The mean after one more observation."""
        return Learned(self.value + WEIGHT * (observed - self.value), now)

    def believed(self, prior: float, now: float) -> float:
        """The mean, drawn back to `prior` as it grows old."""
        trust = math.exp2(-max(0.0, now - self.at) / HALF_LIFE_S)
        return prior + trust * (self.value - prior)


@attrs.define
class Estimates:
    """What was learned of one backend, by model: time to first token, whole answer, decode rate.

    Mutable, unlike its neighbours: it is fed once a request, by the engine alone, and copying a
    table for each of them would cost more than the choice it serves.
    """

    first: dict[str, Learned] = attrs.field(factory=dict)
    whole: dict[str, Learned] = attrs.field(factory=dict)
    decode: dict[str, Learned] = attrs.field(factory=dict)

    def predict(self, model: str, prior: Prior, *, stream: bool, now: float) -> float:
        """Seconds to the first token of a stream, or to the end of a whole answer."""
        learned = (self.first if stream else self.whole).get(model)
        believed = prior.first_s if stream else prior.whole_s
        return believed if learned is None else learned.believed(believed, now)

    def observe(
        self,
        model: str,
        *,
        now: float,
        first_s: float | None = None,
        whole_s: float | None = None,
        tokens_per_s: float | None = None,
        prior: Prior,
    ) -> None:
        """Learn from one request that was served."""
        if first_s is not None:
            known = self.first.get(model) or Learned(prior.first_s, now)
            _keep(self.first, model, known.fed(first_s, now))
        if whole_s is not None:
            known = self.whole.get(model) or Learned(prior.whole_s, now)
            _keep(self.whole, model, known.fed(whole_s, now))
        if tokens_per_s is not None:
            seen = self.decode.get(model)
            _keep(
                self.decode,
                model,
                Learned(tokens_per_s, now) if seen is None else seen.fed(tokens_per_s, now),
            )


def _keep(table: dict[str, Learned], model: str, learned: Learned) -> None:
    """Write down what was learned last, in the table's last place."""
    table.pop(model, None)
    table[model] = learned
    if len(table) > MODELS_MAX:
        del table[next(iter(table))]
