"""The conversation, line by line, and whoever interferes with it."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.pairing.card import BadCard, Card
from ollama_proxy.pairing.code import Offer
from ollama_proxy.pairing.exchange import Asking, NotPaired, Offering, WrongCode, refusal
from ollama_proxy.pinned import der_of
from tests.pairing.cards import Box

CODE, OTHER = "ABCDEFGH", "ABCDEFGJ"
Way = Callable[[bytes], bytes]


def unchanged(line: bytes) -> bytes:
    return line


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Box, Box, Box]:
    directory = tmp_path_factory.mktemp("boxes")
    laptop, desktop, rogue = (Box.new(directory, name) for name in ("laptop", "desktop", "rogue"))
    return laptop, desktop, rogue


def converse(
    offer: Offer,
    asks: Card,
    offers: Card,
    *,
    code: str = CODE,
    up: Way = unchanged,
    down: Way = unchanged,
) -> tuple[Card, Card]:
    """All of it; whom each side has met: who asks, who offers. `up`, `down`: what happens on the way."""
    asking, offering = Asking(code, asks), Offering(offer, offers)

    def sent(line: bytes, way: Way) -> bytes:
        return way(line.removesuffix(b"\n"))

    hello = offering.greet(sent(asking.hello(), up))
    met, card = offering.judge(sent(asking.show(sent(hello, down)), up), 0.0)
    last = offering.settle(sent(asking.take(sent(card, down)), up))
    return asking.end(sent(last, down)), met


def new_offer() -> Offer:
    return Offer(code=CODE, ends=1.0)


def test_each_learns_the_others_certificate(boxes: tuple[Box, Box, Box]) -> None:
    """And name, and port."""
    laptop, desktop, _ = boxes

    assert (desktop.card, laptop.card) == converse(new_offer(), laptop.card, desktop.card)


def test_a_wrong_code_tells_neither_side_anything(boxes: tuple[Box, Box, Box]) -> None:
    """It counts, and the word for it names no code."""
    laptop, desktop, _ = boxes
    offer = new_offer()
    with pytest.raises(WrongCode) as caught:
        converse(offer, laptop.card, desktop.card, code=OTHER)

    assert (2, b'{"no": "wrong"}\n') == (offer.tries, refusal(caught.value))
    with pytest.raises(NotPaired, match="not the one that is shown"):
        Asking(CODE, laptop.card).take(refusal(caught.value))


def test_nobody_pairs_with_itself(boxes: tuple[Box, Box, Box]) -> None:
    """It would send itself its own work; so would the copy of a machine, of which nobody knows which it is."""
    laptop, *_ = boxes
    with pytest.raises(NotPaired, match="itself, or has a copy") as caught:
        converse(new_offer(), laptop.card, laptop.card)

    assert b'{"no": "same"}\n' == refusal(caught.value)


def test_who_swaps_a_certificate_on_the_way_is_found_out(boxes: tuple[Box, Box, Box]) -> None:
    """In either direction; the code is void after three such tries, as after three wrong ones."""
    laptop, desktop, rogue = boxes

    def swap(line: bytes) -> bytes:
        told = json.loads(line)
        return json.dumps(told | ({"card": rogue.card.text()} if "card" in told else {})).encode()

    offer = new_offer()
    for _ in range(3):
        with pytest.raises(WrongCode):
            converse(offer, laptop.card, desktop.card, up=swap)
    with pytest.raises(NotPaired, match="no code is good"):
        converse(offer, laptop.card, desktop.card)
    with pytest.raises(WrongCode, match="swaps certificates"):
        converse(new_offer(), laptop.card, desktop.card, down=swap)


def test_who_sits_in_the_middle_and_guesses_is_found_out(boxes: tuple[Box, Box, Box]) -> None:
    """Talking to each side for itself, with a code that is wrong, comes to one wrong try."""
    laptop, desktop, rogue = boxes
    victim = new_offer()
    asking = Asking(CODE, laptop.card)
    middle = Offering(Offer(code=OTHER, ends=1.0), rogue.card)
    hello = middle.greet(asking.hello().rstrip())
    with pytest.raises(WrongCode):
        middle.judge(asking.show(hello.rstrip()).rstrip(), 0.0)
    with pytest.raises(WrongCode):
        converse(victim, rogue.card, desktop.card, code=OTHER)

    assert 2 == victim.tries


def test_what_was_heard_cannot_be_said_again(boxes: tuple[Box, Box, Box]) -> None:
    """Neither to a later offer of the same code, nor to who asks."""
    laptop, desktop, _ = boxes
    said: list[bytes] = []
    heard: list[bytes] = []

    def keep(into: list[bytes]) -> Way:
        def way(line: bytes) -> bytes:
            into.append(line)
            return line

        return way

    converse(new_offer(), laptop.card, desktop.card, up=keep(said), down=keep(heard))
    again = Offering(new_offer(), desktop.card)
    again.greet(said[0])
    with pytest.raises(WrongCode):
        again.judge(said[1], 0.0)
    asking = Asking(CODE, laptop.card)
    asking.hello()
    asking.show(heard[0])
    with pytest.raises(WrongCode):
        asking.take(heard[1])


def test_nobody_is_paired_with_their_own_echo(boxes: tuple[Box, Box, Box]) -> None:
    """What a side has said is no answer to it."""
    asking = Asking(CODE, boxes[0].card)
    hello = asking.hello().rstrip()

    with pytest.raises(NotPaired):
        asking.show(hello)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_greeting_that_was_changed_ends_it(boxes: tuple[Box, Box, Box], direction: str) -> None:
    """Though nothing is computed from what was changed: the proofs are over every line."""
    laptop, desktop, _ = boxes

    def change(line: bytes) -> bytes:
        told = json.loads(line)
        return json.dumps(told | ({} if "proof" in told else {"more": 1})).encode()

    up, down = (change, unchanged) if direction == "up" else (unchanged, change)
    with pytest.raises(WrongCode):
        converse(new_offer(), laptop.card, desktop.card, up=up, down=down)


def test_another_version_is_told_so(boxes: tuple[Box, Box, Box]) -> None:
    """Before anything is computed."""
    laptop, desktop, _ = boxes

    def newer(line: bytes) -> bytes:
        return line.replace(b'"version": 1', b'"version": 2')

    with pytest.raises(NotPaired, match="same version"):
        converse(new_offer(), laptop.card, desktop.card, up=newer)


NONSENSE = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=70),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["pake", "card", "proof", "no", "version"]), inner)
        ),
        max_leaves=6,
    ).map(lambda told: json.dumps(told).encode()),
    st.binary(min_size=33, max_size=33).map(
        lambda pake: json.dumps({"pake": pake.hex(), "version": 1}).encode()
    ),
    st.binary(min_size=32, max_size=32).map(
        lambda pake: json.dumps({"pake": "41" + pake.hex(), "version": 1}).encode()
    ),
)


@given(NONSENSE)
def test_nonsense_ends_it_and_nothing_else(line: bytes) -> None:
    """At every step of either side, in a sentence."""
    card = Card(name="x", port=1, node_id="x", certificate="")
    offering, asking = Offering(new_offer(), card), Asking(CODE, card)
    for step in (
        offering.greet,
        asking.end,
        asking.take,
        lambda line: offering.judge(line, 0.0),
        offering.settle,
    ):
        try:
            step(line)
        except NotPaired:
            continue
    asking.hello()
    try:
        asking.show(line)
    except NotPaired:
        return


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"name": "a"}',
        '{"name": "a", "port": 99999, "node_id": "x", "certificate": ""}',
        '{"name": "a\\u001b[2J", "port": 1, "node_id": "x", "certificate": "x"}',
        '{"name": 7, "port": true, "node_id": "x", "certificate": 7}',
        '{"name": "a", "port": 1, "node_id": "x", "certificate": "-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\\n"}',
    ],
)
def test_a_card_that_makes_no_sense_is_none(text: str) -> None:
    """Though its sender knows the code."""
    with pytest.raises(BadCard):
        Card.read(text)


def test_two_certificates_are_not_one(boxes: tuple[Box, Box, Box]) -> None:
    """Nor a certificate with something before it."""
    one, two = boxes[0].card.certificate, boxes[1].card.certificate
    for pem in (one + two, "x" + one, ""):
        with pytest.raises(ValueError):  # noqa: PT011 - whichever
            der_of(pem)
