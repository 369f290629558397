"""Three requests at two uneven backends, by each plain router."""

from pathlib import Path

import pytest

from tests.simulate.stage import backend, first_s, play, request

FAST, SLOW = backend("fast"), backend("slow", prefill_tokens_per_s=50)


@pytest.mark.parametrize(
    ("rival", "expected"),
    [
        # The first takes the fast one until 10, the second the slow one until 6.1.
        ("round-robin", (10.0, 10.8)),  # the third has the first's turn again
        ("least-connections", (10.0, 10.8)),  # as many are here as there: the first of both
        ("fifo", (7.9, 10.0)),  # whoever is free first: the slow one
    ],
)
def test_two_at_work_and_one_waits(
    tmp_path: Path, rival: str, expected: tuple[float, float]
) -> None:
    """Where the third goes is what they differ in; of the three, these are the later two."""
    three = [request(0, 1000, 1), request(0.1, 300, 1), request(0.2, 100, 1)]
    figures = play(tmp_path, *three, backends=[FAST, SLOW], only=rival)

    assert expected == (first_s(figures), first_s(figures, quantile="p99"))


@pytest.mark.parametrize(
    ("rival", "middle_s"), [("round-robin", 8.0), ("least-connections", 2.0), ("fifo", 2.0)]
)
def test_only_turns_do_not_look(tmp_path: Path, rival: str, middle_s: float) -> None:
    """The third comes when the slow one is free again, and the fast one is not."""
    three = [request(0, 1000, 1), request(0.1, 100, 1), request(3, 100, 1)]
    figures = play(tmp_path, *three, backends=[FAST, SLOW], only=rival)

    assert middle_s == first_s(figures)


def test_one_line_for_all_keeps_models_apart(tmp_path: Path) -> None:
    """A backend takes the first whose model it has, not the first."""
    models = [{"name": "m"}, {"name": "n"}]
    pair = [backend("a", models=["m"]), backend("b", models=["n"])]
    three = [request(0, model="m"), request(0, model="m"), request(0.5, model="n")]
    figures = play(tmp_path, *three, backends=pair, models=models, only="fifo")

    assert (1.0, 3.0) == (first_s(figures), first_s(figures, quantile="p99"))


def test_a_model_that_nobody_has_is_refused(tmp_path: Path) -> None:
    """Theirs is no miracle either."""
    models = [{"name": "m"}, {"name": "n"}]
    figures = play(
        tmp_path,
        request(0, model="n"),
        request(0, model="m"),
        backends=[backend(models=["m"])],
        models=models,
        only="fifo",
    )

    assert ({"model_not_found": 1}, 1) == (figures["refused"], figures["served"])


def test_what_breaks_is_not_tried_again(tmp_path: Path) -> None:
    """A plain router passes the failure on."""
    figures = play(tmp_path, request(0), backends=[backend(failing=1)], only="fifo")

    assert ({"backend_failed": 1}, 0) == (figures["failed"], figures["served"])
