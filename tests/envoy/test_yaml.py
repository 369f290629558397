"""What is written as YAML is read as what it was."""

from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.envoy.yaml import Noted, to_yaml

# What our configuration lets through, which asks for str.isprintable.
TEXTS = st.text(st.characters(codec="utf-8").filter(str.isprintable), max_size=12)
WORDS = st.sampled_from([
    "yes",
    "off",
    "null",
    "~",
    "1e3",
    "0x1",
    "1:30",
    "a: b",
    "# no",
    "- x",
    "=",
    "<<",
])
LEAVES = st.none() | st.booleans() | st.integers() | TEXTS | WORDS
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | WORDS, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(TEXTS | WORDS, TREES, min_size=1, max_size=4))
def test_a_reader_gets_what_was_written(tree: dict[str, Any]) -> None:
    """Whatever the texts look like."""
    assert tree == yaml.safe_load(to_yaml(tree))


@given(st.dictionaries(TEXTS, TREES, min_size=1, max_size=4), TEXTS)
def test_a_note_changes_nothing(tree: dict[str, Any], note: str) -> None:
    """It is a comment, however long, wherever it stands."""
    noted = {key: Noted(note * 20, value) for key, value in tree.items()}
    assert {"a": [tree]} == yaml.safe_load(to_yaml({"a": [noted]}))
