"""Ollama's asks come out in OpenAI's words, field by field."""

import base64

import msgspec
import pytest

from ollama_proxy.backends.translate import Translation, translation
from ollama_proxy.backends.translate.reading import COMMAS_MAX
from ollama_proxy.policy.ask import Call, Dialect
from ollama_proxy.policy.refusal import Code, RequestRefused

NOW = 1_700_000_000.5
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()


def _translate(call: Call, ask: dict[str, object] | bytes) -> Translation:
    body = ask if isinstance(ask, bytes) else msgspec.json.encode({"model": "mine", **ask})
    translated = translation(
        call, Dialect.OPENAI, body, model="theirs", now=NOW, identity="identity"
    )
    assert translated is not None
    return translated


def _sent(call: Call, ask: dict[str, object]) -> dict[str, object]:
    sent = msgspec.json.decode(_translate(call, ask).request(), type=dict[str, object])
    assert sent.pop("model") == "theirs"
    return sent


def _chat(**fields: object) -> dict[str, object]:
    messages = [{"role": "user", "content": "hi"}]
    sent = _sent(Call.OLLAMA_CHAT, {"messages": messages, "stream": False, **fields})
    assert sent.pop("messages") == messages
    assert sent.pop("stream") is False
    return sent


def _messages(*messages: dict[str, object]) -> object:
    return _sent(Call.OLLAMA_CHAT, {"messages": messages})["messages"]


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 0.25, "top_p": 0.5}, {"temperature": 0.25, "top_p": 0.5}),
        ({"top_k": 40.0, "min_p": 0.1}, {"top_k": 40.0, "min_p": 0.1}),
        ({"seed": 42}, {"seed": 42}),
        ({"num_predict": 7}, {"max_tokens": 7}),
        ({"num_predict": -1}, {}),
        ({"num_predict": -2}, {}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stop": "a"}, {"stop": "a"}),
        ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
        ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5}),
        (
            {"repeat_penalty": 1.1, "repeat_last_n": 64},
            {"repeat_penalty": 1.1, "repeat_last_n": 64},
        ),
        ({"typical_p": 0.7}, {"typical_p": 0.7}),
        (
            {"mirostat": 2, "mirostat_tau": 5.0, "mirostat_eta": 0.1},
            {"mirostat": 2, "mirostat_tau": 5.0, "mirostat_eta": 0.1},
        ),
        ({"num_keep": 4}, {"n_keep": 4}),
        ({"num_ctx": 8192, "num_gpu": 1, "numa": True}, {}),
        ({"temperature": None}, {}),
        (None, {}),
    ],
)
def test_options(asked: object, sent: dict[str, object]) -> None:
    """Every option that changes the answer is carried; those about loading are not."""
    assert sent == _chat(options=asked)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"format": "json"}, {"response_format": {"type": "json_object"}}),
        ({"format": ""}, {}),
        ({"format": None}, {}),
        (
            {"format": {"type": "object", "properties": {"a": {"const": 1}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "answer",
                        "schema": {"type": "object", "properties": {"a": {"const": 1}}},
                    },
                }
            },
        ),
        ({"keep_alive": "5m"}, {}),
        ({"think": True}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"think": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"think": "high"}, {"reasoning_effort": "high"}),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"tools": []}, {}),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
        ),
        ({"something": "new"}, {}),
    ],
)
def test_fields(asked: dict[str, object], sent: dict[str, object]) -> None:
    """Formats, thinking, tools and log probabilities are carried."""
    assert sent == _chat(**asked)


def test_streams_unless_told_otherwise() -> None:
    """Ollama's generating calls stream by default, and their last line has the figures."""
    sent = _sent(Call.OLLAMA_CHAT, {"messages": [{"role": "user", "content": "hi"}]})

    assert sent["stream"] is True
    assert {"include_usage": True} == sent["stream_options"]


def test_images_become_data_urls() -> None:
    """An image is sent as a data URL, with the type that its first bytes tell."""
    told = _messages({"role": "user", "content": "what?", "images": [PNG]})

    assert [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            ],
        }
    ] == told


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"GIF89a", "gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "webp"),
    ],
)
def test_image_types(head: bytes, kind: str) -> None:
    """The four formats that models take are told apart."""
    image = base64.encodebytes(head + bytes(80)).decode()  # wrapped, as Ollama takes it too
    sent = _sent(Call.OLLAMA_GENERATE, {"prompt": "", "images": [image]})

    assert f"data:image/{kind};base64," in str(sent)
    assert "\\n" not in str(sent)


def test_tool_results_find_their_calls_by_name() -> None:
    """Ollama names the tool of a result; OpenAI gets the id of that tool's call."""
    told = _messages(
        {
            "role": "assistant",
            "tool_calls": [
                {"function": {"name": "add", "arguments": {"a": 1.50}}},
                {"function": {"name": "sub"}},
            ],
        },
        {"role": "tool", "tool_name": "sub", "content": "0"},
        {"role": "tool", "content": "2"},
    )

    assert [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call00000",
                    "type": "function",
                    "function": {"name": "add", "arguments": '{"a":1.5}'},
                },
                {
                    "id": "call00001",
                    "type": "function",
                    "function": {"name": "sub", "arguments": "{}"},
                },
            ],
        },
        {"role": "tool", "content": "0", "tool_call_id": "call00001"},
        {"role": "tool", "content": "2", "tool_call_id": "call00000"},
    ] == told


def test_tool_ids_are_kept() -> None:
    """Where Ollama's caller has ids, they stay."""
    told = _messages(
        {"role": "assistant", "tool_calls": [{"id": "x", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "x", "content": "0"},
    )

    assert isinstance(told, list)
    assert "x" == told[0]["tool_calls"][0]["id"]
    assert "x" == told[1]["tool_call_id"]


def test_a_tool_result_without_its_call_gets_an_id() -> None:
    """A tool message that answers no known call is still sent as OpenAI demands."""
    told = _messages({"role": "tool", "tool_name": "f", "content": "0"})

    assert [{"role": "tool", "content": "0", "tool_call_id": "call00000"}] == told


def test_thinking_goes_back_as_reasoning() -> None:
    """A model's earlier thoughts are handed to it under the name its server knows."""
    told = _messages({"role": "assistant", "content": "4", "thinking": "2+2"})

    assert [{"role": "assistant", "content": "4", "reasoning_content": "2+2"}] == told


def test_numbers_in_arguments_keep_their_digits() -> None:
    """Arguments and schemas pass through as they were written."""
    body = (
        b'{"model":"m","messages":[{"role":"user"}],"format":{"maximum":1.000000000000000000001}}'
    )

    assert b"1.000000000000000000001" in _translate(Call.OLLAMA_CHAT, body).request()


@pytest.mark.parametrize(
    ("asked", "call", "sent"),
    [
        (
            {"prompt": "hi"},
            Call.OPENAI_CHAT,
            {"messages": [{"role": "user", "content": "hi"}]},
        ),
        (
            {"prompt": "hi", "system": "be kind", "context": [1, 2], "raw": False},
            Call.OPENAI_CHAT,
            {
                "messages": [
                    {"role": "system", "content": "be kind"},
                    {"role": "user", "content": "hi"},
                ]
            },
        ),
        ({"prompt": "hi", "raw": True}, Call.OPENAI_COMPLETION, {"prompt": "hi"}),
        (
            {"prompt": "a = ", "suffix": "\n"},
            Call.OPENAI_COMPLETION,
            {"prompt": "a = ", "suffix": "\n"},
        ),
    ],
)
def test_generate(asked: dict[str, object], call: Call, sent: dict[str, object]) -> None:
    """A prompt becomes a chat, as Ollama templates it; raw ones and infills are completions."""
    asked = {**asked, "stream": False}

    assert call is _translate(Call.OLLAMA_GENERATE, asked).call
    assert {**sent, "stream": False} == _sent(Call.OLLAMA_GENERATE, asked)


@pytest.mark.parametrize(
    ("call", "asked", "sent"),
    [
        (Call.OLLAMA_EMBED, {"input": "a"}, {"input": ["a"]}),
        (
            Call.OLLAMA_EMBED,
            {"input": ["a", "b"], "dimensions": 64, "truncate": True},
            {"input": ["a", "b"], "dimensions": 64},
        ),
        (Call.OLLAMA_EMBEDDINGS, {"prompt": "a"}, {"input": ["a"]}),
    ],
)
def test_embeddings(call: Call, asked: dict[str, object], sent: dict[str, object]) -> None:
    """Both of Ollama's calls for vectors become the one that OpenAI has."""
    assert Call.OPENAI_EMBEDDING is _translate(call, asked).call
    assert sent == _sent(call, asked)


@pytest.mark.parametrize(
    ("call", "asked", "ready"),
    [
        (
            Call.OLLAMA_CHAT,
            {"messages": []},
            {"message": {"role": "assistant", "content": ""}, "done_reason": "load"},
        ),
        (Call.OLLAMA_GENERATE, {}, {"response": "", "done_reason": "load"}),
        (Call.OLLAMA_GENERATE, {"keep_alive": 0}, {"response": "", "done_reason": "unload"}),
    ],
)
def test_loading_needs_no_backend(
    call: Call, asked: dict[str, object], ready: dict[str, object]
) -> None:
    """An ask without a prompt is answered at once, as OpenAI has no way to load a model."""
    translated = _translate(call, asked)

    assert translated.ready is not None
    assert {
        "model": "mine",
        "created_at": "2023-11-14T22:13:20.500000000Z",
        "done": True,
        **ready,
    } == msgspec.json.decode(translated.ready)


@pytest.mark.parametrize(
    ("call", "asked", "ready"),
    [
        (Call.OLLAMA_EMBED, {"input": ""}, b'{"model":"mine","embeddings":[]}'),
        (Call.OLLAMA_EMBED, {"input": []}, b'{"model":"mine","embeddings":[]}'),
        (Call.OLLAMA_EMBEDDINGS, {}, b'{"embedding":[]}'),
    ],
)
def test_no_input_needs_no_backend(call: Call, asked: dict[str, object], ready: bytes) -> None:
    """Nothing to embed is answered with no vector."""
    assert ready == _translate(call, asked).ready


def test_an_ask_with_a_prompt_needs_a_backend() -> None:
    """There is no ready answer to what only a model can answer."""
    assert _translate(Call.OLLAMA_GENERATE, {"prompt": "hi"}).ready is None


@pytest.mark.parametrize(
    ("call", "asked", "param"),
    [
        (Call.OLLAMA_CHAT, {"messages": "hi"}, "messages"),
        (Call.OLLAMA_CHAT, {"messages": [{"content": "hi"}]}, "messages[0].role"),
        (Call.OLLAMA_CHAT, {"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (
            Call.OLLAMA_CHAT,
            {"messages": [{"role": "user", "images": ["%"]}]},
            "messages[0].images[0]",
        ),
        (Call.OLLAMA_CHAT, {"options": {"num_predict": "7"}}, "options.num_predict"),
        (Call.OLLAMA_CHAT, {"options": {"seed": True}}, "options.seed"),
        (Call.OLLAMA_CHAT, {"options": []}, "options"),
        (Call.OLLAMA_CHAT, {"format": "xml", "messages": [{"role": "user"}]}, "format"),
        (Call.OLLAMA_CHAT, {"stream": "yes"}, "stream"),
        (
            Call.OLLAMA_CHAT,
            {
                "messages": [
                    {"role": "a", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        (Call.OLLAMA_GENERATE, {"prompt": ["a"]}, "prompt"),
        (Call.OLLAMA_GENERATE, {"prompt": "a", "template": "{{ .Prompt }}"}, "template"),
        (Call.OLLAMA_GENERATE, {"prompt": "a", "raw": True, "system": "b"}, "system"),
        (Call.OLLAMA_GENERATE, {"prompt": "a", "raw": True, "images": [PNG]}, "images"),
        (Call.OLLAMA_GENERATE, {"prompt": "a", "raw": True, "logprobs": True}, "logprobs"),
        (Call.OLLAMA_GENERATE, {"prompt": "a", "images": ["AAAA"]}, "images[0]"),
        (Call.OLLAMA_EMBED, {"input": [1]}, "input[0]"),
        (Call.OLLAMA_EMBEDDINGS, {"prompt": 1}, "prompt"),
    ],
)
def test_wrong_types_are_refused_by_name(call: Call, asked: dict[str, object], param: str) -> None:
    """What cannot be carried is refused, and the refusal names the field."""
    with pytest.raises(RequestRefused) as raised:
        _translate(call, asked)

    assert Code.INVALID_REQUEST is raised.value.refusal.code
    assert param == raised.value.refusal.param
    assert raised.value.refusal.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"model":"m","tools":["\xff"]}',
        b'{"model":"m","tools":[' + b"[" * 100_000,
        b'{"model":"m","messages":[{"role":"user","content":NaN}]}',
    ],
)
def test_garbage_is_refused(body: bytes) -> None:
    """A body that is no JSON object, or a bottomless one, is the caller's fault."""
    with pytest.raises(RequestRefused) as raised:
        _translate(Call.OLLAMA_CHAT, body)

    assert Code.INVALID_REQUEST is raised.value.refusal.code


def test_a_missing_field_is_named() -> None:
    """A field that must be there is named when it is not."""
    with pytest.raises(RequestRefused) as raised:
        _translate(Call.OLLAMA_CHAT, b"{}")

    assert "model" == raised.value.refusal.param
    assert "model: this field is required" == raised.value.refusal.message


@pytest.mark.parametrize(
    ("call", "target"),
    [
        (Call.OPENAI_RESPONSES, Dialect.OLLAMA),
        (Call.ANTHROPIC_MESSAGES, Dialect.OLLAMA),
        (Call.ANTHROPIC_MESSAGES, Dialect.OPENAI),
        (Call.OLLAMA_CHAT, Dialect.ANTHROPIC),
        (Call.OLLAMA_CHAT, Dialect.OLLAMA),
    ],
)
def test_no_counterpart(call: Call, target: Dialect) -> None:
    """A call without a counterpart in the target's dialect has no translation."""
    assert translation(call, target, b"{}", model="m", now=NOW, identity="i") is None


def test_there_are_only_so_many_values() -> None:
    """A million and a half messages kept everybody else waiting for two seconds, and took 800 MiB."""
    with pytest.raises(RequestRefused) as caught:
        _translate(Call.OLLAMA_CHAT, b'{"model":"m","messages":[' + b"," * (COMMAS_MAX + 1) + b"]}")

    assert Code.INVALID_REQUEST is caught.value.refusal.code
    most = ["x"] * (COMMAS_MAX - 1)
    assert most == _sent(Call.OLLAMA_EMBED, {"input": most})["input"]
