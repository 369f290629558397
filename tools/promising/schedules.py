"""Random schedules under load: does every admitted best-effort request finish?

Each schedule is a minute of arrivals at two backends, one and a half times what they can serve while
it lasts, critical requests among them that preempt. Nobody fails and nobody leaves: whoever is in
line at the end of the arrivals is served, or has starved.
"""

import random
import time

from ollama_proxy.backends.backend import Served
from ollama_proxy.engine.ledger import Outcome
from ollama_proxy.policy.ask import Call, Priority, Wishes
from ollama_proxy.policy.preempt import Started
from tests.engine.storm import Storm

SCHEDULES = 100_000
REQUESTS = 20
SERVICE_S = 13.5  # on average; three slots serve 13 of them while they come
PRIORITIES = (0, 0, 0, 1, 2, 3, 3)


def starved(seed: int) -> tuple[int, int, int]:
    """Run one schedule: best-effort requests admitted, not finished, and put back."""
    chance = random.Random(seed)  # noqa: S311 - it draws a schedule
    storm = Storm(
        preempts=chance.choice((Started.KEEP, None)),
        reserve=chance.randrange(2),
        names=("npu", "igpu"),
        capacity=REQUESTS,
    )
    ends: dict[object, float] = {}
    arrivals = sorted(chance.uniform(0, 60) for _ in range(REQUESTS))
    best_effort = []
    while True:
        # The backends have let go of what was cancelled by the time anybody asks.
        for name in storm.names:
            storm.probe(name, 0, is_up=True)
        if not arrivals and not storm.running:
            break
        for _, attempt in storm.running:
            if attempt not in ends:
                ends[attempt] = storm.now + chance.expovariate(1 / SERVICE_S)
        halted = [i for i, (_, a) in enumerate(storm.running) if a.halted is not None]
        if halted:
            storm.end(halted[0], Served(status=200))
            continue
        first = min(range(len(storm.running)), key=lambda i: ends[storm.running[i][1]], default=-1)
        next_end = ends[storm.running[first][1]] if first >= 0 else float("inf")
        if arrivals and arrivals[0] <= next_end:
            storm.wait(max(0.0, arrivals.pop(0) - storm.now))
            job = storm.submit(
                Wishes(priority=Priority(chance.choice(PRIORITIES))),
                call=Call.OPENAI_CHAT,
                stream=True,
                late_s=0.0,
                client=chance.choice("ab"),
            )
            if job.priority is Priority.BEST_EFFORT:
                best_effort.append(job)
        else:
            storm.wait(max(0.0, next_end - storm.now))
            if first < len(storm.running):
                storm.end(first, Served(status=200, tokens=3))
    storm.check_slots()
    admitted = [job for job in best_effort if job.promised_s is not None]
    unfinished = [
        job for job in admitted if storm.outcomes.get(job.request_id) is not Outcome.SERVED
    ]
    return len(admitted), len(unfinished), sum(job.put_back for job in admitted)


def measure() -> bool:
    """Print how many starved; none may."""
    begun = time.perf_counter()
    admitted = unfinished = put_back = 0
    for seed in range(SCHEDULES):
        each = starved(seed)
        admitted, unfinished, put_back = (
            admitted + each[0],
            unfinished + each[1],
            put_back + each[2],
        )
    print(
        f"{SCHEDULES} random schedules in {time.perf_counter() - begun:.0f} s: {admitted} best-effort"
        f" requests admitted, {put_back} times one was put back, {unfinished} did not finish"
    )
    return not unfinished
