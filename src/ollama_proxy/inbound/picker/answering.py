"""What an answer's head tells of the node that gave it, where only Envoy reads the rest.

It is judged as `backends.server` judges an answer that comes this way, as far as a head goes.
"""

from ollama_proxy.engine.job import BackendFailed, CallerLeft, CallUnserved, Fault, ModelMissing
from ollama_proxy.inbound.picker.head import Head, Origin
from ollama_proxy.policy.refusal import Code

_ERROR = 400
_SERVER_ERROR = 500
_UNKNOWN_CALL = {405, 501}
# Not what the caller has sent is at fault: our key there, or how busy it is.
# What a router's own refusals mean, as far as a status tells.
_REFUSALS = {
    429: (Fault.FULL, Code.QUEUE_FULL),
    503: (Fault.FULL, Code.QUEUE_FULL),
    504: (Fault.DECLINED, Code.DEADLINE_EXCEEDED),
}
_NODES_FAULT = {401, 403, 407, 408, 425, 429}


def fault_of(head: Head, origin: Origin, *, of_router: bool = False) -> Exception | None:
    """Whose fault an answer is; None where it is none of the node's: it served, or told its caller off.

    `of_router`: the node is one like this, whose refusals do not mean that it is not well.
    """
    status = head.status
    if not origin.is_node:
        return _fault_on_the_way(status)
    if of_router and status in _REFUSALS:
        fault, code = _REFUSALS[status]
        return BackendFailed(
            fault,
            f"it answered {status}",
            status=status,
            code=code,
            retry_after_s=_seconds(head.first(b"retry-after")),
        )
    kind = head.first(b"content-type") or b""
    if status in _UNKNOWN_CALL or (status == 404 and not kind.startswith(b"application/json")):  # noqa: PLR2004 - RFC 9110
        return CallUnserved()
    if status == 404:  # noqa: PLR2004 - a server that knows the call, and not the model, says so in JSON
        return ModelMissing()
    if status in _NODES_FAULT or status >= _SERVER_ERROR or not status:
        return BackendFailed(Fault.REFUSED, f"it answered {status}", status=status)
    if 300 <= status < _ERROR:  # noqa: PLR2004 - RFC 9110: elsewhere
        return BackendFailed(Fault.REFUSED, "it redirected the call", status=status)
    return None


def _fault_on_the_way(status: int) -> Exception:
    """Envoy's own answer."""
    if status == 504:  # noqa: PLR2004 - RFC 9110: the gateway's time is up
        return BackendFailed(Fault.SILENT, "nothing came of it in the proxy's time")
    if status >= _SERVER_ERROR or not status:
        return BackendFailed(Fault.UNREACHABLE, "the proxy got no answer of it")
    # A body that is too large for it, say: the answer is the caller's, and no node has seen it.
    return CallerLeft()


def _seconds(value: bytes | None) -> float | None:
    return float(value) if value is not None and value.isdigit() and len(value) < 6 else None  # noqa: PLR2004 - a day has five digits
