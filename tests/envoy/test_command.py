"""`ollama-proxy envoy-config`: what it makes of our configuration, and what it refuses to."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ollama_proxy.cli import main
from ollama_proxy.policy.ask import Call

NODES = """\
[[backends]]
id = "a"
hardware = "cpu"
endpoint = "http://127.0.0.1:11501"
[[backends]]
id = "b"
hardware = "cpu"
endpoint = "http://127.0.0.1:11502"
"""
KEYS = f'[server.auth]\napi_keys = ["sha256:{"0" * 64}"]\n'
HIDDEN = '[[backends]]\nid = "n"\nhardware = "cpu"\nendpoint = "https://node:1"\n'
ZONED = '[[backends]]\nid = "z"\nhardware = "cpu"\nendpoint = "http://[fe80::1{}]:80"\n'


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Where a test's configuration is."""
    return tmp_path / "config.toml"


def told(
    capsys: pytest.CaptureFixture[str], path: Path, text: str, *flags: str
) -> tuple[int, str, str]:
    """The exit code, and what was said on both streams."""
    path.write_text(text)
    code = main(["envoy-config", "--config", str(path), *flags])
    said = capsys.readouterr()
    return code, said.out, said.err


def made(capsys: pytest.CaptureFixture[str], path: Path, text: str, *flags: str) -> dict[str, Any]:
    """The configuration."""
    code, out, err = told(capsys, path, text, *flags)
    assert (0, "") == (code, err)
    read = yaml.safe_load(out)
    assert isinstance(read, dict)
    return read


def listener(config: dict[str, Any]) -> dict[str, Any]:
    """The one there is."""
    (one,) = config["static_resources"]["listeners"]
    assert isinstance(one, dict)
    return one


def manager(config: dict[str, Any]) -> dict[str, Any]:
    """What it does with HTTP."""
    found = listener(config)["filter_chains"][0]["filters"][0]["typed_config"]
    assert isinstance(found, dict)
    return found


def cluster(config: dict[str, Any], name: str) -> dict[str, Any]:
    """One of those it sends to."""
    (one,) = [each for each in config["static_resources"]["clusters"] if each["name"] == name]
    assert isinstance(one, dict)
    return one


def ports(config: dict[str, Any], name: str) -> list[int]:
    """Where those in a cluster are, in turn."""
    return [
        each["endpoint"]["address"]["socket_address"]["port_value"]
        for group in cluster(config, name)["load_assignment"]["endpoints"]
        for each in group["lb_endpoints"]
    ]


def test_it_is_made_of_ours(capsys: pytest.CaptureFixture[str], written: Path) -> None:
    """The nodes are our backends, the picker our gRPC door, and the bounds are our own."""
    server = "[server]\nmax_body_mib = 2\nhead_timeout_s = 3\ngrpc_port = 50061\nhttp_port = 8088\n"
    config = made(capsys, written, server + NODES)

    assert [11501, 11502] == ports(config, "nodes")
    assert [[50061], [8088]] == [ports(config, "pickers"), ports(config, "doors")]
    assert 10000 == listener(config)["address"]["socket_address"]["port_value"]
    assert 2 << 20 == listener(config)["per_connection_buffer_limit_bytes"]
    assert "3s" == manager(config)["request_headers_timeout"]


def test_every_inference_call_is_carried_and_nothing_else(
    capsys: pytest.CaptureFixture[str], written: Path
) -> None:
    """Lists of models and the dashboard are the routers' own."""
    (host,) = manager(made(capsys, written, NODES))["route_config"]["virtual_hosts"]
    *calls, rest = host["routes"]

    patterns = [each["match"]["safe_regex"]["regex"] for each in calls]

    assert [1] * len(Call) == [
        sum(re.fullmatch(pattern, call.path) is not None for pattern in patterns) for call in Call
    ]
    assert not any(re.fullmatch(pattern, "/v1/models") for pattern in patterns)
    assert {"nodes"} == {each["route"]["cluster"] for each in calls}
    assert {"0s"} == {each["route"]["timeout"] for each in host["routes"]}
    assert "doors" == rest["route"]["cluster"]


def test_pickers_serve_in_the_order_in_which_they_are_named(
    capsys: pytest.CaptureFixture[str], written: Path
) -> None:
    """Each has a priority of its own: the next one is asked when those before it are gone."""
    flags = [
        "--picker",
        "127.0.0.1:1,127.0.0.1:2",
        "--picker",
        "[::1]:3",
        "--listen",
        "127.0.0.1:9",
    ]
    config = made(capsys, written, NODES, *flags)
    groups = cluster(config, "pickers")["load_assignment"]["endpoints"]

    assert [1, 2, 3] == ports(config, "pickers")
    assert [0, 1, 2] == [each["priority"] for each in groups]
    assert 9 == listener(config)["address"]["socket_address"]["port_value"]


def test_without_a_picker_nobody_passes_who_would_be_asked_for_a_key(
    capsys: pytest.CaptureFixture[str], written: Path
) -> None:
    """Where no keys are asked for, the least busy node serves."""
    for text, name in ((NODES, "least_request"), (KEYS + NODES, "subset")):
        nodes = cluster(made(capsys, written, text), "nodes")
        (policy,) = nodes["load_balancing_policy"]["policies"]
        (fallback,) = policy["typed_extension_config"]["typed_config"]["fallback_policy"][
            "policies"
        ]
        assert f"envoy.load_balancing_policies.{name}" == fallback["typed_extension_config"]["name"]


def test_what_needs_the_pickers_key_serves_nobody_whom_it_did_not_send(
    capsys: pytest.CaptureFixture[str], written: Path
) -> None:
    """Others do, as long as one of them is there."""
    text = NODES.replace('11502"', '11502"\napi_key_env = "KEY"')
    config = made(capsys, written, text)
    groups = cluster(config, "nodes")["load_assignment"]["endpoints"]

    assert [0, 1] == [each["priority"] for each in groups]
    assert [11501, 11502] == ports(config, "nodes")


def test_nothing_is_tried_again_where_that_is_not_wanted(
    capsys: pytest.CaptureFixture[str], written: Path
) -> None:
    """As by the router itself."""
    off = "[router]\nretry_before_first_byte = false\n"
    hosts = [
        manager(made(capsys, written, text))["route_config"]["virtual_hosts"][0]
        for text in (NODES, off + NODES)
    ]
    assert [True, False] == ["retry_policy" in host for host in hosts]


def test_who_is_left_out_is_told_in_it(capsys: pytest.CaptureFixture[str], written: Path) -> None:
    """Above the clusters, with the reason."""
    _, out, _ = told(capsys, written, NODES + HIDDEN)
    assert "# Not n: it is reached by TLS" in out


@pytest.mark.parametrize(
    ("text", "flags", "fault"),
    [
        (NODES, ["--listen", "here"], "--listen: must be HOST:PORT"),
        (NODES, ["--listen", "0.0.0.0:80"], "--listen: 0.0.0.0 can be reached from other machines"),
        (NODES, ["--picker", "50051"], "--picker: must be HOST:PORT"),
        ("[server]\ngrpc = false\n" + NODES, [], "server.grpc: is false"),
        ("[server]\ngrpc_port = 0\n" + NODES, [], "server.grpc_port: is 0"),
        (
            "[server]\nmax_body_mib = 4096\n" + NODES,
            [],
            "server.max_body_mib: Envoy holds at most 4095",
        ),
        ("", [], "backends: Envoy can reach none of them"),
        (HIDDEN, [], "backends: Envoy can reach none of them; n: it is reached by TLS"),
        ("[server]\nport = 1\n", [], "server.port"),
        (NODES + ZONED.format("%25eth0"), [], "z: write fe80::1%eth0, not fe80::1%25eth0"),
        (
            NODES + '[fleet]\nnodes = ["http://[fe80::1%25eth0]:80"]\n',
            [],
            "fleet.nodes: write fe80::1%eth0, not",
        ),
    ],
)
def test_what_nobody_can_want_is_refused(
    capsys: pytest.CaptureFixture[str], written: Path, text: str, flags: list[str], fault: str
) -> None:
    """With 2, one sentence, and nothing on standard output."""
    code, out, err = told(capsys, written, text, *flags)

    assert (2, "") == (code, out)
    assert fault in err


@pytest.mark.parametrize("zone", ["%eth0", "%25", "%251"])
def test_a_zone_that_envoy_takes_is_passed_on(
    capsys: pytest.CaptureFixture[str], written: Path, zone: str
) -> None:
    """As the router takes it."""
    config = made(capsys, written, NODES + ZONED.format(zone))
    assert f"'fe80::1{zone}'" in str(cluster(config, "nodes"))


def test_a_node_is_asked_for_by_its_own_name(
    capsys: pytest.CaptureFixture[str], written: Path
) -> None:
    """It need not answer for what clients call Envoy: one that is a router would refuse that."""
    more = '[[backends]]\nid = "c"\nhardware = "cpu"\nendpoint = "http://[::1]:11503"\n'
    config = made(capsys, written, NODES + more)

    routes = manager(config)["route_config"]["virtual_hosts"][0]["routes"]
    rewritten = [each["route"].get("auto_host_rewrite", False) for each in routes]
    (group,) = cluster(config, "nodes")["load_assignment"]["endpoints"]
    named = [each["endpoint"]["hostname"] for each in group["lb_endpoints"]]
    assert ["127.0.0.1:11501", "127.0.0.1:11502", "[::1]:11503"] == named
    assert [*[True] * (len(rewritten) - 1), False] == rewritten


def test_a_short_time_is_not_none(capsys: pytest.CaptureFixture[str], written: Path) -> None:
    """Envoy takes none for no limit, or refuses it."""
    config = made(capsys, written, "[server]\nidle_timeout_s = 0.0001\n" + NODES)

    options = manager(config)["common_http_protocol_options"]
    assert "0.001s" == options["idle_timeout"]


@pytest.mark.parametrize(
    ("server", "flags"),
    [("", ["--listen", "localhost:8000"]), ('[server]\nhost = "localhost"\n', [])],
)
def test_it_listens_on_an_address(
    capsys: pytest.CaptureFixture[str], written: Path, server: str, flags: list[str]
) -> None:
    """Envoy binds no names."""
    config = made(capsys, written, server + NODES, *flags)

    assert "127.0.0.1" == listener(config)["address"]["socket_address"]["address"]


def test_it_listens_on_no_name(capsys: pytest.CaptureFixture[str], written: Path) -> None:
    """What it means is not guessed."""
    insecure = "[server]\ninsecure = true\n"
    code, out, err = told(capsys, written, insecure + NODES, "--listen", "ai.example.org:8000")

    assert (2, "") == (code, out)
    assert "--listen: Envoy listens on addresses" in err


def test_a_picker_without_nodes_is_asked_all_the_same(
    capsys: pytest.CaptureFixture[str], written: Path
) -> None:
    """It says so in its own words; else Envoy would choose by itself."""
    [check] = cluster(made(capsys, written, NODES), "pickers")["health_checks"]

    assert (
        "envoy.service.ext_proc.v3.ExternalProcessor" == check["grpc_health_check"]["service_name"]
    )


@pytest.mark.parametrize(("keys", "is_kept"), [("", False), (KEYS, True)])
def test_no_node_gets_a_callers_key(
    capsys: pytest.CaptureFixture[str], written: Path, keys: str, *, is_kept: bool
) -> None:
    """Nor a cookie, with no picker to take it away; where keys are asked for, nobody is served without one."""
    config = made(capsys, written, keys + NODES)

    [early] = manager(config)["early_header_mutation_extensions"]
    removed = {each["remove"] for each in early["typed_config"]["mutations"]}
    assert {"x-gateway-destination-endpoint", "cookie"} <= removed
    assert is_kept is not ({"authorization", "x-api-key"} <= removed)


@pytest.mark.parametrize("name", ["nodes", "pickers", "doors"])
def test_one_address_that_is_well_is_enough(
    capsys: pytest.CaptureFixture[str], written: Path, name: str
) -> None:
    """Of a name with two, of which one answers: nothing goes to the next priority."""
    policy = cluster(made(capsys, written, NODES), name)["load_assignment"]["policy"]

    assert 100 * 100 <= policy["overprovisioning_factor"]["value"]
