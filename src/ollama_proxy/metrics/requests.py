"""What requests came to: one fact in for each that ended, sums out.

Labels are bounded: a model is named as a backend lists it, or `other`; so is a backend that left while
its last requests went on. What a reload has removed is forgotten at the next scrape.
"""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import Metric

from ollama_proxy.engine.job import Stage
from ollama_proxy.engine.ledger import Deadline, Fact, Outcome
from ollama_proxy.engine.station import Station
from ollama_proxy.metrics.series import Counter, Histogram
from ollama_proxy.policy.fleet import canonical_model
from ollama_proxy.policy.refusal import Code

OTHER = "other"
NONE = "none"
LEFT_STATUS = "499"  # nginx's: nobody is there to be told
_ERROR_FROM = 400

_MILLISECONDS_TO_MINUTES = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_OVERHEADS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5)


def _listed(station: Station, model: str) -> str | None:
    """A model's name as its backend, or the backend's owner, lists it; None where neither does."""
    real = station.spec.real_name(model)
    for name in (real, canonical_model(real), real.removesuffix(":latest")):
        if name in (station.models or ()) or name in station.spec.models:
            return name
    return None


class Requests:
    """The sums. One `record` for each request."""

    def __init__(
        self, stations: Mapping[str, Station], status_at: Callable[[str, Code], int]
    ) -> None:
        """Begin at 0.

        Args:
            stations: by the ids of their backends; read whenever something is recorded.
            status_at: HTTP's for a refusal at a door.
        """
        self._stations = stations
        self._status_at = status_at
        self._requests = Counter(
            "requests_total",
            "Requests that ended. backend is none where none was chosen, other where it is gone;"
            " model is other where no backend lists it. status is HTTP's: of the answer, else of why"
            " there is none or no whole one; 499 where the caller left. Those that could not be"
            " read, or were not let in, are not here.",
            *("backend", "model", "status", "door"),
        )
        self._durations = Histogram(
            "request_duration_seconds",
            "From the whole request's being read to its end, however it ended; not those that were"
            " refused at once.",
            _MILLISECONDS_TO_MINUTES,
        )
        self._firsts = Histogram(
            "time_to_first_token_seconds",
            "From the whole request's being read to the first byte of its stream, the line included.",
            _MILLISECONDS_TO_MINUTES,
        )
        self._gaps = Histogram(
            "inter_token_seconds",
            "One mean for each stream that came to its end: the time after its first token, by the"
            " tokens after it (pieces, where the backend counts no tokens).",
            _TOKENS,
        )
        self._overheads = Histogram(
            "proxy_overhead_seconds",
            "The router's own time before the first byte: from the whole request's being read until a"
            " place was chosen, from handing it to a worker until that began, from a backend's first"
            " bytes until they were written. Not the line, the backend, the connection to it, nor"
            " the rest of the answer.",
            _OVERHEADS,
        )
        self._waits = Histogram(
            "queue_wait_seconds",
            "Time in line, of all that got a place.",
            _MILLISECONDS_TO_MINUTES,
        )
        self._deadlines = Counter(
            "deadline_total",
            "What became of deadlines. refused: not taken on, mostly because no backend would have"
            " made it; left: the caller went away while it could still be met.",
            "outcome",
            known=[(each.value,) for each in Deadline],
        )
        self._preemptions = Counter(
            "preemptions_total",
            "Slots taken from requests for a more urgent one; counted when those end.",
        )
        self._cancellations = Counter(
            "cancellations_total",
            "Requests whose caller left or cancelled: while waiting in line, while a backend was"
            " computing the first token, or in the middle of the answer.",
            "stage",
            known=[("waiting",), ("computing",), ("answering",)],
        )
        self._failovers = Counter(
            "failovers_total",
            "Requests that went from a backend that failed them to another, before the first byte.",
            *("from", "to"),
        )
        self._decisions = Counter(
            "routing_decisions_total",
            "Why the backend was chosen that answered, or was to: one for each request.",
            *("reason", "backend"),
        )
        self._tokens = Counter(
            "tokens_total",
            "Tokens of whole answers, as the backend counts them; where it does not, completion counts"
            " the pieces of streams.",
            *("backend", "model", "kind"),
        )
        self._histograms = (
            *(self._durations, self._firsts, self._gaps, self._overheads, self._waits),
        )
        self._counters = (
            *(self._requests, self._deadlines, self._preemptions, self._cancellations),
            *(self._failovers, self._decisions, self._tokens),
        )

    # -- facts in ----------------------------------------------------------------------------------

    def record(self, fact: Fact) -> None:
        """Count a request that ended."""
        backend, model = self._labels_of(fact)
        self._requests.add(backend, model, self._status_of(fact), fact.door)
        if fact.reason is not None:
            self._decisions.add(fact.reason.value, backend)
        self._time(fact)
        if fact.deadline is not None:
            self._deadlines.add(fact.deadline.value)
        preempted = fact.put_back + (fact.code is Code.PREEMPTED)
        if preempted:
            self._preemptions.add(by=preempted)
        if fact.outcome is Outcome.LEFT:
            self._cancellations.add(_stage_of(fact))
        for failed, other in fact.failovers:
            if failed in self._stations and other in self._stations:
                self._failovers.add(failed, other)
        if fact.prompt_tokens:
            self._tokens.add(backend, model, "prompt", by=fact.prompt_tokens)
        if fact.answer_tokens:
            self._tokens.add(backend, model, "completion", by=fact.answer_tokens)

    def _labels_of(self, fact: Fact) -> tuple[str, str]:
        if fact.backend is None:
            listed = (_listed(each, fact.model) for each in self._stations.values())
            return NONE, next(filter(None, listed), OTHER)
        station = self._stations.get(fact.backend)
        if station is None:
            return OTHER, OTHER
        return fact.backend, _listed(station, fact.model) or OTHER

    def _status_of(self, fact: Fact) -> str:
        if fact.outcome is Outcome.LEFT:
            return LEFT_STATUS
        return str(fact.status if fact.code is None else self._status_at(fact.door, fact.code))

    def _time(self, fact: Fact) -> None:
        if fact.promised_s is not None:
            self._durations.observe(fact.whole_s)
            self._waits.observe(fact.queue_s)
        if fact.overhead_s is not None:
            self._overheads.observe(fact.overhead_s)
        is_error = fact.status is not None and fact.status >= _ERROR_FROM
        if fact.first_s is None or not fact.stream or is_error:
            return
        self._firsts.observe(fact.first_s)
        tokens = fact.answer_tokens or 0
        # A pause while another had its slot is no token's.
        if fact.outcome is Outcome.SERVED and tokens > 1 and not fact.put_back:
            self._gaps.observe((fact.whole_s - fact.first_s) / (tokens - 1))

    # -- sums out ----------------------------------------------------------------------------------

    def families(self) -> Iterator[Metric]:
        """All of it, but for what tells of backends and models that are gone."""
        for counter in self._counters:
            counter.keep(self._is_there)
            yield counter.family()
        for histogram in self._histograms:
            yield histogram.family()

    def _is_there(self, labels: Mapping[str, str]) -> bool:
        backends = [labels[name] for name in ("backend", "from", "to") if name in labels]
        if not all(each in self._stations or each in {NONE, OTHER} for each in backends):
            return False
        model = labels.get("model", OTHER)
        if model == OTHER:
            return True
        backend = labels["backend"]
        holders = (
            [self._stations[backend]] if backend in self._stations else self._stations.values()
        )
        return any(_listed(each, model) for each in holders)


def _stage_of(fact: Fact) -> str:
    """In which stage its caller left it."""
    match fact.stage:
        case Stage.NEW | Stage.WAITING:
            return "waiting"
        case Stage.RUNNING | Stage.DONE:
            return "computing" if fact.first_s is None else "answering"
