"""Whose work is put back for a critical request."""

import attrs
import pytest

from ollama_proxy.policy.preempt import PUT_BACK_MAX, Started, choose_victim


@attrs.frozen(kw_only=True)
class Work:
    """Work at a slot."""

    started: float = 0.0
    yields: bool = True
    put_back: int = 0
    has_begun: bool = False
    is_continuable: bool = False


def test_who_began_last_yields() -> None:
    """The least work is lost."""
    work = [Work(started=at) for at in (1.0, 3.0, 2.0)]

    assert choose_victim(work, Started.KEEP) is work[1]


def test_who_does_not_yield_is_left_alone() -> None:
    """Nor is anybody else's slot taken instead."""
    assert choose_victim([Work(yields=False), Work(put_back=PUT_BACK_MAX)], Started.STOP) is None


@pytest.mark.parametrize(
    ("started", "expected"),
    [
        (Started.KEEP, [False, False, False]),
        (Started.STOP, [True, True, True]),
        (Started.CONTINUE, [False, True, False]),
    ],
)
def test_what_has_begun_is_the_owners_to_decide(started: Started, expected: list[bool]) -> None:
    """Kept, stopped, or continued later where that is possible, at most twice."""
    work = [
        Work(has_begun=True),
        Work(has_begun=True, is_continuable=True),
        Work(has_begun=True, is_continuable=True, put_back=PUT_BACK_MAX),
    ]

    assert expected == [choose_victim([each], started) is not None for each in work]


def test_who_has_not_begun_yields_first() -> None:
    """An answer is only broken into where nothing else would do."""
    begun, silent = Work(has_begun=True, started=9.0), Work(started=1.0)

    assert choose_victim([begun, silent], Started.STOP) is silent
