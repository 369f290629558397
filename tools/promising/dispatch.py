"""What the dispatcher costs a request, by how many wait: submit, assign, finish, learn, book."""

import gc
import random
import time
from statistics import median

from ollama_proxy.backends.backend import Served
from ollama_proxy.engine.job import Job
from ollama_proxy.policy.ask import Call, Priority, Wishes
from tests.engine.storm import Storm

WAITING = (10, 100, 1_000, 10_000, 100_000)
REQUESTS = 5_000
ROUNDS = 3
MOST_US = 60.0
AT = 1_000
# log2(10000) / log2(1000): what n log n behaviour would cost from a thousand to ten thousand, and
# as much again for the memory that is no longer in the processor's cache.
MOST_GROWTH = 2.0
CLIENTS = 8


def _job(storm: Storm, chance: random.Random) -> Job:
    wishes = Wishes(
        priority=chance.choice((Priority.BEST_EFFORT, Priority.NORMAL, Priority.HIGH)),
        max_latency_s=1e6 if chance.random() < 0.25 else None,  # noqa: PLR2004 - a quarter in a hurry
    )
    return storm.job(
        wishes,
        call=Call.OPENAI_CHAT,
        stream=True,
        late_s=0.0,
        client=str(chance.randrange(CLIENTS)),
    )


def _waiting(storm: Storm) -> int:
    return sum(len(station.line) for station in storm.opened)


def _cost_us(waiting: int, seed: int) -> float:
    """One request in, one request served, so that as many wait as before."""
    chance = random.Random(seed)  # noqa: S311 - it draws traffic
    storm = Storm(capacity=waiting + REQUESTS)
    while _waiting(storm) < waiting:
        storm.dispatcher.submit(_job(storm, chance))
    served = Served(status=200, tokens=20)
    dispatcher, running = storm.dispatcher, storm.running
    gc.collect()
    gc.freeze()  # as the router does with what it was started with
    taken_s = 0.0
    for _ in range(REQUESTS):
        job = _job(storm, chance)  # as a door has just read it
        storm.now += 0.001
        begun = time.perf_counter()
        dispatcher.submit(job)
        station, attempt = running.pop(0)
        attempt.win(storm.now)
        dispatcher.finished(station, attempt, served)
        taken_s += time.perf_counter() - begun
        storm.facts.clear()
        storm.outcomes.clear()
    gc.unfreeze()
    return taken_s / REQUESTS * 1e6


def measure() -> bool:
    """Print the costs; whether the promise is kept."""
    costs = {n: median(_cost_us(n, seed) for seed in range(ROUNDS)) for n in WAITING}
    for waiting, cost_us in costs.items():
        print(f"{waiting:>6} waiting: {cost_us:6.1f} us a request")
    grown = costs[10 * AT] / costs[AT]
    print(f"from {AT} to {10 * AT} waiting it grows {grown:.2f}-fold (log n: 1.33-fold)")
    return costs[AT] <= MOST_US and grown <= MOST_GROWTH
