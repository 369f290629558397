"""The page that is scraped, in either of Prometheus's two forms."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.ledger import Fact, TurnedAway
from ollama_proxy.metrics import doors as at_doors
from ollama_proxy.metrics import sources as of_nodes
from ollama_proxy.metrics.doors import DoorState
from ollama_proxy.metrics.requests import Requests
from ollama_proxy.metrics.series import Counter
from ollama_proxy.metrics.sources import SourceState
from ollama_proxy.metrics.state import state
from ollama_proxy.policy.refusal import Code


class Metrics(Collector):
    """All metrics of one router.

    Attributes:
        doors: tells how the doors are, by name.
        lost_lines: tells how many lines of the log were left out.
        sources: tells how what tells of nodes is, by name.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        climate: Climate,
        *,
        status_at: Callable[[str, Code], int],
        version: str,
    ) -> None:
        """Begin at 0.

        Args:
            dispatcher: is asked at each scrape.
            climate: the same.
            status_at: HTTP's for a refusal at a door.
            version: of the router.
        """
        self._dispatcher = dispatcher
        self._climate = climate
        self._version = version
        self.doors: Callable[[], Mapping[str, DoorState]] = dict
        self.lost_lines: Callable[[], int] = int
        self.sources: Callable[[], Mapping[str, SourceState]] = dict
        # Both labels are of a fixed few, whatever was asked for.
        self._turned_away = Counter(
            "turned_away_total",
            "Requests that became no job: they could not be read, or were not let in. They are not in"
            " requests_total.",
            *("door", "code"),
        )
        self._requests = Requests(dispatcher.stations, status_at)

    def record(self, fact: Fact) -> None:
        """Count a request that ended; for the ledger."""
        self._requests.record(fact)

    def turn_away(self, request: TurnedAway) -> None:
        """Count a request that became no job; for the ledger."""
        self._turned_away.add(request.door, request.code.value)

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now; for the library."""
        yield from state(self._dispatcher, self._climate, self._version)
        yield from self._requests.families()
        yield from at_doors.families(self.doors(), self.lost_lines())
        yield from of_nodes.families(self.sources())
        yield self._turned_away.family()

    def page(self, is_openmetrics: bool) -> bytes:  # noqa: FBT001 - the one thing that a scraper chooses
        """What a scraper is to have."""
        page: bytes = generate_openmetrics(self) if is_openmetrics else generate_latest(self)
        return page
