"""How long a backend takes with a model, learned from the requests it served.

A first token takes: loading, where the model is not in memory + a floor + the prompt's share, which
grows with its tokens. A whole answer takes that, and a share for each of its own tokens. Each part
is a mean in which newer observations outweigh older ones. What an owner wrote down as well (the floor
and the whole) is drawn back to it with time, so that a machine that was throttled this morning is not
judged by it in the evening; errors are forgotten. Failures teach nothing here: a backend that refuses
at once is not a fast one.

What a server reports of itself (tokens, seconds of loading, prefill and decode) is believed, as far
as it fits into the time that was seen from without. Where it is silent, the prompt's share is the
slope of the line through what was seen, and a prompt's tokens are guessed from its bytes.
"""

import math

import attrs

from ollama_proxy.policy.ask import Ask

WEIGHT = 0.25  # of one new observation; four or five of them replace what was believed
SLOPE_WEIGHT = 0.1  # of one point of the line: two unknowns want more points than one
MODELS_MAX = 1024  # some servers take any name a caller makes up; the least recently fed goes
HALF_LIFE_S = 1800.0  # unused for half an hour, half of the trust goes back to the prior
# An error that nothing confirms is forgotten sooner. It keeps requests with a deadline away, and none
# but they would show that it was an accident.
OFF_HALF_LIFE_S = 300.0
# What a server may say it took, of the time that was seen from without: clocks differ a little.
TOLD_MAX = 1.25
TOLD_SLACK_S = 0.1
IN_VAIN_MAX = 3  # waits given up within the forecast, in a row, that say nothing against it
DECODE_MAX = 1e6  # tokens per second; what reports more has a clock that stands still
BYTES_PER_TOKEN = 4.0  # of English prose; an estimate until the backend reports counts
# Sizes must differ so much, relative to their mean, before a line is drawn through them: the noise
# of a hundred equal prompts has a slope, too.
SPREAD_FOR_SLOPE = 0.2


@attrs.frozen
class Prior:
    """What the owner wrote down, or a node says, believed until something is measured. Seconds.

    `tokens_per_s`: after the first token; None where nobody says so.
    """

    first_s: float
    whole_s: float
    tokens_per_s: float | None = None


@attrs.define
class Learned:
    """A decaying mean, and when it was last fed."""

    value: float
    at: float

    def feed(self, observed: float, now: float, weight: float = WEIGHT) -> "Learned":
        """Learn from one more observation; returns itself."""
        self.value += weight * (observed - self.value)
        self.at = now
        return self

    def believed(self, prior: float, now: float) -> float:
        """The mean, drawn back to `prior` as it grows old."""
        trust = math.exp2(-max(0.0, now - self.at) / HALF_LIFE_S)
        return prior + trust * (self.value - prior)

    def faded(self, now: float) -> float:
        """An error, the smaller the longer nothing confirmed it."""
        return self.value * math.exp2(-max(0.0, now - self.at) / OFF_HALF_LIFE_S)


def fed(known: Learned | None, observed: float, now: float) -> Learned:
    """A mean after one more observation, be it the first."""
    return Learned(observed, now) if known is None else known.feed(observed, now)


def _off(known: Learned | None, late_s: float, now: float) -> Learned:
    """The usual error after one more, `late_s` of which is below 0 where it came early.

    What came early counts as no more than the usual: a forecast that was far too gloomy, as after a
    wait that was given up, would else be taken for an unsafe one just when it is put right.
    """
    usual_s = known.value if known is not None else 0.0
    return fed(known, late_s if late_s > 0 else min(-late_s, usual_s), now)


@attrs.define
class Slope:
    """A line through points, old ones fading: decaying means, variance and covariance."""

    x: float
    y: float
    variance: float = 0.0
    covariance: float = 0.0

    def feed(self, x: float, y: float) -> None:
        """Learn from one more point."""
        dx, dy = x - self.x, y - self.y
        keep = 1 - SLOPE_WEIGHT
        self.x += SLOPE_WEIGHT * dx
        self.y += SLOPE_WEIGHT * dy
        self.variance = keep * (self.variance + SLOPE_WEIGHT * dx * dx)
        self.covariance = keep * (self.covariance + SLOPE_WEIGHT * dx * dy)

    @property
    def value(self) -> float | None:
        """How steep it is, >= 0; None where the points lie too close together to say."""
        if self.variance <= (SPREAD_FOR_SLOPE * self.x) ** 2:
            return None
        return max(0.0, self.covariance / self.variance)


@attrs.frozen(kw_only=True)
class Forecast:
    """What is expected of one backend for one request, once it is its turn. Seconds.

    Attributes:
        first_s: to the first token, loading included.
        whole_s: to the answer's end: how long a slot is taken.
        load_s: the part of both that loading takes; 0 where the model is in memory, or nothing is
            known of loading it.
        off_first_s: by how much `first_s` was wrong lately, on average; 0 until something was seen.
        off_whole_s: the same of `whole_s`.
    """

    first_s: float
    whole_s: float
    load_s: float = 0.0
    off_first_s: float = 0.0
    off_whole_s: float = 0.0


@attrs.frozen(kw_only=True)
class Seen:
    """One request that was served. Seconds and tokens; None where nobody told.

    Attributes:
        first_s: to the first token of a stream.
        whole_s: to the answer's end.
        pieces: how many pieces a stream came in: its tokens, where the server does not count them.
        cold: the model had to be loaded; None where that is not known.
        uncached: which share of the prompt was not in the server's prefix cache, as far as is known.
        prompt_tokens: what the server counted, those of the cache included.
        cached_tokens: those of the cache.
        answer_tokens: what the server counted.
        load_s: what the server measured.
        prefill_s: as above.
        decode_s: as above.
    """

    first_s: float | None = None
    whole_s: float
    pieces: int | None = None
    cold: bool | None = None
    uncached: float = 1.0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    answer_tokens: int | None = None
    load_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None

    @property
    def tokens(self) -> int | None:
        """How many tokens the answer had, as far as anybody told."""
        return self.answer_tokens or self.pieces


def _believable(seen: Seen) -> Seen:
    """The same without what a server says it took, where that is more than there was."""
    if seen.load_s is None and seen.prefill_s is None and seen.decode_s is None:
        return seen
    told_s = (seen.load_s or 0.0) + (seen.prefill_s or 0.0) + (seen.decode_s or 0.0)
    if told_s <= TOLD_MAX * seen.whole_s + TOLD_SLACK_S:
        return seen
    return attrs.evolve(seen, load_s=None, prefill_s=None, decode_s=None)


def _value(learned: Learned | None) -> float:
    return learned.value if learned is not None else 0.0


@attrs.define
class Speeds:
    """What was learned of one backend with one model.

    Attributes:
        floor_s: to the first token, without loading and without the prompt's share.
        first_s: to the first token, as it was seen, for people to read.
        whole_s: of whole answers, where their parts are not known.
        load_s: loading.
        prefill_s: the prompt's share, per token, as reported.
        slope: the same, as seen.
        decode: tokens per second.
        tokens_per_byte: of prompts.
        streamed: tokens of a streamed answer.
        gathered: tokens of a whole answer.
        off_first_s: how far the forecasts of first tokens were off.
        off_whole_s: how far those of the answer's end were off.
        tells_cache: the server says how much of a prompt it had; else that is no more than a guess
            of the router's, and no seconds are divided by it.
        heard_at: when anything was learned last, or given up.
        in_vain: how many waits in a row were given up since an answer came.
    """

    floor_s: Learned | None = None
    first_s: Learned | None = None
    whole_s: Learned | None = None
    load_s: Learned | None = None
    prefill_s: Learned | None = None
    slope: Slope | None = None
    decode: Learned | None = None
    tokens_per_byte: Learned | None = None
    streamed: Learned | None = None
    gathered: Learned | None = None
    off_first_s: Learned | None = None
    off_whole_s: Learned | None = None
    tells_cache: bool = False
    heard_at: float = -math.inf
    in_vain: int = 0

    def prompt_tokens(self, ask: Ask) -> float:
        """How many tokens a prompt has, by its bytes."""
        per_byte = self.tokens_per_byte
        return ask.prompt_size * (per_byte.value if per_byte is not None else 1 / BYTES_PER_TOKEN)

    @property
    def per_token_s(self) -> float:
        """The prompt's share of the time to the first token, for each of its tokens."""
        if self.prefill_s is not None:
            return self.prefill_s.value
        return (self.slope.value or 0.0) if self.slope is not None else 0.0

    def prefilling_s(self, ask: Ask) -> float:
        """The prompt's share of the time to the first token."""
        per_token_s = self.per_token_s
        return per_token_s * self.prompt_tokens(ask) if per_token_s else 0.0

    def decoding_s(self, ask: Ask, tokens: Learned | None, told: float | None) -> float | None:
        """What the tokens after the first take, at the pace that was learned, or told; None: unknown."""
        per_s = told if self.decode is None else self.decode.value
        if per_s is None:
            return None
        limit = ask.answer_size
        if tokens is not None:
            expected = tokens.value if limit is None else min(tokens.value, limit)
        elif limit is not None:
            expected = limit
        else:
            return None
        return max(0.0, expected - 1) / per_s

    def forecast(
        self, ask: Ask, prior: Prior, *, loaded: bool | None, uncached: float, now: float
    ) -> Forecast:
        """See `Estimates.forecast`."""
        floor_s = (
            prior.first_s if self.floor_s is None else self.floor_s.believed(prior.first_s, now)
        )
        load_s = self.load_s.value if loaded is False and self.load_s is not None else 0.0
        prefilling_s = self.prefilling_s(ask)
        first_s = floor_s + load_s + (uncached * prefilling_s if self.tells_cache else prefilling_s)
        tokens = self.streamed if ask.stream else self.gathered or self.streamed
        decoding_s = self.decoding_s(ask, tokens, prior.tokens_per_s)
        if decoding_s is not None:
            whole_s = first_s + decoding_s
        elif ask.stream:
            # What follows the first token is not known yet: at the least, it ends no earlier.
            whole_s = first_s
        else:
            known = self.whole_s
            whole_s = load_s + (
                prior.whole_s if known is None else known.believed(prior.whole_s, now)
            )
        return Forecast(
            first_s=first_s,
            whole_s=whole_s,
            load_s=load_s,
            off_first_s=self.off_first_s.faded(now) if self.off_first_s is not None else 0.0,
            off_whole_s=self.off_whole_s.faded(now) if self.off_whole_s is not None else 0.0,
        )

    def learn(self, ask: Ask, seen: Seen, prior: Prior, now: float) -> None:
        """See `Estimates.observe`."""
        seen = _believable(seen)
        self.tells_cache |= seen.cached_tokens is not None
        self.heard_at, self.in_vain = now, 0
        believed = self.forecast(
            ask, prior, loaded=seen.cold is False, uncached=seen.uncached, now=now
        )
        # Cut short by its caller's wish: it says nothing of how long others are, but that they may
        # be as long.
        limit, tokens = ask.answer_limit, seen.tokens
        is_cut = limit is not None and tokens is not None and tokens >= limit
        self._learn_tokens(ask, seen, now, is_cut=is_cut)
        first_s = seen.first_s
        if first_s is None and seen.decode_s is not None and seen.answer_tokens:
            # A whole answer whose server measured its parts tells of the first token, too.
            first_s = max(0.0, seen.whole_s - seen.decode_s)
        load_s = self._learn_load(seen, first_s, believed, now)
        if first_s is not None:
            self._learn_first(ask, seen, max(0.0, first_s - load_s), believed, now)
        whole_s = max(0.0, seen.whole_s - load_s)
        if not ask.stream and (not is_cut or whole_s > believed.whole_s):
            self.whole_s = (self.whole_s or Learned(prior.whole_s, now)).feed(whole_s, now)
        if not seen.cold or self.load_s is not None:
            late_s = seen.whole_s - load_s - (believed.whole_s - believed.load_s)
            self.off_whole_s = _off(self.off_whole_s, late_s, now)

    def _learn_tokens(self, ask: Ask, seen: Seen, now: float, *, is_cut: bool) -> None:
        if seen.prompt_tokens and ask.prompt_bytes:
            ratio = seen.prompt_tokens / ask.prompt_bytes
            self.tokens_per_byte = fed(self.tokens_per_byte, ratio, now)
        tokens = seen.tokens
        if tokens is None:
            return
        if ask.stream and (not is_cut or tokens > _value(self.streamed)):
            self.streamed = fed(self.streamed, tokens, now)
        elif not ask.stream and (not is_cut or tokens > _value(self.gathered)):
            self.gathered = fed(self.gathered, tokens, now)
        decode_s = seen.decode_s
        if decode_s is None and seen.first_s is not None:
            decode_s = seen.whole_s - seen.first_s
        if tokens > 1 and decode_s is not None and decode_s > 0:
            self.decode = fed(self.decode, min((tokens - 1) / decode_s, DECODE_MAX), now)

    def _learn_load(
        self, seen: Seen, first_s: float | None, believed: Forecast, now: float
    ) -> float:
        """Learn from a cold start; returns the part of what was seen that loading took."""
        if not seen.cold:
            return min(seen.load_s or 0.0, first_s if first_s is not None else seen.whole_s)
        if seen.load_s is not None:
            self.load_s = fed(self.load_s, seen.load_s, now)
            return seen.load_s
        # Whatever went beyond a warm answer was loading.
        if first_s is not None:
            load_s = max(0.0, first_s - (believed.first_s - believed.load_s))
        else:
            load_s = max(0.0, seen.whole_s - (believed.whole_s - believed.load_s))
        self.load_s = fed(self.load_s, load_s, now)
        return load_s

    def _learn_first(
        self, ask: Ask, seen: Seen, warm_s: float, believed: Forecast, now: float
    ) -> None:
        counted = seen.prompt_tokens
        if counted is None:
            fresh = self.prompt_tokens(ask)
        else:
            fresh = max(0, counted - (seen.cached_tokens or 0))
        if seen.prefill_s is not None and fresh >= 1:
            self.prefill_s = fed(self.prefill_s, seen.prefill_s / fresh, now)
        elif self.slope is None:
            self.slope = Slope(fresh, warm_s)
        else:
            self.slope.feed(fresh, warm_s)
        expected_s = believed.first_s - believed.load_s
        self.first_s = fed(self.first_s, warm_s, now)
        floor_s = max(0.0, warm_s - self.per_token_s * fresh)
        self.floor_s = (self.floor_s or Learned(expected_s, now)).feed(floor_s, now)
        self.off_first_s = _off(self.off_first_s, warm_s - expected_s, now)


@attrs.define
class Estimates:
    """What was learned of one backend, by the subject of an ask (its model, mostly).

    Mutable, unlike its neighbours: it is fed once a request, by the engine alone, and copying a
    table for each of them would cost more than the choice it serves.
    """

    subjects: dict[str, Speeds] = attrs.field(factory=dict)

    def forecast(
        self,
        ask: Ask,
        prior: Prior,
        *,
        now: float,
        loaded: bool | None = None,
        uncached: float = 1.0,
    ) -> Forecast:
        """What to expect of a request.

        Args:
            ask: it.
            prior: believed where nothing was learned.
            now: seconds.
            loaded: whether the model is in memory; None where that is not known.
            uncached: the share of its prompt that the backend has not seen lately.
        """
        return self.subjects.get(ask.subject, _NOTHING).forecast(
            ask, prior, loaded=loaded, uncached=uncached, now=now
        )

    def observe(self, ask: Ask, seen: Seen, prior: Prior, *, now: float) -> None:
        """Learn from one request that was served."""
        self._take(ask.subject).learn(ask, seen, prior, now)

    def heard_at(self, ask: Ask) -> float:
        """When anything was learned of such requests last, in seconds; -inf for never."""
        return self.subjects.get(ask.subject, _NOTHING).heard_at

    def _take(self, subject: str) -> Speeds:
        """What is known of a subject, to learn more; it is now the one that was fed last."""
        speeds = self.subjects.pop(subject, None) or Speeds()
        self.subjects[subject] = speeds
        if len(self.subjects) > MODELS_MAX:
            del self.subjects[next(iter(self.subjects))]
        return speeds

    def keep_waiting(
        self, ask: Ask, waited_s: float, prior: Prior, *, now: float, cold: bool | None = None
    ) -> None:
        """Learn from a wait that was given up: at least so long it would have taken yet.

        How much longer is not known. Twice the wait is assumed, or a backend that hangs would go on
        being chosen for what it is believed to be. A wait that was within the forecast says
        nothing: its caller was impatient; but for several in a row, without any answer. Where the model had to be loaded, that is what
        took so long: what is believed of a backend at work stands, for when it is loaded.
        """
        likely_s = 2 * waited_s
        believed = self.forecast(ask, prior, now=now, loaded=None if cold is None else not cold)
        expected_s = believed.first_s if ask.stream else believed.whole_s
        known = self.subjects.get(ask.subject)
        if known is not None:
            known.heard_at = now
            known.in_vain += 1
        in_vain = known.in_vain if known is not None else 1
        if likely_s <= expected_s or (waited_s <= expected_s and in_vain <= IN_VAIN_MAX):
            return
        speeds = self._take(ask.subject)
        speeds.heard_at, speeds.in_vain = now, in_vain
        if cold:
            warm_s = (believed.first_s if ask.stream else believed.whole_s) - believed.load_s
            speeds.load_s = fed(speeds.load_s, likely_s - warm_s, now)
        elif ask.stream:
            share_s = speeds.prefilling_s(ask)
            floor_s = speeds.floor_s or Learned(believed.first_s - share_s, now)
            speeds.floor_s = floor_s.feed(max(0.0, likely_s - share_s), now)
        else:
            speeds.whole_s = (speeds.whole_s or Learned(prior.whole_s, now)).feed(likely_s, now)


_NOTHING = Speeds()
