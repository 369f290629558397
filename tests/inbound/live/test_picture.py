"""What is told anew, and what today came to."""

from datetime import UTC, datetime

import pytest

from ollama_proxy.inbound.live.picture import Scene, changes
from tests.inbound.live.watched import MORNING, Watched, fact, routed

BEFORE = Scene({"status": "ok", "mode": {"mode": "auto"}}, {"npu": {"a": 1, "b": None}, "cpu": {}})


def after(**backends: dict[str, object]) -> Scene:
    """The same sections, with other backends."""
    return Scene(BEFORE.sections, backends)


@pytest.mark.parametrize(
    ("scene", "told"),
    [
        (BEFORE, {}),
        (Scene({**BEFORE.sections, "status": "down"}, BEFORE.backends), {"status": "down"}),
        (after(npu={"a": 2, "b": None}, cpu={}), {"backends": {"npu": {"a": 2}}}),
        (after(npu={"a": None, "b": None}, cpu={}), {"backends": {"npu": {"a": None}}}),
        (after(cpu={}), {"order": ["cpu"]}),
        (after(cpu={}, npu={"a": 1, "b": None}), {"order": ["cpu", "npu"]}),
        (
            after(npu={"a": 1, "b": None}, cpu={}, gpu={"a": 1}),
            {"backends": {"gpu": {"a": 1}}, "order": ["npu", "cpu", "gpu"]},
        ),
    ],
    ids=["nothing", "section", "field", "unknown now", "gone", "order", "new"],
)
def test_only_what_differs_is_told(scene: Scene, told: dict[str, object]) -> None:
    """By section, and by the fields of a backend."""
    assert told == changes(BEFORE, scene)


async def test_nothing_is_told_where_nothing_happens() -> None:
    """After the first time."""
    picture = Watched().picture
    picture.take_changes()

    assert {} == picture.take_changes()


async def test_changes_hold_rows_and_points() -> None:
    """Those that are new."""
    seen = Watched()
    seen.picture.take_changes()
    seen.picture.look()
    seen.picture.routed(routed("a"))
    told = seen.picture.take_changes()

    assert {"flow", "hour"} == told.keys()


async def test_all_of_it_has_what_was_told() -> None:
    """A page that begins with it needs no change from before."""
    seen = Watched()
    seen.picture.routed(routed("a"))
    whole = seen.picture.whole()

    assert (["npu", "cpu"], "1.2.3", MORNING) == (whole["order"], whole["version"], whole["now"])
    assert {"status", "mode", "machine", "today", "backends", "flow", "hour"} <= whole.keys()


class TestToday:
    """Joules and tokens since midnight."""

    def test_sums_are_by_backend_and_grade(self) -> None:
        """What was booked before the picture began is not in them."""
        seen = Watched()
        seen.spend(3.0)
        seen.spend(4.5, "cpu")
        seen.picture.book(fact())
        told = seen.picture.today.told()

        assert {
            "npu": {"estimated": 3.0, "tokens": 11},
            "cpu": {"estimated": 4.5},
        } == told["backends"]
        assert MORNING == told["since"]

    def test_they_begin_anew_at_midnight(self) -> None:
        """Local time."""
        seen = Watched()
        seen.spend(3.0)
        seen.picture.book(fact())
        here = datetime.fromtimestamp(MORNING, UTC).astimezone()
        midnight = here.replace(hour=23, minute=59, second=59).timestamp() + 1
        seen.now = midnight - 1
        seen.picture.look()
        assert {} != seen.picture.today.told()["backends"]
        seen.now = midnight
        seen.picture.look()
        seen.spend(1.5)

        told = seen.picture.today.told()
        assert ({"npu": {"estimated": 1.5}}, midnight) == (told["backends"], told["since"])
