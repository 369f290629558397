"""What goes along to another router, and how one knows that a request comes from another."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.inbound.reading import RoutingHeaders
from ollama_proxy.policy.ask import MediaType, Priority, Wishes, read_wishes
from ollama_proxy.policy.onward import came_through_router, via_of, wishes_onward

WISHES = st.builds(
    Wishes,
    latency_critical=st.booleans(),
    power_efficient=st.booleans(),
    max_power_watts=st.none() | st.floats(0.1, 1000),
    priority=st.sampled_from(Priority),
    media_type=st.none() | st.sampled_from(MediaType),
)


@given(WISHES)
def test_wishes_mean_the_same_there(wishes: Wishes) -> None:
    """What the other router reads is what was read here."""
    headers = RoutingHeaders(wishes_onward(wishes, client="", left_s=math.inf))

    assert wishes == read_wishes(headers.given)
    assert None is headers.fault


def test_what_is_left_of_a_deadline_goes_along() -> None:
    """In milliseconds; of one that has just passed, the least there is."""
    wishes = Wishes(max_latency_s=2.0)

    assert ((b"x-max-latency-ms", b"750.500"),) == wishes_onward(wishes, client="", left_s=0.7505)
    assert ((b"x-max-latency-ms", b"1.000"),) == wishes_onward(wishes, client="", left_s=-1.0)


def test_who_has_no_wish_sends_none() -> None:
    """A plain request stays one, and a target is never told: it names a backend of ours."""
    assert () == wishes_onward(Wishes(target="npu"), client="", left_s=math.inf)
    assert ((b"x-client-id", b"me"),) == wishes_onward(Wishes(), client="me", left_s=math.inf)


@given(st.text(max_size=20))
def test_a_clients_name_is_one_line(client: str) -> None:
    """Whatever a client calls itself, it adds no header of its own."""
    for _, value in wishes_onward(Wishes(), client=client, left_s=math.inf):
        assert not set(value) & {*range(32), 127}


def test_it_says_that_it_was_here() -> None:
    """With its name, where that is fit for a header."""
    assert ((b"via", b"1.1 ollama-proxy (a1)"),) == via_of("a1")
    assert ((b"via", b"1.1 ollama-proxy"),) == via_of("") == via_of("a)\r\n")


@pytest.mark.parametrize(
    ("via", "is_ours"),
    [
        (b"1.1 ollama-proxy", True),
        (b"1.1 ollama-proxy (a1)", True),
        (b"HTTP/1.1 ollama-proxy", True),
        (b"1.0 fred, 1.1 ollama-proxy (a1), 2 nginx", True),
        (b"1.1 ollama-proxy,1.1 nginx", True),
        (b"", False),
        (b"1.1 nginx", False),
        (b"1.1 ollama-proxy-guard", False),
        (b"1.1 my-ollama-proxy", False),
        (b"1.1 nginx (ollama-proxy)", False),
        (b"ollama-proxy", False),
    ],
)
def test_who_comes_through_a_router_is_known(via: bytes, is_ours: bool) -> None:
    """By its name in `Via`, among other proxies' too."""
    assert is_ours is came_through_router(via)
    assert is_ours is RoutingHeaders([(b"via", via)]).forwarded


@given(st.binary(max_size=60))
def test_any_via_can_be_read(via: bytes) -> None:
    """Whatever a client sends."""
    came_through_router(via)
