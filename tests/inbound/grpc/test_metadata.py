"""gRPC's words in HTTP headers."""

import base64
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.inbound.grpc.metadata import (
    MESSAGE_MAX_BYTES,
    encode_binary,
    encode_message,
    end_of_answer,
    head_of_answer,
    parse_timeout,
    read_head,
)
from ollama_proxy.inbound.grpc.status import WELL, CallFailed, Ended, Status
from tests.inbound.grpc.peer import head

LIMIT = 16384


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"0S", 0.0),
        (b"300m", 0.3),
        (b"5u", 5e-6),
        (b"99999999n", 0.099999999),
    ],
)
def test_a_timeout_has_a_unit(value: bytes, seconds: float) -> None:
    """Each of the six is read."""
    assert pytest.approx(seconds) == parse_timeout(value)


@pytest.mark.parametrize(
    "value", [b"", b"1", b"S", b"1s", b"-1S", b"1.5S", b"123456789S", b"1S ", b"1S\n", b"\xff"]
)
def test_what_is_no_timeout_is_refused(value: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(CallFailed) as caught:
        parse_timeout(value)

    assert Status.INVALID_ARGUMENT is caught.value.ended.status


@given(st.text(max_size=300))
def test_a_sentence_comes_back_as_it_was(text: str) -> None:
    """Percent-encoded UTF-8, and nothing but printable ASCII on the wire."""
    written = encode_message(text)

    assert text.encode("utf-8", "replace") == unquote_to_bytes(written)
    assert all(0x20 <= byte < 0x7F for byte in written)


def test_an_endless_sentence_is_cut_between_letters() -> None:
    """What is left is still UTF-8."""
    text = unquote_to_bytes(encode_message("ü" * 5000)).decode()

    assert "ü" * (MESSAGE_MAX_BYTES // 2) == text


@given(st.binary(max_size=100), st.booleans())
def test_binary_metadata_comes_back_as_it_was(value: bytes, padded: bool) -> None:
    """With padding or without."""
    written = base64.b64encode(value) if padded else encode_binary(value)

    found = read_head(head("/a/B", (b"x-it-bin", written)), max_bytes=LIMIT)

    assert ([(b"x-it-bin", value)], None) == (found.metadata, found.fault)


def test_binary_metadata_may_be_a_list() -> None:
    """Values that were joined by commas are several."""
    found = read_head(head("/a/B", (b"x-it-bin", b"AAE=,/w")), max_bytes=LIMIT)

    assert [(b"x-it-bin", b"\x00\x01"), (b"x-it-bin", b"\xff")] == found.metadata


def test_a_head_is_read() -> None:
    """GRPC's own headers are told apart from the caller's."""
    more = [
        (b"grpc-timeout", b"2S"),
        (b"grpc-encoding", b"gzip"),
        (b"grpc-accept-encoding", b"identity, gzip"),
        (b"user-agent", b"it"),
        (b"x-priority", b"high"),
    ]
    found = read_head(head("/a/B", *more), max_bytes=LIMIT)

    assert ("/a/B", 2.0, b"gzip", True) == (
        found.path,
        found.timeout_s,
        found.encoding,
        found.takes_gzip,
    )
    assert [(b"x-priority", b"high")] == found.metadata
    assert b"high" == found.first(b"x-priority")
    assert found.is_grpc


@pytest.mark.parametrize(
    ("content_type", "is_grpc"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc; charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/grpc+json", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_only_grpc_is_grpc(content_type: bytes, is_grpc: bool) -> None:
    """Its kin in browsers frames otherwise, and would be misread."""
    found = read_head(head("/a/B", content_type=content_type), max_bytes=LIMIT)

    assert is_grpc is found.is_grpc


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ((b"grpc-timeout", b"soon"), Status.INVALID_ARGUMENT),
        ((b"grpc-encoding", b"snappy"), Status.UNIMPLEMENTED),
        ((b"x-it-bin", b"!!!"), Status.INVALID_ARGUMENT),
        ((b"x-it", b"x" * LIMIT), Status.RESOURCE_EXHAUSTED),
    ],
)
def test_a_faulty_head_is_one_calls_fault(header: tuple[bytes, bytes], status: Status) -> None:
    """It is said, and nothing is raised."""
    found = read_head(head("/a/B", header), max_bytes=LIMIT)

    assert found.fault is not None
    assert status is found.fault.status


def test_an_answer_that_was_never_begun_is_trailers_only() -> None:
    """Its only headers have HTTP's status and gRPC's."""
    ended = Ended(Status.NOT_FOUND, "100 % no", b"\x00\xff", (("retry-after", "5"),))
    only = end_of_answer(ended, [(b"x-it-bin", b"\x01")], is_all=True)
    after = end_of_answer(WELL, [], is_all=False)

    assert {
        b":status": b"200",
        b"content-type": b"application/grpc",
        b"grpc-accept-encoding": b"identity,gzip",
        b"grpc-status": b"5",
        b"grpc-message": b"100 %25 no",
        b"grpc-status-details-bin": b"AP8",
        b"x-it-bin": b"AQ",
        b"retry-after": b"5",
    } == dict(only)
    assert [(b"grpc-status", b"0")] == after


def test_compression_is_announced_where_it_is_used() -> None:
    """And nowhere else."""
    assert (b"grpc-encoding", b"gzip") in head_of_answer([], gzip=True)
    assert b"grpc-encoding" not in dict(head_of_answer([], gzip=False))
