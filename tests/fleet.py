"""The four backends of the contract, for tests that choose among them."""

from typing import Any

from ollama_proxy.policy.ask import Ask, Call
from ollama_proxy.policy.fleet import BackendSpec, BackendType, BackendView, Hardware

MODEL = "qwen2.5:0.5b"
FIGURES = {
    "npu": (Hardware.NPU, 3.0, 0.8),
    "igpu": (Hardware.IGPU, 12.0, 0.4),
    "nvidia": (Hardware.NVIDIA, 55.0, 0.15),
    "cpu": (Hardware.CPU, 28.0, 2.0),
}


def spec(name: str = "npu", **changes: Any) -> BackendSpec:
    """One of the four, with what a test changes."""
    hardware, watts, latency_s = FIGURES.get(name, FIGURES["cpu"])
    given: dict[str, Any] = {
        "id": name,
        "type": BackendType.OLLAMA,
        "hardware": hardware,
        "endpoint": "http://127.0.0.1:1",
        "power_watts": watts,
        "avg_latency_s": latency_s,
    }
    return BackendSpec(**(given | changes))


def view(name: str = "npu", **changes: Any) -> BackendView:
    """One of the four, healthy, idle, with the model; `spec_...` changes the spec."""
    of_spec = {k.removeprefix("spec_"): v for k, v in changes.items() if k.startswith("spec_")}
    rest = {k: v for k, v in changes.items() if not k.startswith("spec_")}
    given: dict[str, Any] = {
        "spec": spec(name, **of_spec),
        "healthy": True,
        "models": frozenset({MODEL}),
    }
    return BackendView(**(given | rest))


def laptop(**changes: Any) -> list[BackendView]:
    """All four."""
    return [view(name, **changes) for name in FIGURES]


def ask(**changes: Any) -> Ask:
    """A streamed chat."""
    given: dict[str, Any] = {"call": Call.OPENAI_CHAT, "model": MODEL, "stream": True}
    return Ask(**(given | changes))
