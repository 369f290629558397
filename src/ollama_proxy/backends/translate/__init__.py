"""Translation between Ollama's own calls and OpenAI's, in both directions.

Law: bytes in, bytes out. Nothing here waits, reads a clock or opens anything; policy is all this
room may import. An ask is translated in full before it is sent, so every fault of the caller's
comes out of `translation`; an answer that makes no sense is a `GarbledAnswer`, the backend's fault.

`ollama_asks` and `openai_answers` serve callers who speak Ollama, `openai_asks` and
`ollama_answers` those who speak OpenAI. There is no third, neutral form between the two: the
dialects share most of their words, and a neutral form would have to hold all of both.
"""

from collections.abc import Callable

from ollama_proxy.backends.translate import ollama_asks, openai_asks
from ollama_proxy.backends.translate.reading import GarbledAnswer
from ollama_proxy.backends.translate.translated import Pieces, Stamp, Translation
from ollama_proxy.policy.ask import Call, Dialect

__all__ = ["GarbledAnswer", "Pieces", "Translation", "translation"]

_TRANSLATORS: dict[tuple[Call, Dialect], Callable[[bytes, Stamp], Translation]] = {
    (Call.OLLAMA_CHAT, Dialect.OPENAI): ollama_asks.chat,
    (Call.OLLAMA_GENERATE, Dialect.OPENAI): ollama_asks.generate,
    (Call.OLLAMA_EMBED, Dialect.OPENAI): ollama_asks.embed,
    (Call.OLLAMA_EMBEDDINGS, Dialect.OPENAI): ollama_asks.embeddings,
    (Call.OPENAI_CHAT, Dialect.OLLAMA): openai_asks.chat,
    (Call.OPENAI_COMPLETION, Dialect.OLLAMA): openai_asks.completion,
    (Call.OPENAI_EMBEDDING, Dialect.OLLAMA): openai_asks.embedding,
}


def translation(
    call: Call, target: Dialect, body: bytes, *, model: str, now: float, identity: str
) -> Translation | None:
    """Translate a call for a backend that speaks `target`.

    Args:
        call: the call in the caller's dialect.
        target: what the backend speaks.
        body: the caller's JSON.
        model: the model's name on the backend; answers carry the name in `body`.
        now: Unix time in seconds, written into answers.
        identity: unique to this call, part of OpenAI's ids.

    Returns:
        None when this call has no counterpart in that dialect.

    Raises:
        RequestRefused: a field of the wrong type, or one that cannot be carried over.
    """
    translate = _TRANSLATORS.get((call, target))
    if translate is None:
        return None
    return translate(body, Stamp(model=model, now=now, identity=identity))
