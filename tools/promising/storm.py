"""A million random events: requests, answers, failures, cancels, probes, backends that come and go.

After each of them every slot must be somebody's or nobody's, and now and then each request must be
at exactly one place, or have ended exactly once.
"""

import random
import time

from ollama_proxy.policy.ask import Call, Priority, Wishes
from ollama_proxy.policy.preempt import Started
from tests.engine.storm import ENDINGS, NAMES, Storm

EVENTS = 1_000_000
STORMS = 20
CHECK_ALL_EACH = 50
SUBMITTED, ANSWERED, ENDED, LEFT, WAITED, PROBED = range(6)
WEIGHTS = (30, 15, 28, 8, 12, 6)
JOINED_OR_GONE = 0.002


def one_event(storm: Storm, chance: random.Random) -> None:
    """Something happens."""
    if chance.random() < JOINED_OR_GONE:
        chance.choice((storm.join, storm.go))(chance.choice(NAMES))
        return
    (what,) = chance.choices(range(6), WEIGHTS)
    if what == SUBMITTED:
        storm.submit(
            Wishes(
                max_latency_s=chance.choice((None, None, 0.001, 3.0, 10.0, 1e300)),
                priority=chance.choice(tuple(Priority)),
                target=chance.choice((None,) * 6 + (*NAMES, "nobody")),
                latency_critical=chance.random() < 0.2,  # noqa: PLR2004 - some are in a hurry
            ),
            call=chance.choice((Call.OPENAI_CHAT, Call.OLLAMA_CHAT)),
            stream=chance.random() < 0.7,  # noqa: PLR2004 - most stream
            late_s=chance.choice((0.0, 0.0, 0.0, 5.0)),
            client=chance.choice("abc"),
        )
    elif what == WAITED:
        storm.wait(chance.choice((0.001, 0.01, 0.1, 1.0, 5.0)))
    elif what == PROBED:
        computing = chance.choice((None, None, 0, 1, 4))
        storm.probe(chance.choice(NAMES), computing, is_up=chance.random() < 0.9)  # noqa: PLR2004 - mostly well
    elif what == LEFT and storm.jobs:
        storm.leave(chance.choice(storm.jobs))
    elif storm.running and what == ANSWERED:
        storm.answer(chance.randrange(len(storm.running)))
    elif storm.running:
        storm.end(chance.randrange(len(storm.running)), chance.choice(ENDINGS))


def measure() -> bool:
    """Print how many events were survived; an AssertionError says which was not."""
    begun = time.perf_counter()
    submitted = 0
    for seed in range(STORMS):
        chance = random.Random(seed)  # noqa: S311 - it makes weather
        storm = Storm(
            preempts=(None, *Started)[seed % 4],
            reserve=seed % 3,
            hedge_budget=(0.0, 0.5)[seed % 2],
        )
        for number in range(EVENTS // STORMS):
            one_event(storm, chance)
            storm.check_slots()
            if number % CHECK_ALL_EACH == 0:
                storm.check()
        storm.subside()
        submitted += storm.submitted
    print(
        f"{EVENTS} random events, {submitted} requests, {STORMS} storms in"
        f" {time.perf_counter() - begun:.0f} s: no slot leaked, no request lost or ended twice"
    )
    return True
