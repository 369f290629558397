"""OpenAI's asks come out in Ollama's words, field by field."""

import msgspec
import pytest

from ollama_proxy.backends.translate import Translation, translation
from ollama_proxy.policy.ask import Call, Dialect
from ollama_proxy.policy.refusal import Code, RequestRefused

DEFAULTS: dict[str, object] = {"temperature": 1.0, "top_p": 1.0}
USER: dict[str, object] = {"role": "user", "content": "hi"}


def _translate(call: Call, ask: dict[str, object] | bytes) -> Translation:
    body = ask if isinstance(ask, bytes) else msgspec.json.encode({"model": "mine", **ask})
    translated = translation(
        call, Dialect.OLLAMA, body, model="theirs", now=1_700_000_000.5, identity="identity"
    )
    assert translated is not None
    return translated


def _sent(call: Call, ask: dict[str, object]) -> dict[str, object]:
    sent = msgspec.json.decode(_translate(call, ask).request(), type=dict[str, object])
    assert sent.pop("model") == "theirs"
    return sent


def _chat(**fields: object) -> dict[str, object]:
    sent = _sent(Call.OPENAI_CHAT, {"messages": [USER], **fields})
    assert sent.pop("messages") == [USER]
    return sent


def _messages(*messages: dict[str, object]) -> object:
    return _sent(Call.OPENAI_CHAT, {"messages": messages})["messages"]


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({"temperature": 0}, {"temperature": 0}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"max_tokens": 7}, {"num_predict": 7}),
        ({"max_completion_tokens": 8}, {"num_predict": 8}),
        ({"max_tokens": 7, "max_completion_tokens": 8}, {"num_predict": 8}),
        ({"seed": 42}, {"seed": 42}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"presence_penalty": 0.5}, {"presence_penalty": 0.5}),
        ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5}),
        ({"top_k": 40, "min_p": 0.1, "n_keep": 3}, {"top_k": 40, "min_p": 0.1, "num_keep": 3}),
        ({"repeat_penalty": 1.1}, {"repeat_penalty": 1.1}),
        ({"temperature": None, "stop": None, "n": 1, "user": "me", "logit_bias": {}}, {}),
    ],
)
def test_options(asked: dict[str, object], options: dict[str, object]) -> None:
    """Every sampling option is carried, and OpenAI's defaults hold where the caller is silent."""
    assert {"stream": False, "options": DEFAULTS | options} == _chat(**asked)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"format": "json"}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": {"type": "object"}},
                }
            },
            {"format": {"type": "object"}},
        ),
        ({"reasoning_effort": "none"}, {"think": False}),
        ({"reasoning_effort": "minimal"}, {"think": "low"}),
        ({"reasoning_effort": "high"}, {"think": "high"}),
        ({"chat_template_kwargs": {"enable_thinking": True}}, {"think": True}),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"},
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
        ),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"}, {}),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "tool_choice": {"type": "function", "function": {"name": "f"}},
            },
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
        ),
        ({"logprobs": False, "something": "new"}, {}),
    ],
)
def test_fields(asked: dict[str, object], sent: dict[str, object]) -> None:
    """Formats, thinking and tools are carried."""
    assert {"stream": False, "options": DEFAULTS, **sent} == _chat(**asked)


def test_parts_become_text_and_images() -> None:
    """The parts of a message are sorted into its text and its images."""
    told = _messages({
        "role": "user",
        "content": [
            {"type": "text", "text": "what"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}},
            {"type": "text", "text": "is this?"},
            {"type": "image_url", "image_url": "data:;base64,AAAA"},
        ],
    })

    assert [{"role": "user", "content": "what\nis this?", "images": ["iVBORw0K", "AAAA"]}] == told


def test_tool_conversation() -> None:
    """Arguments become objects, and results name their tool."""
    told = _messages(
        {"role": "developer", "content": "be kind"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                {"id": "y", "type": "function", "function": {"name": "g", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "y", "content": "1"},
        {"role": "tool", "tool_call_id": "x", "content": [{"type": "text", "text": "2"}]},
        {"role": "tool", "tool_call_id": "z", "name": "h", "content": "3"},
    )

    assert [
        {"role": "system", "content": "be kind"},
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [
                {"id": "x", "function": {"name": "f", "arguments": {"a": 1}}},
                {"id": "y", "function": {"name": "g", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "1", "tool_name": "g", "tool_call_id": "y"},
        {"role": "tool", "content": "2", "tool_name": "f", "tool_call_id": "x"},
        {"role": "tool", "content": "3", "tool_name": "h", "tool_call_id": "z"},
    ] == told


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"prompt": "a"}, {"prompt": "a", "raw": True}),
        ({"prompt": ["a"], "n": 1, "best_of": 1, "echo": False}, {"prompt": "a", "raw": True}),
        ({"prompt": "a", "suffix": "b"}, {"prompt": "a", "suffix": "b"}),
    ],
)
def test_completion(asked: dict[str, object], sent: dict[str, object]) -> None:
    """A completion is an untemplated generate; only with a suffix the template has work to do."""
    assert Call.OLLAMA_GENERATE is _translate(Call.OPENAI_COMPLETION, asked).call
    assert {**sent, "stream": False, "options": DEFAULTS} == _sent(Call.OPENAI_COMPLETION, asked)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"input": "a", "user": "me"}, {"input": ["a"]}),
        (
            {"input": ["a", "b"], "dimensions": 64, "encoding_format": "base64"},
            {"input": ["a", "b"], "dimensions": 64},
        ),
    ],
)
def test_embedding(asked: dict[str, object], sent: dict[str, object]) -> None:
    """A call for vectors becomes Ollama's newer one."""
    assert Call.OLLAMA_EMBED is _translate(Call.OPENAI_EMBEDDING, asked).call
    assert sent == _sent(Call.OPENAI_EMBEDDING, asked)


def _image(url: str) -> dict[str, object]:
    return {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
        ]
    }


def _tool_call(arguments: object) -> dict[str, object]:
    call = {"id": "x", "function": {"name": "f", "arguments": arguments}}
    return {"messages": [{"role": "assistant", "tool_calls": [call]}]}


@pytest.mark.parametrize(
    ("call", "asked", "param"),
    [
        (Call.OPENAI_CHAT, {}, "messages"),
        (Call.OPENAI_CHAT, {"messages": []}, "messages"),
        (Call.OPENAI_CHAT, {"messages": [{"role": 1}]}, "messages[0].role"),
        (Call.OPENAI_CHAT, {"messages": [USER], "temperature": "hot"}, "temperature"),
        (Call.OPENAI_CHAT, {"messages": [USER], "max_tokens": []}, "max_tokens"),
        (Call.OPENAI_CHAT, {"messages": [USER], "n": 2}, "n"),
        (Call.OPENAI_CHAT, {"messages": [USER], "logprobs": True}, "logprobs"),
        (Call.OPENAI_CHAT, {"messages": [USER], "logit_bias": {"5": 1}}, "logit_bias"),
        (Call.OPENAI_CHAT, {"messages": [USER], "reasoning_effort": "all"}, "reasoning_effort"),
        (
            Call.OPENAI_CHAT,
            {"messages": [USER], "response_format": {"type": "xml"}},
            "response_format.type",
        ),
        (
            Call.OPENAI_CHAT,
            {"messages": [USER], "response_format": {"type": "json_schema"}},
            "response_format.json_schema.schema",
        ),
        (
            Call.OPENAI_CHAT,
            _image("http://127.0.0.1/x.png"),
            "messages[0].content[0].image_url.url",
        ),
        (
            Call.OPENAI_CHAT,
            _image("data:image/png;base64,%%%"),
            "messages[0].content[0].image_url.url",
        ),
        (
            Call.OPENAI_CHAT,
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0]",
        ),
        (Call.OPENAI_CHAT, _tool_call("{"), "messages[0].tool_calls[0].function.arguments"),
        (Call.OPENAI_CHAT, _tool_call("[]"), "messages[0].tool_calls[0].function.arguments"),
        (
            Call.OPENAI_CHAT,
            _tool_call("[" * 99_999),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (Call.OPENAI_CHAT, _tool_call({}), "messages[0].tool_calls[0].function.arguments"),
        (Call.OPENAI_COMPLETION, {}, "prompt"),
        (Call.OPENAI_COMPLETION, {"prompt": ""}, "prompt"),
        (Call.OPENAI_COMPLETION, {"prompt": ["a", "b"]}, "prompt"),
        (Call.OPENAI_COMPLETION, {"prompt": [1, 2]}, "prompt"),
        (Call.OPENAI_COMPLETION, {"prompt": [[1, 2]]}, "prompt"),
        (Call.OPENAI_COMPLETION, {"prompt": "a", "echo": True}, "echo"),
        (Call.OPENAI_COMPLETION, {"prompt": "a", "n": 2}, "n"),
        (Call.OPENAI_COMPLETION, {"prompt": "a", "best_of": 2}, "best_of"),
        (Call.OPENAI_COMPLETION, {"prompt": "a", "logprobs": 0}, "logprobs"),
        (Call.OPENAI_EMBEDDING, {"input": ""}, "input"),
        (Call.OPENAI_EMBEDDING, {"input": []}, "input"),
        (Call.OPENAI_EMBEDDING, {"input": [1, 2]}, "input"),
        (Call.OPENAI_EMBEDDING, {"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_what_ollama_cannot_do_is_refused_by_name(
    call: Call, asked: dict[str, object], param: str
) -> None:
    """A wrong type, or a wish Ollama cannot fulfil, is refused, and the refusal names it."""
    with pytest.raises(RequestRefused) as raised:
        _translate(call, asked)

    assert Code.INVALID_REQUEST is raised.value.refusal.code
    assert param == raised.value.refusal.param
    assert raised.value.refusal.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"\xff", b'{"model":"m","messages":' + b"[" * 100_000]
)
def test_garbage_is_refused(body: bytes) -> None:
    """A body that is no JSON object is the caller's fault."""
    with pytest.raises(RequestRefused) as raised:
        _translate(Call.OPENAI_CHAT, body)

    assert Code.INVALID_REQUEST is raised.value.refusal.code
