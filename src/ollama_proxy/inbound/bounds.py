"""What clients may take of the router: what they hold of its memory, and which bounds were reached."""

import enum
from collections import Counter

import attrs

from ollama_proxy.policy.refusal import Code, Refusal

DEFAULT_BUFFERED_BYTES = 512 << 20


class Bound(enum.Enum):
    """Each bound that one client can reach by itself, as the metrics call it."""

    CONNECTIONS = "connections"
    CONNECTIONS_PER_PEER = "connections_per_peer"
    HEAD_BYTES = "head_bytes"
    HEADERS = "headers"
    HEAD_TIME = "head_time"
    BODY_BYTES = "body_bytes"
    BODY_TIME = "body_time"
    BUFFERED_BYTES = "buffered_bytes"
    SMALL_CHUNKS = "small_chunks"
    IDLE_TIME = "idle_time"
    WRITE_TIME = "write_time"
    EARLY_BYTES = "early_bytes"


TOO_MUCH_HELD = Refusal(
    Code.QUEUE_FULL,
    "The router holds as many bytes of requests as it may (max_buffered_mib); try again.",
    retry_after_s=1,
)


@attrs.define(eq=False)
class Bounds:
    """What the connections of a door share.

    Attributes:
        max_bytes: of requests' bodies, that all of them may hold at once.
        held: bytes of bodies that came and whose request has not ended.
        reached: how often each bound was.
    """

    max_bytes: int = DEFAULT_BUFFERED_BYTES
    held: int = 0
    reached: Counter[Bound] = attrs.field(factory=Counter)

    def reach(self, bound: Bound) -> None:
        """Somebody has gone as far as may be."""
        self.reached[bound] += 1

    def hold(self, size: int) -> bool:
        """Count bytes that came. False, and nothing is counted, where they are too many.

        What came, not what was announced: else a few clients that announce much and send nothing
        would keep all others out.
        """
        if self.held + size > self.max_bytes:
            self.reach(Bound.BUFFERED_BYTES)
            return False
        self.held += size
        return True

    def free(self, size: int) -> None:
        """They are held no more."""
        self.held -= size
