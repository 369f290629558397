"""What became of an answer: it is whole, or tells that it is none, or is cut; nothing else may be.

A truncated answer that looks complete is what a caller cannot defend itself against, so what is
neither is an assertion's failure here, whatever a test expects.
"""

import enum
import json
from typing import Any

from tests.inbound.ends import Answer, post
from tests.routers import CHAT, MODEL

TOKENS = 12
WORD = " tok"
PATHS = (CHAT, "/api/chat", "/v1/messages")
_LAST = {CHAT: b"data: [DONE]\n\n", "/api/chat": b'"done":true', "/v1/messages": b"message_stop"}


class End(enum.Enum):
    """How an answer ended for its caller."""

    WHOLE = enum.auto()
    """Every token, and what the dialect says at the end."""
    TOLD = enum.auto()
    """An error, in words of the dialect."""
    CUT = enum.auto()
    """The connection ended before the framing said that the answer did."""


def chat(name: str = "", *, path: str = CHAT, stream: bool = True, **headers: Any) -> bytes:
    """A chat, for one backend or for any."""
    wish: dict[str, Any] = {"x_target_backend": name} if name else {}
    message = {"role": "user", "content": "hi"}
    body: dict[str, object] = {"model": MODEL, "messages": [message], "stream": stream}
    if path == "/v1/messages":
        body["max_tokens"] = 1000
    return post(path, body, **wish, **headers)


def end_of(answer: Answer, path: str = CHAT, tokens: int = TOKENS) -> End:
    """How it ended.

    Args:
        answer: as its framing has it.
        path: what was called.
        tokens: how many it has when it is whole.
    """
    if not answer.complete:
        return End.CUT
    if answer.status >= 400:
        assert answer.json["error"], answer
        return End.TOLD
    if is_stream(answer):
        last = answer.body.strip().splitlines()[-1] if answer.body.strip() else b""
        try:
            said = json.loads(last.removeprefix(b"data: "))
        except ValueError:
            said = None
        if isinstance(said, dict) and said.get("error"):
            assert b"[DONE]" not in answer.body, answer
            return End.TOLD
        assert _LAST[path] in answer.body[-400:], f"it looks complete: {answer}"
    assert tokens == answer.body.count(WORD.encode()), f"it looks complete: {answer}"
    return End.WHOLE


def is_stream(answer: Answer) -> bool:
    """Whether it is one of events or lines."""
    kind = answer.header("content-type") or ""
    return "event-stream" in kind or "ndjson" in kind
