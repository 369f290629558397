"""The short code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.pairing.code import ALPHABET, Offer, new_code, read_code, spaced


def test_a_code_is_read_as_it_was_shown() -> None:
    """In any case, with whatever stands between."""
    code = new_code()

    assert 8 == len(code)
    assert [code] * 3 == [read_code(t) for t in (spaced(code), code.lower(), f" {spaced(code)}\n")]


def test_no_character_is_taken_for_another() -> None:
    """By eye."""
    assert set() == set(ALPHABET) & set("01OILUoilu")


def test_codes_differ() -> None:
    """They are made by chance."""
    assert 100 == len({new_code() for _ in range(100)})


@given(st.text(max_size=12).filter(lambda text: text != text.upper()))
def test_what_is_no_code_is_not_repeated(text: str) -> None:
    """It may be one but for a character."""
    try:
        told = read_code(text)
    except ValueError as error:
        told = str(error)

    assert len(text) < 4 or text not in told.partition("characters")[0]


@pytest.mark.parametrize(("now", "is_open"), [(99.9, True), (100.0, False)])
def test_a_code_ends(now: float, is_open: bool) -> None:
    """Also for who knows it."""
    offer = Offer(code="ABCDEFGH", ends=100.0)

    assert (is_open, is_open) == (offer.is_open(now), offer.try_proof(b"x", b"x", now))


def test_three_wrong_ones_make_it_void() -> None:
    """The right one comes too late then."""
    offer = Offer(code="ABCDEFGH", ends=100.0)
    wrong = [offer.try_proof(b"y", b"x", 0.0) for _ in range(3)]

    assert ([False] * 3, False) == (wrong, offer.try_proof(b"x", b"x", 0.0))


def test_it_is_good_once() -> None:
    """After two wrong ones still."""
    offer = Offer(code="ABCDEFGH", ends=100.0)

    tried = [offer.try_proof(shown, b"x", 0.0) for shown in (b"y", b"y", b"x", b"x")]

    assert [False, False, True, False] == tried
    assert "ABCDEFGH" not in repr(offer)
