"""The short code: how it is made, shown and read, and when it is good no longer.

Nothing here knows the clock; `now` is an argument, in seconds of one that does not jump.
"""

import hmac
import re
import secrets

import attrs

# No letter or digit that is taken for another, by eye or by ear: without 0 O, 1 I L, and U, V for each other.
ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
_LENGTH = 8
_GROUP = 4
LASTS_S = 300.0
TRIES = 3


def new_code() -> str:
    """Eight characters by chance: 39 bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(_LENGTH))


def spaced(code: str) -> str:
    """A code as it is shown: `7KQF-29XM`."""
    return f"{code[:_GROUP]}-{code[_GROUP:]}"


def read_code(text: str) -> str:
    """A code as it was typed: in any case, with hyphens and blanks wherever. Raises ValueError."""
    code = re.sub(r"[\s-]", "", text).upper()
    if len(code) != _LENGTH or not set(code) <= set(ALPHABET):
        # It is not repeated: it may be right but for one character.
        raise ValueError(f"a code has {_LENGTH} of these characters: {ALPHABET}")
    return code


@attrs.define
class Offer:
    """A code that was shown, and what is left of it.

    Attributes:
        code: it.
        ends: when it is good no longer.
        tries: how many wrong ones may still come.
        is_used: somebody knew it.
    """

    code: str = attrs.field(repr=False)
    ends: float
    tries: int = TRIES
    is_used: bool = False

    def is_open(self, now: float) -> bool:
        """Whether it may be tried."""
        return not self.is_used and self.tries > 0 and now < self.ends

    def try_proof(self, shown: bytes, right: bytes, now: float) -> bool:
        """Whether somebody proves to know it. It counts, either way."""
        if not self.is_open(now):
            return False
        if hmac.compare_digest(shown, right):
            self.is_used = True
        else:
            self.tries -= 1
        return self.is_used
