"""What a scenario says of a fleet: how many nodes and pickers there are, and what these are told."""

import attrs

from ollama_proxy.tables import ABOVE_0, Check, within

_NOT_NEGATIVE = Check(">= 0", lambda value: value >= 0)
_SHARE = within(0, 1)
_PICKERS_MAX = 64
_PICKERS = Check(
    f"some numbers from 1 to {_PICKERS_MAX}",
    lambda found: bool(found) and all(1 <= n <= _PICKERS_MAX for n in found),
)


@attrs.frozen(kw_only=True)
class Absence:
    """A backend is gone from `at_s` until `until_s`, and comes back with nothing in its memory."""

    at_s: float = attrs.field(validator=_NOT_NEGATIVE)
    until_s: float = attrs.field(validator=_NOT_NEGATIVE)


@attrs.frozen(kw_only=True)
class FleetConfig:
    """Each backend is a node, with a router of its own, and pickers that know not of each other choose.

    Attributes:
        nodes: how many there are; the backends' `count`s are their mix then. 0: as they are counted.
        pickers: how many, in a run each; all of them on the same requests, dealt at random.
        refresh_s: how often each picker asks each node what it has to do; meanwhile it goes by what it
            was told then, and by what it sent itself.
        jitter: share of `refresh_s` by which it asks earlier or later.
        late_s: how old an answer is when it is there.
        load: share of what the nodes can serve that is asked for: the rates of `traffic` are its mix
            then. 0: as they are written.
        seeds: how many runs of each, on other requests and other nodes of the kind.
    """

    nodes: int = attrs.field(default=0, validator=within(0, 10_000))
    pickers: tuple[int, ...] = attrs.field(default=(1, 2, 4), validator=_PICKERS)
    refresh_s: float = attrs.field(default=1.0, validator=ABOVE_0)
    jitter: float = attrs.field(default=0.0, validator=_SHARE)
    late_s: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    load: float = attrs.field(default=0.0, validator=within(0, 10))
    seeds: int = attrs.field(default=3, validator=within(1, 1000))
