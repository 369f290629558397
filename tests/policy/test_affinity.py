"""Which backend has the beginning of a prompt."""

from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.affinity import BLOCK_BYTES, BLOCKS_MAX, KEPT, Affinity, Warm, prefix_keys


@given(st.binary(max_size=3000), st.binary(max_size=3000), st.binary(max_size=3000))
def test_keys_are_shared_exactly_as_far_as_prompts_are(
    common: bytes, one: bytes, other: bytes
) -> None:
    """A key stands for its block and all before it."""
    first, second = prefix_keys("m", common + one), prefix_keys("m", common + other)
    shared = sum(a == b for a, b in zip(first, second, strict=False))
    alike = 0
    for a, b in zip(common + one, common + other, strict=False):
        if a != b:
            break
        alike += 1

    assert alike // BLOCK_BYTES == shared


def test_models_have_caches_of_their_own() -> None:
    """The same prompt to another model is computed anew."""
    prompt = b"x" * 1024

    assert not set(prefix_keys("a", prompt)) & set(prefix_keys("b", prompt))


def test_a_short_prompt_is_not_worth_a_key() -> None:
    """And of a long one only so much is looked at."""
    assert () == prefix_keys("m", b"x" * (BLOCK_BYTES - 1))
    assert BLOCKS_MAX == len(prefix_keys("m", b"x" * BLOCK_BYTES * 1000))


def test_the_longest_beginning_decides() -> None:
    """Where a conversation went on, not where it began."""
    affinity = Affinity()
    affinity.note((1, 2), "a")
    affinity.note((1, 2, 3, 4), "b")
    affinity.note((1,), "c")

    assert Warm("b", 4 * BLOCK_BYTES / 4096) == affinity.find((1, 2, 3, 4, 5), 4096)
    assert Warm("c", BLOCK_BYTES / 1024) == affinity.find((1, 9), 1024)
    assert affinity.find((9,), 1024) is None
    assert affinity.find((), 0) is None


def test_memory_is_bounded() -> None:
    """What was not used for longest is forgotten, of one prompt its end before its beginning."""
    affinity = Affinity()
    for number in range(KEPT):
        affinity.note((-1, number), "a")

    assert KEPT == len(affinity)
    assert affinity.find((-1, 0), 1024) == Warm("a", 0.5)
    assert affinity.find((-1, KEPT - 1), 1024) == Warm("a", 1.0)
