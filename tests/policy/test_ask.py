"""What a caller asks for: values understood, and values refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.ask import (
    WISH_NAMES,
    Ask,
    Call,
    Dialect,
    Framing,
    MalformedWish,
    MediaType,
    Priority,
    Wishes,
    read_wishes,
)


@pytest.mark.parametrize(
    ("given_wishes", "expected"),
    [
        ({}, Wishes()),
        ({"target": " npu "}, Wishes(target="npu")),
        ({"latency_critical": "true"}, Wishes(latency_critical=True)),
        ({"latency_critical": "False"}, Wishes()),
        ({"power_efficient": "1"}, Wishes(power_efficient=True)),
        ({"max_latency_ms": "500"}, Wishes(max_latency_s=0.5)),
        ({"max_latency_ms": "0.5"}, Wishes(max_latency_s=0.0005)),
        ({"max_power_watts": "3.5"}, Wishes(max_power_watts=3.5)),
        ({"priority": "critical"}, Wishes(priority=Priority.CRITICAL)),
        ({"priority": "0"}, Wishes(priority=Priority.BEST_EFFORT)),
        ({"priority": "Best-Effort"}, Wishes(priority=Priority.BEST_EFFORT)),
        (
            {"media_type": "audio"},
            Wishes(media_type=MediaType.AUDIO, priority=Priority.HIGH),
        ),
        (
            {"media_type": "realtime", "priority": "normal"},
            Wishes(media_type=MediaType.REALTIME, priority=Priority.NORMAL),
        ),
    ],
)
def test_wishes_are_understood(given_wishes: dict[str, str], expected: Wishes) -> None:
    """Each wish is read into SI units; a media type implies a priority unless one is given."""
    assert expected == read_wishes(given_wishes)


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        ("target", " "),
        ("latency_critical", "maybe"),
        ("max_latency_ms", "0"),
        ("max_latency_ms", "-5"),
        ("max_latency_ms", "nan"),
        ("max_latency_ms", "inf"),
        ("max_latency_ms", "1_000"),
        ("max_latency_ms", "fast"),
        ("max_power_watts", "0"),
        ("priority", "4"),
        ("priority", "-1"),
        ("priority", "urgent"),
        ("media_type", "smell"),
    ],
)
def test_malformed_wishes_are_named(wish: str, text: str) -> None:
    """What cannot be understood is refused, naming the wish and the value."""
    with pytest.raises(MalformedWish) as caught:
        read_wishes({wish: text})

    assert (wish, text) == (caught.value.wish, caught.value.value)


@given(st.dictionaries(st.sampled_from(WISH_NAMES), st.text()))
def test_any_text_is_read_or_refused(texts: dict[str, str]) -> None:
    """No text makes reading fail in another way."""
    try:
        wishes = read_wishes(texts)
    except MalformedWish:
        return

    assert wishes.max_latency_s is None or wishes.max_latency_s > 0


@pytest.mark.parametrize(
    ("call", "dialect", "framing", "streams"),
    [
        (Call.OPENAI_CHAT, Dialect.OPENAI, Framing.SSE, False),
        (Call.ANTHROPIC_MESSAGES, Dialect.ANTHROPIC, Framing.SSE, False),
        (Call.OLLAMA_CHAT, Dialect.OLLAMA, Framing.NDJSON, True),
        (Call.OLLAMA_EMBED, Dialect.OLLAMA, Framing.NDJSON, False),
    ],
)
def test_calls_know_their_dialect(
    call: Call, dialect: Dialect, framing: Framing, streams: bool
) -> None:
    """A call tells its dialect, its framing, and whether it streams unasked."""
    assert (dialect, framing, streams) == (call.dialect, call.framing, call.streams_by_default)


def test_a_model_is_learned_of_by_either_of_its_names() -> None:
    """Without a tag `latest` is meant; a vector is another matter than an answer."""
    asks = [Ask(call=Call.OLLAMA_CHAT, model=name, stream=True) for name in ("m", "m:latest")]
    vectors = [Ask(call=Call.OLLAMA_EMBED, model=name, stream=False) for name in ("m", "m:latest")]

    assert {"m"} == {ask.subject for ask in asks}
    assert 1 == len({ask.subject for ask in vectors} - {"m"})
