"""What every test of a whole router needs."""

import gc
import signal
from collections.abc import Iterator

import hypothesis
import pytest

# Real time is no test's business: a busy machine is no fault.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture
def in_process() -> Iterator[None]:
    """`serve` freezes what exists and takes signals for its process's life; here it is a test's."""
    before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGHUP)}
    yield
    # A signal meant for a router that has just failed must not end the tests.
    for number, action in before.items():
        signal.signal(number, action)
    gc.unfreeze()
