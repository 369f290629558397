"""The messages, as they were generated and as the contract has them."""

import subprocess
import sys
from pathlib import Path

import pytest

from ollama_proxy.inbound.grpc.pb import compute_v1_pb2, health_v1_pb2, ollama_proxy_pb2

ROOT = Path(__file__).resolve().parents[3]
MESSAGES = ROOT / "src/ollama_proxy/inbound/grpc/pb"


def test_the_messages_are_what_the_protos_say(tmp_path: Path) -> None:
    """Generated anew, they are the same: nobody has changed the one without the other."""
    pytest.importorskip("grpc_tools")
    subprocess.run([sys.executable, ROOT / "tools/protos", tmp_path], check=True)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in MESSAGES.glob("*_pb2.*")}

    assert sorted(made) == sorted(kept)
    assert [name for name in made if made[name] != kept[name]] == []


def numbers(message: object) -> dict[str, int]:
    """Its fields by their names."""
    return {field.name: field.number for field in message.DESCRIPTOR.fields}  # type: ignore[attr-defined]  # every message has one


def test_what_the_contract_fixes_is_fixed() -> None:
    """Names and numbers that others' code was written against."""
    pb = ollama_proxy_pb2
    service = pb.DESCRIPTOR.services_by_name["OllamaProxy"]

    assert [
        "Generate",
        "GenerateStream",
        "Chat",
        "ChatStream",
        "Embed",
        "ListModels",
        "ListBackends",
        "Route",
        "GetEfficiency",
        "SetEfficiency",
        "WatchState",
    ] == [method.name for method in service.methods]
    assert {"prompt": 1, "model": 2, "options": 3, "annotations": 4} == numbers(pb.GenerateRequest)
    assert {
        "target": 1,
        "latency_critical": 2,
        "prefer_power_efficiency": 3,
        "max_latency_ms": 4,
        "max_power_watts": 5,
        "priority": 6,
        "request_id": 7,
        "media_type": 8,
        "custom": 15,
    } == numbers(pb.Annotations)
    first_five = {"response": 1, "backend": 2, "routing": 3, "stats": 4, "finish_reason": 5}
    assert first_five.items() <= numbers(pb.GenerateResponse).items()


def test_earlier_clients_numbers_are_kept() -> None:
    """Those of compute.v1, where prompts and annotations stand elsewhere."""
    pb = compute_v1_pb2

    assert {"prompt": 1, "model": 2, "annotations": 3, "options": 4} == numbers(pb.GenerateRequest)
    assert {
        "max_tokens": 1,
        "temperature": 2,
        "top_p": 3,
        "top_k": 4,
        "stop": 5,
        "context_length": 6,
    } == numbers(pb.GenerationOptions)
    assert 7 == numbers(pb.JobAnnotations)["custom"]
    assert {"token": 1, "done": 2, "backend_used": 3, "stats": 4} == numbers(
        pb.GenerateStreamResponse
    )


def test_health_is_everybodys() -> None:
    """Its numbers are the public ones."""
    assert 1 == health_v1_pb2.HealthCheckResponse.SERVING
    assert "grpc.health.v1.Health" == health_v1_pb2.DESCRIPTOR.services_by_name["Health"].full_name
