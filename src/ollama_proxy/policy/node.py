"""What another router says of itself at `GET /node`, as far as it can be believed.

Rule 1: what is missing, or makes no sense, is unknown: None or left out, never 0, never a failure.
Rule 2: what speaks the protocol in another version is not read at all, as its words may mean other
        things. What names no version is no router that tells of itself.
Rule 3: no time of the day is told: clocks may be apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ollama_proxy.policy.ask import CALLS_BY_PATH, Ask, Call, Priority
from ollama_proxy.policy.estimate import DECODE_MAX, Prior
from ollama_proxy.policy.modes import STANCES, Mode, Stance, parse_mode
from ollama_proxy.policy.thermal import ThermalState

PROTOCOL = 1
PATH = "/node"
NAMES_MAX = 10_000  # of models that are heeded; nobody has as many
_NAME_MAX = 512
_TEXT_MAX = 128
_COUNT_MAX = 1_000_000
_PROTOCOL_MAX = 10**20  # either way: its digits are shown
_WATTS_MAX = 100_000.0
_JOULES_MAX = 1e6  # of a token
_MS_MAX = 86_400_000.0


class OtherProtocol(Exception):  # noqa: N818 - read as a sentence where it is caught
    """A node says what it is in a version that is not understood here."""

    def __init__(self, number: int) -> None:
        """Say which."""
        super().__init__(
            f"it tells of itself by version {number} of the protocol for nodes, and this router"
            f" reads {PROTOCOL}: install the same version of ollama-proxy on both"
        )


_LOAD: dict[str, Any] = {"at_work": None, "waiting": None, "battery_percent": None}


@attrs.frozen(kw_only=True)
class Node:
    """Another router as it says that it stands. None: it does not tell.

    Attributes:
        id: its own name for itself.
        version: of its software.
        machine: what tells it from another of the same id, for as long as it is not started anew.
        mode: the mode in force there.
        slots: how many requests it serves at once.
        at_work: how many of those are taken, by whomever.
        waiting: how many wait there, by priority.
        models: that it has.
        loaded: those of them that are in memory.
        watts: what a request draws there.
        heat: of the coolest part that it computes on.
        on_battery: nothing but a battery feeds it.
        battery_percent: its charge, 0 to 100.
        calls: that it serves.
        is_draining: it is about to end, and takes no more requests.
        token_j: joules for each token of an answer, by model.
        first_s: seconds to the first token, by model.
        tokens_per_s: after that, by model.
    """

    id: str | None = None
    version: str | None = None
    machine: str | None = None
    mode: Mode | None = None
    slots: int | None = None
    at_work: int | None = None
    waiting: Sequence[int] | None = None
    models: frozenset[str] | None = None
    loaded: frozenset[str] | None = None
    watts: float | None = None
    heat: ThermalState = ThermalState.UNKNOWN
    on_battery: bool | None = None
    battery_percent: float | None = None
    calls: frozenset[Call] | None = None
    is_draining: bool = False
    token_j: Mapping[str, float] = attrs.field(factory=dict)
    first_s: Mapping[str, float] = attrs.field(factory=dict)
    tokens_per_s: Mapping[str, float] = attrs.field(factory=dict)

    @property
    def stance(self) -> Stance | None:
        """What the mode in force there means; None where it does not tell."""
        return None if self.mode is None else STANCES.get(self.mode)

    def is_as(self, before: "Node") -> bool:
        """Whether a choice would take it as it took it before: its load is told to `Others`.

        Nearly always, so that a fleet is not judged anew with each word of its nodes.
        """
        return attrs.evolve(self, **_LOAD) == attrs.evolve(before, **_LOAD)

    def prior(self, ask: Ask, model: str, written: Prior) -> Prior:
        """What to believe of its speed: what it says of the model, else what its owner wrote down.

        Args:
            ask: what is to be computed.
            model: by the node's name for it.
            written: by the owner.
        """
        first_s, rate = self.first_of(ask, model), self.pace_of(ask, model)
        if first_s is None and rate is None:
            return written
        return Prior(
            first_s=written.first_s if first_s is None else first_s,
            whole_s=written.whole_s if first_s is None else max(first_s, written.whole_s),
            tokens_per_s=rate,
        )

    def first_of(self, ask: Ask, model: str) -> float | None:
        """Seconds to the first token; None where it does not tell, or vectors are asked for."""
        return None if ask.call.embeds else _of(self.first_s, model)

    def pace_of(self, ask: Ask, model: str) -> float | None:
        """Tokens a second after that; None as above."""
        return None if ask.call.embeds else _of(self.tokens_per_s, model)

    def joules_of(self, ask: Ask, model: str) -> float | None:
        """Joules for each token of an answer; None where it does not tell."""
        return None if ask.call.embeds else _of(self.token_j, model)


def _of(told: Mapping[str, float], model: str) -> float | None:
    """What is told of a model, with or without its tag `latest`."""
    if not told:
        return None
    plain = model.removesuffix(":latest")
    return next((told[n] for n in (model, f"{model}:latest", plain) if n in told), None)


def read_node(told: object) -> Node | None:
    """Read what a node answered; None where it is no node's answer.

    Args:
        told: the JSON of it, decoded.

    Raises:
        OtherProtocol: it speaks another version.
    """
    if not isinstance(told, dict):
        return None
    protocol = told.get("protocol")
    if not isinstance(protocol, int) or isinstance(protocol, bool):
        return None
    if abs(protocol) > _PROTOCOL_MAX:
        return None
    if protocol != PROTOCOL:
        raise OtherProtocol(protocol)
    mode = told.get("mode")
    percent = _number(told.get("battery_percent"), 100.0)
    left_out = told.get("left_out")
    cut = left_out if isinstance(left_out, dict) else {}
    return Node(
        id=_text(told.get("id")),
        version=_text(told.get("version")),
        machine=_text(told.get("machine")),
        mode=parse_mode(mode) if isinstance(mode, str) else None,
        slots=_count(told.get("slots")),
        at_work=_count(told.get("in_flight")),
        waiting=_waiting(told.get("queued")),
        # Of a list that was cut short, nobody knows what is not on it.
        models=None if cut.get("models") else _names(told.get("models")),
        loaded=None if cut.get("loaded") else _names(told.get("loaded")),
        watts=_number(told.get("watts"), _WATTS_MAX) or None,
        heat=_heat(told.get("heat")),
        on_battery=_flag(told.get("on_battery")),
        battery_percent=percent,
        calls=_calls(told.get("calls")),
        is_draining=told.get("draining") is True,
        token_j=_by_model(told.get("energy_j_per_token"), _JOULES_MAX),
        first_s=_by_model(told.get("ttft_ms"), _MS_MAX, unit=0.001),
        tokens_per_s=_by_model(told.get("tokens_per_s"), DECODE_MAX),
    )


def _text(value: object) -> str | None:
    is_good = isinstance(value, str) and 0 < len(value) <= _TEXT_MAX and value.isprintable()
    return str(value) if is_good else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _count(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _COUNT_MAX:
        return None
    return value


def _number(value: object, most: float) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= most else None


def _names(value: object) -> frozenset[str] | None:
    if not isinstance(value, list) or len(value) > NAMES_MAX:
        return None
    return frozenset(name for name in value if _is_name(name))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _NAME_MAX


def _heat(value: object) -> ThermalState:
    try:
        return ThermalState(value)
    except ValueError:
        return ThermalState.UNKNOWN


def _calls(value: object) -> frozenset[Call] | None:
    if not isinstance(value, list):
        return None
    named = [CALLS_BY_PATH.get(path) for path in value if isinstance(path, str)]
    return frozenset(call for call in named if call is not None)


def _waiting(value: object) -> Sequence[int] | None:
    """How many wait, by priority; none of it where one of them is not told."""
    if not isinstance(value, dict):
        return None
    counts = [_count(value.get(priority.name.lower())) for priority in Priority]
    return None if None in counts else tuple(count for count in counts if count is not None)


def _by_model(value: object, most: float, *, unit: float = 1.0) -> Mapping[str, float]:
    """Figures by model, those that make sense; one of 0 makes none."""
    if not isinstance(value, dict):
        return {}
    read = {name: _number(figure, most) for name, figure in value.items() if _is_name(name)}
    return {name: figure * unit for name, figure in read.items() if figure and figure * unit > 0}
