"""The conversation of two routers that pair: lines in, lines out; no socket, no file, no clock.

    asks -> offers   hello     version, SPAKE2
    offers -> asks   hello     SPAKE2
    asks -> offers   card      and a proof over all that was said
    offers -> asks   card      and a proof; or a word that says why not
    asks -> offers   taken     a proof
    offers -> asks   kept      a proof: it has written the other down

Who asks proves first, so that who offers says nothing by which a guess could be checked before a guess was
made and counted. Each proof is an HMAC under the key of the exchange over every line before it and the card
in its own, and has a label of its own: none can be taken from elsewhere, or sent back.
"""

import hashlib
import hmac
import json
from typing import Any

from spake2 import SPAKE2_A, SPAKE2_B, SPAKEError
from spake2.ed25519_basic import NotOnCurve

from ollama_proxy.pairing.card import BadCard, Card
from ollama_proxy.pairing.code import Offer

VERSION = 1
LINE_MAX = 16384
_PAKE_BYTES = 33
_PROOF_BYTES = 32
_NAMES = {"idA": b"ollama-proxy asks", "idB": b"ollama-proxy offers"}


_NONSENSE = "what answers there is no router that pairs, or somebody interferes"
# Why a side ends it. Words go over the wire and not sentences: nobody has proven yet who sends them.
WORDS = {
    "wrong": "the code is not the one that is shown there; three wrong ones make it void",
    "void": "no code is good there any more: have a new one shown with `ollama-proxy pair`",
    "version": "the other router pairs in another way: bring both to the same version",
    "same": "that is this router itself, or has a copy of its identity.pem; each needs one of its own",
    "busy": "too many are talking to it at once; try again",
}


class NotPaired(Exception):  # noqa: N818 - read as a sentence by the command line
    """The conversation came to nothing; the message says why and what to do.

    Attributes:
        word: by which the other side is told; "" where there is none.
    """

    def __init__(self, message: str = _NONSENSE, *, word: str = "") -> None:
        """Keep both."""
        super().__init__(WORDS.get(word, message))
        self.word = word


class WrongCode(NotPaired):
    """The other side does not know the code, or is not whom it seems to be."""


class _Talk:
    """What both sides do alike: read lines, remember them, prove."""

    def __init__(self, pake: SPAKE2_A | SPAKE2_B) -> None:
        self._pake = pake
        self._heard = hashlib.sha256()
        self._key = b""

    def _hello(self, more: dict[str, Any]) -> bytes:
        return self._line({"pake": self._pake.start().hex()} | more)

    def _greeted(self, told: dict[str, Any]) -> None:
        """Compute the key. Raises NotPaired."""
        message = _bytes_of(told, "pake", _PAKE_BYTES)
        try:
            self._key = self._pake.finish(message)
        except (SPAKEError, NotOnCurve, ValueError) as error:
            raise NotPaired from error

    def _line(self, told: dict[str, Any]) -> bytes:
        line = json.dumps(told).encode()
        self._remember(line)
        return line + b"\n"

    def _remember(self, line: bytes) -> None:
        self._heard.update(len(line).to_bytes(4, "big") + line)

    def _read(self, line: bytes) -> dict[str, Any]:
        """What a line tells. Raises NotPaired: it is none, or says why not."""
        try:
            told = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise NotPaired from error
        if not isinstance(told, dict):
            raise NotPaired
        why = told.get("no")
        if why is not None:
            raise NotPaired(WORDS.get(why, _NONSENSE) if isinstance(why, str) else _NONSENSE)
        return told

    def _proof(self, label: bytes, card: str = "") -> bytes:
        heard = self._heard.copy()
        said = card.encode()
        heard.update(len(said).to_bytes(4, "big") + said)
        return hmac.digest(self._key, label + heard.digest(), "sha256")

    def _is_proven(self, told: dict[str, Any], label: bytes, card: str = "") -> bool:
        shown = _bytes_of(told, "proof", _PROOF_BYTES)
        return hmac.compare_digest(shown, self._proof(label, card))


class Asking(_Talk):
    """The side on which the code was typed."""

    def __init__(self, code: str, card: Card) -> None:
        """Begin with `hello`."""
        super().__init__(SPAKE2_A(code.encode(), **_NAMES))
        self._card = card
        self._theirs: Card | None = None

    def hello(self) -> bytes:
        """The first line."""
        return self._hello({"version": VERSION})

    def show(self, line: bytes) -> bytes:
        """To their hello: our card. Raises NotPaired."""
        told = self._read(line)
        self._remember(line)
        self._greeted(told)
        text = self._card.text()
        return self._line({"card": text, "proof": self._proof(b"asks", text).hex()})

    def take(self, line: bytes) -> bytes:
        """To their card: that we have it. Raises NotPaired."""
        told = self._read(line)
        text = _text_of(told, "card")
        if not self._is_proven(told, b"offers", text):
            raise WrongCode(
                "whoever answers there does not know the code, or somebody swaps certificates on the"
                " way; nothing was kept"
            )
        self._remember(line)
        self._theirs = _card_of(text)
        return self._line({"proof": self._proof(b"taken").hex()})

    def end(self, line: bytes) -> Card:
        """To their last line: who they are. Raises NotPaired."""
        if self._theirs is None or not self._is_proven(self._read(line), b"kept"):
            raise NotPaired
        return self._theirs


class Offering(_Talk):
    """The side on which the code is shown; one of these for each who comes."""

    def __init__(self, offer: Offer, card: Card) -> None:
        """Begin with `greet`."""
        super().__init__(SPAKE2_B(offer.code.encode(), **_NAMES))
        self._offer = offer
        self._card = card

    def greet(self, line: bytes) -> bytes:
        """To their hello: ours. Raises NotPaired."""
        told = self._read(line)
        if told.get("version") != VERSION:
            raise NotPaired(word="version")
        self._remember(line)
        hello = self._hello({})
        self._greeted(told)
        return hello

    def judge(self, line: bytes, now: float) -> tuple[Card, bytes]:
        """To their card: it, and ours. From here on the code is used. Raises NotPaired, WrongCode."""
        told = self._read(line)
        text = _text_of(told, "card")
        shown = _bytes_of(told, "proof", _PROOF_BYTES)
        if not self._offer.is_open(now):
            raise NotPaired(word="void")
        if not self._offer.try_proof(shown, self._proof(b"asks", text), now):
            raise WrongCode(word="wrong")
        theirs = _card_of(text)
        if theirs.fingerprint == self._card.fingerprint:
            raise NotPaired(word="same")
        self._remember(line)
        ours = self._card.text()
        proof = self._proof(b"offers", ours).hex()
        return theirs, self._line({"card": ours, "proof": proof})

    def settle(self, line: bytes) -> bytes:
        """To their word that they have it: ours that it is kept; send it when it is. Raises NotPaired."""
        told = self._read(line)
        if not self._is_proven(told, b"taken"):
            raise NotPaired
        self._remember(line)
        return self._line({"proof": self._proof(b"kept").hex()})


def refusal(why: NotPaired) -> bytes:
    """The line that tells the other side why not; empty where there is no word for it."""
    return json.dumps({"no": why.word}).encode() + b"\n" if why.word else b""


def _text_of(told: dict[str, Any], key: str) -> str:
    value = told.get(key)
    if not isinstance(value, str):
        raise NotPaired
    return value


def _bytes_of(told: dict[str, Any], key: str, length: int) -> bytes:
    try:
        value = bytes.fromhex(_text_of(told, key))
    except ValueError as error:
        raise NotPaired from error
    if len(value) != length:
        raise NotPaired
    return value


def _card_of(text: str) -> Card:
    try:
        return Card.read(text)
    except BadCard as error:
        raise NotPaired(f"{_NONSENSE}: {error}") from error
