"""Wakes those who watch: at once where something is told, else each few seconds.

What they watch is looked at anew each time; so nothing is lost, and nothing is queued for who is slow.
"""

import trio

EVERY_S = 2.0


class Changes:
    """Something may have changed.

    Attributes:
        next: is set by the next change.
    """

    def __init__(self) -> None:
        """Begin."""
        self.next = trio.Event()

    def tell(self, item: object = None) -> None:
        """Something has changed, whatever it is."""
        self.next.set()
        self.next = trio.Event()

    async def after(self, change: trio.Event) -> None:
        """Wait for a change that was `next` before one looked, or until it is time to look again."""
        with trio.move_on_after(EVERY_S):
            await change.wait()
