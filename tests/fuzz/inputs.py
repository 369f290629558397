"""How many inputs are tried, and how good ones are spoilt."""

import os

import hypothesis
from hypothesis import strategies as st

INPUTS = int(os.environ.get("OLLAMA_PROXY_FUZZ_INPUTS", "10000"))

Changes = list[tuple[float, int, bytes]]


def tries(share: float) -> hypothesis.settings:
    """A test's share of all inputs. Slow machines try as many: nothing here is timed."""
    return hypothesis.settings(
        max_examples=max(1, int(INPUTS * share)),
        deadline=None,
        database=None,
        suppress_health_check=[*hypothesis.HealthCheck],
    )


def changes(*often: bytes) -> st.SearchStrategy[Changes]:
    """What is done to good bytes: from where on, how many go, what comes in their place."""
    put = st.one_of(st.binary(max_size=6), st.sampled_from(often))
    return st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), put), max_size=4)


def spoilt(good: bytes, done: Changes) -> bytes:
    """Good bytes, and what was done to them."""
    for where, removed, put in done:
        at = int(where * len(good))
        good = good[:at] + put + good[at + removed :]
    return good
