"""How foreign JSON is read: a caller's fault becomes a refusal, a backend's a garbled answer.

Values that pass through unread (schemas, tools, arguments) stay `msgspec.Raw`: their numbers keep
their digits, and no depth of nesting reaches our encoder.
"""

import re
from typing import TypeVar

import msgspec

from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

T = TypeVar("T")
_PLACE = re.compile(r"(?P<fault>.*?)(?: - at `\$\.?(?P<place>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")
_ANYTHING = msgspec.json.Decoder(dict[str, object] | str)
_MESSAGE_CHARACTERS = 500
COMMAS_MAX = 500_000  # in the text of the longest prompts there are some thousands
_TOO_MANY_VALUES = Refusal(
    Code.INVALID_REQUEST,
    f"The body has more than {COMMAS_MAX} commas, too many values to translate for this backend.",
)


class GarbledAnswer(ValueError):  # noqa: N818 - named for what it is about, as all faults here
    """A backend's answer that cannot be understood, or that is not whole."""


def refused(param: str | None, message: str) -> RequestRefused:
    """A refusal of the caller's request, to be raised."""
    return RequestRefused(Refusal(Code.INVALID_REQUEST, message, param=param))


def _misread(error: msgspec.ValidationError) -> RequestRefused:
    """Name the field that msgspec stumbled over, as its user would write it."""
    parts = _PLACE.fullmatch(str(error))
    fault, place = (parts["fault"], parts["place"] or "") if parts else (str(error), "")
    missing = _MISSING.fullmatch(fault)
    if missing:
        param = f"{place}.{missing['field']}".removeprefix(".")
        return refused(param, f"{param}: this field is required")
    if not place:
        return refused(None, f"the body is not understood: {fault}")
    return refused(place, f"{place}: {fault[:1].lower()}{fault[1:]}")


def read_request(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Read a caller's body. Raises RequestRefused, with the field at fault where there is one."""
    # Not its length: pictures are long, and cost nothing. It is the values that keep others waiting.
    if body.count(b",") > COMMAS_MAX:
        raise RequestRefused(_TOO_MANY_VALUES)
    try:
        # msgspec checks the UTF-8 of the strings it builds, not of what it passes as Raw.
        return decoder.decode(body.decode())
    except msgspec.ValidationError as error:
        raise _misread(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refused(None, f"the body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise refused(None, "the body is nested too deeply") from error


def read_answer(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Read a backend's answer, or a piece of one. Raises GarbledAnswer."""
    try:
        return decoder.decode(data.decode())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GarbledAnswer(str(error)) from error
    except RecursionError as error:
        raise GarbledAnswer("it is nested too deeply") from error


def error_in(error: msgspec.Raw) -> str | None:
    """The sentence in an answer's `error` field; None when the field is absent or null."""
    text = bytes(error)
    if text in {b"", b"null"}:
        return None
    found: object = None
    try:
        found = read_answer(text, _ANYTHING)
    except GarbledAnswer:
        found = None  # an error in no known shape is told as it stands
    while isinstance(found, dict):
        found = found.get("message") or found.get("error")
    said = found if isinstance(found, str) and found else text.decode()
    return said[:_MESSAGE_CHARACTERS]
