"""Ollama's generating answers, as they are written for a caller."""

import datetime as dt
from collections.abc import Mapping, Sequence

import attrs
import msgspec

from ollama_proxy.policy.ask import Call

NANOSECONDS_PER_SECOND = 1_000_000_000


@attrs.frozen(kw_only=True)
class Said:
    """What one piece of an answer says, or the whole of it. `calls` are whole tool calls."""

    text: str = ""
    thinking: str = ""
    calls: Sequence[Mapping[str, object]] = ()
    logprobs: Sequence[msgspec.Raw] = ()


def _timestamp(now: float) -> str:
    """RFC 3339 with nanoseconds, as Go writes it."""
    nanoseconds = round(now * NANOSECONDS_PER_SECOND)
    seconds, rest = divmod(nanoseconds, NANOSECONDS_PER_SECOND)
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


@attrs.frozen(kw_only=True)
class OllamaWords:
    """Writes the answers to one call, in the shape of `/api/chat` or `/api/generate`.

    Attributes:
        call: which of the two.
        model: the name the caller used.
        now: Unix time in seconds; every line carries it, as no line knows its own.
        logprobs: whether the caller asked for them.
    """

    call: Call
    model: str
    now: float
    logprobs: bool = False
    _head: Mapping[str, object] = attrs.field(init=False)

    @_head.default
    def _stamp(self) -> Mapping[str, object]:
        return {"model": self.model, "created_at": _timestamp(self.now)}

    def line(self, said: Said) -> bytes:
        """One line of a stream, which goes on."""
        return msgspec.json.encode({**self._head, **self._content(said), "done": False}) + b"\n"

    def last(self, said: Said, reason: str, counts: Mapping[str, int]) -> bytes:
        """The last line of a stream, or with everything said, the whole answer."""
        end = {"done": True, "done_reason": reason}
        return msgspec.json.encode({**self._head, **self._content(said), **end, **counts})

    def idle(self, reason: str) -> bytes:
        """The answer to a call that only loads or unloads a model."""
        return self.last(Said(), reason, {})

    def _content(self, said: Said) -> dict[str, object]:
        more: dict[str, object] = {}
        if said.thinking:
            more["thinking"] = said.thinking
        if said.calls:
            more["tool_calls"] = said.calls
        logprobs = {"logprobs": said.logprobs} if said.logprobs else {}
        if self.call is Call.OLLAMA_CHAT:
            return {"message": {"role": "assistant", "content": said.text, **more}, **logprobs}
        return {"response": said.text, **more, **logprobs}
