"""What the router itself must read or change in the JSON of a call or an answer, and no more."""

import msgspec

from ollama_proxy.backends.backend import CallRejected

# What msgspec raises of JSON that is none; of a string that is not UTF-8 it raises no error of its
# own, and only where it builds that string.
NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_RAW_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def with_model(body: bytes | bytearray, model: str) -> bytes:
    """The same call for another model name; every other value keeps its bytes.

    Raises:
        CallRejected: the body is no JSON object, in a place where nobody looked so far.
    """
    try:
        fields = _RAW_OBJECT.decode(body)
    except NO_JSON as error:
        raise CallRejected(400, f"The body is not valid JSON: {error}.") from error
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def error_message(content: bytes) -> str:
    """The sentence in a server's error answer, whatever its dialect; empty if there is none."""
    try:
        decoded = msgspec.json.decode(content)
    except NO_JSON:
        return ""
    if not isinstance(decoded, dict):
        return ""
    error = decoded.get("error", decoded)
    if isinstance(error, dict):
        error = error.get("message", error.get("detail", ""))
    return error[:500] if isinstance(error, str) else ""


def error_code(content: bytes) -> str:
    """The word that a router's error answer has for the machine; empty if there is none."""
    try:
        decoded = msgspec.json.decode(content)
    except NO_JSON:
        return ""
    if not isinstance(decoded, dict):
        return ""
    error = decoded.get("error")
    code = (error if isinstance(error, dict) else decoded).get("code")
    return code if isinstance(code, str) else ""
