"""What others have at a backend that is not this router's alone: a node, which tells its load now and then.

Law: what this router sent is counted from the moment it is sent, by itself; what others sent, as the
node told it last. (To believe the whole of what was told is simpler, and sends everybody who comes
until it tells anew to the node that was idle then.)
"""

from collections.abc import Sequence

import attrs

from ollama_proxy.policy.ask import Priority

_NOBODY = (0,) * len(Priority)


@attrs.define
class Others:
    """Requests at a node that this router did not send.

    Live, as a line is: a view that were made anew with each word of a node would be judged anew, too.

    Attributes:
        at_work: how many of its slots they have.
        waiting: how many wait there, by priority.
        count: both together.
    """

    at_work: int = 0
    waiting: Sequence[int] = _NOBODY
    count: int = 0

    def hear(self, at_work: int, waiting: Sequence[int], own: int) -> bool:
        """Note what a node tells; whether there is less than was thought.

        Args:
            at_work: how many of its slots are taken.
            waiting: how many wait there, by priority.
            own: how many of both this router had sent when the node was asked.
        """
        before = self.count
        theirs = max(0, at_work - own)
        # Whose turn has not come is not told by name: what is left of ours is the least urgent.
        ours = max(0, own - at_work)
        left = []
        for number in waiting:
            taken = min(number, ours)
            ours -= taken
            left.append(number - taken)
        self.at_work, self.waiting = theirs, left
        self.count = theirs + sum(left)
        return self.count < before

    def fill(self, slots: int) -> None:
        """So many slots at the least are theirs, whatever was told last."""
        self.count += max(0, slots - self.at_work)
        self.at_work = max(self.at_work, slots)

    def forget(self) -> None:
        """What was told is too old to go by."""
        self.at_work, self.waiting, self.count = 0, _NOBODY, 0

    def ahead(self, priority: Priority) -> int:
        """How many who wait are served before one more of this priority."""
        return sum(self.waiting[priority:])
