"""Refusals and routing facts in the words of HTTP and of the caller's dialect: the one table."""

import math

import msgspec

from ollama_proxy.engine.job import Job
from ollama_proxy.engine.ledger import TurnedAway
from ollama_proxy.policy.ask import Dialect, Framing
from ollama_proxy.policy.refusal import Code, Refusal

STATUS: dict[Code, int] = {
    Code.INVALID_REQUEST: 400,
    Code.INVALID_HEADER: 400,
    Code.UNKNOWN_BACKEND: 400,
    Code.INVALID_API_KEY: 401,
    Code.FORBIDDEN: 403,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.MODEL_NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.REQUEST_TIMEOUT: 408,
    Code.BODY_TOO_LARGE: 413,
    Code.UNSUPPORTED_MEDIA_TYPE: 415,
    Code.RATE_LIMITED: 429,
    Code.HEADERS_TOO_LARGE: 431,
    Code.INTERNAL: 500,
    Code.NOT_IMPLEMENTED: 501,
    Code.BACKEND_FAILED: 502,
    Code.NO_BACKEND: 503,
    Code.QUEUE_FULL: 503,
    Code.PREEMPTED: 503,
    Code.SHUTTING_DOWN: 503,
    Code.DEADLINE_UNMEETABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
    Code.HTTP_VERSION: 505,
}
# What one door says otherwise: the endpoint picker's protocol has its own word for a request that is dropped.
_STATUS_AT = {("picker", Code.QUEUE_FULL): 429}
REASON_PHRASES: dict[int, bytes] = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}
ALTERNATIVES_SHOWN = 16
# What Anthropic's SDK calls the kinds of error, by status; anything else is `api_error`.
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
CALLER_FAULT_BELOW = 500

Headers = list[tuple[bytes, bytes]]


def status_at(door: str, code: Code) -> int:
    """HTTP's status for a refusal, as those are told it, and the books, who come by a door."""
    return _STATUS_AT.get((door, code)) or STATUS[code]


def turned_away(door: str, path: str, refusal: Refusal, request_id: str = "") -> TurnedAway:
    """A request that becomes no job, for the books."""
    return TurnedAway(
        request_id=request_id,
        door=door,
        path=path,
        code=refusal.code,
        status=status_at(door, refusal.code),
    )


def error_object(dialect: Dialect, refusal: Refusal) -> object:
    """A refusal as the dialect's SDKs expect to decode it."""
    status = STATUS[refusal.code]
    match dialect:
        case Dialect.OLLAMA:
            return {"error": refusal.message, "code": refusal.code.value}
        case Dialect.ANTHROPIC:
            return {
                "type": "error",
                "error": {
                    "type": _ANTHROPIC_TYPES.get(status, "api_error"),
                    "message": refusal.message,
                    "code": refusal.code.value,
                },
            }
        case Dialect.OPENAI:
            kind = "invalid_request_error" if status < CALLER_FAULT_BELOW else "api_error"
            return {
                "error": {
                    "message": refusal.message,
                    "type": kind,
                    "param": refusal.param,
                    "code": refusal.code.value,
                }
            }


def error_body(dialect: Dialect, refusal: Refusal) -> bytes:
    """The body of an answer that was never begun."""
    return msgspec.json.encode(error_object(dialect, refusal))


def error_piece(framing: Framing, dialect: Dialect, refusal: Refusal, after: bytes) -> bytes:
    """The last piece of a stream that broke off.

    Args:
        framing: of the stream.
        dialect: of the call.
        refusal: why it broke off.
        after: the bytes before it. Where they stop in mid-line, the piece begins with a line's end,
            so that it stands alone; elsewhere it does not, since an empty line is no JSON.
    """
    content = error_body(dialect, refusal)
    match framing:
        case Framing.SSE:
            apart = b"" if after.endswith((b"\n\n", b"\r\n\r\n")) else b"\n\n"
            name = b"event: error\n" if dialect is Dialect.ANTHROPIC else b""
            return apart + name + b"data: " + content + b"\n\n"
        case Framing.NDJSON:
            apart = b"" if not after or after.endswith(b"\n") else b"\n"
            return apart + content + b"\n"


def error_headers(refusal: Refusal) -> Headers:
    """What goes with an error besides its body."""
    headers: Headers = [(b"content-type", b"application/json")]
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(refusal.retry_after_s))))
    if refusal.code is Code.INVALID_API_KEY:
        headers.append((b"www-authenticate", b'Bearer realm="ollama-proxy"'))
    return headers


def routing_headers(job: Job) -> Headers:
    """What was decided for a job, and how long it waited."""
    headers: Headers = [
        (b"x-request-id", job.request_id.encode()),
        (b"x-queue-ms", b"%.3f" % (job.queue_s * 1000)),
    ]
    decision = job.decision
    if decision is not None:
        alternatives = ",".join(decision.alternatives[:ALTERNATIVES_SHOWN])
        headers += [
            (b"x-backend-used", decision.backend.encode()),
            (b"x-routing-reason", decision.reason.value.encode()),
            (b"x-estimated-latency-ms", b"%.0f" % (decision.predicted_s * 1000)),
            (b"x-estimated-power-w", b"%.1f" % decision.watts),
            (b"x-alternatives", alternatives.encode()),
        ]
    if job.bill is not None:
        headers += [
            (b"x-energy-j", b"%.3f" % job.bill.joules),
            (b"x-energy-source", job.bill.grade.value.encode()),
        ]
    return headers
