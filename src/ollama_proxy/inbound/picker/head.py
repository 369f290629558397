"""What Envoy tells of a request or an answer before its body, read once; and what goes on to a node."""

from collections.abc import Iterable, Iterator, Mapping

import attrs

from ollama_proxy.inbound.grpc.pb import ext_proc_v3_pb2 as pb
from ollama_proxy.inbound.lane import LaneLimits
from ollama_proxy.inbound.picker.words import DESTINATION, METADATA
from ollama_proxy.policy.ask import CALLS_BY_PATH, Call, Dialect
from ollama_proxy.policy.refusal import Code, Refusal

_SUBSET = "x-gateway-destination-endpoint-subset"
_SUBSET_METADATA = "envoy.lb.subset_hint"
_SERVED = "x-gateway-destination-endpoint-served"
_ATTRIBUTES = "envoy.filters.http.ext_proc"
_OURS_AND_BY = 32  # of each header, as HTTP/2 counts it
# What a request keeps on its way to a node beside what the router's own calls have: how it is sent, and
# who sent it. Everything else is between the caller and us: keys, cookies, wishes.
_KEPT = frozenset({
    b"host",
    b"content-type",
    b"content-length",
    b"transfer-encoding",
    b"te",
    b"via",
    b"forwarded",
    DESTINATION.encode(),
})
_KEPT_PREFIXES = (b":", b"x-envoy-", b"x-forwarded-")


@attrs.frozen(kw_only=True)
class Head:
    """The head of a request or an answer.

    Attributes:
        pseudo: what HTTP/2 writes with a colon, without it.
        headers: the others, lower-case names.
        path: what is asked for, without a query.
    """

    pseudo: Mapping[bytes, bytes]
    headers: list[tuple[bytes, bytes]]
    path: str
    _first: Mapping[bytes, bytes]

    @classmethod
    def read(cls, told: pb.HttpHeaders) -> "Head":
        """Read it."""
        pseudo: dict[bytes, bytes] = {}
        headers: list[tuple[bytes, bytes]] = []
        for header in told.headers.headers:
            name = header.key.lower().encode("latin-1", "replace")
            value = header.raw_value or header.value.encode("latin-1", "replace")
            if name.startswith(b":"):
                pseudo[name[1:]] = value
            else:
                headers.append((name, value))
        return cls(
            pseudo=pseudo,
            headers=headers,
            path=pseudo.get(b"path", b"").partition(b"?")[0].decode("latin-1"),
            # A later one takes the place of an earlier: so the last comes first.
            first=dict(reversed(headers)),
        )

    def first(self, name: bytes) -> bytes | None:
        """The first value of a header; None where there is none."""
        return self._first.get(name)

    @property
    def method(self) -> str:
        """How."""
        return self.pseudo.get(b"method", b"").decode("latin-1")

    @property
    def host(self) -> bytes:
        """For whom it was meant."""
        return self.pseudo.get(b"authority", b"") or self.first(b"host") or b""

    @property
    def origin(self) -> bytes | None:
        """Whose page asks; two are none that is allowed."""
        origins = [value for name, value in self.headers if name == b"origin"]
        return b", ".join(origins) if origins else None

    @property
    def call(self) -> Call | None:
        """Which inference call it is; None where it is none."""
        return CALLS_BY_PATH.get(self.path) if self.method == "POST" else None

    @property
    def dialect(self) -> Dialect:
        """In whose words to answer."""
        if (call := CALLS_BY_PATH.get(self.path)) is not None:
            return call.dialect
        return Dialect.OLLAMA if self.path.startswith("/api/") else Dialect.OPENAI

    @property
    def status(self) -> int:
        """Of an answer; 0 where it has none."""
        status = self.pseudo.get(b"status", b"")
        return int(status) if status.isdigit() and len(status) == 3 else 0  # noqa: PLR2004 - RFC 9110

    @property
    def length(self) -> int:
        """Of the body, as far as it was announced."""
        length = self.first(b"content-length") or b""
        return int(length) if length.isdigit() and len(length) < 18 else 0  # noqa: PLR2004 - int() refuses thousands

    def judge(self, limits: LaneLimits) -> Refusal | None:
        """Say what is wrong with a request's head, in the lane's words, or None."""
        if not self.path.startswith("/") or not self.method:
            return Refusal(Code.INVALID_REQUEST, "The request has no path, or no method.")
        if len(self.headers) > limits.headers:
            return Refusal(Code.HEADERS_TOO_LARGE, f"More than {limits.headers} headers were sent.")
        size = sum(len(name) + len(value) + _OURS_AND_BY for name, value in self.headers)
        if size > limits.head_bytes:
            return Refusal(
                Code.HEADERS_TOO_LARGE,
                f"The request's head is longer than {limits.head_bytes >> 10} KiB.",
            )
        coding = self.first(b"content-encoding")
        if coding is not None and coding.strip().lower() not in {b"", b"identity"}:
            return Refusal(Code.UNSUPPORTED_MEDIA_TYPE, "Send the body without Content-Encoding.")
        return too_large(limits) if self.length > limits.max_body_bytes else None

    def withheld(self, passed: Iterable[bytes]) -> Iterator[str]:
        """The headers that a node does not get; each once.

        Args:
            passed: names that it does.
        """
        kept = _KEPT | frozenset(passed)
        for name in self._first:
            if name not in kept and not name.startswith(_KEPT_PREFIXES):
                yield name.decode("latin-1")


def too_large(limits: LaneLimits) -> Refusal:
    """What is said of a body that is too large."""
    limit = limits.max_body_bytes >> 20
    return Refusal(Code.BODY_TOO_LARGE, f"The body is larger than {limit} MiB (max_body_mib).")


def subset_of(request: pb.ProcessingRequest) -> frozenset[str] | None:
    """The endpoints that may be picked from; None: all that there are."""
    hint = request.metadata_context.filter_metadata.get(_SUBSET_METADATA)
    if hint is None or _SUBSET not in hint.fields:
        return None
    value = hint.fields[_SUBSET]
    if value.WhichOneof("kind") == "string_value":
        listed = value.string_value.split(",")
    else:
        listed = [each.string_value for each in value.list_value.values]
    return frozenset(each.strip() for each in listed if each.strip())


@attrs.frozen(kw_only=True)
class Origin:
    """Where an answer came from, as far as Envoy tells.

    Attributes:
        endpoint: the node's; empty where nobody says.
        is_node: a node has answered, rather than Envoy for one that it could not reach.
    """

    endpoint: str
    is_node: bool


def origin_of(request: pb.ProcessingRequest, head: Head) -> Origin:
    """Read where an answer came from: the protocol's metadata, or else what Envoy was asked to tell."""
    told = request.attributes.get(_ATTRIBUTES)
    fields = told.fields if told is not None else {}
    served = request.metadata_context.filter_metadata.get(METADATA)
    endpoint = ""
    if served is not None and _SERVED in served.fields:
        endpoint = served.fields[_SERVED].string_value
    elif "upstream.address" in fields:
        endpoint = fields["upstream.address"].string_value
    if "response.code_details" in fields:
        is_node = fields["response.code_details"].string_value == "via_upstream"
    else:
        is_node = head.first(b"x-envoy-upstream-service-time") is not None
    return Origin(endpoint=endpoint.strip(), is_node=is_node)
