"""The endpoint picker protocol 1.0.0, requirement by requirement.

Its text: kubernetes-sigs/gateway-api-inference-extension, docs/proposals/004-endpoint-picker-protocol.
"""

from collections.abc import Sequence
from typing import Any

import pytest

from ollama_proxy.inbound.admission import Admission, Rules
from ollama_proxy.inbound.answers import status_at
from ollama_proxy.inbound.grpc.pb import ext_proc_v3_pb2 as pb
from ollama_proxy.inbound.grpc.pb import health_v1_pb2
from ollama_proxy.policy.access import Key
from tests.fakes.backend import ScriptedBackend
from tests.inbound.picker.envoy import (
    CHAT,
    DESTINATION,
    MODES,
    Home,
    at_home,
    body,
    changes,
    heads,
    node,
    refused,
)
from tests.inbound.picker.test_keys import ENVOY, KEYS

HEALTH = "/grpc.health.v1.Health/Check"


def subset(*endpoints: str) -> dict[str, Any]:
    """The endpoints that may be picked from, as Envoy says them."""
    message = pb.ProcessingRequest()
    hint = message.metadata_context.filter_metadata["envoy.lb.subset_hint"]
    listed = hint.fields["x-gateway-destination-endpoint-subset"].list_value
    listed.extend(endpoints)
    return {"metadata_context": message.metadata_context}


async def test_streaming_mode_is_supported() -> None:
    """FULL_DUPLEX_STREAMED: the head is answered once the body is there, and says where to."""
    async with at_home(node()) as home:
        stream = home.stream()
        config = pb.ProtocolConfiguration(request_body_mode=MODES.FULL_DUPLEX_STREAMED)
        told = [(":method", "POST"), (":path", CHAT), (":authority", "localhost")]
        await stream.say(request_headers=heads(told), protocol_config=config)
        await stream.say(request_body=pb.HttpBody(body=body()))
        await stream.say(request_trailers=pb.HttpTrailers())
        answers = [await stream.hear() for _ in range(3)]
    piece = answers[1].request_body.response.body_mutation.streamed_response

    assert ["request_headers", "request_body", "request_trailers"] == [
        each.WhichOneof("response") for each in answers
    ]
    assert (body(), False) == (piece.body, piece.end_of_stream)


@pytest.mark.parametrize(
    ("listed", "picked"),
    [
        (["192.0.2.1:8002"], "192.0.2.1:8002"),
        (["203.0.113.1:1", "192.0.2.1:8001"], "192.0.2.1:8001"),
    ],
)
async def test_only_the_subset_is_picked_from(listed: Sequence[str], picked: str) -> None:
    """Whoever else would be better; also as a fallback."""
    async with at_home(node("npu", 8001), node("nvidia", 8002)) as home:
        answer = await home.stream().ask(**subset(*listed))

    assert picked == changes(answer.request_body.response)[DESTINATION]


@pytest.mark.parametrize("listed", [[], ["203.0.113.1:1"], ["192.0.2.1:8003"]])
async def test_a_subset_of_which_nobody_will_do(listed: Sequence[str]) -> None:
    """It is empty, of strangers, or lacks the model: 503."""
    other = node("cpu", 8003, models=("other",))
    async with at_home(node("npu", 8001), other) as home:
        status, content, _ = refused(await home.stream().ask(**subset(*listed)))

    assert (503, "no_backend") == (status, content["error"]["code"])


async def test_without_a_subset_all_are_picked_from() -> None:
    """Metadata of others is not one."""
    message = pb.ProcessingRequest()
    message.metadata_context.filter_metadata["envoy.lb"].fields["a"].string_value = "b"
    async with at_home(node()) as home:
        answer = await home.stream().ask(metadata_context=message.metadata_context)

    assert DESTINATION in changes(answer.request_body.response)


async def test_header_and_metadata_say_the_same() -> None:
    """`ip:port`, or several with commas; the metadata's outer key is `envoy.lb`."""
    async with at_home(node("npu", 8001), node("nvidia", 8002)) as home:
        answer = await home.stream().ask()
    inner = answer.dynamic_metadata.fields["envoy.lb"].struct_value.fields

    assert [DESTINATION] == list(inner)
    said = changes(answer.request_body.response)[DESTINATION]
    assert {"192.0.2.1:8001", "192.0.2.1:8002"} == set(said.split(","))
    assert said == inner[DESTINATION].string_value


async def test_none_ready() -> None:
    """503, at once."""
    async with at_home(node()) as home:
        station = home.dispatcher.stations["npu"]
        station.is_down("gone")
        home.dispatcher.health_changed(station)
        status, content, headers = refused(await home.stream().ask())

    assert (503, "no_backend", "5") == (status, content["error"]["code"], headers["retry-after"])


async def test_dropped_under_load() -> None:
    """429: the slot is taken, and the line is full. So say the books."""
    async with at_home(node(), queue=1) as home:
        first, second, third = home.stream(), home.stream(), home.stream()
        await first.ask()
        await second.ask()
        status, content, headers = refused(await third.ask())
        [fact] = home.facts

    assert fact.code is not None
    assert status == status_at(fact.door, fact.code)
    assert (429, "queue_full", True) == (
        status,
        content["error"]["code"],
        int(headers["retry-after"]) > 0,
    )


@pytest.mark.parametrize(
    ("service", "status"),
    [
        ("", "SERVING"),
        ("liveness", "SERVING"),
        ("readiness", "SERVING"),
        ("envoy.service.ext_proc.v3.ExternalProcessor", "SERVING"),
    ],
)
async def test_health_of_one_that_is_ready(service: str, status: str) -> None:
    """Each of the names that it may be asked by."""
    assert status == await health(service, node())


@pytest.mark.parametrize(
    ("service", "status"),
    [
        ("", "NOT_SERVING"),
        ("liveness", "SERVING"),
        ("readiness", "NOT_SERVING"),
        ("envoy.service.ext_proc.v3.ExternalProcessor", "NOT_SERVING"),
    ],
)
async def test_health_of_one_that_drains(service: str, status: str) -> None:
    """Alive, but no more to be asked."""
    assert status == await health(service, node(), drains=True)


@pytest.mark.parametrize(
    ("service", "status"),
    [("", "NOT_SERVING"), ("envoy.service.ext_proc.v3.ExternalProcessor", "SERVING")],
)
async def test_health_of_one_that_lost_its_nodes(service: str, status: str) -> None:
    """It tells callers so itself; taken for dead, it would leave the choice to Envoy, which knows less."""
    async with at_home(node()) as home:
        before = await _health(home, service)
        home.dispatcher.stations["npu"].is_down("a test says so")
        after = await _health(home, service)

    assert ("SERVING", status) == (before, after)


async def test_health_of_one_that_never_had_a_node() -> None:
    """After a start another picker knows better."""
    assert "NOT_SERVING" == await health("envoy.service.ext_proc.v3.ExternalProcessor")


@pytest.mark.parametrize("keys", [(), KEYS.keys], ids=["no keys", "keys"])
async def test_health_is_asked_as_often_as_need_be(keys: tuple[Key, ...]) -> None:
    """Twice a second by each Envoy, whatever the rate: one that is refused takes the picker for dead."""
    admission = Admission(Rules(keys=keys, rate=0.001, burst=1))
    async with at_home(node(), admission=admission) as home:
        said = [await _health(home, "") for _ in range(3)]

    assert ["SERVING"] * 3 == said


async def health(service: str, *nodes: ScriptedBackend, drains: bool = False) -> str:
    """What is said of a service."""
    async with at_home(*nodes) as home:
        if drains:
            home.dispatcher.drain()
        return await _health(home, service)


async def _health(home: Home, service: str) -> str:
    request = health_v1_pb2.HealthCheckRequest(service=service)
    heard = await home.client.call(request.SerializeToString(), path=HEALTH, **ENVOY)
    told = health_v1_pb2.HealthCheckResponse.FromString(heard.messages[0])
    return str(health_v1_pb2.HealthCheckResponse.ServingStatus.Name(told.status))


@pytest.mark.parametrize(
    ("objective", "priority"),
    [("critical", 3), ("best-effort", 0), ("food-review", 1), ("", 1)],
)
async def test_the_objective_is_a_priority(objective: str, priority: int) -> None:
    """By its name; one that only a cluster knows is nobody's mistake."""
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.ask(None, ("x-gateway-inference-objective", objective))
        await stream.end()
        await home.settle()
        [fact] = home.facts

    assert priority == fact.priority


async def test_a_wish_of_ours_is_nearer_than_the_objective() -> None:
    """Whoever says both means the one that is ours."""
    given = [("x-gateway-inference-objective", "critical"), ("x-priority", "high")]
    async with at_home(node()) as home:
        stream = home.stream()
        await stream.ask(None, *given)
        await stream.end()
        await home.settle()
        [fact] = home.facts

    assert 2 == fact.priority


async def test_the_time_to_the_first_token_is_a_deadline() -> None:
    """The Gateway API's header for it: nobody is predicted to make it."""
    async with at_home(node()) as home:
        answer = await home.stream().ask(None, ("x-slo-ttft-ms", "10"))
        status, content, _ = refused(answer)

    assert (503, "deadline_unmeetable") == (status, content["error"]["code"])
