"""Which keys are good, and for what."""

from hmac import compare_digest

import hypothesis
import pytest
from hypothesis import strategies as st

from ollama_proxy.policy.access import (
    ALL,
    Key,
    Permission,
    Permissions,
    Ring,
    digest_of,
    judge,
    need_of,
)
from ollama_proxy.policy.refusal import Code

HEX = digest_of(b"a key of somebody").hex()


class TestEntries:
    """What an owner writes."""

    @pytest.mark.parametrize(
        ("words", "permissions", "name"),
        [
            ("", ALL, f"sha256:{HEX[:8]}"),
            ("read", frozenset({Permission.READ}), f"sha256:{HEX[:8]}"),
            ("infer name=phone", frozenset({Permission.INFER}), "phone"),
            (
                "name=a.b-c_1  admin read",
                frozenset({Permission.ADMIN, Permission.READ}),
                "a.b-c_1",
            ),
        ],
    )
    def test_good_ones(self, words: str, permissions: Permissions, name: str) -> None:
        """A hash may do everything unless something is named; its name is for the log."""
        key = Key.parse(f"sha256:{HEX.upper()} {words}")

        assert (digest_of(b"a key of somebody"), permissions, name) == (
            key.digest,
            key.permissions,
            key.name,
        )

    @pytest.mark.parametrize(
        "entry",
        [
            "",
            "sk-pl4nted-in-the-wrong-place",
            HEX,
            f"sha256:{HEX}0",
            f"sha256:{HEX[:-1]}",
            f"sha512:{HEX}",
            f"sha256:{HEX} write",
            f"sha256:{HEX} READ",
            f"sha256:{HEX} name=a name=b",
            f"sha256:{HEX} name=",
            f"sha256:{HEX} name={'x' * 65}",
        ],
    )
    def test_bad_ones_are_not_repeated(self, entry: str) -> None:
        """What is no entry may be a key."""
        with pytest.raises(ValueError, match="make-key") as caught:
            Key.parse(entry)

        assert "pl4nted" not in str(caught.value)

    def test_the_hash_of_nothing(self) -> None:
        """Which a script makes of a variable that is not set, would let in whoever sends nothing."""
        with pytest.raises(ValueError, match="nothing"):
            Key.parse(f"sha256:{digest_of(b'').hex()}")

    def test_a_key_does_not_show_its_hash(self) -> None:
        """Nor does a traceback with it."""
        assert HEX not in repr(Key.parse(f"sha256:{HEX} name=phone"))


class TestRing:
    """Finding keys."""

    def test_every_key_is_compared(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In constant time, whichever it is and where there is none: nothing is learned by asking."""
        compared: list[bytes] = []

        def compare(one: bytes, other: bytes) -> bool:
            compared.append(one)
            return compare_digest(one, other)

        monkeypatch.setattr("hmac.compare_digest", compare)
        keys = [Key(digest=digest_of(bytes([n]))) for n in range(5)]
        counts = []
        for digest in (keys[0].digest, keys[4].digest, digest_of(b"no")):
            compared.clear()
            Ring(keys).find(digest)
            counts.append(len(compared))

        assert [5, 5, 5] == counts

    def test_what_was_proven_outlives_a_change(self) -> None:
        """Unless it is not there any more."""
        one, other = Key(digest=digest_of(b"1")), Key(digest=digest_of(b"2"))
        ring = Ring([one, other])
        ring.find(one.digest)
        ring.find(other.digest)

        changed = ring.replaced_by([one])

        assert (one, None) == (changed.proven(one.digest), changed.proven(other.digest))

    @hypothesis.given(st.binary(max_size=40))
    def test_nothing_else_opens(self, digest: bytes) -> None:
        """No bytes that are not the hash."""
        assert Ring([Key(digest=digest_of(b"1"))]).find(digest) is None


class TestNeeds:
    """What is needed for what."""

    def test_what_is_not_listed_needs_admin(self) -> None:
        """What somebody adds, and forgets to list, is closed to most."""
        assert {Permission.ADMIN} == need_of("POST /new") == need_of("/new.Service/Method")

    @pytest.mark.parametrize(
        ("what", "may"),
        [
            ("POST /v1/chat/completions", {"infer"}),
            ("POST /api/generate", {"infer"}),
            ("GET /v1/stream/ws", {"infer"}),
            ("/ollama_proxy.OllamaProxy/ChatStream", {"infer"}),
            ("GET /v1/models", {"infer", "read"}),
            ("GET /metrics", {"read"}),
            ("/ollama_proxy.OllamaProxy/WatchState", {"read"}),
            ("POST /efficiency", {"admin"}),
            ("POST /api/pull", {"admin"}),
            ("/ollama_proxy.OllamaProxy/SetEfficiency", {"admin"}),
            ("", {"infer", "read", "admin"}),
            ("GET /health", {"infer", "read", "admin"}),
        ],
    )
    def test_one_permission_does_not_imply_another(self, what: str, may: set[str]) -> None:
        """Each is good for what it names."""
        good = {
            p
            for p in Permission
            if judge(Key(digest=b"", permissions=frozenset({p})), need_of(what)) is None
        }

        assert may == good

    def test_who_may_not_is_told_what_it_takes(self) -> None:
        """And that the key itself is good."""
        refusal = judge(
            Key(digest=b"", permissions=frozenset({Permission.ADMIN})), need_of("GET /v1/models")
        )

        assert refusal is not None
        assert Code.PERMISSION_DENIED is refusal.code
        assert "good" in refusal.message
        assert "read or infer" in refusal.message
