"""How `say --grpc` asks: with gRPC's own client, which is an extra, on a thread beside Trio's."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from ollama_proxy.client import (
    WISHES,
    Unanswered,
    encryption,
    grpc_target,
    key_headers,
    papers,
)
from ollama_proxy.inbound.grpc.pb import ollama_proxy_pb2 as pb

if TYPE_CHECKING:
    from ollama_proxy.say import Heard

_SERVICE = "/ollama_proxy.OllamaProxy"
_NAMES = {"power_efficient": "prefer_power_efficiency"}
_NUMBERS = {"max_latency_ms", "max_power_watts"}
_MISSING = "--grpc needs gRPC's client: install ollama-proxy-router[grpc-client]"


def _annotations(arguments: argparse.Namespace) -> pb.Annotations:
    """The wishes. Raises Unanswered where a value is no number."""
    given: dict[str, Any] = {}
    for wish in (*WISHES, "latency_critical", "power_efficient"):
        value = getattr(arguments, wish)
        if value in {None, False}:
            continue
        try:
            given[_NAMES.get(wish, wish)] = float(value) if wish in _NUMBERS else value
        except ValueError:
            raise Unanswered(f"{wish}: expected a number, got {value!r}") from None
    return pb.Annotations(**given)


async def hear_over_grpc(
    arguments: argparse.Namespace, heard: "Heard", scope: trio.CancelScope
) -> None:
    """Ask for a text and hear it to its end; cancelled, the call is cancelled."""
    # It would write about a handshake that failed, too; a line of ours says it.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import grpc  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        heard.fault = _MISSING
        return
    try:
        annotations = _annotations(arguments)
        key = [(name.lower(), value) for name, value in key_headers(arguments).items()]
        channel = _open_channel(grpc, arguments)
    except Unanswered as error:
        heard.fault = str(error)
        return
    with channel:
        calls: list[Any] = []

        def ask() -> None:
            try:
                for message in _answers(channel, arguments, annotations, key, calls):
                    trio.from_thread.run_sync(_take, heard, message, scope)
            except grpc.RpcError as error:
                heard.fault = error.details() or str(error.code())

        try:
            await trio.to_thread.run_sync(ask, abandon_on_cancel=True)
        finally:
            for call in calls:
                call.cancel()


def _open_channel(grpc: Any, arguments: argparse.Namespace) -> Any:  # noqa: ANN401 - it has no types
    """Raises Unanswered."""
    target, is_encrypted = grpc_target(arguments)
    options = [("grpc.enable_http_proxy", 0)]
    if not is_encrypted:
        return grpc.insecure_channel(target, options=options)
    encryption(arguments, f"https://{target}")  # which has words for what is wrong with the files
    trusted, own = (Path(path).read_bytes() if path else None for path in papers(arguments))
    credentials = grpc.ssl_channel_credentials(trusted, private_key=own, certificate_chain=own)
    return grpc.secure_channel(target, credentials, options=options)


def _answers(
    channel: Any,  # noqa: ANN401 - grpcio has no types
    arguments: argparse.Namespace,
    annotations: pb.Annotations,
    key: list[tuple[str, str]],
    calls: list[Any],
) -> Iterator[pb.GenerateResponse]:
    model = arguments.model
    if not model:
        listing = channel.unary_unary(
            f"{_SERVICE}/ListModels",
            request_serializer=pb.ListModelsRequest.SerializeToString,
            response_deserializer=pb.ListModelsResponse.FromString,
        )
        models = listing(pb.ListModelsRequest(), metadata=key).models
        model = models[0].name if models else ""
    call = channel.unary_stream(
        f"{_SERVICE}/GenerateStream",
        request_serializer=pb.GenerateRequest.SerializeToString,
        response_deserializer=pb.GenerateResponse.FromString,
    )(
        pb.GenerateRequest(prompt=arguments.text, model=model, annotations=annotations),
        metadata=key,
    )
    calls.append(call)
    yield from call


def _take(heard: "Heard", message: pb.GenerateResponse, scope: trio.CancelScope) -> None:
    heard.backend = message.backend or heard.backend
    heard.reason = message.routing.reason or heard.reason
    heard.take(message.response, scope)
    if message.done:
        heard.finish_reason = message.finish_reason
        heard.tokens = message.stats.tokens_generated or heard.tokens
        if message.stats.HasField("energy_joules"):
            heard.joules = message.stats.energy_joules
            heard.joules_source = message.stats.energy_source
