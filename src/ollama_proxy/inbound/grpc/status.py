"""How calls end, and what a refusal is in gRPC's words: the one table, beside HTTP's in `answers`."""

import enum
import math

import attrs

from ollama_proxy.inbound.grpc.pb import status_pb2
from ollama_proxy.policy.refusal import Code, Refusal

DOMAIN = "ollama-proxy"
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"


class Status(enum.IntEnum):
    """How a call ended (grpc/doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


STATUS: dict[Code, Status] = {
    Code.INVALID_REQUEST: Status.INVALID_ARGUMENT,
    Code.INVALID_HEADER: Status.INVALID_ARGUMENT,
    Code.UNKNOWN_BACKEND: Status.INVALID_ARGUMENT,
    Code.UNSUPPORTED_MEDIA_TYPE: Status.INVALID_ARGUMENT,
    Code.INVALID_API_KEY: Status.UNAUTHENTICATED,
    Code.FORBIDDEN: Status.PERMISSION_DENIED,
    Code.PERMISSION_DENIED: Status.PERMISSION_DENIED,
    Code.RATE_LIMITED: Status.RESOURCE_EXHAUSTED,
    Code.NOT_FOUND: Status.NOT_FOUND,
    Code.MODEL_NOT_FOUND: Status.NOT_FOUND,
    Code.METHOD_NOT_ALLOWED: Status.UNIMPLEMENTED,
    Code.NOT_IMPLEMENTED: Status.UNIMPLEMENTED,
    Code.HTTP_VERSION: Status.UNIMPLEMENTED,
    Code.BODY_TOO_LARGE: Status.RESOURCE_EXHAUSTED,
    Code.HEADERS_TOO_LARGE: Status.RESOURCE_EXHAUSTED,
    Code.QUEUE_FULL: Status.RESOURCE_EXHAUSTED,
    Code.REQUEST_TIMEOUT: Status.CANCELLED,  # the caller left its answer unread
    Code.BACKEND_FAILED: Status.UNAVAILABLE,
    Code.NO_BACKEND: Status.UNAVAILABLE,
    Code.PREEMPTED: Status.UNAVAILABLE,
    Code.SHUTTING_DOWN: Status.UNAVAILABLE,
    # Not UNAVAILABLE: a client that tries again by itself would only be refused again.
    Code.DEADLINE_UNMEETABLE: Status.DEADLINE_EXCEEDED,
    Code.DEADLINE_EXCEEDED: Status.DEADLINE_EXCEEDED,
    Code.INTERNAL: Status.INTERNAL,
}


@attrs.frozen
class Ended:
    """The end of a call.

    Attributes:
        status: how it ended.
        message: a sentence for people; empty where it ended well.
        details: a google.rpc.Status, for machines; empty: none.
        trailing: more metadata for the end.
        refusal: as which the books know it; without it, by its status.
    """

    status: Status
    message: str = ""
    details: bytes = b""
    trailing: tuple[tuple[str, str], ...] = ()
    refusal: Refusal | None = None

    @property
    def booked(self) -> Refusal:
        """Why there was no answer, in the words that every door shares."""
        return self.refusal or Refusal(_CODES.get(self.status, Code.INVALID_REQUEST), self.message)


# What the wire itself refuses; whatever else is wrong with a call is its caller's mistake.
_CODES = {
    Status.UNIMPLEMENTED: Code.NOT_IMPLEMENTED,
    Status.RESOURCE_EXHAUSTED: Code.BODY_TOO_LARGE,
    Status.DEADLINE_EXCEEDED: Code.DEADLINE_EXCEEDED,
}
WELL = Ended(Status.OK)


class CallFailed(Exception):  # noqa: N818 - how a call ends is an answer, not an error of the program
    """Carries the end of a call out of code that can only return a success."""

    def __init__(self, status: Status, message: str, refusal: Refusal | None = None) -> None:
        """Keep how it ends; `refusal`: as which the books know it."""
        super().__init__(message)
        self.ended = Ended(status, message, refusal=refusal)


def refused(refusal: Refusal) -> Ended:
    """The end of a call that was refused; its details name the same code as HTTP's errors do."""
    status = STATUS[refusal.code]
    info = status_pb2.ErrorInfo(reason=refusal.code.value, domain=DOMAIN)
    if refusal.param is not None:
        info.metadata["param"] = refusal.param
    told = status_pb2.Status(code=status, message=refusal.message)
    told.details.add(type_url=_ERROR_INFO, value=info.SerializeToString())
    trailing: tuple[tuple[str, str], ...] = ()
    if refusal.retry_after_s is not None:
        trailing = (("retry-after", str(max(1, math.ceil(refusal.retry_after_s)))),)
    return Ended(status, refusal.message, told.SerializeToString(), trailing, refusal)
