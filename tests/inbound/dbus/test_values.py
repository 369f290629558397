"""Figures with their D-Bus types."""

import pytest

from ollama_proxy.inbound.dbus.values import Variant, plain_of, record_of, text_of, variant_of


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (True, ("b", True)),
        (3, ("x", 3)),
        (3.0, ("d", 3.0)),
        ("npu", ("s", "npu")),
        ([], ("as", [])),
        (("a", "b"), ("as", ["a", "b"])),
        ({"value": 3.0, "source": None}, ("a{sv}", {"value": ("d", 3.0)})),
        ([{"id": "npu"}], ("aa{sv}", [{"id": ("s", "npu")}])),
    ],
)
def test_a_figure_has_the_type_of_its_kind(figure: object, expected: Variant) -> None:
    """Whatever its value is."""
    assert expected == variant_of(figure)
    assert type(expected[1]) is type(variant_of(figure)[1])


def test_what_is_unknown_is_left_out() -> None:
    """A bus has no null, and 0 is a value."""
    assert {"rpm": ("d", 0.0)} == record_of({"rpm": 0.0, "percent": None})


def test_what_is_no_figure_is_a_mistake() -> None:
    """It is found where it is made, not where a client cannot read it."""
    with pytest.raises(TypeError, match="bytes"):
        variant_of({"raw": b"\0"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("plain", "plain"), ("nul\0", "nul\N{REPLACEMENT CHARACTER}"), ("half\ud83d", "half?")],
)
def test_no_text_makes_the_bus_cut_us_off(text: str, expected: str) -> None:
    """Backends' words hold what D-Bus forbids."""
    assert expected == text_of(text)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (("s", "x"), "x"),
        (("v", ("d", 1.5)), 1.5),
        (("a{sv}", {"a": ("as", ["b"])}), {"a": ["b"]}),
        (("aa{sv}", [{"a": ("u", 1)}]), [{"a": 1}]),
    ],
)
def test_a_variant_is_read_without_its_types(variant: Variant, expected: object) -> None:
    """As deep as it goes."""
    assert expected == plain_of(variant)
