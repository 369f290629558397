"""Which answers can be gone on with, what is asked for then, and that the parts join to one stream."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.backends.backend import BackendFailed, Errand, Head
from ollama_proxy.backends.continuation import (
    EVENT_MAX_BYTES,
    TEXT_MAX,
    SseTranscript,
    transcribe,
)
from ollama_proxy.policy.ask import Call

COMPLETION, CHAT = Call.OPENAI_COMPLETION, Call.OPENAI_CHAT
STREAM = Head(status=200, headers=((b"content-type", b"text/event-stream; charset=utf-8"),))
USER = {"role": "user", "content": "hi"}
DONE = b"data: [DONE]\n\n"


def errand(call: Call, **fields: object) -> Errand:
    """A streamed call, as its caller writes it."""
    said: dict[str, object] = {"messages": [USER]} if call is CHAT else {"prompt": "One,"}
    body = msgspec.json.encode({"model": "m", "stream": True, **said, **fields})
    return Errand(call=call, model="m", body=body, stream=True)


def begun(call: Call, *events: bytes, **fields: object) -> SseTranscript:
    """A transcript with so many events in it."""
    transcript = transcribe(errand(call, **fields))
    assert transcript is not None
    transcript.open(STREAM)
    transcript.feed(b"".join(events), complete=False)
    return transcript


def event(choice: dict[str, Any], *, identity: str = "first", **more: Any) -> bytes:
    """One event of a server's."""
    fields = {"id": identity, "object": "o", "created": len(identity), "model": identity}
    whole = {**fields, "choices": [{"index": 0, "finish_reason": None, **choice}], **more}
    return b"data: " + msgspec.json.encode(whole) + b"\n\n"


def piece(call: Call, text: str, *, identity: str = "first") -> bytes:
    """An event that says `text`."""
    said: dict[str, Any] = {"delta": {"content": text}} if call is CHAT else {"text": text}
    return event(said, identity=identity)


def told(call: Call, texts: list[str], *, identity: str = "first") -> list[bytes]:
    """A whole stream's events, as llama-server sends them."""
    last: dict[str, Any] = {"delta": {}} if call is CHAT else {"text": ""}
    role = event({"delta": {"role": "assistant", "content": None}}, identity=identity)
    return [
        *([role] if call is CHAT else []),
        *(piece(call, text, identity=identity) for text in texts),
        event(last | {"finish_reason": "stop"}, identity=identity, timings={"predicted_n": 3}),
        DONE,
    ]


def contents(stream: bytes) -> list[dict[str, Any]]:
    """What the events of a stream say, but for its mark of the end, which is the last."""
    events = stream.removesuffix(b"\n\n").split(b"\n\n")
    assert [b"data: [DONE]"] == events[-1:]
    return [msgspec.json.decode(each.removeprefix(b"data: ")) for each in events[:-1]]


def text_of(choice: dict[str, Any]) -> str:
    """What a choice says."""
    return choice.get("text") or choice.get("delta", {}).get("content") or ""


# -- which calls -----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [COMPLETION, CHAT])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0, "seed": 1, "stop": ["\n"], "max_tokens": 5},
        {"n": 1, "logprobs": None, "tools": None, "stream_options": {"include_usage": False}},
        {"response_format": {"type": "text"}},
    ],
)
def test_plain_text_can_be_continued(call: Call, fields: dict[str, object]) -> None:
    """Whatever says only how to speak is as true of the rest."""
    assert transcribe(errand(call, **fields)) is not None


@pytest.mark.parametrize("call", [COMPLETION, CHAT])
@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logprobs": 0},
        {"logprobs": True},
        {"echo": True},
        {"suffix": "x"},
        {"best_of": 2},
        {"stream_options": {"include_usage": True}},
        {"tools": [{"type": "function"}]},
        {"functions": [{}]},
        {"response_format": {"type": "json_object"}},
        {"grammar": "root ::= x"},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_completion_tokens": "many"},
        {"a_key_of_next_year": 1},
        {"prompt": ["One,", "Two,"], "messages": [{"role": "assistant", "content": "I"}]},
        {"prompt": [1, 2], "messages": []},
        {"prompt": None, "messages": "hi"},
    ],
)
def test_what_is_more_than_text_cannot(call: Call, fields: dict[str, object]) -> None:
    """A count, a grammar, a second choice: the rest would begin it anew."""
    assert transcribe(errand(call, **fields)) is None


@pytest.mark.parametrize("call", set(Call) - {COMPLETION, CHAT})
def test_other_calls_cannot(call: Call) -> None:
    """Their last pieces count what would be true of the last part alone."""
    asked = {"messages": [USER], "prompt": "One,", "input": "One,"}

    assert transcribe(errand(call, **asked)) is None


def test_whole_answers_cannot() -> None:
    """Nothing of them is out before all is."""
    whole = Errand(call=COMPLETION, model="m", body=b'{"model":"m","prompt":"a"}', stream=False)

    assert transcribe(whole) is None


# -- what is noted ---------------------------------------------------------------------------------


def test_text_is_collected() -> None:
    """Roles, empty pieces and comments are none."""
    transcript = begun(
        CHAT,
        event({"delta": {"role": "assistant", "content": None}}),
        b": still there\n\n",
        piece(CHAT, " two"),
        event({"delta": {"content": ""}, "logprobs": None}, usage=None),
        piece(CHAT, ", thrée"),
    )

    assert (" two, thrée", 2, True) == (
        transcript.text,
        transcript.pieces,
        transcript.is_continuable,
    )


@pytest.mark.parametrize(
    "strange",
    [
        event({"delta": {"content": "a"}, "finish_reason": "stop"}),
        event({"delta": {"tool_calls": [{"index": 0}]}}),
        event({"delta": {"reasoning_content": "hm"}}),
        event({"delta": {"refusal": "no"}}),
        event({"delta": {"content": "a"}, "index": 1}),
        event({"delta": {"content": "a"}, "logprobs": {"content": []}}),
        event({"delta": {"content": "a"}, "of_next_year": 1}),
        event({"delta": {"content": "a"}}, usage={"total_tokens": 3}),
        event({"delta": {"content": 5}}),
        b'data: {"id":"a","created":1,"model":"m","choices":[]}\n\n',
        b'data: {"error":{"message":"no"}}\n\n',
        b"event: ping\ndata: {}\n\n",
        b"data: {\n\n",
        b"data: \xff\n\n",
        DONE,
        b"x" * (EVENT_MAX_BYTES + 1),
        piece(CHAT, "a" * (EVENT_MAX_BYTES + 1)) * (TEXT_MAX // EVENT_MAX_BYTES),
    ],
)
def test_what_is_not_understood_is_passed_but_not_continued(strange: bytes) -> None:
    """Every byte goes on, to the end; nobody will be asked to go on from there."""
    transcript = begun(CHAT, piece(CHAT, "a"))
    rest = piece(CHAT, "b") + b"data: and a half"

    assert strange + rest == transcript.feed(strange + rest, complete=False)
    assert (False, None) == (transcript.is_continuable, transcript.continued())


@pytest.mark.parametrize(
    "head",
    [
        Head(status=200, headers=((b"content-type", b"application/json"),)),
        Head(status=200, headers=()),
        Head(status=400, headers=STREAM.headers),
        Head(status=200, headers=STREAM.headers, length=100),
    ],
)
def test_what_is_no_open_stream_is_passed_but_not_continued(head: Head) -> None:
    """A joined answer would not be as long as was promised, or is none."""
    transcript = transcribe(errand(CHAT))
    assert transcript is not None
    transcript.open(head)

    assert b'{"a' == transcript.feed(b'{"a', complete=False)
    assert not transcript.is_continuable


# -- what is asked for -----------------------------------------------------------------------------


def test_a_completion_goes_on_from_its_prompt() -> None:
    """The text so far is its end; as many tokens fewer are wanted; all else keeps its bytes."""
    transcript = begun(
        COMPLETION,
        piece(COMPLETION, " two"),
        piece(COMPLETION, ","),
        max_tokens=5,
        temperature=0.50,
    )
    rest = transcript.continued()

    assert rest is not None
    assert (
        b'{"model":"m","stream":true,"prompt":"One, two,","max_tokens":3,"temperature":0.5}'
        == rest.body
    )
    assert (COMPLETION, "m", True) == (rest.call, rest.model, rest.stream)


def test_a_chat_goes_on_from_the_assistants_beginning() -> None:
    """It is one message more."""
    transcript = begun(CHAT, piece(CHAT, "Hel"), max_completion_tokens=2)
    rest = transcript.continued()

    assert rest is not None
    assert {
        "model": "m",
        "stream": True,
        "messages": [USER, {"role": "assistant", "content": "Hel"}],
        "max_completion_tokens": 1,
    } == msgspec.json.decode(rest.body)


def test_before_the_first_word_all_is_asked_again() -> None:
    """A role alone is no beginning."""
    asked = errand(CHAT)
    transcript = begun(CHAT, event({"delta": {"role": "assistant", "content": ""}}))

    assert asked == transcript.continued()


def test_who_has_said_all_that_was_wanted_only_ends() -> None:
    """One token would be too many."""
    transcript = begun(CHAT, piece(CHAT, "a"), piece(CHAT, "b"), max_tokens=2)

    assert (False, None) == (transcript.is_continuable, transcript.continued())


# -- the joint -------------------------------------------------------------------------------------


@given(
    call=st.sampled_from([COMPLETION, CHAT]),
    texts=st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=6),
    breaks=st.lists(st.integers(0, 2000), max_size=2),
    cuts=st.lists(st.integers(0, 2000), max_size=6),
    newline=st.sampled_from([b"\n", b"\r\n"]),
)
def test_the_parts_are_one_answer(
    call: Call, texts: list[str], breaks: list[int], cuts: list[int], newline: bytes
) -> None:
    """Cut anywhere and broken off anywhere: the same text, one id, one role, one end."""
    transcript = transcribe(errand(call))
    assert transcript is not None
    heard = b""
    for part, broken_at in enumerate([*breaks, None]):
        rest = texts[transcript.pieces :]
        sent = b"".join(told(call, rest, identity="later" if part else "first"))
        sent = sent.replace(b"\n", newline)
        received = sent[:broken_at]
        transcript.open(STREAM)
        places = sorted({0, *(cut for cut in cuts if cut < len(received)), len(received)})
        for start, end in itertools.pairwise(places):
            heard += transcript.feed(received[start:end], complete=end == len(sent))
        if not transcript.is_continuable:
            heard += transcript.feed(sent[len(received) :], complete=True)
            break
    said = contents(heard.replace(b"\r\n", b"\n"))

    assert "".join(texts) == "".join(text_of(each["choices"][0]) for each in said)
    assert 1 == len({(each["id"], each["created"], each["model"]) for each in said})
    assert [int(call is CHAT)] == [
        sum("role" in each["choices"][0].get("delta", {}) for each in said)
    ]
    assert ["stop"] == [
        each["choices"][0]["finish_reason"] for each in said if each["choices"][0]["finish_reason"]
    ]
    assert (1, "".join(texts)) == (heard.count(b"[DONE]"), transcript.text)


def test_a_first_part_passes_byte_for_byte() -> None:
    """Who is never interrupted has what the server said."""
    sent = b"".join(told(CHAT, ["a", "b"]))
    transcript = transcribe(errand(CHAT))
    assert transcript is not None
    transcript.open(STREAM)

    assert sent == transcript.feed(sent, complete=True)


def test_a_later_part_tells_no_counts() -> None:
    """They would be true of that part alone."""
    transcript = begun(COMPLETION, piece(COMPLETION, "a"))
    transcript.open(STREAM)
    last = event(
        {"text": "", "finish_reason": "stop"}, timings={"predicted_n": 1}, usage={"total_tokens": 1}
    )

    heard = contents(transcript.feed(last + DONE, complete=True))

    assert [event({"text": "", "finish_reason": "stop"})] == [
        b"data: " + msgspec.json.encode(each) + b"\n\n" for each in heard
    ]


def test_a_later_part_that_breaks_off_says_so() -> None:
    """An error passes as it is."""
    transcript = begun(COMPLETION, piece(COMPLETION, "a"))
    transcript.open(STREAM)
    error = b'data: {"error":{"message":"no"}}\n\n'

    assert error == transcript.feed(error, complete=True)


@pytest.mark.parametrize(
    "head", [Head(status=400, headers=()), Head(status=200, headers=((b"content-type", b"a/b"),))]
)
def test_a_later_part_must_be_a_stream(head: Head) -> None:
    """What is none would be taken for a piece of the answer."""
    transcript = begun(COMPLETION, piece(COMPLETION, "a"))

    with pytest.raises(BackendFailed, match=f"it answered {head.status} instead of going on"):
        transcript.open(head)
