"""What a caller asks in OpenAI's words, in Ollama's.

Fields that change nothing about the answer (`user`, `metadata`, `parallel_tool_calls` ...) are
dropped, as most OpenAI-style servers drop what they do not know. What would change it and cannot
be said to Ollama is refused: several answers, log probabilities, an echo, token biases, images
that would have to be fetched. A `tool_choice` that forces a call is the exception: Ollama offers
the tools and its model decides, which is what callers of Ollama's own `/v1` get as well.
"""

import base64
import binascii
from collections.abc import Mapping

import msgspec

from ollama_proxy.backends.translate.ollama_answers import (
    AnswerLines,
    read_generated,
    read_vectors,
)
from ollama_proxy.backends.translate.openai_words import OpenAIWords
from ollama_proxy.backends.translate.reading import read_request, refused
from ollama_proxy.backends.translate.stream import Unstreamed
from ollama_proxy.backends.translate.translated import Stamp, Translation
from ollama_proxy.policy.ask import Call

_Number = int | float
_Object = dict[str, msgspec.Raw]

# OpenAI's effort -> Ollama's `think`, which has a switch and three levels.
_THINK: Mapping[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
}


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _JsonSchema(msgspec.Struct):
    schema: _Object | None = None


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


class _TemplateArguments(msgspec.Struct):
    enable_thinking: bool | None = None


class _Sampling(msgspec.Struct, kw_only=True):
    """Every option, under Ollama's name; `field` has OpenAI's or llama-server's, if another."""

    temperature: _Number | None = None
    top_p: _Number | None = None
    top_k: _Number | None = None
    min_p: _Number | None = None
    typical_p: _Number | None = None
    seed: _Number | None = None
    num_predict: _Number | None = msgspec.field(name="max_tokens", default=None)
    stop: str | list[str] | None = None
    presence_penalty: _Number | None = None
    frequency_penalty: _Number | None = None
    repeat_penalty: _Number | None = None
    repeat_last_n: _Number | None = None
    mirostat: _Number | None = None
    mirostat_tau: _Number | None = None
    mirostat_eta: _Number | None = None
    num_keep: _Number | None = msgspec.field(name="n_keep", default=None)


class _Ask(_Sampling, kw_only=True):
    model: str
    max_completion_tokens: _Number | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    response_format: _ResponseFormat | None = None
    n: int | None = None
    logprobs: bool | int | None = None
    logit_bias: _Object | None = None


class _ImageUrl(msgspec.Struct):
    url: str


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | str | None = None


class _Function(msgspec.Struct):
    name: str
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None


class _Chat(_Ask, kw_only=True):
    messages: list[_Message]
    tools: list[msgspec.Raw] | None = None
    tool_choice: str | _Object | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: _TemplateArguments | None = None


class _Completion(_Ask, kw_only=True):
    prompt: str | list[str | int | list[int]]
    suffix: str | None = None
    echo: bool | None = None
    best_of: int | None = None


class _Embedding(msgspec.Struct, kw_only=True):
    model: str
    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: str | None = None


_CHAT = msgspec.json.Decoder(_Chat)
_COMPLETION = msgspec.json.Decoder(_Completion)
_EMBEDDING = msgspec.json.Decoder(_Embedding)
_ARGUMENTS = msgspec.json.Decoder(_Object)


def chat(body: bytes, stamp: Stamp) -> Translation:
    """`/v1/chat/completions` as `/api/chat`. Raises RequestRefused."""
    ask = read_request(body, _CHAT)
    if not ask.messages:
        raise refused("messages", "messages: expected at least one message")
    fields: dict[str, object] = {"messages": _messages(ask.messages)}
    if ask.tools and ask.tool_choice != "none":
        fields["tools"] = ask.tools
    think = _think(ask)
    if think is not None:
        fields["think"] = think
    return _generated(Call.OPENAI_CHAT, Call.OLLAMA_CHAT, ask, fields, stamp)


def completion(body: bytes, stamp: Stamp) -> Translation:
    """`/v1/completions` as `/api/generate`. Raises RequestRefused."""
    ask = read_request(body, _COMPLETION)
    if ask.echo:
        raise refused("echo", "echo: this backend cannot repeat the prompt")
    if ask.best_of not in {None, 1}:
        raise refused("best_of", "best_of: this backend gives one answer at a time")
    prompts = [ask.prompt] if isinstance(ask.prompt, str) else ask.prompt
    if len(prompts) != 1 or not isinstance(prompts[0], str):
        raise refused("prompt", "prompt: this backend takes one prompt, as text")
    if not prompts[0]:
        raise refused("prompt", "prompt: expected some text")
    fields: dict[str, object] = {"prompt": prompts[0]}
    if ask.suffix:
        # Only the model's template knows how to ask for a middle: a raw prompt loses its suffix.
        fields["suffix"] = ask.suffix
    else:
        fields["raw"] = True
    return _generated(Call.OPENAI_COMPLETION, Call.OLLAMA_GENERATE, ask, fields, stamp)


def embedding(body: bytes, stamp: Stamp) -> Translation:
    """`/v1/embeddings` as `/api/embed`. Raises RequestRefused."""
    ask = read_request(body, _EMBEDDING)
    inputs = [ask.input] if isinstance(ask.input, str) else ask.input
    if not inputs or not all(isinstance(text, str) and text for text in inputs):
        raise refused("input", "input: this backend takes texts, none of them empty")
    if ask.encoding_format not in {None, "float", "base64"}:
        raise refused("encoding_format", 'encoding_format: expected "float" or "base64"')
    fields: dict[str, object] = {"model": stamp.model, "input": inputs}
    if ask.dimensions is not None:
        fields["dimensions"] = ask.dimensions
    packed = ask.encoding_format == "base64"
    return Translation(
        call=Call.OLLAMA_EMBED,
        body=msgspec.json.encode(fields),
        whole=lambda answer: read_vectors(answer, ask.model, len(inputs), packed=packed),
        pieces=Unstreamed,
    )


def _generated(
    asked: Call, call: Call, ask: _Ask, fields: dict[str, object], stamp: Stamp
) -> Translation:
    """Add what both generating calls share."""
    if ask.n not in {None, 1}:
        raise refused("n", "n: this backend gives one answer at a time")
    # A completion's `logprobs: 0` asks for those of the chosen tokens.
    if ask.logprobs is not None and ask.logprobs is not False:
        raise refused("logprobs", "logprobs: this backend does not tell them")
    if ask.logit_bias:
        raise refused("logit_bias", "logit_bias: this backend cannot weigh single tokens")
    stream = bool(ask.stream)
    fields = {"model": stamp.model, **fields, "stream": stream, "options": _options(ask)}
    wanted = _format(ask.response_format)
    if wanted is not None:
        fields["format"] = wanted
    usage = ask.stream_options is not None and bool(ask.stream_options.include_usage)
    words = OpenAIWords(
        call=asked,
        model=ask.model,
        now=stamp.now,
        identity=stamp.identity,
        include_usage=usage,
    )
    return Translation(
        call=call,
        body=msgspec.json.encode(fields),
        whole=lambda answer: read_generated(answer, words),
        pieces=lambda: AnswerLines(words),
    )


def _options(ask: _Ask) -> dict[str, object]:
    """The sampling options.

    OpenAI's defaults are sent where the caller is silent, as Ollama's own `/v1` does: its native
    calls have others, and the answers should not differ by the way they came.
    """
    options: dict[str, object] = {"temperature": 1.0, "top_p": 1.0}
    for name in _Sampling.__struct_fields__:
        value = getattr(ask, name)
        if value is not None:
            options[name] = value
    if ask.max_completion_tokens is not None:
        options["num_predict"] = ask.max_completion_tokens
    if isinstance(ask.stop, str):
        options["stop"] = [ask.stop]
    return options


def _format(wanted: _ResponseFormat | None) -> str | _Object | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return "json"
    if wanted.type != "json_schema":
        raise refused(
            "response_format.type",
            'response_format.type: expected "text", "json_object" or "json_schema", '
            f"got {wanted.type!r}",
        )
    if wanted.json_schema is None or wanted.json_schema.schema is None:
        param = "response_format.json_schema.schema"
        raise refused(param, f"{param}: this field is required")
    return wanted.json_schema.schema


def _think(ask: _Chat) -> bool | str | None:
    if ask.reasoning_effort is not None:
        think = _THINK.get(ask.reasoning_effort)
        if think is None:
            expected = ", ".join(_THINK)
            raise refused("reasoning_effort", f"reasoning_effort: expected one of {expected}")
        return think
    if ask.chat_template_kwargs is not None:
        return ask.chat_template_kwargs.enable_thinking
    return None


def _messages(messages: list[_Message]) -> list[dict[str, object]]:
    """OpenAI's conversation in Ollama's words, where a tool's result names the tool."""
    told: list[dict[str, object]] = []
    tools: dict[str, str] = {}
    for at, message in enumerate(messages):
        param = f"messages[{at}]"
        text, images = _content(message.content, f"{param}.content")
        role = "system" if message.role == "developer" else message.role
        fields: dict[str, object] = {"role": role, "content": text}
        if images:
            fields["images"] = images
        thinking = message.reasoning_content or message.reasoning
        if thinking:
            fields["thinking"] = thinking
        calls: list[dict[str, object]] = []
        for place, call in enumerate(message.tool_calls or ()):
            name = call.function.name
            arguments = _arguments(
                call.function.arguments, f"{param}.tool_calls[{place}].function.arguments"
            )
            # Older Ollamas pass over the id, newer ones hand it to the model's template.
            identity = {"id": call.id} if call.id else {}
            calls.append({**identity, "function": {"name": name, "arguments": arguments}})
            if call.id:
                tools[call.id] = name
        if calls:
            fields["tool_calls"] = calls
        if message.role == "tool":
            name = tools.get(message.tool_call_id or "") or message.name or ""
            fields |= {"tool_name": name} if name else {}
            fields |= {"tool_call_id": message.tool_call_id} if message.tool_call_id else {}
        told.append(fields)
    return told


def _arguments(text: str | None, param: str) -> _Object:
    if not text or text.isspace():
        return {}
    try:
        return _ARGUMENTS.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise refused(param, f"{param}: expected a JSON object as text") from error


def _content(content: str | list[_Part] | None, param: str) -> tuple[str, list[str]]:
    """The text and the images of a message; Ollama keeps the two apart."""
    if content is None or isinstance(content, str):
        return content or "", []
    texts: list[str] = []
    images: list[str] = []
    for at, part in enumerate(content):
        place = f"{param}[{at}]"
        match part:
            case _Part(type="text", text=str(text)) | _Part(type="refusal", refusal=str(text)):
                texts.append(text)
            case _Part(type="image_url", image_url=str(url) | _ImageUrl(url=url)):
                images.append(_image(url, f"{place}.image_url.url"))
            case _:
                expected = "a text or an image_url part, with its content"
                raise refused(place, f"{place}: expected {expected}, got {part.type!r}")
    return "\n".join(texts), images


def _image(url: str, param: str) -> str:
    """The base64 of an image, which Ollama takes without its MIME type."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        # A router that fetched what it is told to would be a way into its owner's network.
        raise refused(param, f"{param}: expected a data:...;base64 URL, as images are not fetched")
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused(param, f"{param}: expected base64, {error}") from error
    return data
