"""What servers say of the work that an answer took: bytes in, a `Report` out.

Rule 1: nothing here raises, whatever the bytes. What is missing, of the wrong type or beyond belief
is left out; a report of nothing is None.
Rule 2: only fixed places of a JSON object are read, none where a model's own words could stand.
"""

from typing import Any

import msgspec

from ollama_proxy.backends.backend import Report
from ollama_proxy.backends.body import NO_JSON

LONGEST_BYTES = 1 << 20
MOST_TOKENS = 100_000_000
LONGEST_S = 86_400.0
# Figures stand in the last event or in one of the few before it: a stop, a ping, a [DONE].
_LAST_EVENTS = 4
_LAST_LINES = 24
_START = b"event: message_start"
_NS = 1e-9
_MS = 1e-3

# The fields of `Report`, as far as they were told.
_Figures = dict[str, Any]


class _Said(msgspec.Struct):
    """The places where figures stand, or may stand: nothing is promised of their types.

    The two that can be long are not even parsed, unless `type` says that they hold figures.
    """

    type: Any = None
    usage: Any = None
    timings: Any = None
    message: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    prompt_eval_count: Any = None
    eval_count: Any = None
    load_duration: Any = None
    prompt_eval_duration: Any = None
    eval_duration: Any = None


class _Inner(msgspec.Struct):
    usage: Any = None


_SAID = msgspec.json.Decoder(_Said)
_INNER = msgspec.json.Decoder(_Inner)


def read_whole(body: bytes) -> Report | None:
    """What is said in one JSON object, in any of the dialects."""
    return None if len(body) > LONGEST_BYTES else _report(_figures(body))


def read_stream(tail: bytes) -> Report | None:
    """What is said at the end of a stream of events (SSE) or of lines (NDJSON).

    Args:
        tail: its last bytes; they may begin anywhere. Anthropic's dialect counts the prompt in the
            first event, which is read only if they begin with it.
    """
    figures: _Figures = {}
    end, events = len(tail), 0
    for _ in range(_LAST_LINES):
        if end < 0 or events == _LAST_EVENTS:
            break
        start = tail.rfind(b"\n", 0, end) + 1
        if start == end:
            end -= 1
            continue
        content = tail[start:end].removeprefix(b"data:").strip()
        end = start - 1
        if content.startswith(b"{"):
            events += 1
            figures = _figures(content) | figures
    if figures and tail.startswith(_START):
        first = tail.split(b"\n", 2)[1].removeprefix(b"data:")
        figures = _figures(first) | figures
    return _report(figures)


def _report(figures: _Figures) -> Report | None:
    prompt, cached = figures.get("prompt_tokens"), figures.get("cached_tokens")
    if prompt is not None and cached is not None and cached > prompt:
        del figures["cached_tokens"]
    return Report(**figures) if figures else None


def _figures(content: bytes) -> _Figures:
    """The figures in one JSON object."""
    try:
        said = _SAID.decode(content)
        match said.type:
            case "message_start":
                usage = _of_usage(_INNER.decode(said.message).usage)
                # It stands there for an answer that is yet to come.
                usage.pop("answer_tokens", None)
            case "response.completed" | "response.incomplete":
                usage = _of_usage(_INNER.decode(said.response).usage)
            case _:
                usage = _of_usage(said.usage)
    except NO_JSON:
        return {}
    return _of_ollama(said) | _of_timings(said.timings) | usage


def _told(**figures: float | None) -> _Figures:
    return {name: figure for name, figure in figures.items() if figure is not None}


def _of_ollama(said: _Said) -> _Figures:
    if said.eval_count is said.prompt_eval_count is None:
        return {}  # another dialect's, nearly always; whoever tells durations tells one of these
    return _told(
        prompt_tokens=_count(said.prompt_eval_count),
        answer_tokens=_count(said.eval_count),
        load_s=_seconds(said.load_duration, _NS),
        prefill_s=_seconds(said.prompt_eval_duration, _NS),
        decode_s=_seconds(said.eval_duration, _NS),
    )


def _of_usage(usage: object) -> _Figures:
    """OpenAI's figures, those of its Responses, or Anthropic's: each has names of its own."""
    if not isinstance(usage, dict):
        return {}
    if "prompt_tokens" in usage or "completion_tokens" in usage:
        return _told(
            prompt_tokens=_count(usage.get("prompt_tokens")),
            cached_tokens=_cached(usage.get("prompt_tokens_details")),
            answer_tokens=_count(usage.get("completion_tokens")),
        )
    prompt, cached = _count(usage.get("input_tokens")), _count(usage.get("cache_read_input_tokens"))
    if prompt is not None:
        # Anthropic's count leaves out what was read from the cache, or written to it.
        written = _count(usage.get("cache_creation_input_tokens"))
        prompt = _count(prompt + (cached or 0) + (written or 0))
    return _told(
        prompt_tokens=prompt,
        cached_tokens=_cached(usage.get("input_tokens_details")) if cached is None else cached,
        answer_tokens=_count(usage.get("output_tokens")),
    )


def _cached(details: object) -> int | None:
    return _count(details.get("cached_tokens")) if isinstance(details, dict) else None


def _of_timings(timings: object) -> _Figures:
    """llama-server's figures, which it gives without being asked, in streams too."""
    if not isinstance(timings, dict):
        return {}
    # What it calls the prompt is the part that it had to compute.
    computed, cached = _count(timings.get("prompt_n")), _count(timings.get("cache_n"))
    whole = None if computed is None or cached is None else _count(computed + cached)
    return _told(
        prompt_tokens=whole,
        cached_tokens=cached,
        answer_tokens=_count(timings.get("predicted_n")),
        prefill_s=_seconds(timings.get("prompt_ms"), _MS),
        decode_s=_seconds(timings.get("predicted_ms"), _MS),
    )


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_TOKENS:
        return None
    return value


def _seconds(value: object, unit_s: float) -> float | None:
    # The bound is brought to the value's unit, as a value of hundreds of digits has no float.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value * unit_s if 0 <= value <= LONGEST_S / unit_s else None
