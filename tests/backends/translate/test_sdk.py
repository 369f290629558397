"""The official SDKs cannot tell a translated answer from a native one."""

from collections.abc import Mapping

import httpx
import httpx2
import msgspec
import ollama
import openai
import pydantic
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from ollama_proxy.backends.translate import Translation, translation
from ollama_proxy.policy.ask import Call, Dialect

CHAT_ASK = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def _asked(call: Call, target: Dialect, ask: Mapping[str, object]) -> Translation:
    body = msgspec.json.encode({"model": "mine", **ask})
    translated = translation(
        call, target, body, model="theirs", now=1_700_000_000.5, identity="identity"
    )
    assert translated is not None
    return translated


def _openai(call: Call, ask: Mapping[str, object]) -> Translation:
    return _asked(call, Dialect.OLLAMA, ask)


def _ollama(call: Call, ask: Mapping[str, object]) -> Translation:
    return _asked(call, Dialect.OPENAI, ask)


def _streamed(translated: Translation, stream: bytes) -> list[bytes]:
    pieces = translated.pieces()
    out = pieces.feed(stream) + pieces.finish()
    lines = [line.removeprefix(b"data: ") for line in out.splitlines() if line]
    return [line for line in lines if line != b"[DONE]"]


CALL = {"function": {"name": "f", "arguments": {"a": 1}}}
OLLAMA_CHAT_LINES = (
    b'{"message":{"role":"assistant","content":"a","thinking":"b"},"done":false}\n'
    b'{"message":{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f",'
    b'"arguments":{"a":1}}}]},"done":false}\n'
    b'{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",'
    b'"prompt_eval_count":3,"eval_count":2}\n'
)
OPENAI_CHAT_EVENTS = (
    b'data: {"choices":[{"index":0,"delta":{"content":"a","reasoning_content":"b"}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"x","function":'
    b'{"name":"f","arguments":"{\\"a\\":1}"}}]}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)


def test_chat_completion() -> None:
    """A whole chat is a ChatCompletion."""
    answer = {
        "message": {"role": "assistant", "content": "a", "tool_calls": [CALL]},
        "done": True,
        "prompt_eval_count": 3,
        "eval_count": 2,
    }
    told = ChatCompletion.model_validate_json(
        _openai(Call.OPENAI_CHAT, CHAT_ASK).whole(msgspec.json.encode(answer)), strict=True
    )

    assert told.usage is not None
    assert told.choices[0].message.tool_calls is not None
    assert "mine" == told.model
    assert "a" == told.choices[0].message.content
    assert "tool_calls" == told.choices[0].finish_reason
    assert 5 == told.usage.total_tokens


def test_chat_completion_chunks() -> None:
    """A chat's stream is ChatCompletionChunks, from the role to the figures."""
    ask = CHAT_ASK | {"stream_options": {"include_usage": True}}
    chunks = [
        ChatCompletionChunk.model_validate_json(chunk, strict=True)
        for chunk in _streamed(_openai(Call.OPENAI_CHAT, ask), OLLAMA_CHAT_LINES)
    ]
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]

    assert chunks[-1].usage is not None
    assert "assistant" == deltas[0].role
    assert "a" == "".join(delta.content or "" for delta in deltas)
    assert "tool_calls" == chunks[-2].choices[0].finish_reason
    assert USAGE == chunks[-1].usage.model_dump(exclude_none=True)


def test_completions() -> None:
    """A text, whole or streamed, is a Completion."""
    translated = _openai(Call.OPENAI_COMPLETION, {"prompt": "hi"})
    whole = Completion.model_validate_json(
        translated.whole(b'{"response":"a","done":true,"eval_count":1}'), strict=True
    )
    # The SDK's type knows no null reason, which OpenAI's own pieces have; it does not check them.
    pieces = [
        Completion.construct(**msgspec.json.decode(piece))
        for piece in _streamed(translated, b'{"response":"a"}\n{"response":"","done":true}\n')
    ]

    assert "a" == whole.choices[0].text
    assert ["a", ""] == [piece.choices[0].text for piece in pieces[:2]]


def _openai_client(content: bytes, content_type: str) -> openai.OpenAI:
    """OpenAI's client of a server that answers every request with the same content."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": content_type}, content=content)

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=client)


def _ollama_client(content: bytes, content_type: str) -> ollama.Client:
    """Ollama's client of a server that answers every request with the same content."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": content_type}, content=content)

    return ollama.Client(host="http://127.0.0.1", transport=httpx.MockTransport(answer))


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_openai_client_reads_embeddings(encoding: str) -> None:
    """OpenAI's client reads vectors in either encoding; unasked, it asks for the packed one."""
    translated = _openai(Call.OPENAI_EMBEDDING, {"input": "a", "encoding_format": encoding})
    content = translated.whole(b'{"embeddings":[[0.5]],"prompt_eval_count":1}')
    CreateEmbeddingResponse.model_validate(msgspec.json.decode(content) | {"data": []})

    with _openai_client(content, "application/json") as client:
        response = client.embeddings.create(model="mine", input="a")

    assert [0.5] == response.data[0].embedding
    assert 1 == response.usage.total_tokens


def test_openai_client_reads_a_stream() -> None:
    """OpenAI's client reads a translated stream to its end."""
    pieces = _openai(Call.OPENAI_CHAT, CHAT_ASK).pieces()
    content = pieces.feed(OLLAMA_CHAT_LINES) + pieces.finish()

    with _openai_client(content, "text/event-stream") as client:
        chunks = list(client.chat.completions.create(model="mine", messages=[], stream=True))

    assert ["", "a", None, None] == [chunk.choices[0].delta.content for chunk in chunks]
    assert "tool_calls" == chunks[-1].choices[0].finish_reason


def test_ollama_client_reads_a_stream() -> None:
    """Ollama's client reads a translated stream to its end."""
    pieces = _ollama(Call.OLLAMA_CHAT, CHAT_ASK).pieces()
    content = pieces.feed(OPENAI_CHAT_EVENTS) + pieces.finish()

    with _ollama_client(content, "application/x-ndjson") as client:
        lines = list(client.chat(model="mine", messages=[], stream=True))

    assert ["a", "", ""] == [line.message.content for line in lines]
    assert "stop" == lines[-1].done_reason


def test_chat_response() -> None:
    """A whole chat is Ollama's ChatResponse."""
    message = {"content": "a", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    answer = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE}
    told = ollama.ChatResponse.model_validate_json(
        _ollama(Call.OLLAMA_CHAT, CHAT_ASK).whole(msgspec.json.encode(answer))
    )

    assert told.message.tool_calls is not None
    assert "mine" == told.model
    assert "a" == told.message.content
    assert "f" == told.message.tool_calls[0].function.name
    assert 2 == told.eval_count


def test_chat_response_lines() -> None:
    """A chat's stream is ChatResponses, the last of them done."""
    lines = [
        ollama.ChatResponse.model_validate_json(line)
        for line in _streamed(_ollama(Call.OLLAMA_CHAT, CHAT_ASK), OPENAI_CHAT_EVENTS)
    ]
    calls = [call.function for line in lines for call in line.message.tool_calls or ()]

    assert [False, False, True] == [line.done for line in lines]
    assert "b" == lines[0].message.thinking
    assert [{"a": 1}] == [call.arguments for call in calls]
    assert 3 == lines[-1].prompt_eval_count


def test_generate_response() -> None:
    """A whole generate is Ollama's GenerateResponse, and so is the answer to a load."""
    translated = _ollama(Call.OLLAMA_GENERATE, {"prompt": "hi"})
    told = ollama.GenerateResponse.model_validate_json(
        translated.whole(b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}')
    )
    ready = _ollama(Call.OLLAMA_GENERATE, {}).ready
    assert ready is not None
    loaded = ollama.GenerateResponse.model_validate_json(ready)

    assert ("a", "stop") == (told.response, told.done_reason)
    assert ("", "load") == (loaded.response, loaded.done_reason)


def test_embed_response() -> None:
    """Vectors are Ollama's EmbedResponse."""
    told = ollama.EmbedResponse.model_validate_json(
        _ollama(Call.OLLAMA_EMBED, {"input": "a"}).whole(b'{"data":[{"embedding":[0.5]}]}')
    )

    assert [[0.5]] == told.embeddings


def test_the_time_is_one_that_ollamas_clients_read() -> None:
    """`created_at` is an RFC 3339 time in UTC."""
    translated = _ollama(Call.OLLAMA_GENERATE, {})
    assert translated.ready is not None
    told = msgspec.json.decode(translated.ready)

    assert (
        1_700_000_000.5
        == pydantic
        .TypeAdapter(pydantic.AwareDatetime)
        .validate_python(told["created_at"])
        .timestamp()
    )


def _there_and_back(call: Call, ask: Mapping[str, object]) -> dict[str, object]:
    """An ask translated into the other dialect, and from there into its own again."""
    target = Dialect.OPENAI if call.dialect is Dialect.OLLAMA else Dialect.OLLAMA
    there = _asked(call, target, ask)
    back = translation(
        there.call, call.dialect, there.request(), model="mine", now=1.0, identity="identity"
    )
    assert back is not None
    assert call is back.call
    return msgspec.json.decode(back.request(), type=dict[str, object])


def test_ollama_ask_there_and_back() -> None:
    """An Ollama chat comes back from OpenAI's words as it was."""
    ask = {
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "what?", "images": ["iVBORw0KGgoAAAAA"]},
            {
                "role": "assistant",
                "content": "",
                "thinking": "hm",
                "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": {"a": 1}}}],
            },
            {"role": "tool", "content": "2", "tool_name": "f", "tool_call_id": "x"},
        ],
        "stream": True,
        "options": {
            "temperature": 0.5,
            "top_p": 0.5,
            "top_k": 3,
            "seed": 7,
            "num_predict": 9,
            "stop": ["a"],
            "repeat_penalty": 1.1,
        },
        "format": {"type": "object"},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "think": "high",
    }

    assert {"model": "mine", **ask} == _there_and_back(Call.OLLAMA_CHAT, ask)


def test_openai_ask_there_and_back() -> None:
    """An OpenAI chat comes back from Ollama's words as it was."""
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    ask = {
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "what?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "2", "tool_call_id": "x"},
        ],
        "stream": False,
        "temperature": 0.5,
        "top_p": 0.5,
        "seed": 7,
        "max_tokens": 9,
        "stop": ["a"],
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "response_format": {"type": "json_object"},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "reasoning_effort": "low",
    }

    assert {"model": "mine", **ask} == _there_and_back(Call.OPENAI_CHAT, ask)


def test_answer_there_and_back() -> None:
    """A streamed answer comes back from Ollama's words saying what it said."""
    ollama_lines = _ollama(Call.OLLAMA_CHAT, CHAT_ASK).pieces()
    lines = ollama_lines.feed(OPENAI_CHAT_EVENTS) + ollama_lines.finish()
    ask = CHAT_ASK | {"stream_options": {"include_usage": True}}
    chunks = [
        msgspec.json.decode(chunk) for chunk in _streamed(_openai(Call.OPENAI_CHAT, ask), lines)
    ]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    function = {"name": "f", "arguments": '{"a":1}'}

    assert [
        {"role": "assistant", "content": ""},
        {"content": "a", "reasoning_content": "b"},
        {"tool_calls": [{"index": 0, "id": "x", "type": "function", "function": function}]},
        {},
    ] == deltas
    assert USAGE == chunks[-1]["usage"]
