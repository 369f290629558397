"""What a caller asks in Ollama's words, in OpenAI's.

Ollama puts a generate prompt into the model's chat template, so it becomes a chat; only `raw`
prompts and those with a `suffix` are completions.

Options that OpenAI's API lacks go by the names that llama-server and its like know. These are not
carried: `num_ctx`, `keep_alive` and the other load-time options, as the server has its model
loaded; `context`, which is one server's private state; `truncate`, since such servers never cut
an input. A `template` would change the answer, so it is refused rather than dropped.
"""

import base64
import binascii
from collections.abc import Sequence

import msgspec

from ollama_proxy.backends.translate.ollama_words import OllamaWords
from ollama_proxy.backends.translate.openai_answers import (
    Chunks,
    read_generated,
    read_single_vector,
    read_vectors,
)
from ollama_proxy.backends.translate.reading import read_request, refused
from ollama_proxy.backends.translate.stream import Unstreamed
from ollama_proxy.backends.translate.translated import Stamp, Translation
from ollama_proxy.policy.ask import Call

# Ollama takes 40.0 for 40; a union keeps a number as its caller wrote it.
_Number = int | float
_Object = dict[str, msgspec.Raw]

_IMAGE_HEAD_CHARACTERS = 16  # of base64: the 12 bytes that tell a format


class _Options(msgspec.Struct):
    """Every option that is carried, under the name it takes; `field` has Ollama's, if another."""

    temperature: _Number | None = None
    top_p: _Number | None = None
    top_k: _Number | None = None
    min_p: _Number | None = None
    typical_p: _Number | None = None
    seed: _Number | None = None
    max_tokens: _Number | None = msgspec.field(name="num_predict", default=None)
    stop: str | list[str] | None = None
    presence_penalty: _Number | None = None
    frequency_penalty: _Number | None = None
    repeat_penalty: _Number | None = None
    repeat_last_n: _Number | None = None
    mirostat: _Number | None = None
    mirostat_tau: _Number | None = None
    mirostat_eta: _Number | None = None
    n_keep: _Number | None = msgspec.field(name="num_keep", default=None)


class _Function(msgspec.Struct):
    name: str
    arguments: _Object | None = None


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _Ask(msgspec.Struct, kw_only=True):
    model: str
    options: _Options | None = None
    stream: bool | None = None
    format: str | _Object | None = None
    keep_alive: _Number | str | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class _Chat(_Ask, kw_only=True):
    messages: list[_Message] | None = None
    tools: list[msgspec.Raw] | None = None


class _Generate(_Ask, kw_only=True):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    images: list[str] | None = None
    raw: bool | None = None


class _Embed(msgspec.Struct, kw_only=True):
    model: str
    input: str | list[str] | None = None
    dimensions: int | None = None


class _Embeddings(msgspec.Struct, kw_only=True):
    model: str
    prompt: str | None = None


_CHAT = msgspec.json.Decoder(_Chat)
_GENERATE = msgspec.json.Decoder(_Generate)
_EMBED = msgspec.json.Decoder(_Embed)
_EMBEDDINGS = msgspec.json.Decoder(_Embeddings)


def chat(body: bytes, stamp: Stamp) -> Translation:
    """`/api/chat` as `/v1/chat/completions`. Raises RequestRefused."""
    ask = read_request(body, _CHAT)
    fields: dict[str, object] = {"messages": _messages(ask.messages or [])}
    if ask.tools:
        fields["tools"] = ask.tools
    return _generated(Call.OLLAMA_CHAT, Call.OPENAI_CHAT, ask, fields, stamp, load=not ask.messages)


def generate(body: bytes, stamp: Stamp) -> Translation:
    """`/api/generate` as a chat, or as `/v1/completions` if untemplated. Raises RequestRefused."""
    ask = read_request(body, _GENERATE)
    if ask.template:
        raise refused("template", "template: this backend takes the model's own template only")
    if ask.raw and ask.system:
        raise refused("system", "system: a raw prompt takes no system message")
    prompt, load = ask.prompt or "", not ask.prompt
    fields: dict[str, object]
    if ask.raw or ask.suffix:
        if ask.images:
            raise refused("images", "images: a raw prompt takes no images on this backend")
        if ask.logprobs:
            raise refused("logprobs", "logprobs: not with a raw prompt on this backend")
        fields = {"prompt": prompt}
        if ask.suffix:
            fields["suffix"] = ask.suffix
        call = Call.OPENAI_COMPLETION
    else:
        messages: list[dict[str, object]] = []
        if ask.system:
            messages.append({"role": "system", "content": ask.system})
        content = _content(prompt, ask.images or [], "images")
        messages.append({"role": "user", "content": content})
        fields = {"messages": messages}
        call = Call.OPENAI_CHAT
    return _generated(Call.OLLAMA_GENERATE, call, ask, fields, stamp, load=load)


def embed(body: bytes, stamp: Stamp) -> Translation:
    """`/api/embed` as `/v1/embeddings`. Raises RequestRefused."""
    ask = read_request(body, _EMBED)
    texts = [ask.input] if isinstance(ask.input, str) and ask.input else ask.input or []
    fields: dict[str, object] = {"model": stamp.model, "input": texts}
    if ask.dimensions:
        fields["dimensions"] = ask.dimensions
    empty = {"model": ask.model, "embeddings": ()}
    return Translation(
        call=Call.OPENAI_EMBEDDING,
        ready=None if texts else msgspec.json.encode(empty),
        body=msgspec.json.encode(fields),
        whole=lambda answer: read_vectors(answer, ask.model, len(texts)),
        pieces=Unstreamed,
    )


def embeddings(body: bytes, stamp: Stamp) -> Translation:
    """`/api/embeddings`, the older call for one vector, as `/v1/embeddings`."""
    ask = read_request(body, _EMBEDDINGS)
    return Translation(
        call=Call.OPENAI_EMBEDDING,
        ready=None if ask.prompt else b'{"embedding":[]}',
        body=msgspec.json.encode({"model": stamp.model, "input": [ask.prompt or ""]}),
        whole=read_single_vector,
        pieces=Unstreamed,
    )


def _generated(
    asked: Call,
    call: Call,
    ask: _Ask,
    fields: dict[str, object],
    stamp: Stamp,
    *,
    load: bool,
) -> Translation:
    """Add what both generating calls share."""
    stream = asked.streams_by_default if ask.stream is None else ask.stream
    fields = {"model": stamp.model, **fields, "stream": stream}
    if stream:
        # Ollama's last line counts the tokens, asked or not.
        fields["stream_options"] = {"include_usage": True}
    fields |= _sampling(ask.options) | _format(ask.format) | _thinking(ask.think)
    if ask.logprobs:
        fields["logprobs"] = True
        if ask.top_logprobs is not None:
            fields["top_logprobs"] = ask.top_logprobs
    words = OllamaWords(call=asked, model=ask.model, now=stamp.now, logprobs=bool(ask.logprobs))
    reason = "unload" if ask.keep_alive in {0, "0", "0s", "0m", "0h"} else "load"
    return Translation(
        call=call,
        ready=words.idle(reason) if load else None,
        body=msgspec.json.encode(fields),
        whole=lambda answer: read_generated(answer, words),
        pieces=lambda: Chunks(words),
    )


def _sampling(options: _Options | None) -> dict[str, object]:
    if options is None:
        return {}
    fields = {k: v for k, v in msgspec.structs.asdict(options).items() if v is not None}
    if (options.max_tokens or 0) <= 0:
        fields.pop("max_tokens", None)  # Ollama's -1 and -2 mean no limit
    return fields


def _format(wanted: str | _Object | None) -> dict[str, object]:
    if not wanted:
        return {}
    if isinstance(wanted, dict):
        # Not `strict`: OpenAI would then refuse most schemas that Ollama's callers write.
        schema = {"name": "answer", "schema": wanted}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if wanted != "json":
        raise refused("format", f'format: expected "json" or a JSON schema, got {wanted!r}')
    return {"response_format": {"type": "json_object"}}


def _thinking(think: bool | str | None) -> dict[str, object]:  # noqa: FBT001 - the field's own type
    """OpenAI has levels only; its local kin take the switch as an argument of the template."""
    if think is None or think == "":
        return {}
    if isinstance(think, str):
        return {"reasoning_effort": think}
    return {"chat_template_kwargs": {"enable_thinking": think}}


def _messages(messages: Sequence[_Message]) -> list[dict[str, object]]:
    """Ollama's conversation in OpenAI's words.

    OpenAI ties a tool's result to its call by an id, which Ollama's callers mostly do not have:
    there the tool's name says which call it was, or else the order.
    """
    told: list[dict[str, object]] = []
    open_calls: list[tuple[str, str]] = []
    made_up = 0
    for at, message in enumerate(messages):
        text = message.content or ""
        content = _content(text, message.images or [], f"messages[{at}].images")
        fields: dict[str, object] = {"role": message.role, "content": content}
        if message.thinking:
            fields["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls: list[dict[str, object]] = []
            for call in message.tool_calls:
                # Nine letters and digits, since some templates accept no other id; counted, not
                # random, so that a server finds the conversation's beginning in its cache.
                identity = call.id or f"call{made_up:05d}"
                made_up += 1
                open_calls.append((call.function.name, identity))
                arguments = msgspec.json.encode(call.function.arguments or {}).decode()
                function = {"name": call.function.name, "arguments": arguments}
                calls.append({"id": identity, "type": "function", "function": function})
            fields["tool_calls"] = calls
        if message.role == "tool":
            identity = _answered(message, open_calls) or f"call{made_up:05d}"
            made_up += 1
            fields["tool_call_id"] = identity
        told.append(fields)
    return told


def _answered(message: _Message, open_calls: list[tuple[str, str]]) -> str | None:
    """The id of the call this tool message answers; that call is then no longer open."""
    if message.tool_call_id:
        open_calls[:] = [call for call in open_calls if call[1] != message.tool_call_id]
        return message.tool_call_id
    for call in open_calls:
        if message.tool_name in {None, "", call[0]}:
            open_calls.remove(call)
            return call[1]
    return None


def _content(text: str, images: list[str], param: str) -> str | list[dict[str, object]]:
    if not images:
        return text
    parts: list[dict[str, object]] = [{"type": "text", "text": text}] if text else []
    for at, wrapped in enumerate(images):
        image = wrapped.replace("\n", "").replace(
            "\r", ""
        )  # Go reads wrapped base64, others do not
        url = f"data:{_image_type(image, f'{param}[{at}]')};base64,{image}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def _image_type(image: str, param: str) -> str:
    """The MIME type of a base64 image, by its first bytes."""
    try:
        head = base64.b64decode(image[:_IMAGE_HEAD_CHARACTERS], validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused(param, f"{param}: expected base64, {error}") from error
    if head.startswith(b"\x89PNG"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head.endswith(b"WEBP"):
        return "image/webp"
    raise refused(param, f"{param}: expected a PNG, JPEG, GIF or WebP image")
