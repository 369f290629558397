"""What a choice costs in processor time, by how many nodes there are and how many have just changed.

The choice alone, without reading the request or booking it (that is `growth`). Half of the nodes are
busy, every second one of those has no slot left; so many were judged void since the choice before, as
an answer does it to one node and a node's word to another.
"""

import gc
import random
import time
from statistics import median

from ollama_proxy.policy.ask import NO_WISHES
from ollama_proxy.policy.fleet import BackendView
from ollama_proxy.policy.line import Line
from ollama_proxy.policy.route import RouteSettings, choose
from tests.fleet import FIGURES, Taken, ask, view

NODES = (4, 40, 400)
CHANGED = (0, 1, 10, 40)
CHOICES = 200
ROUNDS = 5
MOST_US = 1_000.0  # at the last of both


def _node(number: int, chance: random.Random) -> BackendView:
    slots = chance.choice((1, 2, 4))
    taken = chance.choice((0, 0, slots, slots - 1))
    return view(
        chance.choice(list(FIGURES)),
        spec_id=f"node-{number}",
        spec_slots=slots,
        spec_power_watts=chance.uniform(3, 300),
        spec_avg_latency_s=chance.uniform(0.05, 2),
        busy=tuple(Taken(chance.uniform(0, 5)) for _ in range(taken)),
        line=Line(64),
    )


def _cost_us(nodes: int, changed: int, seed: int) -> float:
    chance = random.Random(seed)  # noqa: S311 - it draws a fleet
    fleet = [_node(number, chance) for number in range(nodes)]
    asked, settings = ask(prompt_bytes=2000), RouteSettings()
    choose(asked, NO_WISHES, fleet, settings, now=0.0)
    gc.collect()
    gc.freeze()
    taken_s = 0.0
    for _ in range(CHOICES):
        for each in chance.sample(fleet, min(changed, nodes)):
            each.memo.clear()
        begun = time.process_time()
        choose(asked, NO_WISHES, fleet, settings, now=0.0)
        taken_s += time.process_time() - begun
    gc.unfreeze()
    return taken_s / CHOICES * 1e6


def measure() -> bool:
    """Print the costs; whether the promise is kept."""
    cost_us = 0.0
    for nodes in NODES:
        for changed in CHANGED:
            if changed <= nodes:
                cost_us = median(_cost_us(nodes, changed, seed) for seed in range(ROUNDS))
                print(f"{nodes:>4} nodes, {changed:>2} changed: {cost_us:6.0f} us a choice")
    return cost_us <= MOST_US
