"""All that the door offers, put together."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.news import News
from ollama_proxy.inbound.bounds import Bounds
from ollama_proxy.inbound.grpc.pb import (
    compute_v1_pb2,
    ext_proc_v3_pb2,
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
from ollama_proxy.inbound.picker.addresses import Addresses
from ollama_proxy.inbound.picker.desk import Desk, Overhears, PickerSettings
from ollama_proxy.inbound.picker.service import ExternalProcessor
from ollama_proxy.inbound.trust import Gate

_OURS = ollama_proxy_pb2.DESCRIPTOR.services_by_name["OllamaProxy"]
_COMPUTE = compute_v1_pb2.DESCRIPTOR.services_by_name["ComputeService"]
_HEALTH = health_v1_pb2.DESCRIPTOR.services_by_name["Health"]
_REFLECTION = reflection_v1_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
_REFLECTION_ALPHA = reflection_v1alpha_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
_PICKER = ext_proc_v3_pb2.DESCRIPTOR.services_by_name["ExternalProcessor"]
_ALL = (_OURS, _COMPUTE, _PICKER, _HEALTH, _REFLECTION, _REFLECTION_ALPHA)
_QUESTIONS = ("ServerReflectionInfo",)


# What an ext_proc message holds beside a body: a head, and what Envoy says of where it runs.
_MESSAGE_SLACK_BYTES = 1 << 20


def all_methods(
    dispatcher: Dispatcher,
    climate: Climate,
    news: News,
    *,
    gate: Gate,
    bounds: Bounds | None = None,
    picker: PickerSettings | None = None,
    overhear: Callable[[bytes], Overhears] | None = None,
) -> Sequence[Method]:
    """Every method of every service.

    Args:
        dispatcher: takes their jobs.
        climate: the mode and the machine's state.
        news: of what changes.
        gate: says which of a proxy's callers may ask.
        bounds: what requests may hold that a proxy asks about.
        picker: how it is told where to.
        overhear: begins to read an answer that it carries.
    """
    changes = Changes()
    news.read_by(changes.tell)

    def is_ready() -> bool:
        stations = dispatcher.stations.values()
        return not dispatcher.is_draining and any(s.spec.enabled and s.healthy for s in stations)

    described = Described(_ALL)
    ours = OllamaProxy(dispatcher, climate, changes)
    health = Health(is_ready, lambda: dispatcher.is_draining, changes, described.services)
    new, old = (Reflection(described, pb) for pb in (reflection_v1_pb2, reflection_v1alpha_pb2))
    return (
        *methods_of(_OURS, ours, endless=("WatchState",)),
        *methods_of(_COMPUTE, ComputeService(dispatcher, climate)),
        *_picking(
            Desk(
                dispatcher=dispatcher,
                gate=gate,
                bounds=bounds or Bounds(),
                settings=picker or PickerSettings(),
                addresses=Addresses(),
                overhear=overhear,
            )
        ),
        *_uncounted(methods_of(_HEALTH, health, endless=("Watch",))),
        *methods_of(_REFLECTION, new, endless=_QUESTIONS),
        *methods_of(_REFLECTION_ALPHA, old, endless=_QUESTIONS),
    )


def _picking(desk: Desk) -> Iterator[Method]:
    """The picker's methods, whose messages hold whole bodies of other people's requests."""
    message_bytes = desk.settings.limits.max_body_bytes + _MESSAGE_SLACK_BYTES
    for method in methods_of(_PICKER, ExternalProcessor(desk)):
        yield attrs.evolve(
            method, counts=False, message_bytes=message_bytes, hears_faults=True, relays=True
        )


def _uncounted(methods: Iterable[Method]) -> Iterator[Method]:
    """Those of health, as /healthz: a proxy that asks twice a second must not be told that it is too often."""
    for method in methods:
        yield attrs.evolve(method, counts=False)
