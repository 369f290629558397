"""gRPC's words in HTTP headers (grpc/doc/PROTOCOL-HTTP2.md): read strictly, written plainly."""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote

import attrs

from ollama_proxy.inbound.grpc.status import CallFailed, Ended, Status

Pairs = list[tuple[bytes, bytes]]
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])\Z")
_GRPC = re.compile(rb"application/grpc(\+proto)?( *;.*)?\Z")
_RESERVED = frozenset({b"te", b"content-type", b"user-agent", b"host", b"content-length"})
# Everything printable but %, which is what the encoding itself is written with.
_PLAIN = "".join(chr(c) for c in range(0x20, 0x7F) if c != 0x25)  # noqa: PLR2004 - ASCII
MESSAGE_MAX_BYTES = 4096
IDENTITY, GZIP = b"identity", b"gzip"


def parse_timeout(value: bytes) -> float:
    """Seconds of a `grpc-timeout`.

    Raises:
        CallFailed: it is none.
    """
    parts = _TIMEOUT.match(value)
    if parts is None:
        raise CallFailed(
            Status.INVALID_ARGUMENT, f"grpc-timeout: {value[:40].decode('latin-1')!r} is no time."
        )
    return int(parts[1]) * _UNITS[parts[2]]


def encode_message(text: str) -> bytes:
    """A sentence as `grpc-message` carries it: percent-encoded UTF-8, cut where it is far too long."""
    cut = text.encode("utf-8", "replace")[:MESSAGE_MAX_BYTES].decode("utf-8", "ignore")
    return quote(cut, safe=_PLAIN).encode()


def encode_binary(value: bytes) -> bytes:
    """Bytes as a `-bin` header carries them."""
    return base64.b64encode(value).rstrip(b"=")


def _decode_binary(name: bytes, value: bytes) -> Iterator[bytes]:
    for part in value.split(b","):
        bare = part.strip().rstrip(b"=")
        try:
            yield base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)
        except binascii.Error:
            raise CallFailed(
                Status.INVALID_ARGUMENT, f"{name.decode('latin-1')}: is no base64."
            ) from None


def _own(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """The headers that are the caller's metadata, binary ones decoded."""
    for name, value in headers:
        if name.startswith((b":", b"grpc-")) or name in _RESERVED:
            continue
        if name.endswith(b"-bin"):
            for part in _decode_binary(name, value):
                yield name, part
        else:
            yield name, value


@attrs.frozen(kw_only=True)
class Head:
    """What a call begins with.

    Attributes:
        method: of HTTP; anything but POST is no gRPC.
        path: names service and method.
        authority: for whom it was meant.
        content_type: as it was given.
        timeout_s: how long the caller waits; None: for ever.
        encoding: how its messages are compressed.
        takes_gzip: answers may be.
        metadata: the caller's own, lower-case names; values of `-bin` are decoded.
        fault: why the call cannot be served, whoever it is for.
    """

    method: bytes
    path: str
    authority: bytes
    content_type: bytes
    timeout_s: float | None = None
    encoding: bytes = IDENTITY
    takes_gzip: bool = False
    metadata: Pairs = attrs.field(factory=list)
    fault: Ended | None = None

    @property
    def is_grpc(self) -> bool:
        """Whether it is meant for this door at all."""
        return self.method == b"POST" and _GRPC.match(self.content_type) is not None

    def first(self, name: bytes) -> bytes | None:
        """The first value of a name; None where there is none."""
        return next((value for each, value in self.metadata if each == name), None)


def read_head(headers: Pairs, *, max_bytes: int) -> Head:
    """Read what a call begins with. What is wrong with it is said in `fault`."""
    given = dict(headers)
    encoding = given.get(b"grpc-encoding", IDENTITY)
    timeout_s, metadata, fault = None, [], None
    try:
        _check(headers, encoding, max_bytes)
        if (timeout := given.get(b"grpc-timeout")) is not None:
            timeout_s = parse_timeout(timeout)
        metadata = list(_own(headers))
    except CallFailed as failed:
        fault = failed.ended
    accepted = given.get(b"grpc-accept-encoding", b"")
    return Head(
        method=given.get(b":method", b""),
        path=given.get(b":path", b"").decode("latin-1"),
        authority=given.get(b":authority", b"") or given.get(b"host", b""),
        content_type=given.get(b"content-type", b""),
        timeout_s=timeout_s,
        encoding=encoding,
        takes_gzip=GZIP in accepted and GZIP in [each.strip() for each in accepted.split(b",")],
        metadata=metadata,
        fault=fault,
    )


def _check(headers: Pairs, encoding: bytes, max_bytes: int) -> None:
    if sum(len(name) + len(value) + 32 for name, value in headers) > max_bytes:
        why = f"The metadata is larger than {max_bytes} bytes."
        raise CallFailed(Status.RESOURCE_EXHAUSTED, why)
    if encoding not in {IDENTITY, GZIP}:
        shown = encoding[:40].decode("latin-1")
        why = f"grpc-encoding: expected identity or gzip, got {shown!r}."
        raise CallFailed(Status.UNIMPLEMENTED, why)


# -- our side --------------------------------------------------------------------------------------

_OUR_HEAD: Pairs = [
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity,gzip"),
]


def _written(metadata: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    for name, value in metadata:
        yield name, encode_binary(value) if name.endswith(b"-bin") else value


def head_of_answer(metadata: Pairs, *, gzip: bool) -> Pairs:
    """The headers that an answer begins with."""
    encoding = [(b"grpc-encoding", GZIP)] if gzip else []
    return [*_OUR_HEAD, *encoding, *_written(metadata)]


def end_of_answer(ended: Ended, metadata: Pairs, *, is_all: bool) -> Pairs:
    """The headers that an answer ends with; `is_all`: it was never begun."""
    headers = [*_OUR_HEAD] if is_all else []
    headers.append((b"grpc-status", b"%d" % ended.status))
    if ended.message:
        headers.append((b"grpc-message", encode_message(ended.message)))
    if ended.details:
        headers.append((b"grpc-status-details-bin", encode_binary(ended.details)))
    headers += _written(metadata)
    headers += [(name.encode(), value.encode()) for name, value in ended.trailing]
    return headers
