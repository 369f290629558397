"""What becomes of facts: literal ones in, samples out."""

from typing import Any

import attrs
import pytest
from trio.testing import MockClock

from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.job import Stage
from ollama_proxy.engine.ledger import Deadline, Fact, Ledger, Outcome
from ollama_proxy.policy.ask import Call, Priority
from ollama_proxy.policy.refusal import Code
from ollama_proxy.policy.route import Reason
from tests.fleet import MODEL
from tests.metrics.scrapes import Machine, Scrape, watched


@attrs.frozen
class Books:
    """Where facts are booked."""

    machine: Machine

    def record(self, **changes: Any) -> Scrape:
        """Book a streamed chat that the NPU served well, but for `changes`; scrape."""
        given: dict[str, Any] = {
            "request_id": "1",
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
            "queue_s": 0.5,
            "promised_s": 1.0,
            "first_s": 0.75,
            "whole_s": 1.75,
            "overhead_s": 0.0005,
            "tokens": 10,
            "prompt_tokens": 7,
            "answer_tokens": 11,
        }
        self.machine.metrics.record(Fact(**(given | changes)))
        return self.machine.scrape()

    def refuse(self, code: Code, **changes: Any) -> Scrape:
        """Book one that was refused at once, but for `changes`; scrape."""
        nothing = dict.fromkeys((
            *("status", "backend", "reason", "promised_s", "first_s", "overhead_s"),
            *("tokens", "prompt_tokens", "answer_tokens"),
        ))
        refused = {"outcome": Outcome.REFUSED, "stage": Stage.NEW, "code": code, "queue_s": 0.0}
        return self.record(**(nothing | refused | changes))


@pytest.fixture
def books(mock_clock: MockClock) -> Books:
    """The NPU and the CPU, and nothing booked."""
    dispatcher = Dispatcher(DispatchSettings(), Ledger(), clock=mock_clock.current_time)
    machine = watched(dispatcher, mock_clock)
    machine.station("npu")
    machine.station("cpu")
    return Books(machine)


async def test_an_answer_is_booked_in_each_sum(books: Books) -> None:
    """Requests, reason, tokens, and five times in their buckets."""
    told = books.record()

    assert {("npu", "http", MODEL, "200"): 1} == told.by("requests_total")
    assert {("npu", "balanced"): 1} == told.by("routing_decisions_total")
    assert {("npu", "completion", MODEL): 11, ("npu", "prompt", MODEL): 7} == told.by(
        "tokens_total"
    )
    sums = {
        "request_duration_seconds": 1.75,
        "time_to_first_token_seconds": 0.75,
        "inter_token_seconds": 0.1,
        "queue_wait_seconds": 0.5,
        "proxy_overhead_seconds": 0.0005,
    }
    assert sums == {name: told.one(f"{name}_sum") for name in sums}
    assert [1.0] * 5 == [told.one(f"{name}_count") for name in sums]


async def test_a_bucket_holds_what_is_not_above_it(books: Books) -> None:
    """Each bucket counts the smaller ones as well, up to infinity."""
    books.record(queue_s=0.25)
    told = books.record(queue_s=1e9)

    bounds = ("0.1", "0.25", "600.0", "+Inf")
    assert [0, 1, 1, 2] == [told.one("queue_wait_seconds_bucket", le=each) for each in bounds]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"outcome": Outcome.LEFT, "status": None}, "499"),
        ({"outcome": Outcome.BROKEN, "status": None, "code": Code.BACKEND_FAILED}, "502"),
        ({"outcome": Outcome.REFUSED, "status": None, "code": Code.QUEUE_FULL}, "503"),
        ({"status": 400}, "400"),
        ({"door": "picker", "outcome": Outcome.REFUSED, "code": Code.QUEUE_FULL}, "429"),
        ({"door": "picker", "outcome": Outcome.REFUSED, "code": Code.NO_BACKEND}, "503"),
    ],
    ids=["left", "broken", "refused", "rejected", "dropped", "of-a-proxy"],
)
async def test_a_status_tells_how_it_ended(
    books: Books, changes: dict[str, Any], status: str
) -> None:
    """HTTP's, as the door has it; who left is told nothing, and counts as nginx counts it."""
    door = changes.get("door", "http")
    assert {("npu", door, MODEL, status): 1} == books.record(**changes).by("requests_total")


async def test_who_is_refused_at_once_has_no_times(books: Books) -> None:
    """It is a request, and neither a short wait nor a fast answer."""
    told = books.refuse(Code.DEADLINE_UNMEETABLE, deadline=Deadline.REFUSED)

    assert {("none", "http", MODEL, "503"): 1} == told.by("requests_total")
    assert {} == told.by("routing_decisions_total")
    assert 1 == told.one("deadline_total", outcome="refused")
    names = ("request_duration", "time_to_first_token", "queue_wait", "proxy_overhead")
    assert [0.0] * 4 == [told.one(f"{name}_seconds_count") for name in names]


@pytest.mark.parametrize(
    "changes",
    [
        {"stream": False},
        {"answer_tokens": 1},
        {"answer_tokens": None},
        {"put_back": 1},
        {"outcome": Outcome.BROKEN, "code": Code.BACKEND_FAILED},
        {"status": 400},
    ],
    ids=["whole", "one token", "uncounted", "put back", "broken", "an error"],
)
async def test_a_mean_between_tokens_is_of_whole_streams(
    books: Books, changes: dict[str, Any]
) -> None:
    """Anything else has no such mean, or one that is not the backend's."""
    assert 0 == books.record(**changes).one("inter_token_seconds_count")


@pytest.mark.parametrize(
    ("stage", "first_s", "counted"),
    [
        (Stage.NEW, None, "waiting"),
        (Stage.WAITING, None, "waiting"),
        (Stage.WAITING, 0.5, "waiting"),
        (Stage.RUNNING, None, "computing"),
        (Stage.RUNNING, 0.5, "answering"),
    ],
    ids=["new", "waiting", "put back", "computing", "answering"],
)
async def test_who_leaves_is_counted_by_stage(
    books: Books, stage: Stage, first_s: float | None, counted: str
) -> None:
    """One of three."""
    told = books.record(outcome=Outcome.LEFT, status=None, stage=stage, first_s=first_s)

    expected = dict.fromkeys([("waiting",), ("computing",), ("answering",)], 0.0) | {(counted,): 1}
    assert expected == told.by("cancellations_total")


async def test_each_slot_that_was_taken_counts(books: Books) -> None:
    """Those who were put back, and those who were sent away."""
    books.record(put_back=2)
    told = books.record(outcome=Outcome.BROKEN, code=Code.PREEMPTED, status=None)

    assert {(): 3} == told.by("preemptions_total")


async def test_failovers_are_counted_by_their_ends(books: Books) -> None:
    """From whom to whom."""
    told = books.record(backend="cpu", failovers=(("npu", "cpu"),), reason=Reason.FAILOVER)

    assert [({"from": "npu", "to": "cpu"}, 1.0)] == list(told.all("failovers_total"))
    assert {("cpu", "failover"): 1} == told.by("routing_decisions_total")


# -- labels are bounded ----------------------------------------------------------------------------


async def test_ten_thousand_unknown_models_are_one(books: Books) -> None:
    """Whatever names callers make up, nothing grows."""
    before = books.refuse(Code.MODEL_NOT_FOUND, model="x").size
    for number in range(10_000):
        books.machine.metrics.record(
            Fact(
                request_id="1",
                door="http",
                call=Call.OPENAI_CHAT,
                model=f"made-up:{number}",
                stream=True,
                priority=Priority.NORMAL,
                outcome=Outcome.REFUSED,
                stage=Stage.NEW,
                code=Code.MODEL_NOT_FOUND,
            )
        )
    told = books.machine.scrape()

    assert before == told.size
    assert {("none", "http", "other", "404"): 10_001} == told.by("requests_total")


async def test_a_model_has_one_name(books: Books) -> None:
    """Its own, as its backend lists it: neither an alias nor the tag `latest` makes another."""
    books.machine.station("igpu", frozenset({"llama3:latest", "phi"}), aliases={"gpt-4o": "phi"})
    for asked in ("llama3", "llama3:latest", "phi", "phi:latest", "gpt-4o"):
        books.record(backend="igpu", model=asked)
    told = books.machine.scrape()

    models = {labels["model"]: n for labels, n in told.all("requests_total")}
    assert {"llama3:latest": 2, "phi": 3} == models


async def test_a_backend_that_does_not_list_is_believed_by_its_owner(books: Books) -> None:
    """What the configuration names is a name; what a pattern lets through is not."""
    books.machine.station("igpu", None, models=("phi", "qwen*"))
    books.record(backend="igpu", model="phi")
    told = books.record(backend="igpu", model="qwen-of-somebody")

    assert {"phi": 1, "other": 1} == {
        labels["model"]: n for labels, n in told.all("requests_total")
    }


async def test_a_backend_that_is_gone_is_forgotten(books: Books) -> None:
    """Its series end; what its last requests come to is counted as another's."""
    books.record(backend="cpu", failovers=(("npu", "cpu"),))
    books.machine.dispatcher.remove(books.machine.dispatcher.stations["cpu"])
    told = books.record(backend="cpu", failovers=(("npu", "cpu"),))

    assert {("other", "http", "other", "200"): 1} == told.by("requests_total")
    assert {} == told.by("failovers_total")
    shown = {v for family in told.families for s in family.samples for v in s.labels.values()}
    assert "cpu" not in shown


async def test_a_model_that_was_deleted_is_forgotten(books: Books) -> None:
    """Whoever copies and deletes models all day leaves nothing here."""
    books.record()
    books.machine.dispatcher.stations["npu"].lacks(MODEL)

    assert {} == books.machine.scrape().by("requests_total")
