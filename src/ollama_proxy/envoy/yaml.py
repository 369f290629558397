"""Trees of plain values as YAML that people like to read, with comments.

Our own few lines and no library: the commands that run a router should not need one more distribution,
and none of them keeps comments, which are why this is YAML and not JSON.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

import attrs

Leaf = str | bool | int | None
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_TAKEN = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}  # words of YAML 1.1
_WIDTH = 96


@attrs.frozen
class Noted:
    """A value of a mapping, with a sentence that stands above it as a comment."""

    note: str
    value: "Tree"


Tree = Leaf | Noted | Mapping[str, "Tree"] | Sequence["Tree"]


def to_yaml(tree: Mapping[str, Tree]) -> str:
    """The text, which ends with a line break. All texts in `tree` are printable."""
    return "".join(f"{line}\n" for line in _mapping(tree))


def _mapping(tree: Mapping[str, Tree]) -> Iterator[str]:
    for key, noted in tree.items():
        value = noted
        if isinstance(noted, Noted):
            yield from (f"# {line}" for line in textwrap.wrap(noted.note, _WIDTH))
            value = noted.value
        if isinstance(value, Mapping) and value:
            yield f"{_leaf(key)}:"
            yield from (f"  {line}" for line in _mapping(value))
        elif isinstance(value, Sequence) and not isinstance(value, str) and value:
            yield f"{_leaf(key)}:"
            yield from _sequence(value)
        else:
            yield f"{_leaf(key)}: {_leaf(value)}"


def _sequence(items: Sequence[Tree]) -> Iterator[str]:
    for item in items:
        lines = list(_mapping(item)) if isinstance(item, Mapping) and item else [_leaf(item)]
        yield f"- {lines[0]}"
        yield from (f"  {line}" for line in lines[1:])


def _leaf(value: Tree) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _TAKEN:
        return value
    # JSON's other values are YAML's too; characters beyond ASCII stay, since YAML has no surrogates.
    return json.dumps(value, ensure_ascii=False)
