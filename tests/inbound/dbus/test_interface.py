"""Interfaces read from XML: what may be called, with what, and what may be set."""

import pytest

from ollama_proxy.inbound.dbus.interface import Method, Property, parse_interfaces, read_interfaces
from ollama_proxy.inbound.dbus.tree import NAME

XML = """
<node>
  <interface name="org.example.Thing">
    <method name="Plain"/>
    <method name="Add">
      <arg type="u"/>
      <arg type="a{sv}" direction="in"/>
      <arg type="s" direction="out"/>
      <arg type="b" direction="out"/>
    </method>
    <property name="Size" type="d" access="read"/>
    <property name="Colour" type="s" access="readwrite"/>
    <property name="Version" type="s" access="read">
      <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="const"/>
    </property>
    <signal name="Said"><arg type="s"/><arg type="aa{sv}"/></signal>
  </interface>
</node>
"""
# CONTRACT section 8: member names, types and access; in the order of the files.
EXPECTED = {
    "Efficiency": (
        "Version:s Mode:s! CurrentMode:s EffectiveMode:s Reason:s Modes:aa{sv} PowerBudgetWatts:d",
        "SetMode(s)s GetMode()s GetEffectiveMode()s ListModes()as Hold(sss)u Release(u)",
        "ModeChanged:sss",
    ),
    "Backends": (
        "Version:s Backends:aa{sv} HealthyCount:u Count:u",
        "GetBackend(s)a{sv} Refresh()",
        "BackendChanged:sbs",
    ),
    "Routing": (
        "Version:s Stats:a{sv} QueueDepths:a{sa{su}} InFlight:u",
        "RecentDecisions(u)aa{sv} Explain(a{sv})a{sv}",
        "RequestRouted:sss",
    ),
    "Thermal": (
        "Version:s State:s Zones:aa{sv} Fans:aa{sv} Throttling:b",
        "History(u)aa{sv}",
        "StateChanged:sss",
    ),
    "SystemState": (
        "Version:s OnBattery:b BatteryPercent:d PowerProfile:s QuietHours:b PowerWatts:d Sleeping:b",
        "",
        "",
    ),
}


def test_members_are_read_with_their_types() -> None:
    """Directions that are left out are the specification's."""
    (thing,) = parse_interfaces(XML)

    assert "org.example.Thing" == thing.name
    assert {"Plain": Method("", ""), "Add": Method("ua{sv}", "sb")} == thing.methods
    assert {"Said": "saa{sv}"} == thing.signals


def test_properties_say_what_may_be_done_to_them() -> None:
    """Which may be set, and which never change."""
    (thing,) = parse_interfaces(XML)

    assert {
        "Size": Property("d", is_writable=False, is_constant=False),
        "Colour": Property("s", is_writable=True, is_constant=False),
        "Version": Property("s", is_writable=False, is_constant=True),
    } == thing.properties


def test_what_is_shown_reads_as_what_was_written() -> None:
    """An interface's own text makes the same interface again."""
    (thing,) = parse_interfaces(XML)

    assert [thing] == parse_interfaces(f"<node>{thing.xml}</node>")


@pytest.mark.parametrize("name", EXPECTED)
def test_the_files_have_what_the_contract_fixes(name: str) -> None:
    """Clients call exactly these."""
    (found,) = read_interfaces(f"{NAME}.{name}")
    properties = [
        f"{n}:{p.signature}{'!' if p.is_writable else ''}" for n, p in found.properties.items()
    ]
    methods = [f"{n}({m.takes}){m.returns}" for n, m in found.methods.items()]
    signals = [f"{n}:{signature}" for n, signature in found.signals.items()]

    assert f"{NAME}.{name}" == found.name
    assert EXPECTED[name] == (" ".join(properties), " ".join(methods), " ".join(signals))
