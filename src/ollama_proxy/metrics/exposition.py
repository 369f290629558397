"""The page that is scraped, in either of Prometheus's two forms."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.ledger import Fact
from ollama_proxy.metrics.requests import Requests
from ollama_proxy.metrics.state import state, turned_away
from ollama_proxy.policy.refusal import Code

_NOBODY: Mapping[Code, int] = MappingProxyType({})


class Metrics(Collector):
    """All metrics of one router."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        climate: Climate,
        *,
        statuses: Mapping[Code, int],
        version: str,
        turned_away: Mapping[Code, int] = _NOBODY,
    ) -> None:
        """Begin at 0.

        Args:
            dispatcher: is asked at each scrape.
            climate: the same.
            statuses: HTTP's for each refusal.
            version: of the router.
            turned_away: how many were not let in, by why; read at each scrape.
        """
        self._dispatcher = dispatcher
        self._climate = climate
        self._version = version
        self._turned_away = turned_away
        self._requests = Requests(dispatcher.stations, statuses)

    def record(self, fact: Fact) -> None:
        """Count a request that ended; for the ledger."""
        self._requests.record(fact)

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now; for the library."""
        yield from state(self._dispatcher, self._climate, self._version)
        yield from self._requests.families()
        yield turned_away(self._turned_away)

    def page(self, is_openmetrics: bool) -> bytes:  # noqa: FBT001 - the one thing that a scraper chooses
        """What a scraper is to have."""
        page: bytes = generate_openmetrics(self) if is_openmetrics else generate_latest(self)
        return page
