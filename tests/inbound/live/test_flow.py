"""The rows of the last requests."""

from ollama_proxy.engine.ledger import Outcome
from ollama_proxy.inbound.live.flow import KEPT, Flow
from ollama_proxy.policy.energy import Grade, Spent
from ollama_proxy.policy.refusal import Code
from tests.fleet import MODEL
from tests.inbound.live.watched import MORNING, fact, routed


def a_flow() -> Flow:
    """One that has seen nothing."""
    return Flow(lambda: MORNING)


def test_a_row_is_there_while_its_request_runs() -> None:
    """With who serves it, why, and what is expected."""
    flow = a_flow()
    flow.routed(routed("a", "npu"))
    (row,) = flow.rows()

    assert ("a", MODEL, "high", "npu", "under-way") == (
        row.id,
        row.model,
        row.priority,
        row.backend,
        row.outcome,
    )
    assert ("only-candidate", 800.0, None) == (row.reason, row.predicted_ms, row.whole_ms)


def test_the_end_is_written_into_the_same_row() -> None:
    """Times in milliseconds, joules with how they were found."""
    flow = a_flow()
    flow.routed(routed("a", "npu"))
    flow.ended(fact("a", energy=Spent(2.345, Grade.ESTIMATED), queue_s=0.25))
    (row,) = flow.rows()

    assert (1, "served", 200, 250.0, 750.0, 1750.0, 11) == (
        row.n,
        row.outcome,
        row.status,
        row.queue_ms,
        row.first_ms,
        row.whole_ms,
        row.tokens,
    )
    assert (2.35, "estimated") == (row.joules, row.joules_source)


def test_a_move_is_counted() -> None:
    """A request that goes to another backend keeps its row; one that goes to the same has not moved."""
    flow = a_flow()
    for backend in ("npu", "npu", "cpu"):
        flow.routed(routed("a", backend))
    (row,) = flow.rows()

    assert ("cpu", 1) == (row.backend, row.moves)


def test_what_was_refused_has_a_row() -> None:
    """Though it was given to nobody."""
    flow = a_flow()
    nothing = {"backend": None, "reason": None, "first_s": None, "status": None}
    flow.ended(fact("a", outcome=Outcome.REFUSED, code=Code.NO_BACKEND, **nothing))
    (row,) = flow.rows()

    assert ("refused", "no_backend", None) == (row.outcome, row.code, row.backend)


def test_an_id_may_be_used_again() -> None:
    """A client that gives all its requests one id gets a row for each."""
    flow = a_flow()
    for _ in range(2):
        flow.routed(routed("a"))
        flow.ended(fact("a"))

    assert [1, 2] == [row.n for row in flow.rows()]


def test_rows_are_bounded() -> None:
    """So are those under way, and their names; the end of one that was forgotten is a new row."""
    flow = a_flow()
    for number in range(10 * KEPT):
        flow.routed(routed(str(number), model="m" * 10_000))
    flow.ended(fact("0"))

    rows = flow.rows()
    assert (KEPT, KEPT - 1) == (len(rows), len(flow._open))
    assert {100} == {len(row.model) for row in rows[:-1]}
    assert ("0", "served") == (rows[-1].id, rows[-1].outcome)


def test_only_what_changed_is_taken() -> None:
    """Once, however often it changed."""
    flow = a_flow()
    flow.routed(routed("a"))
    flow.routed(routed("b"))
    flow.ended(fact("b"))

    assert ["a", "b"] == [row.id for row in flow.take_changed()]
    flow.ended(fact("a"))
    assert ["a"] == [row.id for row in flow.take_changed()]
    assert [] == flow.take_changed()
