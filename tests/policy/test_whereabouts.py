"""Addresses: one spelling, one order, and those that lead astray."""

import pytest

from ollama_proxy.policy.whereabouts import address_order, leads_astray, split_host_port, tidy


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://10.0.0.1:8080", "http://10.0.0.1:8080"),
        ("http://Box.Local.:8080/", "http://box.local:8080"),
        ("https://box", "https://box:443"),
        ("http://box", "http://box:80"),
        ("http://[FD00:0:0::1]:8080", "http://[fd00::1]:8080"),
    ],
)
def test_a_place_has_one_spelling(given: str, expected: str) -> None:
    """However its owner writes it."""
    assert expected == tidy(given)


@pytest.mark.parametrize("given", ["", "box:8080", "ftp://box", "http://", "http://box:99999"])
def test_what_is_no_address_is_none(given: str) -> None:
    """It is not guessed at."""
    with pytest.raises(ValueError, match=r".*"):
        tidy(given)


def test_addresses_are_ordered_by_number() -> None:
    """10.0.0.9 before 10.0.0.10; names last."""
    ordered = ["http://10.0.0.9:1", "http://10.0.0.10:1", "http://[::1]:1", "http://a:1"]

    assert ordered == sorted({*ordered}, key=address_order)


@pytest.mark.parametrize(
    ("text", "is_local", "expected"),
    [
        ("10.0.0.1", False, False),
        ("203.0.113.7", False, False),
        ("fd00::1", False, False),
        ("127.0.0.1", False, True),
        ("127.0.0.1", True, False),
        ("::1", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("169.254.169.254", False, True),
        ("169.254.169.254", True, True),
        ("fe80::1", False, True),
        ("fe80::1%eth0", False, True),
        ("224.0.0.251", False, True),
        ("ff02::fb", False, True),
        ("0.0.0.0", False, True),  # noqa: S104 - an address that is refused
        ("::", False, True),
        ("255.255.255.255", False, True),
        ("box.local", False, True),
        ("", False, True),
    ],
)
def test_some_addresses_lead_astray(text: str, is_local: bool, expected: bool) -> None:
    """Nobody who tells of nodes makes this router ask itself, a cloud's secrets, or everybody."""
    assert expected is leads_astray(text, is_local=is_local)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("nodes.example:8080", ("nodes.example", 8080)), ("[::1]:1", ("::1", 1))],
)
def test_a_host_and_its_port(text: str, expected: tuple[str, int]) -> None:
    """In two."""
    assert expected == split_host_port(text)


@pytest.mark.parametrize("text", ["", "x", "x:", ":1", "x:0", "x:65536", "x:y", "::1:1", "x y:1"])
def test_what_is_no_host_with_a_port_is_none(text: str) -> None:
    """It is not guessed at."""
    with pytest.raises(ValueError, match=r".*"):
        split_host_port(text)
