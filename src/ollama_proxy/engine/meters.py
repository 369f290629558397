"""Which meter a request is on, and what is learned when its energy is known.

Plain and synchronous: whoever places attempts says when they come and go, whoever polls sensors says
what was read. Every figure is of one attempt, beyond what its part draws at rest.

A part has a meter of its own as soon as a sensor tells of it alone, be it that it sleeps. All others
share the one of the whole machine, while a battery feeds it and tells what it gives; else they are
estimated.
"""

from collections.abc import Collection, Hashable, Sequence

import attrs

from ollama_proxy.policy.energy import (
    Appetite,
    Books,
    Spent,
    meter_for,
    remaining,
    tells_of,
    whole_machine,
)
from ollama_proxy.policy.meter import Meter, Settled
from ollama_proxy.policy.readings import Draw, Scope

_MACHINE = "machine"
_NOWHERE = ""  # what computes elsewhere, or nobody knows where


@attrs.frozen
class _Answer:
    """What an attempt that has ended teaches, once its energy is known."""

    tokens: float | None
    subject: str
    seconds: float


class Meters:
    """All meters of the router. Times in seconds, on the engine's clock.

    Attributes:
        books: the totals, for metrics.
    """

    def __init__(self) -> None:
        """Begin with none: parts have theirs when a reading or an attempt tells of them."""
        self.books = Books()
        self._meters: dict[str, Meter] = {}
        self._metered: set[str] = set()  # parts with a sensor of their own
        self._at: dict[Hashable, tuple[Meter, str, float]] = {}  # since when
        self._unsettled: dict[Hashable, _Answer] = {}
        self._appetites: dict[str, Appetite] = {}
        self._draws: Sequence[Draw] = ()
        self._on_battery: bool | None = None

    # -- attempts ----------------------------------------------------------------------------------

    def began(
        self, key: Hashable, backend: str, part: str | None, now: float, *, watts: float
    ) -> None:
        """An attempt was handed to a worker.

        Args:
            key: it; no other has the same, also after its end.
            backend: the id of its backend.
            part: where that computes; None: in a cloud, or nobody knows where.
            now: seconds.
            watts: what the owner says that the backend draws at work, all its slots together.
        """
        meter = self._meter(self._place(part))
        meter.begin(key, backend, now, watts=watts)
        self._at[key] = meter, backend, now

    def so_far(self, key: Hashable, now: float) -> Spent | None:
        """What an attempt that runs has cost, as can be expected; None for an unknown one."""
        found = self._at.get(key)
        return found[0].so_far(key, now) if found is not None else None

    def ended(
        self, key: Hashable, tokens: float | None, subject: str | None, now: float
    ) -> Spent | None:
        """An attempt has ended, however it did.

        Args:
            key: as in `began`.
            tokens: of its answer; None where nobody counted them.
            subject: what is learned of: its model, mostly; None: it is no measure of others.
            now: seconds.

        Returns:
            What it cost, as can be expected; None for an unknown one.
        """
        found = self._at.pop(key, None)
        if found is None:
            return None
        meter, backend, since = found
        spent = meter.end(key, now)
        if subject is None:
            return spent
        answer = _Answer(tokens, subject, now - since)
        if spent.is_final:
            self._learn(backend, answer, spent, now)
        else:
            self._unsettled[key] = answer
        return spent

    # -- readings ----------------------------------------------------------------------------------

    def sampled(
        self, draws: Sequence[Draw], now: float, *, throttled: Collection[str] = ()
    ) -> Collection[str]:
        """Take what all sensors say now.

        Args:
            draws: all of them: a part that none tells of has lost its reading. One that was not
                read anew since is given again.
            now: seconds.
            throttled: parts that are slowed down by heat: nothing is learned of their rest.

        Returns:
            The backends of whose energy something was learned by it.
        """
        self._draws = draws
        self._metered |= {part for draw in draws if (part := tells_of(draw)) is not None}
        own = {}
        for part in self._metered:
            draw = meter_for(part, draws)
            own[part] = None if draw is None or draw.scope is Scope.SYSTEM else draw
        machine = whole_machine(draws)
        if machine is not None:
            machine = remaining(machine, [draw for draw in own.values() if draw is not None])
        learned: set[str] = set()
        for part, draw in {**own, _MACHINE: machine}.items():
            is_throttled = part in throttled or (part == _MACHINE and bool(throttled))
            settled = self._meter(part).sample(draw, now, is_throttled=is_throttled)
            self._book(settled, now)
            learned |= {each.backend for each in settled}
        return learned

    def set_on_battery(self, on_battery: bool | None) -> None:  # noqa: FBT001 - it is a state's name
        """What feeds the machine: at rest it draws another power then."""
        self._on_battery = on_battery
        for meter in self._meters.values():
            meter.set_on_battery(on_battery)

    def resumed(self, now: float) -> None:
        """The machine slept until now: what counters say that it drew is nobody's."""
        for meter in self._meters.values():
            self._book(meter.pause(now), now)

    # -- what is known -----------------------------------------------------------------------------

    def appetite(self, backend: str) -> Appetite:
        """What is learned of a backend, now and later."""
        return self._appetites.setdefault(backend, Appetite())

    def _place(self, part: str | None) -> str:
        if part is None:
            return _NOWHERE
        if part in self._metered:
            return part
        return part if whole_machine(self._draws) is None else _MACHINE

    def _meter(self, part: str) -> Meter:
        meter = self._meters.get(part)
        if meter is None:
            meter = self._meters[part] = Meter(part, self.books)
            meter.set_on_battery(self._on_battery)
        return meter

    def _book(self, settled: Sequence[Settled], now: float) -> None:
        for each in settled:
            answer = self._unsettled.pop(each.key, None)
            if answer is not None:
                self._learn(each.backend, answer, each.spent, now)

    def _learn(self, backend: str, answer: _Answer, spent: Spent, now: float) -> None:
        self.appetite(backend).observe(
            answer.subject,
            spent.joules,
            spent.grade,
            now,
            seconds=answer.seconds,
            tokens=answer.tokens,
        )
