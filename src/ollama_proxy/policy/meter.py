"""Who pays for what a part of the machine draws.

Rule 1: of each span first the rest pays itself: the part's draw when nobody uses it, at most all.
Rule 2: what is beyond is paid by who was on the part, each by its seconds within the span; if nobody
was, it is unattributed: a screen's, another program's.
Rule 3: so the books balance: what requests paid + idle + unattributed = what was measured.
Rule 4: of a span that was not measured, each pays its share of what its backend's owner says.
"""

import math
from collections import deque
from collections.abc import Hashable, Sequence

import attrs

from ollama_proxy.policy.energy import Books, Grade, Sharing, Spent, spent
from ollama_proxy.policy.gauge import Gauge, Span
from ollama_proxy.policy.readings import Draw, Scope

QUIET_S = 20.0  # without requests, before what is drawn counts as what is drawn at rest
RECENT_MAX = 60  # so many spans of rest are remembered
LOW = 0.1  # which of them is believed, from the least: others have programs that run meanwhile


@attrs.frozen
class Settled:
    """What one request that had ended cost in the end."""

    key: Hashable
    backend: str
    spent: Spent


@attrs.define
class Rest:
    """What a part draws when no request is on it, in one state of the machine's supply."""

    _recent: deque[float] = attrs.field(factory=lambda: deque(maxlen=RECENT_MAX))
    _least: float = math.inf
    _usual: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether it was ever seen at rest."""
        return self._least < math.inf

    @property
    def watts(self) -> float:
        """The usual draw; until that is known the least that was seen, or 0."""
        if self._usual is not None:
            return self._usual
        return self._least if self._least < math.inf else 0.0

    def learn(self, watts: float, *, is_quiet: bool) -> None:
        """Learn from a span without requests; `is_quiet`: there had been none for long."""
        self._least = min(self._least, watts)
        if is_quiet:
            self._recent.append(watts)
            ranked = sorted(self._recent)
            self._usual = ranked[math.ceil(LOW * len(ranked)) - 1]


@attrs.define(eq=False)
class _Account:
    """One request. `each` and `each_at_end` are of its backend's `Sharing`."""

    backend: str
    begun: float
    each: float  # as far as it was booked or left out
    ended: float = math.inf
    each_at_end: float = 0.0
    paid: dict[Grade, float] = attrs.field(factory=dict)

    def seconds(self, since: float, until: float) -> float:
        """How long it was there within a span."""
        return max(0.0, min(self.ended, until) - max(self.begun, since))


@attrs.frozen
class _Rate:
    """What was paid lately while anybody was there."""

    watts: float
    grade: Grade


@attrs.define(eq=False)
class Meter:
    """One part of the machine, or what has no sensor at all: then everything is estimated.

    Mutable: it is told of whatever comes, goes and is read, in about the order in which it happens.
    A reading may be older than the latest coming and going. Times are seconds.
    """

    part: str
    books: Books
    _gauge: Gauge = attrs.field(factory=Gauge)
    _rests: dict[bool | None, Rest] = attrs.field(factory=dict)
    _on_battery: bool | None = None
    _accounts: dict[Hashable, _Account] = attrs.field(factory=dict)
    _leaving: list[tuple[Hashable, _Account]] = attrs.field(factory=list)
    _backends: dict[str, Sharing] = attrs.field(factory=dict)
    _rate: _Rate | None = None
    _quiet_since: float | None = None
    # Of the span that is not over: seconds with somebody there, and the sum of everybody's.
    _busy_s: float = 0.0
    _used_s: float = 0.0
    _used_at: float = -math.inf

    # -- who is on it ------------------------------------------------------------------------------

    def begin(self, key: Hashable, backend: str, now: float, *, watts: float = 0.0) -> None:
        """A request is on it. `watts`: what the owner says that its backend draws at work."""
        self._advance(now)
        self._quiet_since = None
        each = self._backends.setdefault(backend, Sharing()).join(watts, now)
        self._accounts[key] = _Account(backend, now, each)

    def so_far(self, key: Hashable, now: float) -> Spent:
        """What one that is on it has cost, the part that was not read yet as is to be expected.

        Raises:
            KeyError: it is not on it.
        """
        self._advance(now)
        return self._projected(self._accounts[key], now)

    def end(self, key: Hashable, now: float) -> Spent:
        """A request has left it.

        Returns:
            As `so_far`. Where it is not final, a later `sample` tells the true figure.

        Raises:
            KeyError: it is not on it.
        """
        self._advance(now)
        account = self._accounts.pop(key)
        account.ended = now
        account.each_at_end = self._backends[account.backend].leave(now)
        if not self._accounts:
            self._quiet_since = now
        if self._gauge.is_live(now):
            self._leaving.append((key, account))
            return self._projected(account, now)
        self._estimate(account, now)
        return spent(account.paid, is_final=True)

    # -- what it draws -----------------------------------------------------------------------------

    def set_on_battery(self, on_battery: bool | None) -> None:  # noqa: FBT001 - it is a state's name
        """Rest is another thing on mains: what was learned there is kept for when it is back."""
        self._on_battery = on_battery

    def sample(self, draw: Draw | None, now: float, *, is_throttled: bool = False) -> list[Settled]:
        """Take a reading; None: it was lost.

        Args:
            draw: of this part.
            now: when it was read.
            is_throttled: the part is slowed down by heat: nothing is learned of its rest.

        Returns:
            Those that had ended, and whose figures are final now.
        """
        span = self._gauge.read(draw, now)
        return [] if span is None else self._settle(span, is_throttled=is_throttled)

    def pause(self, now: float) -> list[Settled]:
        """The machine slept until now. Returns as `sample`."""
        return self._settle(self._gauge.distrust(now), is_throttled=True)

    # -- the books ---------------------------------------------------------------------------------

    def _settle(self, span: Span, *, is_throttled: bool) -> list[Settled]:
        """Book a span that is over."""
        accounts = [*self._accounts.values(), *(account for _, account in self._leaving)]
        self._rate = None
        if span.joules is None or (span.scope is Scope.SYSTEM and self._is_rest_missed(accounts)):
            for account in accounts:
                self._estimate(account, span.until)
        else:
            self._split(span, span.joules, accounts, is_throttled=is_throttled)
        if self._quiet_since is None and not self._accounts:
            self._quiet_since = span.until
        self._used_s = sum(account.seconds(span.until, self._used_at) for account in accounts)
        self._busy_s = max(0.0, self._used_at - span.until) if self._accounts else 0.0
        over = [(k, account) for k, account in self._leaving if account.ended <= span.until]
        self._leaving = [(k, account) for k, account in self._leaving if account.ended > span.until]
        return [Settled(k, a.backend, spent(a.paid, is_final=True)) for k, a in over]

    def _is_rest_missed(self, accounts: Sequence[_Account]) -> bool:
        """Whether what the whole machine draws at rest, its screen included, would be somebody's."""
        rest = self._rests.get(self._on_battery)
        return bool(accounts) and not (rest is not None and rest.is_known)

    def _split(
        self, span: Span, joules: float, accounts: list[_Account], *, is_throttled: bool
    ) -> None:
        """Book a span that was measured. One that was measured is not estimated as well."""
        self._advance(span.until)
        duration_s = span.until - span.since
        rest = self._rests.setdefault(self._on_battery, Rest())
        shares = [(account, account.seconds(span.since, span.until)) for account in accounts]
        users = [(account, seconds) for account, seconds in shares if seconds > 0]
        if not users and not is_throttled:
            quiet_since = self._quiet_since
            is_quiet = quiet_since is not None and span.since - quiet_since >= QUIET_S
            rest.learn(joules / duration_s, is_quiet=is_quiet)
        totals = self.books.part(self.part)
        idle = min(joules, rest.watts * duration_s)
        totals.measured += joules
        totals.idle += idle
        if users:
            is_alone = len({account.backend for account, _ in users}) == 1
            grade = _grade(span, is_alone=is_alone)
            used_s = sum(seconds for _, seconds in users)
            for account, seconds in users:
                self._charge(account, grade, (joules - idle) * seconds / used_s)
            busy_s = min(self._busy_s, duration_s) or duration_s
            self._rate = _Rate((joules - idle) / busy_s, grade)
        else:
            totals.unattributed += joules - idle
        for account in accounts:
            account.each = self._each(account, span.until)

    def _estimate(self, account: _Account, now: float) -> None:
        """Book by the owner's figure what was not measured until now."""
        each = self._each(account, now)
        self._charge(account, Grade.ESTIMATED, each - account.each)
        account.each = each

    def _charge(self, account: _Account, grade: Grade, joules: float) -> None:
        account.paid[grade] = account.paid.get(grade, 0.0) + joules
        self.books.charge(account.backend, grade, joules)

    def _each(self, account: _Account, now: float) -> float:
        if account.ended < math.inf:
            return account.each_at_end
        return self._backends[account.backend].each(now)

    # -- what is not booked yet --------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        if now <= self._used_at:
            return
        if self._accounts:
            passed_s = now - self._used_at
            self._busy_s += passed_s
            self._used_s += passed_s * len(self._accounts)
        self._used_at = now

    def _projected(self, account: _Account, now: float) -> Spent:
        """What is booked, and its share of the open span if the part goes on as in the last.

        Where nobody was there in that, it tells nothing of what a request draws.
        """
        paid = dict(account.paid)
        if self._rate is not None and self._gauge.is_live(now):
            rate, share = self._rate, 0.0
            if self._used_s > 0:
                share = min(1.0, account.seconds(self._gauge.since, now) / self._used_s)
            grade, joules = rate.grade, rate.watts * self._busy_s * share
        else:
            grade, joules = Grade.ESTIMATED, self._each(account, now) - account.each
        paid[grade] = paid.get(grade, 0.0) + joules
        return spent(paid, is_final=False)


def _grade(span: Span, *, is_alone: bool) -> Grade:
    """What a sensor samples now and then is no measure of one request: it may miss its peak."""
    is_measured = span.scope is Scope.DEVICE and span.is_counted and is_alone
    return Grade.MEASURED if is_measured else Grade.APPORTIONED
