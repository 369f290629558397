"""What a line of the decision log holds: names that readers of other versions rely on.

Rule 1: a field that is missing has its default; one that is unknown is passed over.
Rule 2: what a reader must not misunderstand changes `VERSION`.
Rule 3: no prompt, answer, key, address or client's name; of a prompt its size alone.

Times in seconds, power in watts; `now`, `judged` and `heard_at` by the engine's clock. What is no
number in JSON (never, for ever) is null.
"""

from typing import Annotated

import msgspec

VERSION = 1
KIND = "decision"
LINE_MAX = 1 << 20  # bytes; a model's name is the caller's, and may be of any length
Above0 = Annotated[float, msgspec.Meta(gt=0)]
Mean = tuple[float, float]  # a decaying mean, and when it was last fed


class Spec(msgspec.Struct, omit_defaults=True):
    """What the owner wrote down of a backend, as far as a choice looks at it."""

    id: str
    type: str
    hardware: str
    power_watts: Above0
    avg_latency_s: Above0
    enabled: bool = True
    slots: Annotated[int, msgspec.Meta(ge=1)] = 1
    models: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    aliases: dict[str, str] = {}
    max_prompt_tokens: int = 0
    preference: int = 0
    wake_s: float = 2.0
    continues_chat: bool = False


class Speeds(msgspec.Struct, omit_defaults=True):
    """What was learned of a backend with the model that is asked for; as `policy.estimate.Speeds`."""

    floor_s: Mean | None = None
    whole_s: Mean | None = None
    load_s: Mean | None = None
    prefill_s: Mean | None = None
    slope: tuple[float, float, float, float] | None = None
    decode: Mean | None = None
    tokens_per_byte: Mean | None = None
    streamed: Mean | None = None
    gathered: Mean | None = None
    off_first_s: Mean | None = None
    off_whole_s: Mean | None = None
    tells_cache: bool = False
    heard_at: float | None = None


class View(msgspec.Struct, omit_defaults=True):
    """One backend as it stood; as `policy.fleet.BackendView`.

    `uncarried`: another proxy could not make the call there. Of its models there are only those that
    may be meant. `mode`, `draining`, `ttft_s` and `tokens_per_s`: what a router says of itself, the
    last two of the model. `turned_away`: the priority up to which it says that it is full. `judged`:
    when a choice last looked at what
    was learned; None: it did not, or does now.
    """

    spec: Spec
    healthy: bool = True
    circuit_open: bool = False
    models: list[str] | None = None
    loaded: list[str] | None = None
    unserved: bool = False
    uncarried: bool = False
    reserved: int = 0
    preempts: str | None = None
    failing: float = 0.0
    speeds: Speeds | None = None
    token_j: float | None = None
    watts: float | None = None
    heat: str = "unknown"
    hot: str = ""
    asleep: bool = False
    mode: str | None = None
    draining: bool = False
    ttft_s: float | None = None
    tokens_per_s: float | None = None
    turned_away: int | None = None
    judged: float | None = None


class Busy(msgspec.Struct, omit_defaults=True):
    """A backend that is not idle: until when, and who waits.

    `ahead_s`: the work before this request; `before_all_s`: before one of its priority by a client who
    has no turns behind it. `depth`: how many wait at its priority. `yielding`: for a critical request,
    those at its slots, each as whether it yields at all, has begun, how often it was put back, and
    whether it can be continued. `others`: how many of its slots others have, as a node told last, and
    how many of theirs wait there before this request, and behind it; None where there are none.
    """

    ends: list[float]
    waiting: int = 0
    ahead_s: float = 0.0
    before_all_s: float = 0.0
    depth: int = 0
    full: bool = False
    off_s: float = 0.0
    linger_s: float = 0.0
    yielding: list[tuple[bool, bool, int, bool]] = []
    others: tuple[int, int, int] | None = None


class Asked(msgspec.Struct, omit_defaults=True):
    """What is to be computed."""

    call: str
    model: str
    stream: bool = False
    prompt_bytes: int = 0
    answer_limit: int | None = None
    continues: bool = False
    carried: bool = False
    within: list[str] | None = None
    forwarded: bool = False


class Wished(msgspec.Struct, omit_defaults=True):
    """How the caller wants it."""

    target: str | None = None
    latency_critical: bool = False
    power_efficient: bool = False
    max_latency_s: float | None = None
    max_power_watts: float | None = None
    priority: int = 1


class Stance(msgspec.Struct, omit_defaults=True):
    """What the mode in force means."""

    time_weight: float
    power_weight: float
    watts_soft_cap: float | None = None
    warmest: str = "severe"
    watts_soft_cap_when_loud: float | None = None


class Settings(msgspec.Struct, omit_defaults=True):
    """What the owner set, and what the mode and the machine's state add to it."""

    stance: Stance
    reason: str
    power_aware: bool = True
    auto_optimize: bool = True
    default_backend: str = ""
    power_budget_watts: float | None = None
    is_loud: bool = False
    on_battery: bool = False
    all_cool: bool = True


class Gave(msgspec.Struct, omit_defaults=True):
    """What was decided: a backend and why, or the code of a refusal."""

    backend: str | None = None
    reason: str | None = None
    code: str | None = None
    alternatives: list[str] = []
    score: float = 0.0
    predicted_s: float = 0.0
    whole_s: float = 0.0
    watts: float = 0.0


class Line(msgspec.Struct, omit_defaults=True):
    """One choice. `again`: the request had a place before; the figures of a report leave it out."""

    time: str
    request_id: str
    now: float
    asked: Asked
    settings: Settings
    views: list[View]
    gave: Gave
    wished: Wished = msgspec.field(default_factory=Wished)
    warm: tuple[str, float] | None = None
    tried: list[str] = []
    again: bool = False
    busy: dict[str, Busy] = {}
    kind: str = KIND
    v: int = 0


class Written(msgspec.Struct, omit_defaults=True):
    """A `Line` on its way out: what is the same in many lines is encoded already.

    `v` and `kind` come first and have no default: they are in every line.
    """

    v: int
    kind: str
    time: str
    request_id: str
    now: float
    asked: Asked
    gave: Gave
    settings: msgspec.Raw
    views: list[msgspec.Raw]
    wished: Wished | None = None
    warm: tuple[str, float] | None = None
    tried: list[str] = []
    again: bool = False
    busy: dict[str, Busy] = {}
