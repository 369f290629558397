"""OpenAI's chat and completion answers, as they are written for a caller."""

from collections.abc import Mapping, Sequence

import attrs
import msgspec

from ollama_proxy.policy.ask import Call

DONE = b"data: [DONE]\n\n"


@attrs.frozen(kw_only=True)
class Said:
    """What one piece of an answer says, or the whole of it. `calls` are in OpenAI's words."""

    text: str = ""
    thinking: str = ""
    calls: Sequence[Mapping[str, object]] = ()


def _event(fields: Mapping[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


@attrs.frozen(kw_only=True)
class OpenAIWords:
    """Writes the answers to one call, in the shape of a chat or of a completion.

    Attributes:
        call: which of the two.
        model: the name the caller used.
        now: Unix time in seconds.
        identity: unique to the call.
        include_usage: whether the caller of a stream wants the figures.
    """

    call: Call
    model: str
    now: float
    identity: str
    include_usage: bool = False

    def whole(self, said: Said, finish_reason: str, usage: Mapping[str, int] | None) -> bytes:
        """The whole answer."""
        choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        if self.call is Call.OPENAI_CHAT:
            message: dict[str, object] = {
                "role": "assistant",
                "content": said.text or (None if said.calls else ""),
                "refusal": None,
            }
            if said.thinking:
                message["reasoning_content"] = said.thinking
            if said.calls:
                message["tool_calls"] = said.calls
            choice["message"] = message
        else:
            choice["text"] = said.text
        figures = {"usage": usage} if usage is not None else {}
        return msgspec.json.encode({
            **self._head("chat.completion"),
            "choices": [choice],
            **figures,
        })

    def opening(self) -> bytes:
        """What a stream begins with: a chat's says who speaks."""
        if self.call is not Call.OPENAI_CHAT:
            return b""
        return self._chunk({"delta": {"role": "assistant", "content": ""}}, None)

    def piece(self, said: Said) -> bytes:
        """One piece of a stream, which goes on."""
        if self.call is not Call.OPENAI_CHAT:
            return self._chunk({"text": said.text}, None) if said.text else b""
        delta: dict[str, object] = {}
        if said.thinking:
            delta["reasoning_content"] = said.thinking
        if said.text:
            delta["content"] = said.text
        if said.calls:
            delta["tool_calls"] = said.calls
        return self._chunk({"delta": delta}, None) if delta else b""

    def closing(self, finish_reason: str, usage: Mapping[str, int] | None) -> bytes:
        """What a stream ends with."""
        empty: dict[str, object] = {"delta": {}} if self.call is Call.OPENAI_CHAT else {"text": ""}
        figures = b""
        if self.include_usage:
            head = self._head("chat.completion.chunk")
            figures = _event({**head, "choices": (), "usage": usage})
        return self._chunk(empty, finish_reason) + figures + DONE

    def _chunk(self, content: Mapping[str, object], finish_reason: str | None) -> bytes:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        figures = {"usage": None} if self.include_usage else {}
        head = self._head("chat.completion.chunk")
        return _event({**head, "choices": [choice], **figures})

    def _head(self, chat_object: str) -> dict[str, object]:
        is_chat = self.call is Call.OPENAI_CHAT
        return {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{self.identity}",
            "object": chat_object if is_chat else "text_completion",
            "created": int(self.now),
            "model": self.model,
            "system_fingerprint": "fp_ollama",  # as Ollama's own /v1 has it
        }
