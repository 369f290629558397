"""What metrics and log cost: a request that is booked, and a scrape of a router with a hundred models."""

import gc
import logging
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from statistics import median

import trio
from trio.testing import MockClock

from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.job import Stage
from ollama_proxy.engine.ledger import Deadline, Fact, Ledger, Outcome
from ollama_proxy.inbound.answers import status_at
from ollama_proxy.observe import log_fact, set_up_logging
from ollama_proxy.policy.ask import Call, Priority
from ollama_proxy.policy.route import Reason
from tests.fleet import FIGURES
from tests.metrics.scrapes import Machine, watched

MODELS = 100
REQUESTS = 50_000
SCRAPES = 30
MOST_US = 60.0
MOST_MS = 20.0


def _fact(chance: random.Random) -> Fact:
    """A stream that was served: nothing costs more to book."""
    return Fact(
        request_id="1",
        door="http",
        call=Call.OPENAI_CHAT,
        model=f"model-{chance.randrange(MODELS)}",  # without its tag, as many a caller has it
        stream=True,
        priority=Priority.NORMAL,
        outcome=Outcome.SERVED,
        stage=Stage.RUNNING,
        status=200,
        backend=chance.choice(list(FIGURES)),
        reason=chance.choice(list(Reason)),
        queue_s=chance.random(),
        promised_s=1.0,
        first_s=chance.random(),
        whole_s=1 + chance.random() * 10,
        overhead_s=chance.random() / 1000,
        prompt_tokens=100,
        answer_tokens=chance.randrange(2, 500),
        failovers=(("npu", "cpu"),),
        deadline=chance.choice(list(Deadline)),
    )


async def _machine() -> Machine:
    clock = MockClock()
    machine = watched(Dispatcher(DispatchSettings(), Ledger(), clock=clock.current_time), clock)
    models = frozenset(f"model-{number}:latest" for number in range(MODELS))
    for name in FIGURES:
        machine.station(name, models)
    return machine


@contextmanager
def _log(log_format: str) -> Iterator[None]:
    """The router's log, written to where nothing is kept; then what there was before."""
    root, ours = logging.getLogger(), logging.getLogger("ollama_proxy")
    before = (list(root.handlers), root.level, ours.level)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        set_up_logging(level="info", log_format=log_format, lines_per_s=1e9)
        try:
            yield
        finally:
            root.handlers[:], level, our_level = before
            root.setLevel(level)
            ours.setLevel(our_level)


def _logged_us(facts: list[Fact], log_format: str) -> float:
    with _log(log_format):
        begun = time.perf_counter()
        for fact in facts:
            log_fact(fact, status_at)
        return (time.perf_counter() - begun) / len(facts) * 1e6


def measure(requests: int = REQUESTS, scrapes: int = SCRAPES) -> bool:
    """Print the costs; whether the promise is kept."""
    chance = random.Random(1)  # noqa: S311 - it draws traffic
    machine = trio.run(_machine)
    facts = [_fact(chance) for _ in range(requests)]
    gc.collect()
    begun = time.perf_counter()
    for fact in facts:
        machine.metrics.record(fact)
    each_us = (time.perf_counter() - begun) / requests * 1e6
    line_us = max(_logged_us(facts[: requests // 10], each) for each in ("json", "console"))
    taken_ms, page = [], b""
    for _ in range(scrapes):
        begun = time.perf_counter()
        page = machine.metrics.page(is_openmetrics=False)
        taken_ms.append((time.perf_counter() - begun) * 1e3)
    scrape_ms, lines = median(taken_ms), len(page.splitlines())
    print(
        f"booking a request: {each_us:.1f} us, its line in the log: {line_us:.1f} us"
        f" (promised: {MOST_US:.0f} us together)"
    )
    print(
        f"a scrape of {len(FIGURES)} backends with {MODELS} models, {lines} lines:"
        f" {scrape_ms:.1f} ms (promised: {MOST_MS:.0f} ms)"
    )
    return each_us + line_us <= MOST_US and scrape_ms <= MOST_MS
