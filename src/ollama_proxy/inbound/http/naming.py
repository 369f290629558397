"""Which model a request about models means."""

import msgspec
from quart import request

from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

GARBLED = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)  # what msgspec may raise


class _Named(msgspec.Struct):
    """The model that must be found, by the first of these names that is given."""

    base: str = msgspec.field(default="", name="from")
    source: str = ""
    model: str = ""
    name: str = ""


async def read_named() -> tuple[bytes, str]:
    """Read the present request's body, and the name of the model that must be there for it.

    Raises:
        RequestRefused: it is no JSON object, or names none.
    """
    body = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    try:
        named = msgspec.json.decode(body, type=_Named)
    except GARBLED as error:
        raise RequestRefused(
            Refusal(Code.INVALID_REQUEST, f"The body is not understood: {error}.")
        ) from None
    model = named.base or named.source or named.model or named.name
    if not model:
        raise RequestRefused(Refusal(Code.INVALID_REQUEST, "model: is missing.", param="model"))
    return body, model
