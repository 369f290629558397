"""What whoever watches the router is shown, and is told as it changes.

Rule 1: what is shown and what of it has changed is made without waiting; `audience` alone waits.
Rule 2: nothing here grows with time: rows, points and messages are bounded.
Rule 3: nothing is made while nobody watches, but the books that cannot be made later.
"""
