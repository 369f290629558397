"""An interface as its XML file describes it: members, their types, and what may be done to them."""

from collections.abc import Iterator, Mapping
from importlib.resources import files
from xml.etree import ElementTree as ET

import attrs


@attrs.frozen
class Method:
    """A method; its arguments' types, as one signature each way."""

    takes: str
    returns: str


@attrs.frozen
class Property:
    """A property."""

    signature: str
    is_writable: bool
    is_constant: bool


@attrs.frozen
class Interface:
    """One interface.

    Attributes:
        name: of it.
        xml: its element, as introspection shows it.
        methods: by name.
        properties: by name.
        signals: the signature of each, by name.
    """

    name: str
    xml: str
    methods: Mapping[str, Method]
    properties: Mapping[str, Property]
    signals: Mapping[str, str]


_CHANGES = "org.freedesktop.DBus.Property.EmitsChangedSignal"


def parse_interfaces(xml: str) -> list[Interface]:
    """Every interface of a document of introspection data."""
    return [_interface(element) for element in ET.fromstring(xml).iterfind("interface")]  # noqa: S314 - as above


def read_interfaces(name: str) -> list[Interface]:
    """Those of one of our files, by its name without suffix."""
    return parse_interfaces(files(__package__).joinpath(f"{name}.xml").read_text("utf-8"))


def _interface(element: ET.Element) -> Interface:
    ET.indent(element)
    return Interface(
        name=element.attrib["name"],
        xml=ET.tostring(element, encoding="unicode").strip(),
        methods={
            each.attrib["name"]: Method(
                takes="".join(_types(each, "in")), returns="".join(_types(each, "out"))
            )
            for each in element.iterfind("method")
        },
        properties={
            each.attrib["name"]: Property(
                signature=each.attrib["type"],
                is_writable="write" in each.attrib["access"],
                is_constant=_annotation(each, _CHANGES) == "const",
            )
            for each in element.iterfind("property")
        },
        signals={
            each.attrib["name"]: "".join(_types(each, "out")) for each in element.iterfind("signal")
        },
    )


def _types(member: ET.Element, direction: str) -> Iterator[str]:
    # The specification's defaults: a method takes its arguments, a signal gives them.
    usual = "out" if member.tag == "signal" else "in"
    for argument in member.iterfind("arg"):
        if argument.get("direction", usual) == direction:
            yield argument.attrib["type"]


def _annotation(member: ET.Element, name: str) -> str | None:
    found = (a.get("value") for a in member.iterfind("annotation") if a.get("name") == name)
    return next(found, None)
