"""From where a request comes, and whom we believe about it."""

import hypothesis
import pytest
from hypothesis import strategies as st

from ollama_proxy.policy.peers import household, origin_of, parse_networks

TRUSTED = parse_networks(["10.0.0.0/8", "::1"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "origin"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.1"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("::1", ["2001:db8::1"], "2001:db8::1"),
        ("", ["198.51.100.1"], ""),
    ],
)
def test_a_proxy_is_believed_if_it_is_listed(peer: str, forwarded: list[str], origin: str) -> None:
    """And of what it passes on only what was added by listed ones: the rest anybody can write."""
    assert origin == origin_of(peer, forwarded, TRUSTED)


def test_nobody_is_believed_unless_listed() -> None:
    """Loopback neither: everybody on this machine is there."""
    assert "127.0.0.1" == origin_of("127.0.0.1", ["198.51.100.1"], ())


@pytest.mark.parametrize(
    ("address", "of"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_household(address: str, of: str) -> None:
    """Whoever has an IPv6 address has 2^64 of them: they count as one."""
    assert of == household(address)


@hypothesis.given(st.text(), st.lists(st.text()))
def test_any_text_is_read(peer: str, forwarded: list[str]) -> None:
    """Nothing is raised."""
    household(origin_of(peer, forwarded, TRUSTED))
