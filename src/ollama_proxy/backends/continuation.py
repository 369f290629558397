"""Going on with a streamed answer that was broken off: what its caller has, and how to ask for the rest.

Rule 1: only what is understood to its last field is continued; all else passes unchanged.
Rule 2: a break is between two events: a part of one is kept back until it is whole.
Rule 3: nothing here waits or knows the clock; bytes in, bytes out.

What was said so far becomes the end of the prompt, or the assistant's own last message. Refused:

- Ollama's calls, Anthropic's and Responses: their last pieces count tokens and time, and the counts
  of the last part would be told of the whole. So would OpenAI's usage, for whoever asks for it.
- `continue_final_message`, which vLLM wants: strict servers refuse a field that they do not know.
- Going on by tokens instead of text: exact at the seam, but no dialect's stream tells them.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import attrs
import msgspec

from ollama_proxy.backends.backend import BackendFailed, Errand, Fault, Head, Transcript
from ollama_proxy.backends.body import NO_JSON
from ollama_proxy.policy.ask import Call, Framing

TEXT_MAX = 1 << 20  # characters
EVENT_MAX_BYTES = 64 << 10
_EVENT_END = re.compile(rb"\r?\n\r?\n")
_DONE = b"[DONE]"
_STREAM_TYPE = Framing.SSE.value.encode()
_SAID_IN = {Call.OPENAI_COMPLETION: "prompt", Call.OPENAI_CHAT: "messages"}
_LIMITS = ("max_tokens", "max_completion_tokens")
# Whatever these say, it is as true of the rest of an answer as of its beginning. What is not
# listed may not be: a grammar, say, would begin anew at the seam.
_FREE = frozenset({
    "model",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "logit_bias",
    "ignore_eos",
    "cache_prompt",
    "user",
    "metadata",
    "store",
    "keep_alive",
})
# These are as good as absent where they say this.
_IDLE = {
    "n": {b"1"},
    "best_of": {b"1"},
    "echo": {b"false"},
    "logprobs": {b"false"},
    "suffix": {b'""'},
    "tools": {b"[]"},
    "functions": {b"[]"},
    "response_format": {b'{"type":"text"}'},
    "stream_options": {b"{}", b'{"include_usage":false}'},
}
# What servers tell of a whole answer at its end.
_COUNTS = ("usage", "timings")


class _Message(msgspec.Struct):
    role: str


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_prompt = msgspec.json.Decoder(str)
_messages = msgspec.json.Decoder(list[msgspec.Raw])
_message = msgspec.json.Decoder(_Message)
_limit = msgspec.json.Decoder(Annotated[int, msgspec.Meta(ge=1)])

_Empty = Annotated[list[Any], msgspec.Meta(max_length=0)]


class _Delta(msgspec.Struct, forbid_unknown_fields=True):
    role: str | None = None
    content: str | None = None
    tool_calls: _Empty | None = None
    function_call: None = None
    reasoning: None = None
    reasoning_content: None = None
    refusal: None = None


class _Choice(msgspec.Struct, forbid_unknown_fields=True):
    index: Literal[0] = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: None = None
    logprobs: None = None
    prompt_token_ids: None = None
    stop_reason: None = None
    token_ids: None = None


class _Event(msgspec.Struct, forbid_unknown_fields=True):
    """An event that says text and nothing else; one that ends the answer is none."""

    id: str
    created: int
    model: str
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1, max_length=1)]
    object: str = ""
    prompt_token_ids: None = None
    service_tier: str | None = None
    system_fingerprint: str | None = None
    usage: None = None


_event = msgspec.json.Decoder(_Event)


def transcribe(errand: Errand) -> "SseTranscript | None":
    """Begin to note what the caller of a stream is given; None where nobody could go on with it."""
    if not errand.stream or errand.call not in _SAID_IN:
        return None
    try:
        fields = {k: raw for k, raw in _fields.decode(errand.body).items() if _text(raw) != b"null"}
        said_in = _SAID_IN[errand.call]
        if said_in == "prompt":
            _prompt.decode(fields["prompt"])
        elif _message.decode(_messages.decode(fields["messages"])[-1]).role == "assistant":
            return None
        limits = {name: _limit.decode(fields[name]) for name in _LIMITS if name in fields}
        for name in fields.keys() - _FREE - {said_in, *_LIMITS}:
            if _plainly(fields[name]) not in _IDLE.get(name, ()):
                return None
    except (*NO_JSON, KeyError, IndexError):
        return None
    return SseTranscript(errand, limits)


def _text(raw: msgspec.Raw) -> bytes:
    return memoryview(raw).tobytes().strip()


def _plainly(raw: msgspec.Raw) -> bytes:
    """A value, without the spaces in it."""
    return msgspec.json.encode(msgspec.json.decode(raw))


@attrs.define(eq=False)
class SseTranscript(Transcript):
    """What a caller was given of a stream of events, over all the parts that it came in.

    Attributes:
        pieces: how many events said something.
    """

    _errand: Errand
    _limits: Mapping[str, int]
    pieces: int = 0
    _said: list[str] = attrs.field(factory=list, repr=False)
    _said_length: int = 0
    _parts: int = 0
    _is_understood: bool = True
    _held: bytes = attrs.field(default=b"", repr=False)
    _identity: dict[str, Any] = attrs.field(factory=dict)
    _has_role: bool = False

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self._said)

    @property
    def is_continuable(self) -> bool:
        """Whether the rest can be asked for. One that has come to its limit is only to end."""
        return self._is_understood and self.pieces < min(self._limits.values(), default=math.inf)

    def continued(self) -> Errand | None:
        """The call for the rest; None where there is none. A piece is taken for a token."""
        if not self.is_continuable:
            return None
        said = self.text
        if not said:
            return self._errand
        fields = _fields.decode(self._errand.body)
        if self._errand.call is Call.OPENAI_COMPLETION:
            fields["prompt"] = _raw(_prompt.decode(fields["prompt"]) + said)
        else:
            begun = _raw({"role": "assistant", "content": said})
            fields["messages"] = _raw([*_messages.decode(fields["messages"]), begun])
        for name, limit in self._limits.items():
            fields[name] = _raw(limit - self.pieces)
        return attrs.evolve(self._errand, body=msgspec.json.encode(fields))

    def open(self, head: Head) -> None:
        """The head of a part's answer has come. What was left of an event before it is void.

        Raises:
            BackendFailed: it is no stream, where one is to go on.
        """
        is_stream = head.status == 200 and any(  # noqa: PLR2004 - RFC 9110: OK
            name == b"content-type" and value.partition(b";")[0].strip().lower() == _STREAM_TYPE
            for name, value in head.headers
        )
        if self._parts and not is_stream:
            raise BackendFailed(
                Fault.REFUSED,
                f"it answered {head.status} instead of going on",
                status=head.status,
            )
        if not is_stream or (not self._parts and head.length is not None):
            self._is_understood = False  # of a promised length, a joined answer would not be
        self._held = b""
        self._parts += 1

    def feed(self, data: bytes, *, complete: bool) -> bytes:
        """What the caller is to have of the bytes that came: events that are whole."""
        data = self._held + data
        self._held = b""
        passed: list[bytes] = []
        start = 0
        while self._is_understood or self._parts > 1:
            end = _EVENT_END.search(data, start)
            if end is None:
                break
            passed.append(self._pass(data[start : end.end()]))
            start = end.end()
        rest = data[start:]
        is_long = len(rest) > EVENT_MAX_BYTES
        self._is_understood &= not is_long
        if complete or is_long or not (self._is_understood or self._parts > 1):
            passed.append(rest)
        else:
            self._held = rest
        return b"".join(passed)

    def _pass(self, event: bytes) -> bytes:
        """Note an event, and give it as the caller is to have it."""
        content = _content(event)
        if self._parts > 1 and content is not None:
            event = self._joined(event, content)
            content = _content(event) if event else None
        if self._is_understood and content is not None:
            self._note(content)
        return event

    def _note(self, content: bytes) -> None:
        try:
            event = _event.decode(content)
        except NO_JSON:
            self._is_understood = False
            return
        if not self._identity:
            self._identity = {"id": event.id, "created": event.created, "model": event.model}
        (choice,) = event.choices
        said = choice.text
        if choice.delta is not None:
            said = choice.delta.content
            self._has_role |= choice.delta.role is not None
        if said:
            self._said.append(said)
            self._said_length += len(said)
            self.pieces += 1
            self._is_understood = self._said_length <= TEXT_MAX

    def _joined(self, event: bytes, content: bytes) -> bytes:
        """An event of a later part, as if the first part's server had gone on."""
        try:
            fields = msgspec.json.decode(content)
            (choice,) = fields["choices"]
            delta = choice.get("delta", {})
            if self._has_role and delta.pop("role", None) is not None:
                is_empty = not any(delta.values()) and choice.get("finish_reason") is None
                if is_empty:
                    return b""
        except (*NO_JSON, TypeError, KeyError, ValueError, AttributeError):
            return event  # the end's mark, or an error
        for name in _COUNTS:
            fields.pop(name, None)
        return b"data: " + msgspec.json.encode(fields | self._identity) + b"\n\n"


def _content(event: bytes) -> bytes | None:
    """What an event says; None for a comment. What is no event of one line says nothing known."""
    line = event.strip()
    if line.startswith(b":") and b"\n" not in line:
        return None
    return line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
