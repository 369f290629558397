"""Who is let in, whatever the door."""

import logging

import attrs
import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.inbound.admission import (
    ANYBODY,
    WRONG_BURST,
    WRONG_PER_S,
    Admission,
    Headers,
    Rules,
    Visitor,
)
from ollama_proxy.policy.access import ALL, Key, Permission, digest_of
from ollama_proxy.policy.peers import parse_networks
from ollama_proxy.policy.refusal import Code, Refusal

CHAT = "POST /v1/chat/completions"
HEALTH = "GET /health"
PEER = "192.0.2.1"
SECRET = b"op-the-key-of-a-phone"
PHONE = Key(digest=digest_of(SECRET), permissions=frozenset({Permission.INFER}), name="phone")
OTHER = Key(digest=digest_of(b"other"), name="other")


def bearing(secret: bytes = SECRET) -> Headers:
    """The headers of who has a key."""
    return [(b"host", b"localhost"), (b"authorization", b"Bearer " + secret)]


def code(admitted: Visitor | Refusal | None) -> Code | None:
    """Why not; None where it was let in."""
    return admitted.code if isinstance(admitted, Refusal) else None


class TestKeys:
    """What is a key."""

    @pytest.mark.parametrize(
        "headers",
        [
            bearing(),
            [(b"authorization", b"bearer   " + SECRET)],
            [(b"x-api-key", SECRET)],
        ],
    )
    async def test_a_good_one(self, headers: Headers) -> None:
        """As OpenAI's clients send it, and as Anthropic's do."""
        admitted = Admission(Rules(keys=(PHONE,))).admit(CHAT, headers, PEER)

        assert isinstance(admitted, Visitor)
        assert (PHONE, "phone") == (admitted.key, admitted.name)

    @pytest.mark.parametrize(
        "headers",
        [
            [],
            [(b"authorization", b"")],
            [(b"authorization", b"Bearer")],
            [(b"authorization", b"Bearer ")],
            [(b"authorization", SECRET)],
            [(b"authorization", b"Basic " + SECRET)],
            [(b"authorization", b"Bearer Bearer " + SECRET)],
            [(b"authorization", b"Bearer " + SECRET + b" ")],
            [(b"authorization", b"Bearer " + SECRET[:-1])],
            [(b"authorization", b"Bearer " + SECRET + b"x")],
            [(b"authorization", b"Bearer " + SECRET.upper())],
            [(b"authorization", b"Bearer " + SECRET + b"\x00")],
            [(b"authorization", b"Bearer " + digest_of(SECRET).hex().encode())],
            [(b"x-api-key", b"")],
            [(b"x-api-key", SECRET), (b"x-api-key", SECRET)],
            [*bearing(), *bearing()],
            [*bearing(), (b"x-api-key", b"x")],
            [(b"cookie", SECRET)],
            [(b"proxy-authorization", b"Bearer " + SECRET)],
        ],
    )
    async def test_what_is_none(self, headers: Headers) -> None:
        """Neither a part of one, nor its hash, nor two of which one is good."""
        admission = Admission(Rules(keys=(PHONE,)))

        assert Code.INVALID_API_KEY is code(admission.admit(CHAT, headers, PEER))

    async def test_what_is_not_for_it(self) -> None:
        """A good key is told so."""
        admission = Admission(Rules(keys=(PHONE,)))

        assert Code.PERMISSION_DENIED is code(admission.admit("GET /metrics", bearing(), PEER))

    async def test_health_needs_none(self) -> None:
        """But who has none is told less, and a wrong one is wrong there, too."""
        admission = Admission(Rules(keys=(PHONE,)))

        stranger = admission.admit(HEALTH, [], PEER)
        wrong = admission.admit(HEALTH, bearing(b"wrong"), PEER)

        assert isinstance(stranger, Visitor)
        assert not stranger.permissions
        assert Code.INVALID_API_KEY is code(wrong)

    @pytest.mark.parametrize("headers", [[], bearing(b"anything")])
    async def test_where_no_key_is_asked_for_everybody_may_everything(
        self, headers: Headers
    ) -> None:
        """Also with one: clients send theirs unasked."""
        assert ANYBODY is Admission().admit("POST /efficiency", headers, PEER)

    async def test_no_key_is_shown(self, caplog: pytest.LogCaptureFixture) -> None:
        """What is wrong may be another door's key."""
        caplog.set_level(logging.DEBUG)
        admission = Admission(Rules(keys=(PHONE,)))

        refusal = admission.admit(CHAT, bearing(b"pl4nted"), PEER)

        assert "a wrong API key came from 192.0.2.1" in caplog.text
        assert "pl4nted" not in caplog.text + repr(refusal)


# -- wrong keys, one after the other ---------------------------------------------------------------


async def test_a_guesser_waits(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """After some, every further one waits, is not looked at, and does not fill the log."""
    admission = Admission(Rules(keys=(PHONE,)))
    codes = [code(admission.admit(CHAT, bearing(b"%d" % n), PEER)) for n in range(100)]
    told = admission.admit(CHAT, bearing(), PEER)
    assert isinstance(told, Refusal)
    await trio.sleep(told.retry_after_s or 0)

    assert WRONG_BURST == codes.count(Code.INVALID_API_KEY)
    assert 100 - WRONG_BURST == codes.count(Code.RATE_LIMITED)
    assert WRONG_BURST == len(caplog.records)
    assert 1 / WRONG_PER_S == told.retry_after_s
    assert None is code(admission.admit(CHAT, bearing(), PEER))


async def test_nobody_is_shut_out_by_a_guesser_next_door(autojump_clock: MockClock) -> None:
    """All of one machine share its address: a key that was good before is looked at first."""
    admission = Admission(Rules(keys=(PHONE,)))
    admission.admit(CHAT, bearing(), PEER)
    for n in range(100):
        admission.admit(CHAT, bearing(b"%d" % n), PEER)

    assert None is code(admission.admit(CHAT, bearing(), PEER))


# -- requests, one after the other -----------------------------------------------------------------


async def test_a_key_has_its_rate_wherever_it_comes_from(autojump_clock: MockClock) -> None:
    """Each its own."""
    admission = Admission(Rules(keys=(PHONE, OTHER), rate=1, burst=2))
    codes = [code(admission.admit(CHAT, bearing(), f"192.0.2.{n}")) for n in range(3)]
    other = admission.admit(CHAT, bearing(b"other"), PEER)
    await trio.sleep(1)

    assert [None, None, Code.RATE_LIMITED] == codes
    assert None is code(other)
    assert None is code(admission.admit(CHAT, bearing(), PEER))


async def test_without_keys_an_address_has_it(autojump_clock: MockClock) -> None:
    """A header of its own does not make a client another."""
    admission = Admission(Rules(rate=1, burst=1))
    asked = [
        ("192.0.2.1", []),
        ("192.0.2.1", [(b"x-forwarded-for", b"198.51.100.7")]),
        ("192.0.2.1", bearing()),
        ("192.0.2.2", []),
    ]

    codes = [code(admission.admit(CHAT, headers, peer)) for peer, headers in asked]

    assert [None, Code.RATE_LIMITED, Code.RATE_LIMITED, None] == codes


async def test_a_listed_proxy_says_whose(autojump_clock: MockClock) -> None:
    """Those behind it have a rate each."""
    rules = Rules(rate=1, burst=1, trusted_proxies=parse_networks(["127.0.0.1"]))
    admission = Admission(rules)
    codes = [
        code(admission.admit(CHAT, [(b"x-forwarded-for", b"198.51.100.%d" % n)], "127.0.0.1"))
        for n in (1, 2, 1)
    ]

    assert [None, None, Code.RATE_LIMITED] == codes


async def test_asking_without_a_key_counts(autojump_clock: MockClock) -> None:
    """A flood of refusals is one, too."""
    admission = Admission(Rules(keys=(PHONE,), rate=1, burst=1))

    codes = [code(admission.admit(CHAT, [], PEER)) for _ in range(2)]

    assert [Code.INVALID_API_KEY, Code.RATE_LIMITED] == codes


async def test_health_is_free(autojump_clock: MockClock) -> None:
    """Who watches the router does not take its clients' rate."""
    admission = Admission(Rules(rate=1, burst=1))

    assert [None] * 5 == [code(admission.admit(HEALTH, [], PEER)) for _ in range(5)]


async def test_once_more_on_a_connection(autojump_clock: MockClock) -> None:
    """What is asked on a socket counts like a request."""
    admission = Admission(Rules(keys=(PHONE,), rate=1, burst=2))
    visitor = admission.admit("GET /v1/stream/ws", bearing(), PEER)
    assert isinstance(visitor, Visitor)

    assert [None, Code.RATE_LIMITED] == [code(admission.readmit(visitor)) for _ in range(2)]


async def test_the_wait_is_told(autojump_clock: MockClock) -> None:
    """As long as it is."""
    admission = Admission(Rules(rate=0.1, burst=1))
    admission.admit(CHAT, [], PEER)
    await trio.sleep(4)
    refusal = admission.admit(CHAT, [], PEER)

    assert isinstance(refusal, Refusal)
    assert 6.0 == pytest.approx(refusal.retry_after_s)


# -- the configuration is read again ---------------------------------------------------------------


async def test_keys_come_and_go(autojump_clock: MockClock) -> None:
    """From the next request on."""
    admission = Admission(Rules(keys=(PHONE,)))
    visitor = admission.admit(CHAT, bearing(), PEER)
    admission.follow(Rules(keys=(OTHER,)))
    assert isinstance(visitor, Visitor)

    assert Code.INVALID_API_KEY is code(admission.admit(CHAT, bearing(), PEER))
    assert Code.INVALID_API_KEY is code(admission.readmit(visitor))
    assert None is code(admission.admit(CHAT, bearing(b"other"), PEER))


async def test_who_came_without_a_key_is_asked_for_one(autojump_clock: MockClock) -> None:
    """Where none was asked for before."""
    admission = Admission()
    admission.follow(Rules(keys=(PHONE,)))

    assert Code.INVALID_API_KEY is code(admission.readmit(ANYBODY))


async def test_a_permission_that_was_taken_away(autojump_clock: MockClock) -> None:
    """Is not kept by a connection."""
    admission = Admission(Rules(keys=(attrs.evolve(PHONE, permissions=ALL),)))
    visitor = admission.admit(CHAT, bearing(), PEER)
    admission.follow(Rules(keys=(PHONE,)))
    assert isinstance(visitor, Visitor)

    assert Code.INVALID_API_KEY is code(admission.readmit(visitor))


async def test_the_same_rate_goes_on(autojump_clock: MockClock) -> None:
    """A reload is no way to a new burst."""
    admission = Admission(Rules(rate=1, burst=1))
    admission.admit(CHAT, [], PEER)
    admission.follow(Rules(rate=1, burst=1))

    assert Code.RATE_LIMITED is code(admission.admit(CHAT, [], PEER))
