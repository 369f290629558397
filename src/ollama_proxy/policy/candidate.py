"""A backend that could serve a request, with what is expected of it there."""

from typing import NamedTuple

# A deadline is promised where the forecast and so many times its usual error fit before it. Mean
# errors are 0.8 of a deviation: three of them hold 99 of 100 where errors are spread normally.
SAFETY = 3.0


class Terms(NamedTuple):
    """The parts of a score, in octaves."""

    latency: float
    power: float
    load: float
    loaded: float
    prefix: float
    failing: float
    heat: float
    wake: float

    @property
    def score(self) -> float:
        """Their sum, term by term: `sum` rounds otherwise from one Python to the next."""
        latency, power, load, loaded, prefix, failing, heat, wake = self
        return latency + power + load + loaded + prefix + failing + heat + wake


class Candidate(NamedTuple):
    """A backend that could serve, with what is expected of it. Seconds, watts.

    Attributes:
        predicted_s: to the answer (a stream's first token, another's end), the wait in line included.
        alone_s: to the answer, once it is its turn.
        whole_s: how long a slot will be taken.
        off_s: by how much such predictions were wrong lately.
        toil: how many attempts an answer is expected to take.
        ties: its place among equals, least first.
        heard_at: when anything was learned of such requests there, in seconds.
        prior_s: what its owner believes of `alone_s`.
        token_j: joules for each token of an answer; None until they were measured.
        warmth: the rank of its part's thermal state.
        asleep: it must be woken first.
        spared: it is a router, whose own mode would spare what it computes on.
    """

    id: str
    score: float
    terms: Terms
    predicted_s: float
    watts: float
    alone_s: float
    whole_s: float
    off_s: float
    toil: float
    ties: tuple[float, bool, str]
    heard_at: float
    prior_s: float
    token_j: float | None
    warmth: int
    asleep: bool
    spared: bool = False

    @property
    def safe_s(self) -> float:
        """What may be promised: hardly ever is it later than that."""
        return self.predicted_s + SAFETY * self.off_s
