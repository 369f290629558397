"""Modes that applications have held for a while, over what the owner chose.

Rule 1: the newest hold's mode wins while it lasts; the one before it counts again after that.
Rule 2: a hold ends with its release, with its owner, or when the user chooses a mode: that is a
        wish about now, and who held another one need not have it released first.
Rule 3: nobody releases what another holds.
"""

import itertools
from collections.abc import Callable, Iterator

import attrs

from ollama_proxy.policy.modes import Cause, Effective, Mode

HOLDS_MAX = 64
TEXT_MAX = 200
_COOKIES = 0xFFFF_FFFF


@attrs.frozen(kw_only=True)
class Hold:
    """One mode, held.

    Attributes:
        cookie: names it, 1 to 2^32 - 1.
        owner: who holds it; it ends with them.
        mode: what is wanted.
        why: for people: the application and its reason.
    """

    cookie: int
    owner: str
    mode: Mode
    why: str

    def explain(self, effective: Effective) -> Effective:
        """What its mode comes to, with its own reason; that of `auto` is auto's."""
        if self.mode is Mode.AUTO:
            return effective
        return attrs.evolve(effective, reason=self.why, cause=Cause.HELD)


@attrs.define
class Holds:
    """All that last, oldest first."""

    _held: list[Hold] = attrs.field(factory=list, init=False)
    _cookies: Iterator[int] = attrs.field(factory=lambda: itertools.count(1), init=False)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def newest(self) -> Hold | None:
        """The one that counts."""
        return self._held[-1] if self._held else None

    @property
    def is_full(self) -> bool:
        """Whether no more are taken: somebody forgets to release theirs."""
        return len(self._held) >= HOLDS_MAX

    def add(self, owner: str, mode: Mode, *, reason: str, app: str) -> Hold:
        """Hold a mode from now on."""
        why = f"held by {_shown(app) or 'an application'}"
        why += f": {_shown(reason)}" if _shown(reason) else ""
        taken = {hold.cookie for hold in self._held}
        cookie = next(c for n in self._cookies if (c := n % _COOKIES or _COOKIES) not in taken)
        hold = Hold(cookie=cookie, owner=owner, mode=mode, why=why)
        self._held.append(hold)
        return hold

    def release(self, owner: str, cookie: int) -> bool:
        """End one; False where its owner has none of that name."""
        return self._keep(lambda hold: (hold.owner, hold.cookie) != (owner, cookie))

    def drop(self, owner: str) -> bool:
        """End all of somebody who has left; False where they had none."""
        return self._keep(lambda hold: hold.owner != owner)

    def clear(self) -> None:
        """End all."""
        self._held.clear()

    def _keep(self, is_kept: Callable[[Hold], bool]) -> bool:
        before = len(self._held)
        self._held = [hold for hold in self._held if is_kept(hold)]
        return len(self._held) < before


def _shown(text: str) -> str:
    """A stranger's text in one line, of bounded length."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[:TEXT_MAX]).split())
