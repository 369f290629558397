"""What a router answers on its control routes, in the contract's shapes."""

from typing import Any

BACKEND: dict[str, Any] = {
    "id": "npu",
    "name": "NPU",
    "type": "ollama",
    "hardware": "npu",
    "endpoint": "http://127.0.0.1:11434",
    "enabled": True,
    "healthy": True,
    "last_error": None,
    "models": ["fake:latest"],
    "loaded_models": [],
    "slots": 2,
    "in_flight": 1,
    "queued": {"best_effort": 1, "normal": 2, "high": 0, "critical": 0},
    "latency": {
        "ttft_ms": {"value": 800.0, "source": "learned"},
        "tokens_per_s": {"value": 41.5, "source": "learned"},
    },
    "power_watts": {"value": 3.0, "source": "configured"},
    "temperature_c": 51.0,
    "thermal_state": "nominal",
    "throttled": False,
    "asleep": False,
    "energy_j_per_token": None,
    "requests_total": 7,
    "errors_total": 0,
}
HEALTH: dict[str, Any] = {
    "status": "degraded",
    "backends": {"npu": "healthy", "cpu": "unhealthy"},
    "healthy": 1,
    "total": 2,
    "version": "0",
}
DECISION: dict[str, Any] = {
    "backend": "npu",
    "reason": "power-efficient",
    "alternatives": [],
    "candidates": [
        {
            "backend": "npu",
            "eligible": True,
            "why_not": None,
            "score": 1.5,
            "terms": {"time": 1.0, "watts": 0.5},
            "predicted_ttft_ms": 800.0,
            "predicted_watts": 3.0,
        },
        {"backend": "gpu", "eligible": False, "why_not": "it is too hot"},
    ],
}


def _zone(name: str, temperature_c: float, limit_c: float | None) -> dict[str, Any]:
    return {
        "name": name,
        "part": name,
        "temperature_c": temperature_c,
        "limit_c": limit_c,
        "throttling": False,
        "quality": "ok",
    }


HEAT: dict[str, Any] = {
    "state": "severe",
    "zones": [_zone("gpu", 91, 90), _zone("package", 95, 100), _zone("board", 40, None)],
    "fans": [{"name": "fan1", "rpm": 2400, "percent": 50, "quality": "ok"}],
    "power": [{"name": "rapl", "watts": 28.5, "part": "package", "quality": "ok"}],
    "history": [],
}
EFFICIENCY: dict[str, Any] = {
    "mode": "auto",
    "effective_mode": "quiet",
    "reason": "battery",
    "modes": [
        {"name": "auto", "title": "Auto", "description": "as it is"},
        {"name": "quiet", "title": "Quiet", "description": "few fans"},
    ],
    "on_battery": True,
    "battery_percent": 41.2,
    "power_budget_watts": None,
    "since": 0,
}
