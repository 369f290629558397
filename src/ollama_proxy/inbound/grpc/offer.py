"""All that the door offers, put together."""

from collections.abc import Sequence

from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.news import News
from ollama_proxy.inbound.grpc.pb import (
    compute_v1_pb2,
    health_v1_pb2,
    ollama_proxy_pb2,
    reflection_v1_pb2,
    reflection_v1alpha_pb2,
)
from ollama_proxy.inbound.grpc.rpc import Method, methods_of
from ollama_proxy.inbound.grpc.services.changes import Changes
from ollama_proxy.inbound.grpc.services.compute import ComputeService
from ollama_proxy.inbound.grpc.services.health import Health
from ollama_proxy.inbound.grpc.services.reflection import Described, Reflection
from ollama_proxy.inbound.grpc.services.router import OllamaProxy

_OURS = ollama_proxy_pb2.DESCRIPTOR.services_by_name["OllamaProxy"]
_COMPUTE = compute_v1_pb2.DESCRIPTOR.services_by_name["ComputeService"]
_HEALTH = health_v1_pb2.DESCRIPTOR.services_by_name["Health"]
_REFLECTION = reflection_v1_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
_REFLECTION_ALPHA = reflection_v1alpha_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
_ALL = (_OURS, _COMPUTE, _HEALTH, _REFLECTION, _REFLECTION_ALPHA)
_QUESTIONS = ("ServerReflectionInfo",)


def all_methods(dispatcher: Dispatcher, climate: Climate, news: News) -> Sequence[Method]:
    """Every method of every service."""
    changes = Changes()
    news.read_by(changes.tell)

    def is_ready() -> bool:
        stations = dispatcher.stations.values()
        return not dispatcher.is_draining and any(s.spec.enabled and s.healthy for s in stations)

    described = Described(_ALL)
    ours = OllamaProxy(dispatcher, climate, changes)
    health = Health(is_ready, changes, described.services)
    new, old = (Reflection(described, pb) for pb in (reflection_v1_pb2, reflection_v1alpha_pb2))
    return (
        *methods_of(_OURS, ours, endless=("WatchState",)),
        *methods_of(_COMPUTE, ComputeService(dispatcher, climate)),
        *methods_of(_HEALTH, health, endless=("Watch",)),
        *methods_of(_REFLECTION, new, endless=_QUESTIONS),
        *methods_of(_REFLECTION_ALPHA, old, endless=_QUESTIONS),
    )
