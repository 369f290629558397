"""The four backends of the contract, for tests that choose among them."""

from typing import Any

import attrs

from ollama_proxy.policy.ask import Ask, Call, Priority
from ollama_proxy.policy.fleet import BackendSpec, BackendType, BackendView
from ollama_proxy.policy.hardware import Hardware

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


@attrs.frozen(kw_only=True)
class Standing:
    """A line of so many, of whom each takes `each_s` seconds."""

    count: int = 0
    each_s: float = 0.0
    is_full: bool = False

    def __len__(self) -> int:
        return self.count

    def ahead_s(self, priority: Priority, client: str) -> float:  # noqa: ARG002 - as `Queue` has it
        """All of them."""
        return self.count * self.each_s

    def depth(self, priority: Priority) -> int:
        """All are normal."""
        return self.count if priority is Priority.NORMAL else 0

    def is_full_for(self, priority: Priority) -> bool:  # noqa: ARG002 - as above
        """For everybody."""
        return self.is_full


@attrs.frozen
class Taken:
    """A slot that is taken until then."""

    ends: float


def view(name: str = "npu", *, waiting: int = 0, in_flight: int = 0, **changes: Any) -> BackendView:
    """One of the four, healthy, idle, with the model; `spec_...` changes the spec."""
    of_spec = {k.removeprefix("spec_"): v for k, v in changes.items() if k.startswith("spec_")}
    rest = {k: v for k, v in changes.items() if not k.startswith("spec_")}
    described = spec(name, **of_spec)
    given: dict[str, Any] = {
        "spec": described,
        "line": Standing(count=waiting, each_s=described.avg_latency_s),
        "busy": (Taken(described.avg_latency_s),) * in_flight,
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
