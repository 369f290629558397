"""What the router itself must read or change in the JSON of a call or an answer, and no more."""

import msgspec

_RAW_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def with_model(body: bytes | bytearray, model: str) -> bytes:
    """The same call for another model name; every other value keeps its bytes."""
    fields = _RAW_OBJECT.decode(body)
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def error_message(content: bytes) -> str:
    """The sentence in a server's error answer, whatever its dialect; empty if there is none."""
    try:
        decoded = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return ""
    if not isinstance(decoded, dict):
        return ""
    error = decoded.get("error", decoded)
    if isinstance(error, dict):
        error = error.get("message", error.get("detail", ""))
    return error[:500] if isinstance(error, str) else ""
