"""A picture of a router whose backends are at rest, at a wall time that a test sets."""

from typing import Any

import attrs

from ollama_proxy.engine.climate import Climate, ClimateSettings
from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.job import Stage
from ollama_proxy.engine.ledger import Fact, Ledger, Outcome
from ollama_proxy.engine.news import News, Routed
from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.live.picture import Picture
from ollama_proxy.policy.ask import Call, Priority, Wishes
from ollama_proxy.policy.energy import Grade
from ollama_proxy.policy.route import Decision, Reason, RouteSettings, choose
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL, ask, spec, view

MORNING = 1_764_316_800.0


def fact(request_id: str = "1", **changes: Any) -> Fact:
    """A streamed chat that the NPU served well, but for `changes`."""
    given: dict[str, Any] = {
        "request_id": request_id,
        "door": "http",
        "call": Call.OPENAI_CHAT,
        "model": MODEL,
        "stream": True,
        "priority": Priority.NORMAL,
        "outcome": Outcome.SERVED,
        "stage": Stage.RUNNING,
        "status": 200,
        "backend": "npu",
        "reason": Reason.BALANCED,
        "first_s": 0.75,
        "whole_s": 1.75,
        "answer_tokens": 11,
    }
    return Fact(**(given | changes))


def routed(request_id: str = "1", backend: str = "npu", model: str = MODEL) -> Routed:
    """A request that was given to a backend."""
    decision = choose(ask(), Wishes(), [view(backend)], RouteSettings(), now=0.0)
    assert isinstance(decision, Decision)
    return Routed(request_id, model, Priority.HIGH, decision, 0.0)


@attrs.define
class Watched:
    """The router, and its picture."""

    now: float = MORNING
    dispatcher: Dispatcher = attrs.field(init=False)
    climate: Climate = attrs.field(init=False)
    picture: Picture = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.dispatcher = Dispatcher(DispatchSettings(), Ledger(), clock=lambda: self.now)
        for name in ("npu", "cpu"):
            self.dispatcher.add(self.station(name))
        self.climate = Climate(
            self.dispatcher,
            ClimateSettings(),
            News(),
            minute_of_day=lambda: 0,
            clock=lambda: self.now,
        )
        self.picture = Picture(self.dispatcher, self.climate, "1.2.3", wall=lambda: self.now)

    def station(self, name: str) -> Station:
        """A backend at rest, which has not joined."""
        return Station(ScriptedBackend(spec(name)), queue_capacity=8)

    def spend(self, joules: float, backend: str = "npu") -> None:
        """A backend's requests cost something."""
        self.dispatcher.meters.books.charge(backend, Grade.ESTIMATED, joules)
