"""What is known about the backends: what the owner wrote down, and what is true just now."""

import enum
import fnmatch
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import attrs

from ollama_proxy.policy.ask import Ask, Call, Dialect, Priority
from ollama_proxy.policy.energy import Appetite
from ollama_proxy.policy.estimate import Estimates, Learned, Prior
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.modes import Stance
from ollama_proxy.policy.node import Node
from ollama_proxy.policy.others import Others
from ollama_proxy.policy.preempt import Started, Yielding, may_yield
from ollama_proxy.policy.thermal import ThermalState

WATTS_LEAST = 0.01  # an average of nothing measurable is still no infinite thrift


class BackendType(enum.Enum):
    """Which server software a backend is, hence which dialects it speaks."""

    OLLAMA = "ollama"
    OPENAI = "openai"
    EMBEDDED = "embedded"
    ROUTER = "router"  # one like this, on another machine: it speaks every dialect


def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One compiled pattern for many globs; matching is case-sensitive as model names are."""
    return re.compile("|".join(fnmatch.translate(p) for p in patterns) or r"(?!)")


def lists(names: frozenset[str], model: str) -> bool:
    """Whether a model is among `names`, with or without its tag `latest`."""
    return (
        model in names or canonical_model(model) in names or model.removesuffix(":latest") in names
    )


def canonical_model(name: str) -> str:
    """Ollama's rule: a name without a tag means `latest`."""
    return name if ":" in name.rsplit("/", 1)[-1] else name + ":latest"


@attrs.frozen(kw_only=True)
class BackendSpec:
    """One backend as its owner described it. Power in watts, times in seconds.

    `slots_max`: of a router, which tells its slots, how many of them are used at most.
    `device`: which part of the machine it computes on, where `hardware` does not tell.
    `wake_s`: what it takes to wake that when it is suspended.
    `continues_chat`: where the last message is the assistant's, it goes on just where that ends.
    """

    id: str
    type: BackendType
    hardware: Hardware
    endpoint: str = ""
    name: str = ""
    enabled: bool = True
    slots: int = 1
    slots_max: int = 1
    models: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    aliases: Mapping[str, str] = attrs.field(factory=dict)
    max_prompt_tokens: int = 0
    power_watts: float
    avg_latency_s: float
    preference: int = 0
    api_key_env: str = ""
    model_path: str = ""
    device: str = ""
    wake_s: float = 2.0
    continues_chat: bool = False
    _may: re.Pattern[str] = attrs.field(
        init=False,
        eq=False,
        repr=False,
        default=attrs.Factory(lambda s: _matcher(s.models), takes_self=True),
    )
    _must_not: re.Pattern[str] = attrs.field(
        init=False,
        eq=False,
        repr=False,
        default=attrs.Factory(lambda s: _matcher(s.exclude), takes_self=True),
    )

    def real_name(self, model: str) -> str:
        """The name this backend's server knows `model` by."""
        return self.aliases.get(model, model)

    def may_serve(self, model: str) -> bool:
        """Whether the owner lets this backend serve `model`, by either of its names."""
        real = self.real_name(model)
        if real == model:
            return bool(self._may.match(model)) and not self._must_not.match(model)
        allowed = self._may.match(model) or self._may.match(real)
        return bool(allowed) and not (self._must_not.match(model) or self._must_not.match(real))

    def continues(self, call: Call) -> bool:
        """Whether it can go on with an answer that was broken off.

        A text's completion goes on from the text so far; but Ollama makes of it a question in the
        model's template, and answers that. What is behind another router may be an Ollama.
        """
        if call is Call.OPENAI_COMPLETION:
            return self.type in {BackendType.OPENAI, BackendType.EMBEDDED}
        return call is Call.OPENAI_CHAT and self.continues_chat

    def carries(self, call: Call) -> bool:
        """Whether somebody else can make a call on it as it is, told where it listens.

        One that listens on TLS or a socket of files cannot be told by an address and a port, and an
        embedded one listens for nobody but us.
        """
        if self.type is BackendType.EMBEDDED or not self.endpoint.startswith("http://"):
            return False
        return self.type is not BackendType.OPENAI or call.dialect is not Dialect.OLLAMA

    @property
    def prior(self) -> Prior:
        """What to believe of its speed before anything was measured."""
        return Prior(first_s=self.avg_latency_s, whole_s=self.avg_latency_s)


class Queue(Protocol):
    """What a choice may ask of a backend's line."""

    def __len__(self) -> int:
        """How many wait."""

    def ahead_s(self, priority: Priority, client: str) -> float:
        """The work, in seconds, that is served before one more of this priority and client."""

    def depth(self, priority: Priority) -> int:
        """How many of one priority wait."""

    def is_full_for(self, priority: Priority) -> bool:
        """Whether one of this priority must be turned away."""


class Busy(Protocol):
    """What must be known of a slot that is taken."""

    @property
    def ends(self) -> float:
        """When it is expected to be free again, in seconds of the engine's clock."""


@attrs.frozen(kw_only=True)
class BackendView:
    """One backend as it stands: what a choice may look at, and all of it.

    What changes with every request is live: slots, line, estimates. The rest is frozen, and so is
    what was made of it for one kind of request, until something of it changes or was learned.

    Attributes:
        healthy: the last probe was answered.
        circuit_open: it failed too often lately, and its time-out has not run out.
        models: what it says it has; None until it has said so.
        loaded: which of them are in memory now; None where it does not tell.
        busy: its slots that are taken; one whose request was cancelled, and may still be computed,
            is.
        line: who waits, as far as a choice may ask.
        others: what others have there, as it told last; None: nobody else uses it.
        reserved: how many of its slots are kept for critical requests.
        running: those on it, as far as it must be known whether they would yield.
        preempts: what becomes of those for a critical one; None: nothing.
        unserved: calls it was seen to refuse as unknown.
        uncarried: the same of calls that another proxy made; ours may be translated for it.
        failing: share of recent requests that failed, 0 to 1.
        estimates: what was learned of its speed, by model.
        linger_s: how long a slot stays taken when its work is put back.
        off_s: by how much forecasts of when a slot is free again were wrong lately.
        energy: what was learned of its energy.
        heat: the thermal state of the part that it computes on.
        hot: the same for people; empty where it is not warm.
        asleep: that part is suspended.
        node: what it says of itself, where it is a router; None where it does not tell, or too long
            ago.
        turned_away: it says that it is full, for this priority and those below; None: it does not.
    """

    spec: BackendSpec
    healthy: bool
    circuit_open: bool = False
    models: frozenset[str] | None = None
    loaded: frozenset[str] | None = None
    busy: Collection[Busy] = ()
    line: Queue
    others: Others | None = None
    reserved: int = 0
    running: Collection[Yielding] = ()
    preempts: Started | None = None
    unserved: frozenset[Call] = frozenset()
    uncarried: frozenset[Call] = frozenset()
    failing: float = 0.0
    estimates: Estimates = attrs.field(factory=Estimates)
    linger_s: Learned = attrs.field(factory=lambda: Learned(0.0, 0.0))
    off_s: Learned = attrs.field(factory=lambda: Learned(0.0, 0.0))
    energy: Appetite = attrs.field(factory=Appetite)
    heat: ThermalState = ThermalState.UNKNOWN
    hot: str = ""
    asleep: bool = False
    node: Node | None = None
    turned_away: Priority | None = None
    # What `route` made of it for a kind of request.
    memo: dict[str, Any] = attrs.field(init=False, eq=False, repr=False, factory=dict)

    def has_model(self, model: str) -> bool:
        """Whether it has `model` installed; a backend that never told its list is trusted."""
        return self.models is None or lists(self.models, self.spec.real_name(model))

    def has_loaded(self, model: str) -> bool | None:
        """Whether `model` is in its memory now; None where the server does not tell."""
        return None if self.loaded is None else lists(self.loaded, self.spec.real_name(model))

    def token_j(self, ask: Ask) -> float | None:
        """Joules for each token of such an answer; None until they were measured, or are told."""
        measured = self.energy.token_j(ask.subject)
        if measured is not None or self.node is None:
            return measured
        return self.node.joules_of(ask, self.spec.real_name(ask.model))

    def found_watts(self, ask: Ask) -> float | None:
        """What it draws at such work, as it was measured, or is told; None where nobody knows."""
        measured = self.energy.watts(ask.subject)
        return measured if measured is not None or self.node is None else self.node.watts

    def watts(self, ask: Ask) -> float:
        """What it draws at such work: measured, told, or what its owner believes."""
        watts = self.found_watts(ask)
        return self.spec.power_watts if watts is None else max(watts, WATTS_LEAST)

    def prior(self, ask: Ask) -> Prior:
        """What to believe of its speed with a model before anything was measured."""
        prior = self.spec.prior
        return (
            prior
            if self.node is None
            else self.node.prior(ask, self.spec.real_name(ask.model), prior)
        )

    @property
    def stance(self) -> Stance | None:
        """What the mode in force there means, where it is a router; None where it does not tell."""
        return None if self.node is None else self.node.stance

    @property
    def taken(self) -> int:
        """How many of its slots are taken, by whomever; more than it has where some wait there."""
        others = self.others
        return len(self.busy) if others is None else len(self.busy) + others.at_work

    def has_room(self, priority: Priority) -> bool:
        """Whether one of this priority would start at once."""
        kept = 0 if priority is Priority.CRITICAL else self.reserved
        others = self.others
        if others is None:
            if len(self.busy) >= self.spec.slots - kept:
                return False
        elif self.taken >= self.spec.slots - kept or others.ahead(priority):
            return False
        return not len(self.line) or self.line.ahead_s(priority, "") <= 0

    def is_full_for(self, priority: Priority) -> bool:
        """Whether one of this priority would find neither a slot nor a place in line."""
        return self.line.is_full_for(priority) and not (
            self.has_room(priority) or self._would_yield(priority)
        )

    def _would_yield(self, priority: Priority) -> bool:
        if priority is not Priority.CRITICAL or (preempts := self.preempts) is None:
            return False
        yielding = sum(may_yield(work, preempts) for work in self.running)
        return yielding > self.line.depth(priority)

    def wait_s(self, priority: Priority, client: str, usual_s: float, now: float) -> float:
        """How long one more, for whom there is no room now, would be in line; somebody is there.

        Args:
            priority: of the one.
            client: whose it is.
            usual_s: how long a slot is taken, where nothing better is known.
            now: seconds.
        """
        slots = self.spec.slots
        if priority is Priority.CRITICAL:
            if self._would_yield(priority):
                return self.linger_s.value
        else:
            slots -= self.reserved
        # Who is overdue is as likely as not to take as long again.
        soonest_s = math.inf
        for each in self.busy:
            left_s = abs(each.ends - now)
            if left_s < soonest_s:  # noqa: PLR1730 - a call of `min` for each slot costs more
                soonest_s = left_s
        ahead_s = self.line.ahead_s(priority, client)
        extra = len(self.busy) - slots
        if (others := self.others) is not None and others.count:
            if others.at_work:
                # Nobody tells when they began: the first of so many ends so soon on average.
                soonest_s = min(soonest_s, usual_s / (others.at_work + 1))
            elif soonest_s == math.inf:
                soonest_s = 0.0  # somebody waits there, and nobody is at work
            extra += others.at_work
            ahead_s += others.ahead(priority) * usual_s
        if extra > 0:  # critical ones at slots that are not for this one, or they wait at a node
            ahead_s += extra * usual_s
        return soonest_s + ahead_s / slots
