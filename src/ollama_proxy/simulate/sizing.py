"""A fleet's nodes and rates, from a count, a mix and a share of what can be served."""

import math

import attrs

from ollama_proxy.simulate.scenario import MachineConfig, Scenario, TrafficConfig, fleet_of


def sized(scenario: Scenario, seed: int) -> Scenario:
    """The scenario of one run: so many of each node, so many requests a second, its own seed."""
    fleet = fleet_of(scenario)
    backends = scenario.backends
    if fleet.nodes:
        counts = _shares(fleet.nodes, [backend.count for backend in backends])
        pairs = zip(backends, counts, strict=True)
        backends = tuple(attrs.evolve(b, count=n) for b, n in pairs if n)
    scenario = attrs.evolve(scenario, backends=backends, seed=seed)
    if not fleet.load:
        return scenario
    factor = fleet.load * capacity_per_s(scenario) / sum(t.rate_per_s for t in scenario.traffic)
    return attrs.evolve(
        scenario,
        traffic=tuple(attrs.evolve(t, rate_per_s=t.rate_per_s * factor) for t in scenario.traffic),
    )


def _shares(whole: int, mix: list[int]) -> list[int]:
    """A number in the proportions of others, by the largest remainders."""
    exact = [whole * each / sum(mix) for each in mix]
    counts = [math.floor(each) for each in exact]
    by_rest = sorted(range(len(mix)), key=lambda n: counts[n] - exact[n])
    for n in by_rest[: whole - sum(counts)]:
        counts[n] += 1
    return counts


def capacity_per_s(scenario: Scenario) -> float:
    """How many requests of the mix all nodes serve in a second, if no slot is ever empty.

    An estimate: of conversations each turn is taken for a first one, and of models loading is left out.
    """
    return sum(
        backend.count * backend.slots / taken_s
        for backend in scenario.backends
        if (taken_s := _mean_s(scenario, backend)) > 0
    )


def _mean_s(scenario: Scenario, backend: MachineConfig) -> float:
    """How long a slot there is taken by a request of those it can serve, on average."""
    sizes = {model.name: model.size for model in scenario.models} or {"": 1.0}
    served = [t for t in scenario.traffic if not backend.models or t.model in backend.models]
    rate = sum(t.rate_per_s for t in served)
    taken = (t.rate_per_s * _taken_s(t, backend, sizes[t.model]) for t in served)
    return sum(taken) / rate if rate else 0.0


def _taken_s(traffic: TrafficConfig, backend: MachineConfig, size: float) -> float:
    prompt = _mean(traffic.prompt_tokens, traffic.prompt_sigma)
    answer = _mean(traffic.answer_tokens, traffic.answer_sigma) - 1
    return (
        backend.floor_s
        + size * prompt / backend.prefill_tokens_per_s
        + size * answer / backend.decode_tokens_per_s
    )


def _mean(median: float, sigma: float) -> float:
    return median * math.exp(sigma * sigma / 2)
