"""An inference request's headers and body, read into a job: the same for every HTTP door.

The body is parsed once, for three fields; everything else in it is skipped, not built.
"""

import itertools
import re
import secrets
from collections.abc import Iterable

import attrs
import msgspec

from ollama_proxy.engine.job import Caller, Carriage, Errand, Job
from ollama_proxy.policy.affinity import prefix_keys
from ollama_proxy.policy.ask import Ask, Call, MalformedWish, Priority, read_wishes
from ollama_proxy.policy.onward import VIA, came_through_router
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

_WISHES_BY_HEADER = {
    b"x-target-backend": "target",
    b"x-latency-critical": "latency_critical",
    b"x-power-efficient": "power_efficient",
    b"x-max-latency-ms": "max_latency_ms",
    b"x-max-power-watts": "max_power_watts",
    b"x-priority": "priority",
    b"x-media-type": "media_type",
}
_HEADERS_BY_WISH = {
    "target": "X-Target-Backend",
    "latency_critical": "X-Latency-Critical",
    "power_efficient": "X-Power-Efficient",
    "max_latency_ms": "X-Max-Latency-Ms",
    "max_power_watts": "X-Max-Power-Watts",
    "priority": "X-Priority",
    "media_type": "X-Media-Type",
}
_OBJECTIVE = b"x-gateway-inference-objective"
_SLO = b"x-slo-ttft-ms"
_SLO_HEADER = "X-SLO-TTFT-Ms"
_ID_HEADER = "X-Request-ID"
_PRIORITY_NAMES = frozenset(priority.label for priority in Priority)
_ONCE = "it once, not twice"
_PASSED = frozenset({b"accept", b"user-agent", b"traceparent", b"tracestate"})
_PASSED_PREFIXES = (b"anthropic-", b"openai-")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}\Z")
ID_EXPECTED = "1 to 128 letters, digits or ._:@/+=-"
CLIENT_MAX = 128
_MADE_UP = secrets.token_hex(4)
_counter = itertools.count(1)


_NOTHING = msgspec.Raw()


class _Peek(msgspec.Struct):
    """All that routing needs of a body. What is raw is not looked into: it may be of any type."""

    model: str
    stream: bool | None = None
    messages: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    max_tokens: msgspec.Raw = _NOTHING
    max_completion_tokens: msgspec.Raw = _NOTHING
    max_output_tokens: msgspec.Raw = _NOTHING
    options: msgspec.Raw = _NOTHING


class _Options(msgspec.Struct):
    """All that routing needs of Ollama's options."""

    num_predict: msgspec.Raw = _NOTHING


class _AnyObject(msgspec.Struct):
    """Any JSON object."""


_peek = msgspec.json.Decoder(_Peek)
_options = msgspec.json.Decoder(_Options)
_object = msgspec.json.Decoder(_AnyObject)
_PICTURE_MIN_BYTES = 4096
# What pictures begin and end with: data URLs, as OpenAI has them; Ollama's lists; Anthropic's source.
_PICTURES = ((b";base64,", b'"'), (b'"images":', b"]"), (b'"type":"base64"', b"}"))
_WHOLE_NUMBER = re.compile(rb"[1-9][0-9]{0,8}\Z")


def make_request_id() -> str:
    """An id no other request of this process has, nor likely one of another."""
    return f"req-{_MADE_UP}-{next(_counter):x}"


class RoutingHeaders:
    """The headers of one request that bear on routing, and those that are passed on.

    Attributes:
        request_id: the caller's, or made up.
        passed: what goes to the backend.
        given: wish name to its text.
        client: who asks, for taking turns in line; empty for whoever does not say.
        forwarded: it came through another router.
        fault: the first malformed header, if one is.
        names_itself: the id is the caller's.
        objective: a priority by its name; empty where it is none of ours. The Gateway API's header may
            name what only a cluster's own picker knows, which is no mistake here.
    """

    __slots__ = (
        "client",
        "fault",
        "forwarded",
        "given",
        "names_itself",
        "objective",
        "passed",
        "request_id",
        "slo",
    )

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Sort headers (lower-case names)."""
        self.passed: list[tuple[bytes, bytes]] = []
        self.given: dict[str, str] = {}
        self.slo: str | None = None
        self.objective = ""
        self.fault: Refusal | None = None
        self.request_id = ""
        self.client = ""
        self.forwarded = False
        for name, value in headers:
            if name in _PASSED or name.startswith(_PASSED_PREFIXES):
                self.passed.append((name, value))
            elif name.startswith(b"x-"):
                self._keep(name, value)
            elif name == VIA and came_through_router(value):
                self.forwarded = True
        self.names_itself = bool(self.request_id)
        self._identify()

    def _identify(self) -> None:
        if not self.names_itself:
            self.request_id = make_request_id()
        self.passed.append((b"x-request-id", self.request_id.encode()))

    def again(self) -> "RoutingHeaders":
        """Those of one more request with the same headers; each that has no name is given its own."""
        if self.names_itself:
            return self
        other = RoutingHeaders.__new__(RoutingHeaders)
        other.client, other.fault, other.forwarded = self.client, self.fault, self.forwarded
        other.slo, other.objective = self.slo, self.objective
        other.given, other.names_itself, other.passed = self.given, False, self.passed[:-1]
        other._identify()  # noqa: SLF001 - one of its own
        return other

    def _keep(self, name: bytes, value: bytes) -> None:
        wish = _WISHES_BY_HEADER.get(name)
        if wish is not None:
            if wish in self.given:
                self._blame(_HEADERS_BY_WISH[wish], value, _ONCE)
            self.given[wish] = value.decode("latin-1")
        elif name == _SLO:
            if self.slo is not None:
                self._blame(_SLO_HEADER, value, _ONCE)
            self.slo = value.decode("latin-1")
        elif name == _OBJECTIVE:
            label = value.decode("latin-1").strip().lower()
            self.objective = label if label in _PRIORITY_NAMES else ""
        elif name == b"x-client-id":
            self.client = value[:CLIENT_MAX].decode("latin-1")
        elif name == b"x-request-id":
            if self.request_id:
                self._blame(_ID_HEADER, value, _ONCE)
            elif is_request_id(value):
                self.request_id = value.decode()
            else:
                self._blame(_ID_HEADER, value, ID_EXPECTED)

    def _blame(self, header: str, value: bytes, expected: str) -> None:
        if self.fault is None:
            self.fault = _invalid_header(header, value, expected)


def is_request_id(value: bytes) -> bool:
    """Whether it may stand in a backend's header and in a line of the log."""
    return _REQUEST_ID.match(value) is not None


def _invalid_header(header: str, value: bytes, expected: str) -> Refusal:
    shown = value[:100].decode("latin-1")
    return Refusal(
        Code.INVALID_HEADER, f"{header}: expected {expected}, got {shown!r}.", param=header
    )


def read_ask(
    call: Call,
    body: bytes | bytearray,
    *,
    carried: bool = False,
    within: frozenset[str] | None = None,
) -> Ask:
    """Read what is asked from a call's body.

    Args:
        call: which.
        body: as it came.
        carried: another proxy makes the call.
        within: ids of the backends that it can reach; None: all.

    Raises:
        RequestRefused: the body is no JSON object with a model's name.
    """
    try:
        peek = _peek.decode(body)
        # Strings that are skipped are not looked into: what is no text would only fail later, and
        # look like a fault of each backend in turn.
        body.decode()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RequestRefused(_body_fault(body, error)) from None
    if not peek.model:
        raise RequestRefused(
            Refusal(Code.INVALID_REQUEST, "model: must name a model, is empty.", param="model")
        )
    stream = call.streams_by_default if peek.stream is None else peek.stream
    return Ask(
        call=call,
        model=peek.model,
        stream=stream and not call.embeds,
        prompt_bytes=_prompt_bytes(body),
        answer_limit=_answer_limit(peek),
        carried=carried,
        within=within,
        prefix=prefix_keys(peek.model, memoryview(peek.messages or peek.prompt or peek.input)),
    )


def _prompt_bytes(body: bytes | bytearray) -> int:
    """The size of a prompt's text: of a body without its pictures, whose bytes are no tokens."""
    size = len(body)
    if size < _PICTURE_MIN_BYTES:
        return size
    for mark, end in _PICTURES:
        at = body.find(mark)
        while at >= 0:
            until = body.find(end, at + len(mark))
            size -= max(0, until - at - len(mark))
            at = body.find(mark, until) if until >= 0 else -1
    return size


def _answer_limit(peek: _Peek) -> int | None:
    """How many tokens the caller wants at most.

    What makes no sense is no limit here: whether it is an error is the backend's to say.
    """
    limit = peek.max_tokens or peek.max_completion_tokens or peek.max_output_tokens
    if not limit and b"num_predict" in memoryview(peek.options).tobytes():
        try:
            limit = _options.decode(peek.options).num_predict
        except msgspec.DecodeError:
            return None
    digits = memoryview(limit).tobytes()
    return int(digits) if _WHOLE_NUMBER.match(digits) else None


def _body_fault(body: bytes | bytearray, error: Exception) -> Refusal:
    """Say what is wrong with a body, for the person who sent it."""
    if not body.strip():
        return Refusal(Code.INVALID_REQUEST, "The body is empty; a JSON object is expected.")
    if isinstance(error, RecursionError):
        return Refusal(Code.INVALID_REQUEST, "The body's JSON is nested too deeply.")
    if isinstance(error, UnicodeDecodeError):
        return Refusal(Code.INVALID_REQUEST, f"The body is not UTF-8: {error.reason}.")
    if not isinstance(error, msgspec.ValidationError):
        return Refusal(Code.INVALID_REQUEST, f"The body is not valid JSON: {error}.")
    try:
        _object.decode(body)
    except RecursionError:
        return Refusal(Code.INVALID_REQUEST, "The body's JSON is nested too deeply.")
    except msgspec.DecodeError:
        return Refusal(Code.INVALID_REQUEST, "The body must be a JSON object.")
    text = str(error)
    if "missing required field" in text:
        return Refusal(Code.INVALID_REQUEST, "model: is missing.", param="model")
    field = "stream" if "$.stream" in text else "model"
    expected = "true or false" if field == "stream" else "a string"
    return Refusal(Code.INVALID_REQUEST, f"{field}: must be {expected}.", param=field)


def read_job(
    call: Call,
    headers: RoutingHeaders,
    body: bytes | bytearray,
    *,
    caller: Caller,
    door: str,
    arrived: float,
    key_name: str = "",
    carriage: Carriage | None = None,
    within: frozenset[str] | None = None,
) -> Job:
    """Make a job of a request; with a `carriage`, of one that another proxy carries, `within` its reach.

    Raises:
        RequestRefused: a header or the body cannot be understood.
    """
    if headers.fault is not None:
        raise RequestRefused(headers.fault)
    ask = read_ask(call, body, carried=carriage is not None, within=within)
    if headers.forwarded:
        ask = attrs.evolve(ask, forwarded=True)
    given = headers.given
    if headers.slo is not None and ask.stream:
        given = {"max_latency_ms": headers.slo} | given
    if headers.objective:
        given = {"priority": headers.objective} | given
    try:
        wishes = read_wishes(given)
    except MalformedWish as wish:
        is_slo = wish.wish == "max_latency_ms" and wish.wish not in headers.given
        header = _SLO_HEADER if is_slo else _HEADERS_BY_WISH[wish.wish]
        raise RequestRefused(
            _invalid_header(header, wish.value.encode("latin-1", "replace"), wish.expected)
        ) from None
    return Job(
        errand=Errand(
            call=call, model=ask.model, body=body, stream=ask.stream, headers=tuple(headers.passed)
        ),
        ask=ask,
        wishes=wishes,
        caller=caller,
        request_id=headers.request_id,
        door=door,
        arrived=arrived,
        client=headers.client,
        key_name=key_name,
        carriage=carriage,
    )
