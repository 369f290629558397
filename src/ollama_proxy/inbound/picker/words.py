"""What Envoy is told, as it wants to hear it: one function for each message, without a decision."""

import functools
from collections.abc import Iterable, Iterator

from ollama_proxy.inbound.answers import Headers, error_body, error_headers, status_at
from ollama_proxy.inbound.grpc.pb import ext_proc_v3_pb2 as pb
from ollama_proxy.policy.ask import Dialect
from ollama_proxy.policy.refusal import Refusal

DOOR = "picker"
DESTINATION = "x-gateway-destination-endpoint"
METADATA = "envoy.lb"
# More would make Envoy's own limit of a message, 4 MiB, somebody's problem; upstream advises 64 KiB.
PIECE_BYTES = 62 << 10
_OVERWRITE = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def set_headers(mutation: pb.HeaderMutation, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Have headers set, over what stands there."""
    add = mutation.set_headers.add
    for name, value in headers:
        option = add()
        option.append_action = _OVERWRITE
        header = option.header
        header.key = name.decode("latin-1")
        header.raw_value = value


def point(
    answer: pb.ProcessingResponse, response: pb.CommonResponse, endpoints: str
) -> pb.HeaderMutation:
    """Have a request go to `endpoints`, best first; whatever else is set goes to what is returned."""
    response.clear_route_cache = True
    mutation = response.header_mutation
    set_headers(mutation, [(DESTINATION.encode(), endpoints.encode())])
    told = answer.dynamic_metadata.fields[METADATA].struct_value.fields[DESTINATION]
    told.string_value = endpoints
    return mutation


def refuse(
    dialect: Dialect, refusal: Refusal, more: Iterable[tuple[bytes, bytes]]
) -> pb.ProcessingResponse:
    """Have a caller told why there is no answer."""
    answer = pb.ProcessingResponse()
    immediate = answer.immediate_response
    immediate.status.code = status_at(DOOR, refusal.code)
    immediate.body = error_body(dialect, refusal)
    immediate.details = f"ollama_proxy_{refusal.code.value}"
    headers: Headers = [*error_headers(refusal), *more]
    set_headers(immediate.headers, headers)
    return answer


def allow(headers: Iterable[tuple[bytes, bytes]]) -> pb.ProcessingResponse:
    """Have a page's browser told what the page may send."""
    answer = pb.ProcessingResponse()
    answer.immediate_response.status.code = 204
    set_headers(answer.immediate_response.headers, headers)
    return answer


@functools.cache
def hold(seconds: float) -> pb.ProcessingResponse:
    """Have Envoy wait so long for the answer to its last message. Once for each. One for all."""
    answer = pb.ProcessingResponse()
    answer.override_message_timeout.FromMilliseconds(int(seconds * 1000))
    return answer


def pieces(body: bytes | bytearray, *, complete: bool) -> Iterator[pb.ProcessingResponse]:
    """A request's body, given back piece by piece; one empty piece, if need be, to say that it ends."""
    view = memoryview(body)
    size = len(view)
    for at in range(0, size or 1, PIECE_BYTES):
        answer = pb.ProcessingResponse()
        piece = answer.request_body.response.body_mutation.streamed_response
        piece.body = bytes(view[at : at + PIECE_BYTES])
        piece.end_of_stream = complete and at + PIECE_BYTES >= size
        yield answer


def echo(body: pb.HttpBody) -> pb.ProcessingResponse:
    """A piece of an answer, given back as it is."""
    answer = pb.ProcessingResponse()
    piece = answer.response_body.response.body_mutation.streamed_response
    piece.body = body.body
    piece.end_of_stream = body.end_of_stream
    return answer


@functools.cache
def go_on(phase: str) -> pb.ProcessingResponse:
    """Nothing is to be changed in a phase, by the name that it has in both directions. One for all."""
    answer = pb.ProcessingResponse()
    getattr(answer, phase).SetInParent()
    return answer
