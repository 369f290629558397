"""An app with the whole engine behind it, and scripted backends behind that."""

import functools

import attrs
import trio
from quart_trio import QuartTrio

from ollama_proxy.backends.backend import Probe
from ollama_proxy.dashboard import read_assets
from ollama_proxy.engine.climate import Climate, ClimateSettings
from ollama_proxy.engine.crew import Workers
from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.ledger import Fact, Ledger
from ollama_proxy.engine.news import News
from ollama_proxy.engine.station import Station
from ollama_proxy.engine.worker import work
from ollama_proxy.inbound.answers import status_at
from ollama_proxy.inbound.bounds import Bounds
from ollama_proxy.inbound.http.app import Services, create_app
from ollama_proxy.inbound.http.endpoint import Dashboard
from ollama_proxy.inbound.live.audience import Audience
from ollama_proxy.inbound.live.picture import Picture
from ollama_proxy.inbound.trust import Gate
from ollama_proxy.metrics.exposition import Metrics
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL

MAX_BODY_BYTES = 1 << 20


@attrs.frozen
class House:
    """What a test looks at."""

    app: QuartTrio
    dispatcher: Dispatcher
    facts: list[Fact]
    audience: Audience

    def station(self, name: str = "npu") -> Station:
        """One of its stations."""
        return self.dispatcher.stations[name]


def open_house(
    nursery: trio.Nursery,
    *backends: ScriptedBackend,
    models: frozenset[str] | None = None,
    bounds: Bounds | None = None,
    is_shown: bool = True,
    gate: Gate | None = None,
) -> House:
    """Put every backend to work; all are well and have `models` (by default the fleet's); is there a dashboard?"""
    ledger = Ledger()
    facts: list[Fact] = []
    ledger.read_by(facts.append)
    news = News()
    dispatcher = Dispatcher(DispatchSettings(), ledger, news=news)
    for backend in backends:
        station = Station(backend, queue_capacity=8)
        station.open(
            Workers(
                nursery,
                functools.partial(work, dispatcher, station),
                slots=backend.spec.slots,
                name=backend.spec.id,
            )
        )
        dispatcher.add(station)
        station.is_well(Probe(models=frozenset({MODEL}) if models is None else models))
    climate = Climate(dispatcher, ClimateSettings(), news, minute_of_day=lambda: 0)
    gate = gate or Gate(bound_host="127.0.0.1", allowed_origins=["https://friend.example"])
    metrics = Metrics(
        dispatcher,
        climate,
        status_at=status_at,
        version="1.2.3",
    )
    ledger.read_by(metrics.record)
    ledger.door_read_by(metrics.turn_away)
    picture = Picture(dispatcher, climate, "1.2.3")
    ledger.read_by(picture.book)
    news.followed_by(picture.routed)
    audience = Audience(picture)
    nursery.start_soon(audience.run)
    services = Services(
        dispatcher=dispatcher,
        climate=climate,
        metrics=metrics.page,
        gate=gate,
        version="1.2.3",
        max_body_bytes=MAX_BODY_BYTES,
        bounds=bounds or Bounds(),
        dashboard=Dashboard(read_assets(), audience) if is_shown else None,
    )
    return House(create_app(services), dispatcher, facts, audience)
