"""Every word the fake backend says, as pure values: a route and a request in, bytes out.

The wording follows Ollama 0.12 and OpenAI's API as their clients read it. Times and digests are
constants, so that two answers to one question are equal byte by byte.
"""

import base64
import enum
import struct
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import attrs
import msgspec

EMBEDDING = (0.25, -0.5, 0.125, 1.0)
PROMPT_TOKENS = 5
CACHED_TOKENS = 2
_DIGEST = "sha256:" + "5f" * 32
_MOMENT = "2025-01-01T00:00:00Z"
_DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "fake",
    "families": ["fake"],
    "parameter_size": "0.5B",
    "quantization_level": "Q4_K_M",
}
# Stands in a template for what is said later; no model is called so.
_SAID = "\x7fsaid\x7f"
_SAID_JSON = msgspec.json.encode(_SAID)[1:-1]

Ask = Mapping[str, Any]


class Dialect(enum.Enum):
    """Whose words a route speaks."""

    OLLAMA = enum.auto()
    OPENAI = enum.auto()
    ANTHROPIC = enum.auto()


@attrs.frozen
class Words:
    """Bytes around what is said when they are sent; `after` is None when nothing is said."""

    before: bytes
    after: bytes | None = None

    def around(self, said: bytes) -> bytes:
        """The bytes with `said` (already escaped for JSON) in its place."""
        return self.before if self.after is None else self.before + said + self.after


@attrs.frozen(kw_only=True)
class Pace:
    """The times that an answer reports of itself, and where.

    Attributes:
        prefill_s: seconds for the prompt.
        decode_s: seconds for the tokens after the first.
        timings: whether OpenAI's answers report them too, in llama-server's words.
    """

    prefill_s: float = 0.0
    decode_s: float = 0.0
    timings: bool = False


@attrs.frozen(kw_only=True)
class Whole:
    """An answer that is said at once, `tokens` tokens of it by the model."""

    words: Words
    tokens: int = 0
    status: int = 200
    media: bytes = b"application/json"


@attrs.frozen(kw_only=True)
class Stream:
    """An answer of many pieces: `pieces` are paced, `opening` and `closing` lean on them."""

    media: bytes
    opening: bytes = b""
    pieces: tuple[Words, ...]
    closing: bytes = b""


SSE = b"text/event-stream"
NDJSON = b"application/x-ndjson"


def dialect(path: str) -> Dialect:
    """Whose words `path` speaks."""
    if path.startswith("/v1/messages"):
        return Dialect.ANTHROPIC
    return Dialect.OPENAI if path.startswith("/v1/") else Dialect.OLLAMA


def refusal(path: str, status: int, message: str) -> Whole:
    """An error in the words of `path`'s dialect."""
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    match dialect(path):
        case Dialect.OLLAMA:
            said: dict[str, Any] = {"error": message}
        case Dialect.OPENAI:
            said = {"error": {"message": message, "type": kind, "param": None, "code": None}}
        case Dialect.ANTHROPIC:
            said = {"type": "error", "error": {"type": kind, "message": message}}
        case unknown:
            assert_never(unknown)
    return json(said, status=status)


def gin_unserved() -> Whole:
    """What Ollama's web framework says of a path that it does not know."""
    return Whole(words=Words(b"404 page not found"), status=404, media=b"text/plain")


def llama_server_unserved() -> Whole:
    """What llama-server says of a path that it does not know."""
    error = {"code": 404, "message": "File Not Found", "type": "not_found_error"}
    return json({"error": error}, status=404)


def html_error() -> Whole:
    """What a reverse proxy in front of a dead backend says."""
    page = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
    return Whole(words=Words(page), status=502, media=b"text/html")


def json(said: object, *, status: int = 200) -> Whole:
    """A fixed JSON answer."""
    return Whole(words=Words(msgspec.json.encode(said)), status=status)


def plain(text: bytes) -> Whole:
    """A fixed text answer."""
    return Whole(words=Words(text), media=b"text/plain; charset=utf-8")


# -- what is asked ------------------------------------------------------------------------------


def full_name(model: str) -> str:
    """A model's name with its tag, as Ollama completes it."""
    return model if ":" in model else f"{model}:latest"


def model_asked(ask: Ask) -> str:
    """The model that a request names, "" when none."""
    return str(ask.get("model") or ask.get("name") or "")


def tokens_allowed(ask: Ask) -> int | None:
    """The most tokens that a request wants, None when it sets no bound."""
    options = ask.get("options")
    bounds = [ask.get(key) for key in ("max_tokens", "max_completion_tokens", "max_output_tokens")]
    if isinstance(options, Mapping):
        bounds.append(options.get("num_predict"))
    return next((b for b in bounds if isinstance(b, int) and b > 0), None)


# -- lists --------------------------------------------------------------------------------------


def _listed(model: str) -> dict[str, Any]:
    return {
        "name": full_name(model),
        "model": full_name(model),
        "modified_at": _MOMENT,
        "size": 397821319,
        "digest": _DIGEST.removeprefix("sha256:"),
        "details": _DETAILS,
    }


def tags(models: Sequence[str]) -> Whole:
    """Ollama's list of models."""
    return json({"models": [_listed(model) for model in models]})


def running(loaded: Sequence[str]) -> Whole:
    """Ollama's list of loaded models."""
    more = {"expires_at": "2099-01-01T00:00:00Z", "size_vram": 397821319, "context_length": 4096}
    return json({"models": [_listed(model) | more for model in loaded]})


def shown(model: str) -> Whole:
    """Ollama's description of one model."""
    return json({
        "modelfile": f"FROM {model}",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": _DETAILS,
        "model_info": {"general.architecture": "fake", "fake.context_length": 4096},
        "capabilities": ["completion", "tools"],
        "modified_at": _MOMENT,
    })


def _card(model: str, owner: str = "library") -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 1735689600, "owned_by": owner}


def cards(models: Sequence[str], owner: str) -> Whole:
    """OpenAI's list of models."""
    return json({"object": "list", "data": [_card(model, owner) for model in models]})


def slots(total: int, busy: int) -> Whole:
    """llama-server's list of what it can compute at once, the first `busy` of it at work."""
    return json([
        {"id": at, "n_ctx": 4096, "speculative": False, "is_processing": at < busy}
        for at in range(total)
    ])


def card(model: str) -> Whole:
    """OpenAI's description of one model."""
    return json(_card(model))


def pulling(ask: Ask, steps: int) -> Whole | Stream:
    """The progress of a download in `steps` paced lines."""
    done = {"status": "success"}
    if ask.get("stream") is False:
        return json(done)
    layer = {"status": "pulling 5f5f5f5f5f5f", "digest": _DIGEST, "total": steps}
    return Stream(
        media=NDJSON,
        opening=_line({"status": "pulling manifest"}),
        pieces=tuple(Words(_line(layer | {"completed": at + 1})) for at in range(steps)),
        closing=_line({"status": "verifying sha256 digest"}) + _line(done),
    )


# -- inference ----------------------------------------------------------------------------------


def answer(
    path: str, ask: Ask, tokens: int, *, cut: bool, pace: Pace | None = None
) -> Whole | Stream | None:
    """What an inference route says.

    Args:
        path: the route.
        ask: the request's JSON object.
        tokens: how many pieces it says.
        cut: whether the bound on tokens, rather than the model, ended it.
        pace: the times that it reports.

    Returns:
        None when `path` is no inference route.
    """
    model = model_asked(ask) or "fake"
    pace = pace or Pace()
    match path:
        case "/api/chat":
            words = {"message": {"role": "assistant", "content": _SAID}}
            last = {"message": {"role": "assistant", "content": ""}}
            end = _ollama_end(tokens, pace, cut=cut)
            return _ollama(ask, model, words, last, end)
        case "/api/generate":
            end = _ollama_end(tokens, pace, cut=cut)
            return _ollama(ask, model, {"response": _SAID}, {"response": ""}, end)
        case "/v1/chat/completions" | "/v1/completions":
            return _openai(path, ask, model, tokens, pace, cut=cut)
        case "/v1/messages":
            return _anthropic(ask, model, tokens, cut=cut)
        case "/v1/responses":
            return _responses(ask, model, tokens)
        case "/api/embed":
            return json({
                "model": model,
                "embeddings": [EMBEDDING for _ in _inputs(ask)],
                "total_duration": 1000000,
                "load_duration": 0,
                "prompt_eval_count": PROMPT_TOKENS,
            })
        case "/api/embeddings":
            return json({"embedding": EMBEDDING})
        case "/v1/embeddings":
            return _openai_embeddings(ask, model)
        case _:
            return None


def _inputs(ask: Ask) -> Sequence[object]:
    given = ask.get("input", "")
    return given if isinstance(given, list) else [given]


def _line(said: object) -> bytes:
    return msgspec.json.encode(said) + b"\n"


def _data(said: object) -> bytes:
    return b"data: " + msgspec.json.encode(said) + b"\n\n"


def _event(said: Mapping[str, Any]) -> bytes:
    return b"event: %b\n%b" % (str(said["type"]).encode(), _data(said))


def _pieces(template: bytes, tokens: int) -> tuple[Words, ...]:
    before, _, after = template.partition(_SAID_JSON)
    return (Words(before, after),) * tokens


def _whole(said: object, tokens: int) -> Whole:
    before, _, after = msgspec.json.encode(said).partition(_SAID_JSON)
    return Whole(words=Words(before, after), tokens=tokens)


def _ollama_end(tokens: int, pace: Pace, *, cut: bool) -> Mapping[str, Any]:
    return {
        "done": True,
        "done_reason": "length" if cut else "stop",
        "total_duration": round((pace.prefill_s + pace.decode_s) * 1e9),
        "load_duration": 0,
        "prompt_eval_count": PROMPT_TOKENS,
        "prompt_eval_duration": round(pace.prefill_s * 1e9),
        "eval_count": tokens,
        "eval_duration": round(pace.decode_s * 1e9),
    }


def _timings(tokens: int, pace: Pace) -> Mapping[str, Any]:
    return {
        "cache_n": CACHED_TOKENS,
        "prompt_n": PROMPT_TOKENS - CACHED_TOKENS,
        "prompt_ms": pace.prefill_s * 1e3,
        "predicted_n": tokens,
        "predicted_ms": pace.decode_s * 1e3,
    }


def _ollama(
    ask: Ask,
    model: str,
    words: Mapping[str, Any],
    last: Mapping[str, Any],
    end: Mapping[str, Any],
) -> Whole | Stream:
    tokens = end["eval_count"]
    first = {"model": model, "created_at": _MOMENT}
    if ask.get("stream") is False:
        return _whole({**first, **words, **end}, tokens)
    return Stream(
        media=NDJSON,
        pieces=_pieces(_line({**first, **words, "done": False}), tokens),
        closing=_line({**first, **last, **end}),
    )


def _openai(
    path: str, ask: Ask, model: str, tokens: int, pace: Pace, *, cut: bool
) -> Whole | Stream:
    chat = path == "/v1/chat/completions"
    name = "chat.completion" if chat else "text_completion"
    first = {"id": "chatcmpl-1", "created": 1735689600, "model": model}
    reason = "length" if cut else "stop"
    usage = {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": PROMPT_TOKENS + tokens,
    }
    timings = {"timings": _timings(tokens, pace)} if pace.timings else {}
    if not ask.get("stream"):
        message = {"role": "assistant", "content": _SAID}
        said = {"message": message} if chat else {"text": _SAID}
        choice = {"index": 0, **said, "finish_reason": reason}
        end = {"object": name, "choices": [choice], "usage": usage}
        return _whole({**first, **end, **timings}, tokens)

    streamed = f"{name}.chunk" if chat else name

    def chunk(said: Mapping[str, Any], finish: str | None, **more: object) -> bytes:
        choice = {"index": 0, **said, "finish_reason": finish}
        return _data({**first, "object": streamed, "choices": [choice], **more})

    word = {"delta": {"role": "assistant", "content": _SAID}} if chat else {"text": _SAID}
    closing = chunk({"delta": {}} if chat else {"text": ""}, reason, **timings)
    wishes = ask.get("stream_options")
    if isinstance(wishes, Mapping) and wishes.get("include_usage"):
        closing += _data({**first, "object": streamed, "choices": [], "usage": usage})
    return Stream(
        media=SSE,
        pieces=_pieces(chunk(word, None), tokens),
        closing=closing + b"data: [DONE]\n\n",
    )


def _openai_embeddings(ask: Ask, model: str) -> Whole:
    vector: object = EMBEDDING
    if ask.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack(f"<{len(EMBEDDING)}f", *EMBEDDING)).decode()
    return json({
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": vector, "index": at}
            for at, _ in enumerate(_inputs(ask))
        ],
        "model": model,
        "usage": {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS},
    })


def _anthropic(ask: Ask, model: str, tokens: int, *, cut: bool) -> Whole | Stream:
    reason = "max_tokens" if cut else "end_turn"
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": tokens}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": model}
    if not ask.get("stream"):
        content = [{"type": "text", "text": _SAID}]
        end = {"stop_reason": reason, "stop_sequence": None, "usage": usage}
        return _whole({**message, "content": content, **end}, tokens)
    start: dict[str, Any] = {
        **message,
        "content": [],
        "stop_reason": None,
        "usage": {**usage, "output_tokens": 0},
    }
    block = {"type": "text", "text": ""}
    delta = {"type": "text_delta", "text": _SAID}
    word = {"type": "content_block_delta", "index": 0, "delta": delta}
    end = {"stop_reason": reason, "stop_sequence": None}
    return Stream(
        media=SSE,
        opening=_event({"type": "message_start", "message": start})
        + _event({"type": "content_block_start", "index": 0, "content_block": block}),
        pieces=_pieces(_event(word), tokens),
        closing=_event({"type": "content_block_stop", "index": 0})
        + _event({"type": "message_delta", "delta": end, "usage": {"output_tokens": tokens}})
        + _event({"type": "message_stop"}),
    )


def _responses(ask: Ask, model: str, tokens: int) -> Whole | Stream:
    first = {"id": "resp_1", "object": "response", "created_at": 1735689600, "model": model}
    text = {"type": "output_text", "text": _SAID, "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    usage = {
        "input_tokens": PROMPT_TOKENS,
        "output_tokens": tokens,
        "total_tokens": PROMPT_TOKENS + tokens,
    }
    if not ask.get("stream"):
        output = [{**message, "content": [text]}]
        return _whole({**first, "status": "completed", "output": output, "usage": usage}, tokens)
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    running_one = {**first, "status": "in_progress", "output": []}
    ended = {**first, "status": "completed", "output": [{**message, "content": []}], "usage": usage}
    return Stream(
        media=SSE,
        opening=_event({"type": "response.created", "response": running_one}),
        pieces=_pieces(
            _event({"type": "response.output_text.delta", **place, "delta": _SAID}), tokens
        ),
        closing=_event({"type": "response.completed", "response": ended}),
    )
