"""Whose work is put back."""

import attrs

from ollama_proxy.policy.preempt import PUT_BACK_MAX, Started, choose_victim


@attrs.frozen(kw_only=True)
class Work:
    """Something at a slot."""

    yields: bool = True
    put_back: int = 0
    has_begun: bool = False
    is_continuable: bool = False
    started: float = 0.0


def test_who_was_put_back_often_enough_stays() -> None:
    """Rule 2: a batch job under a busy voice still ends."""
    once_more = Work(put_back=PUT_BACK_MAX - 1, started=1.0)
    enough = Work(put_back=PUT_BACK_MAX, started=2.0)

    assert once_more is choose_victim([once_more, enough], Started.KEEP)
    assert None is choose_victim([enough], Started.KEEP)
