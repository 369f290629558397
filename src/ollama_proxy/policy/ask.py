"""What a caller asks for: the call, and the wishes that go with it.

Every door ends here and nowhere else, so that HTTP, and the doors to come, cannot differ in meaning.
"""

import enum
import functools
import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs


class Dialect(enum.Enum):
    """Whose words a call uses; errors are answered in the same ones."""

    OLLAMA = "ollama"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Framing(enum.Enum):
    """How the pieces of a streamed answer are told apart. `mark`: what each ends with."""

    SSE = "text/event-stream"
    NDJSON = "application/x-ndjson"

    def __init__(self, media_type: str) -> None:
        """Say once what ends a piece: to look an enum up in a table is a call of Python's own."""
        self.mark = b"\n\n" if media_type == "text/event-stream" else b"}\n"


class Call(enum.Enum):
    """The inference calls, by the path that names them on every server of the dialect.

    Attributes:
        path: on a server of its dialect.
        dialect: whose words it uses.
        framing: how a streamed answer is cut into pieces.
        embeds: the answer is vectors, which never stream.
        streams_by_default: it streams when its body does not say: Ollama's two generating calls do.
    """

    # By identity, in C: what comes along hashes the name, in a call of Python's own.
    __hash__ = object.__hash__

    OPENAI_CHAT = "/v1/chat/completions"
    OPENAI_COMPLETION = "/v1/completions"
    OPENAI_EMBEDDING = "/v1/embeddings"
    OPENAI_RESPONSES = "/v1/responses"
    ANTHROPIC_MESSAGES = "/v1/messages"
    OLLAMA_CHAT = "/api/chat"
    OLLAMA_GENERATE = "/api/generate"
    OLLAMA_EMBED = "/api/embed"
    OLLAMA_EMBEDDINGS = "/api/embeddings"

    def __init__(self, path: str) -> None:
        """Say once what follows from the path: it is asked for a dozen times on a request's way."""
        self.path = path
        self.dialect = (
            Dialect.OLLAMA
            if path.startswith("/api/")
            else Dialect.ANTHROPIC
            if path == "/v1/messages"
            else Dialect.OPENAI
        )
        self.framing = Framing.NDJSON if self.dialect is Dialect.OLLAMA else Framing.SSE
        self.embeds = "embed" in path
        self.streams_by_default = path in {"/api/chat", "/api/generate"}


CALLS_BY_PATH = {call.value: call for call in Call}


class Priority(enum.IntEnum):
    """How urgent a request is; the higher is served first."""

    BEST_EFFORT = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3

    @functools.cached_property
    def label(self) -> str:
        """The name the contract uses: `best-effort`, `normal`, `high`, `critical`."""
        return self.name.lower().replace("_", "-")


_PRIORITIES: dict[str, Priority] = {p.label: p for p in Priority} | {
    str(p.value): p for p in Priority
}


class MediaType(enum.Enum):
    """What the request carries; two of them say how urgent it is."""

    TEXT = "text"
    CODE = "code"
    IMAGE = "image"
    AUDIO = "audio"
    REALTIME = "realtime"

    @property
    def priority(self) -> Priority | None:
        """The priority this media type implies, unless the caller names one."""
        return {MediaType.AUDIO: Priority.HIGH, MediaType.REALTIME: Priority.CRITICAL}.get(self)


_STEPS = 4  # in each octave


def _step(number: float) -> int:
    """The nearest step of a positive number; -1 for none."""
    return round(_STEPS * math.log2(number)) if number > 0 else -1


def _stepped(number: float) -> float:
    """A number, rounded to the nearest step."""
    return math.exp2(_step(number) / _STEPS) if number > 0 else 0.0


@attrs.frozen(kw_only=True)
class Ask:
    """What is to be computed, as far as a choice of backend needs to know it.

    Attributes:
        call: the call, in the caller's dialect.
        model: the model's name as the caller gave it.
        stream: whether the answer is to come in pieces.
        prompt_bytes: the size of the whole request body: an upper bound for the prompt.
        answer_limit: how many tokens the caller wants at most; None where it does not say.
        prefix: what the prompt begins with, as `affinity.prefix_keys` tells it.
        continues: it is the rest of an answer that was broken off, which not everyone can give.
        carried: another proxy makes the call, and translates nothing.
        within: ids of the backends that this proxy can reach; None: all.
        forwarded: it came through another router, and goes to no other.
        subject: what a speed is learned for: its model without the tag `latest`; but vectors take
            milliseconds where an answer takes seconds.
        kind: the same for any two that every backend would be judged alike for.
    """

    call: Call
    model: str
    stream: bool
    prompt_bytes: int = 0
    answer_limit: int | None = None
    prefix: tuple[int, ...] = attrs.field(default=(), repr=False)
    continues: bool = False
    carried: bool = False
    within: frozenset[str] | None = attrs.field(default=None, repr=False)
    forwarded: bool = False
    subject: str = attrs.field(init=False, eq=False, repr=False)
    kind: str = attrs.field(init=False, eq=False, repr=False)

    @subject.default
    def _subject(self) -> str:
        # Two spellings of one model: what is known by the one would be unknown by the other.
        model = self.model.removesuffix(":latest")
        return f"{model} (embedding)" if self.call.embeds else model

    @kind.default
    def _kind(self) -> str:
        size, limit = _step(self.prompt_bytes), self.answer_limit
        limited = limit and _step(limit)
        shape = f"{self.stream} {self.continues} {self.carried} {self.forwarded} {size} {limited}"
        return f"{self.call.path} {shape} {self.model}"

    @property
    def prompt_size(self) -> float:
        """Bytes of the prompt, in steps of a fifth, so that what was judged of one serves others.

        A forecast is never so exact that the half step between them would show.
        """
        return _stepped(self.prompt_bytes)

    @property
    def answer_size(self) -> float | None:
        """Tokens of the answer at most, in the same steps; None where the caller sets no limit."""
        return None if self.answer_limit is None else _stepped(self.answer_limit)


@attrs.frozen(kw_only=True)
class Wishes:
    """How the caller wants it served. Times are seconds, power is watts; None means no wish."""

    target: str | None = None
    latency_critical: bool = False
    power_efficient: bool = False
    max_latency_s: float | None = None
    max_power_watts: float | None = None
    priority: Priority = Priority.NORMAL
    media_type: MediaType | None = None


NO_WISHES = Wishes()


class MalformedWish(ValueError):  # noqa: N818 - the doors name it; it is not an error of the program
    """A wish whose value cannot be understood.

    Attributes:
        wish: which one, in this module's words (`max_latency_ms`, say).
        value: what was given.
        expected: what would have been understood.
    """

    def __init__(self, wish: str, value: str, expected: str) -> None:
        """Keep the three parts, so that a door can name its own header or field."""
        super().__init__(f"{wish}: expected {expected}, got {value!r}")
        self.wish = wish
        self.value = value
        self.expected = expected


def _flag(wish: str, text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in {"true", "1", "yes", "on"}:
        return True
    if lowered in {"false", "0", "no", "off", ""}:
        return False
    raise MalformedWish(wish, text, "true or false")


def _positive(wish: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # float() also reads "1_000", "inf" and "nan": none of them is what a caller means.
    if not (0 < value < math.inf) or "_" in text:
        raise MalformedWish(wish, text, "a number greater than 0")
    return value


def _priority(wish: str, text: str) -> Priority:
    found = _PRIORITIES.get(text.strip().lower().replace("_", "-"))
    if found is None:
        raise MalformedWish(wish, text, "best-effort, normal, high, critical or 0 to 3")
    return found


def _media_type(wish: str, text: str) -> MediaType:
    try:
        return MediaType(text.strip().lower())
    except ValueError:
        expected = ", ".join(m.value for m in MediaType)
        raise MalformedWish(wish, text, f"one of {expected}") from None


def _target(wish: str, text: str) -> str:
    target = text.strip()
    if not target:
        raise MalformedWish(wish, text, "a backend id or a hardware name")
    return target


def _milliseconds(wish: str, text: str) -> float:
    return _positive(wish, text) / 1000


WISH_NAMES = (
    "target",
    "latency_critical",
    "power_efficient",
    "max_latency_ms",
    "max_power_watts",
    "priority",
    "media_type",
)
T = TypeVar("T")
D = TypeVar("D")


def _read(given: Mapping[str, str], wish: str, reader: Callable[[str, str], T], absent: D) -> T | D:
    return reader(wish, given[wish]) if wish in given else absent


def read_wishes(given: Mapping[str, str]) -> Wishes:
    """Read wishes from text, as headers and query parameters carry them.

    Args:
        given: wish name (one of `WISH_NAMES`) to its text.

    Raises:
        MalformedWish: a value that cannot be understood.
    """
    if not given:
        return NO_WISHES
    media_type = _read(given, "media_type", _media_type, None)
    implied = media_type.priority if media_type is not None else None
    return Wishes(
        target=_read(given, "target", _target, None),
        latency_critical=_read(given, "latency_critical", _flag, absent=False),
        power_efficient=_read(given, "power_efficient", _flag, absent=False),
        max_latency_s=_read(given, "max_latency_ms", _milliseconds, None),
        max_power_watts=_read(given, "max_power_watts", _positive, None),
        priority=_read(given, "priority", _priority, implied or Priority.NORMAL),
        media_type=media_type,
    )
