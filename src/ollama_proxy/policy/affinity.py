"""Which backend has the beginning of a prompt in its prefix cache, as far as the router can know.

Rule 1: a prompt is cut into blocks, and each block's key stands for it and all before it: two
        prompts share a key exactly as far as they begin alike.
Rule 2: a beginning is where it was computed last. Servers do not tell what they drop, so this is a
        guess, worth a term of a score and a shorter forecast, never a place.
Rule 3: memory is bounded; what was not used for longest goes first.

Keys are of bytes as the caller wrote them: who grows a conversation sends the same beginning again.
(Hashing tokens, or the text with its JSON undone, would find more, and would have to parse every
prompt for it.)
"""

from typing import NamedTuple

import attrs

BLOCK_BYTES = 512
BLOCKS_MAX = 64  # 32 KiB: whoever shares so much has decided
KEPT = 16384  # keys, some 2 MiB; 256 conversations of full length


class Warm(NamedTuple):
    """A backend that has the beginning of a prompt, and which share of it, 0 to 1."""

    backend: str
    share: float


def prefix_keys(model: str, prompt: bytes | memoryview) -> tuple[int, ...]:
    """The keys of a prompt's blocks, the shortest beginning first; none for less than a block."""
    blocks = min(len(prompt) // BLOCK_BYTES, BLOCKS_MAX)
    if not blocks:
        return ()
    keys = []
    key = hash(model)
    for start in range(0, blocks * BLOCK_BYTES, BLOCK_BYTES):
        key = hash((key, bytes(prompt[start : start + BLOCK_BYTES])))
        keys.append(key)
    return tuple(keys)


@attrs.define
class Affinity:
    """Remembers where prompts were computed."""

    _where: dict[int, str] = attrs.field(factory=dict)

    def __len__(self) -> int:
        return len(self._where)

    def note(self, prefix: tuple[int, ...], backend: str) -> None:
        """A backend has computed a prompt that begins so."""
        where = self._where
        # The shortest beginning last: it is of use to most, so it is the last to be forgotten.
        for key in reversed(prefix):
            where.pop(key, None)
            where[key] = backend
        while len(where) > KEPT:
            del where[next(iter(where))]

    def find(self, prefix: tuple[int, ...], prompt_bytes: int) -> Warm | None:
        """Who has the longest beginning of a prompt, and how much of it that is."""
        for at in range(len(prefix) - 1, -1, -1):
            backend = self._where.get(prefix[at])
            if backend is not None:
                return Warm(backend, min(1.0, (at + 1) * BLOCK_BYTES / max(prompt_bytes, 1)))
        return None
