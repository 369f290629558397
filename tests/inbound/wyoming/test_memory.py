"""What is remembered of conversations, and for how long."""

from ollama_proxy.inbound.wyoming.memory import (
    CHARACTERS_MAX,
    CONVERSATIONS_MAX,
    FORGET_S,
    Memory,
)


def texts(memory: Memory, conversation: str, now: float = 0.0) -> list[str]:
    return [message["content"] for message in memory.recall(conversation, now)]


def test_turns_come_back_as_messages() -> None:
    """In their order, by who said what; another conversation has none of it."""
    memory = Memory()
    memory.keep("a", "q", "r", now=0.0)

    assert [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "r"},
    ] == memory.recall("a", 1.0)
    assert [] == memory.recall("b", 1.0)


def test_without_an_id_nothing_is_kept() -> None:
    """Two that have none are not the same."""
    memory = Memory()
    memory.keep("", "q", "r", now=0.0)

    assert [] == memory.recall("", 0.0)


def test_a_long_conversation_loses_its_oldest_turns() -> None:
    """And one turn that is too long by itself is not kept."""
    memory = Memory()
    half = "x" * (CHARACTERS_MAX // 2)
    memory.keep("a", "1", half, now=0.0)
    memory.keep("a", "2", half, now=0.0)
    assert ["2", half] == texts(memory, "a")

    memory.keep("a", "3", half * 2, now=0.0)
    assert [] == texts(memory, "a")


def test_the_conversation_that_is_silent_longest_makes_room() -> None:
    """For one more than there may be."""
    memory = Memory()
    for number in range(CONVERSATIONS_MAX):
        memory.keep(str(number), "q", "r", now=0.0)
    memory.keep("0", "q", "r", now=0.0)
    memory.keep("new", "q", "r", now=0.0)

    assert [] == texts(memory, "1")
    assert 4 == len(texts(memory, "0"))


def test_a_conversation_is_forgotten_after_a_while() -> None:
    """Counted from what was said last."""
    memory = Memory()
    memory.keep("a", "q", "r", now=0.0)
    memory.keep("b", "q", "r", now=10.0)

    assert [] == texts(memory, "a", FORGET_S + 1)
    assert ["q", "r"] == texts(memory, "b", FORGET_S + 1)
