"""Which texts are places, and which backends Envoy can carry bytes to."""

from typing import Any

import attrs
import pytest

from ollama_proxy.config import BackendConfig, Config, Fleet, Scheme
from ollama_proxy.envoy.places import Place, nodes_of, parse_place, parse_places
from ollama_proxy.policy.hardware import Hardware

NODE = BackendConfig(id="a", hardware=Hardware.CPU, endpoint="http://10.0.0.5:11434")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:1", Place("127.0.0.1", 1)),
        (" [::1]:65535 ", Place("::1", 65535)),
        ("picker-0.pickers:50051", Place("picker-0.pickers", 50051)),
    ],
)
def test_a_place_is_a_host_and_a_port(text: str, place: Place) -> None:
    """An IPv6 address stands in brackets, and is told with them."""
    assert place == parse_place(text)
    assert text.strip() == str(place)


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1", ":80", "::1:80", "[::1]", "[a:80", "a:0", "a:65536", "a:b", "a b:1"]
)
def test_what_is_no_place_is_told(text: str) -> None:
    """With what would be one."""
    with pytest.raises(ValueError, match="must be HOST:PORT, such as"):
        parse_place(text)


def test_several_places_come_with_commas_or_one_by_one() -> None:
    """In the order in which they are preferred."""
    assert ["a:1", "b:2", "c:3"] == [str(each) for each in parse_places(["a:1,b:2", "c:3"])]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"enabled": False}, "it is not enabled"),
        ({"endpoint": "unix:/run/a.sock"}, "it has no address in the network"),
        (
            {"endpoint": "https://10.0.0.5"},
            "it is reached by TLS, with settings that are the router's",
        ),
    ],
)
def test_a_backend_that_bytes_cannot_be_carried_to_is_left_out(
    changes: dict[str, Any], why: str
) -> None:
    """And it is said why."""
    nodes, others = nodes_of(Config(backends=(NODE, attrs.evolve(NODE, id="b", **changes))))

    assert [Place("10.0.0.5", 11434)] == nodes
    assert ["b"] == [each.name for each in others]
    assert others[0].why.startswith(why)


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        (
            {"nodes": ("http://10.0.0.6:8080", "http://10.0.0.5:11434")},
            ["10.0.0.5:11434", "10.0.0.6:8080"],
        ),
        ({"dns": "nodes.example:8080"}, ["10.0.0.5:11434", "nodes.example:8080"]),
        ({"kubernetes": "ai/nodes:8080"}, ["10.0.0.5:11434", "nodes.ai.svc.cluster.local:8080"]),
    ],
)
def test_a_fleet_is_reached_as_well(changes: dict[str, Any], places: list[str]) -> None:
    """By address or by a name that Envoy asks for, each place once."""
    nodes, others = nodes_of(Config(backends=(NODE,), fleet=Fleet(**changes)))

    assert places == [str(each) for each in nodes]
    assert [] == others


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"nodes": ("https://10.0.0.6",)}, "it is reached by TLS"),
        ({"avahi": True}, "what is found later is not known here"),
        ({"kubernetes": "ai/nodes"}, "DNS knows no names of ports"),
        ({"dns": "a:1", "scheme": Scheme.HTTPS}, "it is reached by TLS"),
    ],
)
def test_a_fleet_that_bytes_cannot_be_carried_to_is_left_out(
    changes: dict[str, Any], why: str
) -> None:
    """And it is said why."""
    nodes, others = nodes_of(Config(fleet=Fleet(**changes)))

    assert [] == nodes
    assert others[0].why.startswith(why)


def test_a_port_that_is_left_out_is_that_of_http() -> None:
    """As in any URL."""
    backend = attrs.evolve(NODE, endpoint="http://[fd00::5]/")
    assert [Place("fd00::5", 80)] == nodes_of(Config(backends=(backend,)))[0]


@pytest.mark.parametrize(
    ("changes", "takes_any"),
    [({}, True), ({"api_key_env": "KEY"}, False), ({"endpoint": "http://10.0.0.5:1/v9"}, False)],
)
def test_what_needs_a_key_or_a_path_takes_no_request_as_it_is(
    changes: dict[str, Any], takes_any: bool
) -> None:
    """It is for the picker alone to send there."""
    (place,) = nodes_of(Config(backends=(attrs.evolve(NODE, **changes),)))[0]
    assert takes_any == place.takes_any


def test_a_fleet_with_a_key_takes_no_request_as_it_is() -> None:
    """However it is found."""
    fleet = Fleet(nodes=("http://10.0.0.5",), dns="a:1", kubernetes="a/b:1", api_key_env="KEY")
    assert [False] * 3 == [each.takes_any for each in nodes_of(Config(fleet=fleet))[0]]
