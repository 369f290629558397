"""What this router tells of itself to another, and that the other understands it."""

from typing import Any

import attrs
import msgspec
import pytest
import trio

from ollama_proxy.backends.backend import Probe
from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.node import LOADED_BYTES, MODELS_BYTES
from ollama_proxy.policy.ask import Call
from ollama_proxy.policy.energy import Grade
from ollama_proxy.policy.estimate import Learned, Speeds
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.modes import Mode
from ollama_proxy.policy.node import Node, read_node
from ollama_proxy.policy.thermal import ThermalState
from tests.fakes.asgi import fetch
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL, spec
from tests.inbound.http.house import House, open_house

ALL = frozenset(Call)
MOST_BYTES = 64 << 10


async def told(house: House) -> dict[str, Any]:
    """What it answers."""
    answer = await fetch(house.app, "GET", "/node")
    assert 200 == answer.status
    return dict(answer.json)


async def understood(house: House) -> Node:
    """What another router makes of it."""
    read = read_node(await told(house))
    assert read is not None
    return read


def knows(station: Station, at: float = 1.0, **speeds: float) -> None:
    """Something was learned of the fleet's model."""
    learned: dict[str, Any] = {name: Learned(value, at) for name, value in speeds.items()}
    station.estimates.subjects[MODEL] = Speeds(heard_at=at, **learned)


async def test_it_tells_what_another_must_know(nursery: trio.Nursery) -> None:
    """All its fields; what is unknown is null, never 0."""
    house = open_house(nursery, ScriptedBackend(spec("npu", slots=3)))

    assert {
        "id": "",
        "version": "1.2.3",
        "machine": None,
        "protocol": 1,
        "mode": "balanced",
        "slots": 3,
        "in_flight": 0,
        "queued": {"best_effort": 0, "normal": 0, "high": 0, "critical": 0},
        "models": [MODEL],
        "loaded": None,
        "watts": None,
        "heat": "unknown",
        "on_battery": None,
        "battery_percent": None,
        "energy_j_per_token": {},
        "ttft_ms": {},
        "tokens_per_s": {},
        "calls": [call.path for call in Call],
        "draining": False,
        "left_out": {},
    } == await told(house)


async def test_another_understands_it(nursery: trio.Nursery) -> None:
    """What was learned, where it is hot, which mode: in the same words on both sides."""
    house = open_house(nursery, ScriptedBackend(spec("npu", slots=3)))
    station = house.station()
    station.is_well(Probe(models=frozenset({MODEL}), loaded=frozenset({MODEL})))
    station.feels(None, ThermalState.MODERATE, "warm", asleep=False)
    knows(station, first_s=0.25, decode=40.0)
    station.energy.observe(MODEL, 30.0, Grade.MEASURED, 1.0, seconds=2.0, tokens=60)

    assert Node(
        version="1.2.3",
        mode=Mode.BALANCED,
        slots=3,
        at_work=0,
        waiting=(0, 0, 0, 0),
        models=frozenset({MODEL}),
        loaded=frozenset({MODEL}),
        watts=15.0,
        heat=ThermalState.MODERATE,
        calls=ALL,
        token_j={MODEL: 0.5},
        first_s={MODEL: 0.25},
        tokens_per_s={MODEL: 40.0},
    ) == await understood(house)


async def test_a_router_behind_it_is_no_part_of_it(nursery: trio.Nursery) -> None:
    """What comes from a router goes to no other: nothing of one is offered."""
    far = ScriptedBackend(spec("nvidia", type=BackendType.ROUTER))
    house = open_house(nursery, ScriptedBackend(spec("npu")), far)
    house.station("nvidia").is_well(
        Probe(models=frozenset({"far:1"}), node=Node(slots=64, heat=ThermalState.SEVERE, watts=9.0))
    )
    knows(house.station("nvidia"), first_s=0.1)
    node = await told(house)

    assert ([MODEL], 1, "unknown", {}) == (
        node["models"],
        node["slots"],
        node["heat"],
        node["ttft_ms"],
    )


async def test_what_is_down_or_off_is_no_part_of_it(nursery: trio.Nursery) -> None:
    """Nor is what it could serve counted, while it cannot; one of none has nothing."""
    house = open_house(
        nursery, ScriptedBackend(spec("npu", slots=4)), ScriptedBackend(spec("cpu", enabled=False))
    )
    house.station().is_down("gone")
    node = await told(house)

    assert (0, [], [], []) == (node["slots"], node["models"], node["loaded"], node["calls"])


async def test_of_two_that_could_the_likelier_one_is_told(nursery: trio.Nursery) -> None:
    """As the mode in force would choose: never the one's time with the other's watts."""
    house = open_house(
        nursery, ScriptedBackend(spec("npu")), ScriptedBackend(spec("nvidia", power_watts=55.0))
    )
    for name, first_s, joules in (("npu", 0.8, 0.1), ("nvidia", 0.2, 2.0)):
        knows(house.station(name), first_s=first_s)
        house.station(name).energy.observe(
            MODEL, joules * 10, Grade.MEASURED, 1.0, seconds=0.01, tokens=10
        )
    thrifty = await understood(house)
    house.station("npu").spec = attrs.evolve(house.station("npu").spec, power_watts=50.0)
    fast = await understood(house)

    assert ({MODEL: 0.8}, {MODEL: 0.1}) == (thrifty.first_s, thrifty.token_j)
    assert ({MODEL: 0.2}, {MODEL: 2.0}) == (fast.first_s, fast.token_j)


async def test_where_a_request_would_go_is_cool(nursery: trio.Nursery) -> None:
    """The hot part is the one that it spares itself."""
    house = open_house(nursery, ScriptedBackend(spec("npu")), ScriptedBackend(spec("nvidia")))
    house.station("nvidia").feels(None, ThermalState.SEVERE, "hot", asleep=False)
    one = (await understood(house)).heat
    house.station("npu").feels(None, ThermalState.LIGHT, "warm", asleep=False)

    assert (ThermalState.SEVERE, ThermalState.LIGHT) == (one, (await understood(house)).heat)


async def test_vectors_are_no_answers(nursery: trio.Nursery) -> None:
    """What they take is not what a token takes."""
    house = open_house(nursery, ScriptedBackend(spec("npu")))
    house.station().estimates.subjects[f"{MODEL} (embedding)"] = Speeds(first_s=Learned(0.1, 1.0))

    assert {} == (await told(house))["ttft_ms"]


async def test_aliases_are_names(nursery: trio.Nursery) -> None:
    """What another may ask for, it is told of; what it may not, it is not."""
    house = open_house(
        nursery,
        ScriptedBackend(spec("npu", aliases={"gpt": MODEL}, exclude=("secret*",))),
        models=frozenset({MODEL, "secret:1"}),
    )

    assert ["gpt", MODEL] == (await told(house))["models"]


@pytest.mark.parametrize("name", ["m{:05}:latest", "☃" * 100 + "{:05}", '"\\\x00' * 40 + "{:05}"])
async def test_it_stays_small(nursery: trio.Nursery, name: str) -> None:
    """Ten thousand models, all served: those in memory come first, and what is left out is counted."""
    names = [name.format(number) for number in range(10_000)]
    house = open_house(nursery, ScriptedBackend(spec("npu")), models=frozenset(names))
    station = house.station()
    station.is_well(Probe(models=frozenset(names), loaded=frozenset(names[-3:])))
    for at, each in enumerate(names):
        known = Learned(0.123456789, at)
        station.estimates.subjects[each] = Speeds(first_s=known, decode=known, heard_at=at)
        station.energy.observe(each, 1.23456789, Grade.MEASURED, at, seconds=1.0, tokens=3)
    answer = await fetch(house.app, "GET", "/node")
    node = answer.json

    assert len(answer.content) < MOST_BYTES
    assert names[-3:] == node["models"][:3] == node["loaded"]
    assert 10_000 == len(node["models"]) + node["left_out"]["models"]
    assert names[-1] == next(iter(node["ttft_ms"]))
    assert 10_000 == len(node["ttft_ms"]) + node["left_out"]["ttft_ms"]
    assert MODELS_BYTES + 1 >= len(msgspec.json.encode(node["models"])) > MODELS_BYTES // 8
    assert LOADED_BYTES + 1 >= len(msgspec.json.encode(node["loaded"]))
    assert read_node(node) is not None


async def test_one_without_lists_may_have_anything(nursery: trio.Nursery) -> None:
    """Its servers do not tell what they have: nor does it."""
    house = open_house(nursery, ScriptedBackend(spec("npu")))
    house.station().is_well(Probe())

    assert None is (await told(house))["models"]


async def test_one_that_ends_says_so(nursery: trio.Nursery) -> None:
    """Nothing new is to come."""
    house = open_house(nursery, ScriptedBackend(spec("npu")))
    house.dispatcher.drain()

    assert (await understood(house)).is_draining


class TestBackends:
    """What is shown of a router among the backends."""

    async def test_what_it_told_says_so(self, nursery: trio.Nursery) -> None:
        """Its figures are told, not learned; what else it said stands by itself."""
        house = open_house(nursery, ScriptedBackend(spec("npu", type=BackendType.ROUTER)))
        node = Node(
            id="a1",
            version="9",
            mode=Mode.QUIET,
            slots=4,
            at_work=2,
            waiting=(1, 0, 0, 0),
            watts=31.0,
            heat=ThermalState.LIGHT,
            on_battery=True,
            battery_percent=40.0,
            first_s={MODEL: 0.25},
            tokens_per_s={MODEL: 20.0},
            token_j={MODEL: 0.5},
        )
        house.station().is_well(Probe(models=frozenset({MODEL}), node=node))
        (shown,) = (await fetch(house.app, "GET", "/backends")).json

        assert {
            "ttft_ms": {"value": 250.0, "source": "told"},
            "tokens_per_s": {"value": 20.0, "source": "told"},
        } == shown["latency"]
        assert {"value": 31.0, "source": "told"} == shown["power_watts"]
        assert (0.5, "light") == (shown["energy_j_per_token"], shown["thermal_state"])
        assert {
            "id": "a1",
            "version": "9",
            "mode": "quiet",
            "in_flight": 2,
            "queued": {"best_effort": 1, "normal": 0, "high": 0, "critical": 0},
            "on_battery": True,
            "battery_percent": 40.0,
            "draining": False,
        } == shown["node"]

    async def test_what_was_learned_goes_before(self, nursery: trio.Nursery) -> None:
        """As in a choice."""
        house = open_house(nursery, ScriptedBackend(spec("npu", type=BackendType.ROUTER)))
        node = Node(first_s={MODEL: 0.25}, watts=31.0)
        house.station().is_well(Probe(models=frozenset({MODEL}), node=node))
        knows(house.station(), first_s=0.75)
        house.station().energy.observe(MODEL, 30.0, Grade.MEASURED, 1.0, seconds=2.0)
        (shown,) = (await fetch(house.app, "GET", "/backends")).json

        assert {"value": 750.0, "source": "learned"} == shown["latency"]["ttft_ms"]
        assert {"value": 15.0, "source": "learned"} == shown["power_watts"]


VIA = {"via": "1.1 ollama-proxy (a1)"}


class TestOneHop:
    """Questions, too, go through one router at most."""

    async def test_lists_for_a_router_leave_routers_out(self, nursery: trio.Nursery) -> None:
        """Or two would ask each other for ever."""
        far = ScriptedBackend(spec("nvidia", type=BackendType.ROUTER))
        own = ScriptedBackend(spec("npu", type=BackendType.OPENAI))
        house = open_house(nursery, own, far)
        for name, model in (("npu", "near:1"), ("nvidia", "far:1")):
            models = frozenset({model})
            house.station(name).is_well(Probe(models=models, loaded=models))
        seen = [
            [
                each["name"]
                for each in (await fetch(house.app, "GET", path, **headers)).json["models"]
            ]
            for path in ("/api/tags", "/api/ps")
            for headers in ({}, VIA)
        ]

        assert [["near:1", "far:1"], ["near:1"]] * 2 == seen

    async def test_a_model_of_a_routers_is_shown_by_it(self, nursery: trio.Nursery) -> None:
        """To people, and not to routers."""
        far = ScriptedBackend(spec("nvidia", type=BackendType.ROUTER))
        far.answer("POST", "/api/show", b'{"far": true}')
        house = open_house(nursery, far)
        body = msgspec.json.encode({"model": MODEL})
        near = await fetch(house.app, "POST", "/api/show", body=body)
        hop = await fetch(house.app, "POST", "/api/show", **VIA, body=body)

        assert ({"far": True}, 404) == (near.json, hop.status)

    async def test_models_of_another_machine_change_where_it_is_named(
        self, nursery: trio.Nursery
    ) -> None:
        """Not because it is the only one, nor by its hardware, nor a hop further."""
        far = ScriptedBackend(spec("nvidia", type=BackendType.ROUTER))
        far.answer("POST", "/api/pull", b"{}")
        house = open_house(nursery, far)
        body = msgspec.json.encode({"model": MODEL})
        target = {"x_target_backend": "nvidia"}
        statuses = [
            (await fetch(house.app, "POST", "/api/pull", **headers, body=body)).status
            for headers in ({}, target | VIA, target)
        ]

        assert [503, 503, 200] == statuses
