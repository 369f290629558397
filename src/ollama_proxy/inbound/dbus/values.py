"""The router's figures as D-Bus has them: each value with its type, and what is unknown left out.

A value's type depends on the kind of figure alone, never on its value: a count is `x`, also where it
would fit into less, so that nobody who reads one has to ask; but an empty list is one of texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ollama_proxy.inbound.figures import Values

Variant = tuple[str, Any]


def text_of(value: str) -> str:
    """A text that a bus lets through; who sends it another is cut off by it."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def record_of(values: Values) -> dict[str, Variant]:
    """Named figures as `a{sv}`."""
    return {name: variant_of(value) for name, value in values.items() if value is not None}


def variant_of(value: object) -> Variant:
    """A figure with its type.

    Raises:
        TypeError: it is of a kind that no figure is.
    """
    match value:
        case bool():
            return "b", value
        case int():
            return "x", value
        case float():
            return "d", value
        case str():
            return "s", text_of(value)
        case Mapping():
            return "a{sv}", record_of({text_of(name): each for name, each in value.items()})
        case Sequence() if all(isinstance(each, str) for each in value):
            return "as", [text_of(each) for each in value]
        case Sequence() if all(isinstance(each, Mapping) for each in value):
            return "aa{sv}", [record_of(each) for each in value]
        case _:
            raise TypeError(f"no figure is a {type(value).__name__}")


def plain_of(variant: Variant) -> object:
    """What a variant of somebody else's holds, without its types."""
    return _plain(variant[0], variant[1])


def _plain(signature: str, value: Any) -> object:  # noqa: ANN401 - as the signature says
    if signature == "v":
        return plain_of(value)
    if signature.startswith("a{") and isinstance(value, Mapping):
        inner = signature[3:-1]
        return {name: _plain(inner, each) for name, each in value.items()}
    if signature.startswith("a") and isinstance(value, list):
        return [_plain(signature[1:], each) for each in value]
    return value
