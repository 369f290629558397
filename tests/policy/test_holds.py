"""Modes that applications hold: who counts, whose they are, and when they end."""

from ollama_proxy.policy.holds import HOLDS_MAX, TEXT_MAX, Holds
from ollama_proxy.policy.modes import Cause, Effective, Mode

AUTO = Effective(mode=Mode.EFFICIENCY, reason="on battery", cause=Cause.BATTERY)


def hold(
    holds: Holds, owner: str = ":1.7", mode: Mode = Mode.QUIET, reason: str = "", app: str = ""
) -> int:
    return holds.add(owner, mode, reason=reason, app=app).cookie


def newest(holds: Holds) -> Mode | None:
    return None if holds.newest is None else holds.newest.mode


def test_1_the_newest_counts_and_then_the_one_before() -> None:
    """Whoever releases first, the newest that lasts is in force."""
    holds = Holds()
    first = hold(holds, mode=Mode.QUIET)
    second = hold(holds, mode=Mode.PERFORMANCE)
    third = hold(holds, mode=Mode.EFFICIENCY)
    seen = [newest(holds)]
    for cookie in (second, third, first):
        assert holds.release(":1.7", cookie)
        seen.append(newest(holds))

    assert [Mode.EFFICIENCY, Mode.EFFICIENCY, Mode.QUIET, None] == seen


def test_2_an_owner_that_leaves_takes_its_own_along() -> None:
    """And nobody else's."""
    holds = Holds()
    hold(holds, ":1.7", Mode.QUIET)
    hold(holds, ":1.8", Mode.PERFORMANCE)
    hold(holds, ":1.7", Mode.EFFICIENCY)
    assert holds.drop(":1.7")

    assert (1, Mode.PERFORMANCE) == (len(holds), newest(holds))
    assert not holds.drop(":1.7")


def test_3_nobody_releases_what_another_holds() -> None:
    """Nor twice, nor what never was."""
    holds = Holds()
    cookie = hold(holds, ":1.7")

    assert not holds.release(":1.8", cookie)
    assert not holds.release(":1.7", cookie + 1)
    assert holds.release(":1.7", cookie)
    assert not holds.release(":1.7", cookie)


def test_no_two_that_last_have_one_name() -> None:
    """Cookies fit into 32 bits, are never 0, and go round the one that is still held."""
    holds = Holds()
    first = hold(holds)
    holds._cookies = iter([0xFFFF_FFFF, 0x1_0000_0000, 0x1_0000_0001])

    assert (1, 0xFFFF_FFFF, 2) == (first, hold(holds), hold(holds))


def test_what_is_said_of_it_fits_into_a_line() -> None:
    """The application and its reason, whatever they wrote."""
    holds = Holds()
    for app, reason, expected in (
        ("org.gnome.Calls", "a call", "held by org.gnome.Calls: a call"),
        ("", "", "held by an application"),
        ("a\x1b[31m\nb", "\t \n", "held by a [31m b"),
        ("x" * 1000, "", "held by " + "x" * TEXT_MAX),
    ):
        hold(holds, app=app, reason=reason)
        assert holds.newest is not None
        assert expected == holds.newest.why


def test_a_hold_says_why_and_auto_says_it_itself() -> None:
    """A held mode is the application's; held `auto` is what auto makes of it."""
    holds = Holds()
    hold(holds, mode=Mode.AUTO)
    assert holds.newest is not None
    assert AUTO == holds.newest.explain(AUTO)
    hold(holds, mode=Mode.QUIET, app="calls")

    chosen = Effective(mode=Mode.QUIET, reason="chosen by the user", cause=Cause.CHOSEN)
    assert Effective(mode=Mode.QUIET, reason="held by calls", cause=Cause.HELD) == (
        holds.newest.explain(chosen)
    )


def test_there_is_an_end_to_them() -> None:
    """Somebody who only ever holds is told so, and does not fill the memory."""
    holds = Holds()
    for _ in range(HOLDS_MAX):
        assert not holds.is_full
        hold(holds)

    assert holds.is_full
    holds.clear()
    assert not holds.is_full
