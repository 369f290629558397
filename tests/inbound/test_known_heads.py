"""What a lane need not read twice: a head that differs from the last in its body's length alone."""

import attrs
import msgspec
from hypothesis import given, strategies

from ollama_proxy.inbound.admission import Admission, Rules
from ollama_proxy.inbound.lane import digest_of
from ollama_proxy.policy.access import Key, Permission
from ollama_proxy.policy.access import digest_of as key_digest_of
from ollama_proxy.policy.ask import Priority
from tests.fleet import MODEL
from tests.inbound.ends import CHAT, Door, post, scripted

HEAD = b"POST /api/chat HTTP/1.1\r\nhost: a\r\nContent-Length: 17\r\nx-priority: high\r\n\r\n"
DIGITS = range(HEAD.index(b"17"), HEAD.index(b"17") + 2)
KEY = Key(digest=key_digest_of(b"secret"), permissions=frozenset({Permission.INFER}), name="asker")


def body(words: str) -> bytes:
    """A question of so many words."""
    return msgspec.json.encode({"model": MODEL, "prompt": words})


def priorities(door: Door) -> list[Priority]:
    """How urgent those that ended were."""
    return [fact.priority for fact in door.house.facts]


class TestDigest:
    """What tells heads apart."""

    def test_lengths_do_not_tell_heads_apart(self) -> None:
        """The same head with another length is known, and its length is read."""
        longer = HEAD.replace(b"17", b"1700")

        assert digest_of(HEAD)[0] == digest_of(longer)[0]
        assert (17, 1700) == (digest_of(HEAD)[1], digest_of(longer)[1])

    @given(strategies.integers(0, len(HEAD) - 1), strategies.integers(0, 255))
    def test_any_other_byte_does(self, at: int, byte: int) -> None:
        """Be it of a name, a value, or of what is between them."""
        other = HEAD[:at] + bytes([byte]) + HEAD[at + 1 :]
        is_length = at in DIGITS and byte in b"0123456789"

        assert (digest_of(HEAD)[0] == digest_of(other)[0]) is (other == HEAD or is_length)

    def test_a_digit_that_moves_does(self) -> None:
        """What stands before the length and what stands behind it are not mistaken for another."""
        one = b"POST / HTTP/1.1\r\na: \r\ncontent-length: 1\r\nb: \r\ncontent-length: \r\n\r\n"
        two = b"POST / HTTP/1.1\r\na: \r\ncontent-length: \r\nb: \r\ncontent-length: 1\r\n\r\n"

        assert digest_of(one)[0] != digest_of(two)[0]

    def test_a_head_without_a_plain_length_is_never_known(self) -> None:
        """Chunks, lists, and lengths of too many digits are read each time."""
        heads = [
            HEAD.replace(b"Content-Length: 17", b"Transfer-Encoding: chunked"),
            HEAD.replace(b"17", b"17, 17"),
            HEAD.replace(b"17", b"1" * 19),
        ]

        assert [None] * 3 == [digest_of(head)[0] for head in heads]


class TestLane:
    """What its client sees of it."""

    async def test_each_body_is_read_by_its_own_length(self) -> None:
        """Shorter and longer ones, one after the other and at once."""
        bodies = [body("x" * size) for size in (1, 400, 3, 70_000, 2)]
        backend = scripted()
        for _ in bodies:
            backend.say("{}")
        async with Door.open(backend) as door:
            connection = await door.connect()
            for each in bodies[:2]:
                assert 200 == (await connection.ask(post(body=each))).status
            await connection.send(b"".join(post(body=each) for each in bodies[2:]))
            rest = [(await connection.read()).status for _ in bodies[2:]]

        assert [200] * 3 == rest
        assert bodies == [bytes(errand.body) for errand in backend.errands]

    async def test_what_is_made_up_is_made_up_anew(self) -> None:
        """Requests without an id do not share one, also at the backend."""
        backend = scripted().say("{}").say("{}")
        async with Door.open(backend) as door:
            connection = await door.connect()
            first, second = [await connection.ask(post()) for _ in range(2)]

        ids = [answer.header("x-request-id") for answer in (first, second)]
        sent = [dict(errand.headers)[b"x-request-id"].decode() for errand in backend.errands]
        assert ids == sent
        assert ids[0] != ids[1]

    async def test_what_the_client_names_is_kept(self) -> None:
        """Its id, its wishes, its accept."""
        backend = scripted().say("{}").say("{}")
        async with Door.open(backend) as door:
            connection = await door.connect()
            for _ in range(2):
                await connection.ask(post(x_request_id="mine", x_priority="high", accept="a/b"))
            urgent = priorities(door)

        assert [Priority.HIGH] * 2 == urgent
        assert [{b"x-request-id": b"mine", b"accept": b"a/b"}] * 2 == [
            dict(errand.headers) for errand in backend.errands
        ]

    async def test_another_wish_is_heard(self) -> None:
        """One header more, one less, another value of the same length."""
        wishes: list[bytes] = [b"", b"x-priority: 0\r\n", b"x-priority: 3\r\n", b""]
        backend = scripted()
        for _ in wishes:
            backend.say("{}")
        async with Door.open(backend) as door:
            connection = await door.connect()
            for each in wishes:
                await connection.ask(post(extra=each))
            urgent = priorities(door)

        assert [1, 0, 3, 1] == urgent

    async def test_another_call_is_made(self) -> None:
        """The first line is part of it."""
        backend = scripted().say("{}").say("{}")
        async with Door.open(backend) as door:
            connection = await door.connect()
            for path in (CHAT, "/v1/completions"):
                await connection.ask(post(path))

        assert [CHAT, "/v1/completions"] == [errand.call.path for errand in backend.errands]

    async def test_who_is_let_in_no_more_is_not_let_in(self) -> None:
        """Other rules are heeded with the next request."""
        async with Door.open(scripted().say("{}")) as door:
            connection = await door.connect()
            admission = connection.lane.gate.admission
            admission.follow(Rules(keys=(KEY,)))
            asking = post(authorization="Bearer secret")
            let_in = await connection.ask(asking)
            admission.follow(Rules(keys=(attrs.evolve(KEY, digest=key_digest_of(b"new")),)))
            refused = await connection.ask(asking)

        assert (200, 401) == (let_in.status, refused.status)

    async def test_each_counts_for_its_rate(self) -> None:
        """A known head is no way round it."""
        async with Door.open(scripted().say("{}").say("{}")) as door:
            connection = await door.connect()
            connection.lane.gate.admission.follow(Rules(rate=0.001, burst=2))
            answers = [await connection.ask(post()) for _ in range(3)]

        assert [200, 200, 429] == [answer.status for answer in answers]

    async def test_a_body_too_long_is_refused_by_its_own_length(self) -> None:
        """However short the one before it was."""
        async with Door.open(scripted().say("{}")) as door:
            connection = await door.connect()
            first = await connection.ask(post())
            await connection.send(post(body=b"").replace(b"length: 0", b"length: 99999999999"))
            second = await connection.read()

        assert (200, 413) == (first.status, second.status)

    async def test_no_key_is_kept(self) -> None:
        """What a lane remembers of a head holds no secret of its client's."""
        async with Door.open(scripted().say("{}")) as door:
            connection = await door.connect()
            connection.lane.gate.admission.follow(Rules(keys=(KEY,)))
            await connection.ask(post(authorization="Bearer secret"))
            kept = repr(connection.lane.known)

        assert "rules" in kept
        assert "secret" not in kept


def test_rules_are_told_apart_by_identity() -> None:
    """Whoever follows others, even the same ones said anew, judges everybody anew."""
    admission = Admission()
    before = admission.rules
    admission.follow(Rules())

    assert admission.rules is not before
