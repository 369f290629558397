"""What is made of what Avahi tells, whatever it is: the local network is anybody's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.bus.message import Signal
from ollama_proxy.discovery.avahi import MOST_SERVICES, TYPE, _Found, nodes_of, read_txt
from ollama_proxy.policy.roster import FoundNode

TXT = [b"id=abc", b"v=1", b"tls=0"]


def resolved(**changes: Any) -> tuple[Any, ...]:
    """An answer to ResolveService, with what a test changes."""
    given_: dict[str, Any] = {
        "interface": 2,
        "protocol": 0,
        "name": "laptop",
        "type": TYPE,
        "domain": "local",
        "host": "laptop.local",
        "aprotocol": 0,
        "address": "192.168.1.20",
        "port": 8080,
        "txt": TXT,
        "flags": 0,
    }
    return tuple((given_ | changes).values())


def test_a_service_is_a_node() -> None:
    """At its address, by its id and its host's name."""
    expected = FoundNode(
        url="http://192.168.1.20:8080", id="abc", machine="laptop.local", name="laptop.local"
    )

    assert (expected,) == nodes_of(resolved())


@pytest.mark.parametrize(
    ("pair", "port", "expected"),
    [
        (b"8443", 8080, [("http://192.168.1.20:8080", False), ("https://192.168.1.20:8443", True)]),
        (b"8443", 8443, [("https://192.168.1.20:8443", True)]),
        (b"0", 8080, [("http://192.168.1.20:8080", False)]),
        (b"65536", 8080, [("http://192.168.1.20:8080", False)]),
        (b"x", 8080, [("http://192.168.1.20:8080", False)]),
    ],
)
def test_a_door_for_paired_routers_is_told_apart(
    pair: bytes, port: int, expected: list[tuple[str, bool]]
) -> None:
    """Beside the other, or alone where nobody else is let in."""
    nodes = nodes_of(resolved(port=port, txt=[*TXT, b"pair=" + pair]))

    assert expected == [(node.url, node.is_proved) for node in nodes]


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({"txt": [b"ID=abc", b"TLS=1"]}, "https://192.168.1.20:8080"),
        ({"txt": [b"id=abc", b"tls=yes"]}, "http://192.168.1.20:8080"),
        ({"address": "fd00::1"}, "http://[fd00::1]:8080"),
        ({"address": "127.0.0.1", "flags": 8}, "http://127.0.0.1:8080"),
        ({"address": "127.0.0.1"}, None),
        ({"address": "169.254.169.254"}, None),
        ({"address": "169.254.169.254", "flags": 8}, None),
        ({"address": "fe80::1"}, None),
        ({"address": "laptop.local"}, None),
        ({"port": 0}, None),
        ({"txt": []}, None),
        ({"txt": [b"id"]}, None),
        ({"txt": [b"id=a/b"]}, None),
        ({"txt": [b"id=\xff"]}, None),
        ({"txt": [b"id=abc", *[b"x" * 255] * 6]}, None),
    ],
)
def test_what_is_of_no_use_is_no_node(changes: dict[str, Any], url: str | None) -> None:
    """An address that leads astray, no id, an id that is none, more than a packet holds."""
    assert ([] if url is None else [url]) == [node.url for node in nodes_of(resolved(**changes))]


def test_a_hosts_name_that_is_none_is_not_shown() -> None:
    """What is written into logs and lists is a name."""
    assert [""] == [node.name for node in nodes_of(resolved(host="a\x1b[31m"))]


@given(st.lists(st.binary(max_size=300), max_size=40))
def test_any_txt_is_read(entries: list[bytes]) -> None:
    """Or is none."""
    said = read_txt(entries)

    assert len(said) <= len(entries)
    assert all(key == key.lower() for key in said)


def test_of_one_key_the_first_counts() -> None:
    """RFC 6763, 6.4."""
    assert {"id": "a"} == read_txt([b"id=a", b"ID=b", b"=c", b"d"])


def test_only_so_many_services_are_looked_at() -> None:
    """Whoever floods the network with announcements fills no memory."""
    found = _Found()
    for number in range(MOST_SERVICES + 100):
        found.came(
            Signal(
                sender=":1.1",
                path="/x",
                interface="x",
                member="ItemNew",
                signature="iisssu",
                body=(2, 0, f"n{number}", TYPE, "local", 0),
            )
        )

    assert MOST_SERVICES == len(found.nodes) == len(found.due)
