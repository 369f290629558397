"""What the router reads and changes of JSON, and that nothing else is touched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.backends.backend import CallRejected
from ollama_proxy.backends.body import error_message, with_model


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a"}', b'{"model":"b"}'),
        (b' { "model" : "a" , "n" : 1.50 }', b'{"model":"b","n":1.50}'),
        (
            b'{"seed":123456789012345678901234567890,"model":"a"}',
            b'{"seed":123456789012345678901234567890,"model":"b"}',
        ),
        (b'{"model":"a","x":1e400,"y":-0.0}', b'{"model":"b","x":1e400,"y":-0.0}'),
        (b'{"model":"a","t":{ "model": "a" }}', b'{"model":"b","t":{ "model": "a" }}'),
        (b'{"model":"a","s":"\\ud83d\\ude00 \\/"}', b'{"model":"b","s":"\\ud83d\\ude00 \\/"}'),
        (b'{"mod\\u0065l":"a"}', b'{"model":"b"}'),
        (b'{"model":"x","model":"a"}', b'{"model":"b"}'),
    ],
)
def test_only_the_model_changes(body: bytes, expected: bytes) -> None:
    """Every other value keeps its bytes: digits, escapes, inner spaces, order."""
    assert expected == with_model(body, "b")


def test_a_bytearray_will_do() -> None:
    """Bodies come as either."""
    assert b'{"model":"b"}' == with_model(bytearray(b'{"model":"a"}'), "b")


@pytest.mark.parametrize(
    "body", [b'{"model":"a","\xff":1}', b'{"model":"a"', b"[]", b"", b'{"a":' + b"[" * 100_000]
)
def test_what_cannot_be_rewritten_is_the_callers_fault(body: bytes) -> None:
    """It is told so, as a fault of that call."""
    with pytest.raises(CallRejected) as caught:
        with_model(body, "b")

    assert 400 == caught.value.status


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"error":"no"}', "no"),
        (b'{"error":{"message":"no","code":1}}', "no"),
        (b'{"type":"error","error":{"type":"x","message":"no"}}', "no"),
        (b'{"message":"no"}', "no"),
        (b'{"detail":"no"}', "no"),
        (b'{"detail":[{"msg":"no"}]}', ""),
        (b'{"error":{"message":null}}', ""),
        (b'{"error":null}', ""),
        (b'"no"', ""),
        (b"<html>no</html>", ""),
        (b"", ""),
        (b'{"error":"\xff"}', ""),
        (b"[" * 100_000, ""),
        (b'{"error":"' + b"n" * 1000 + b'"}', "n" * 500),
    ],
)
def test_the_sentence_in_an_error(content: bytes, expected: str) -> None:
    """It is found in every dialect, cut to a bearable length, and else nothing is made up."""
    assert expected == error_message(content)


@given(
    st.binary(max_size=200)
    | st.text(max_size=50).map(lambda text: f'{{"error":"{text}"}}'.encode())
)
def test_no_error_is_worse_than_another(content: bytes) -> None:
    """Whatever a server sends, reading its error raises none of our own."""
    assert isinstance(error_message(content), str)
