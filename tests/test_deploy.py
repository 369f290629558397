"""deploy/ is what others' schemas ask for, and its configurations are good by our own rules."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from ollama_proxy.cli import main
from ollama_proxy.config import Loaded, Overrides, interpret
from ollama_proxy.policy.ask import Call, Priority

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
SCHEMAS = Path(__file__).resolve().parent / "schemas"
CUSTOM = json.loads((SCHEMAS / "custom-resources.json").read_text())
VERSION = "1.37"


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of Kubernetes, by the file that it is in."""
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for each in yaml.safe_load_all(path.read_text()):
            yield f"{path.name} {each['kind']} {each['metadata']['name']}", each


OBJECTS = dict(objects())


def named(kind: str, name: str) -> dict[str, Any]:
    """One of them."""
    (found,) = [
        each
        for each in OBJECTS.values()
        if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return found


def loaded(text: str) -> Loaded:
    """A configuration of ours; a fault raises."""
    return interpret(tomllib.loads(text), environ={}, overrides=Overrides(), opens_doors=True)


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_is_as_kubernetes_wants_it(name: str) -> None:
    """Each field known and of its type; of custom resources, their own."""
    each = OBJECTS[name]
    schema = CUSTOM.get(f"{each['apiVersion']} {each['kind']}")
    if schema is None:
        kubernetes_validate.validate(each, VERSION, strict=True)
    else:
        jsonschema.validate(each["spec"], schema)
        assert {"apiVersion", "kind", "metadata", "spec"} == set(each)


def test_a_misspelt_field_is_seen() -> None:
    """By both kinds of schema, else the test above would say nothing."""
    pool = named("InferencePool", "nodes")["spec"] | {"targetPort": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(pool, CUSTOM["inference.networking.k8s.io/v1 InferencePool"])
    service = named("Service", "nodes")
    wrong = service | {"spec": service["spec"] | {"port": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_what_is_asked_for_is_there() -> None:
    """Every kind that the gateway, the pickers and the nodes need."""
    kinds = {each["kind"] for each in OBJECTS.values()}
    assert kinds >= {
        *("Deployment", "Service", "InferencePool", "InferenceObjective", "HTTPRoute"),
        *("NetworkPolicy", "ServiceAccount", "Role", "RoleBinding"),
    }


@pytest.mark.parametrize("name", ["node", "picker"])
def test_the_configurations_of_pods_are_good(name: str) -> None:
    """And their doors are where probes, services and policies look for them."""
    config = loaded(named("ConfigMap", name)["data"]["config.toml"]).config
    (pod,) = [
        each["spec"]["template"]["spec"]
        for each in OBJECTS.values()
        if each["kind"] == "Deployment" and name in each["metadata"]["name"]
    ]
    ports = {each["name"]: each["containerPort"] for each in pod["containers"][0]["ports"]}

    assert config.server.http_port == ports["http"]
    assert config.server.grpc == ("grpc" in ports)
    assert config.server.grpc_port == ports.get("grpc", config.server.grpc_port)
    assert pod["terminationGracePeriodSeconds"] > config.server.drain_s


def test_the_pool_is_the_nodes_that_the_picker_finds() -> None:
    """The same pods, at the same port, by the picker's service."""
    pool = named("InferencePool", "nodes")["spec"]
    config = loaded(named("ConfigMap", "picker")["data"]["config.toml"]).config
    service = named("Service", "nodes")
    picker = named("Service", pool["endpointPickerRef"]["name"])
    (port,) = pool["targetPorts"]

    assert pool["selector"]["matchLabels"] == service["spec"]["selector"]
    assert f"ai/nodes:{port['number']}" == config.fleet.kubernetes
    assert pool["endpointPickerRef"]["port"]["number"] in {
        p["port"] for p in picker["spec"]["ports"]
    }


def test_objectives_are_named_as_priorities() -> None:
    """The picker goes by the name, and takes no other."""
    found = {
        each["metadata"]["name"]: each["spec"]["priority"]
        for each in OBJECTS.values()
        if each["kind"] == "InferenceObjective"
    }
    assert found
    assert found.items() <= {each.label: each.value for each in Priority}.items()


def test_every_inference_call_goes_to_the_pool() -> None:
    """As what `envoy-config` says."""
    *rules, rest = named("HTTPRoute", "nodes")["spec"]["rules"]
    paths = [match["path"]["value"] for rule in rules for match in rule["matches"]]

    assert sorted(call.path for call in Call) == sorted(paths)
    assert all("InferencePool" == rule["backendRefs"][0]["kind"] for rule in rules)
    assert "picker" == rest["backendRefs"][0]["name"]


def test_compose_is_as_compose_wants_it() -> None:
    """By its schema."""
    schema = json.loads((SCHEMAS / "compose-spec.json").read_text())
    jsonschema.validate(yaml.safe_load((DEPLOY / "compose.yaml").read_text()), schema)


def test_compose_publishes_what_envoy_listens_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Envoy's configuration is made by the very command that stands there, of the file that stands there."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    (command,) = services["envoy-config"]["command"]
    _, *arguments = command.partition(" > ")[0].split()
    at = arguments.index("--config") + 1
    arguments[at] = str(DEPLOY / "compose.toml")
    assert loaded((DEPLOY / "compose.toml").read_text()).config.backends

    assert 0 == main(arguments)

    made = yaml.safe_load(capsys.readouterr().out)
    (listener,) = made["static_resources"]["listeners"]
    where = listener["address"]["socket_address"]
    (published,) = services["envoy"]["ports"]
    assert f"127.0.0.1:{where['port_value']}:{where['port_value']}" == published
    asked = {name for name in services if name.startswith("picker-")}
    text = json.dumps(made["static_resources"]["clusters"])
    assert asked == set(re.findall(r"picker-[a-z]", text))


def test_the_images_files_are_there() -> None:
    """What the Dockerfile copies, and what compose mounts."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    build = services["picker-a"]["build"]
    context = DEPLOY / build["context"]
    assert (context / build["dockerfile"]).is_file()
    assert (context / "pyproject.toml").is_file()
    for service in services.values():
        for mounted in service["volumes"]:
            source = mounted.partition(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).is_file()
