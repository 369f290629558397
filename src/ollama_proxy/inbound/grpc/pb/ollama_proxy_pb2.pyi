from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Annotations(_message.Message):
    __slots__ = ("target", "latency_critical", "prefer_power_efficiency", "max_latency_ms", "max_power_watts", "priority", "request_id", "media_type", "custom")
    class CustomEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TARGET_FIELD_NUMBER: _ClassVar[int]
    LATENCY_CRITICAL_FIELD_NUMBER: _ClassVar[int]
    PREFER_POWER_EFFICIENCY_FIELD_NUMBER: _ClassVar[int]
    MAX_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_POWER_WATTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_FIELD_NUMBER: _ClassVar[int]
    target: str
    latency_critical: bool
    prefer_power_efficiency: bool
    max_latency_ms: float
    max_power_watts: float
    priority: str
    request_id: str
    media_type: str
    custom: _containers.ScalarMap[str, str]
    def __init__(self, target: _Optional[str] = ..., latency_critical: bool = ..., prefer_power_efficiency: bool = ..., max_latency_ms: _Optional[float] = ..., max_power_watts: _Optional[float] = ..., priority: _Optional[str] = ..., request_id: _Optional[str] = ..., media_type: _Optional[str] = ..., custom: _Optional[_Mapping[str, str]] = ...) -> None: ...

class GenerateOptions(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "num_predict", "stop", "seed", "num_ctx", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    NUM_PREDICT_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    NUM_CTX_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPEAT_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    num_predict: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    seed: int
    num_ctx: int
    min_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., num_predict: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., seed: _Optional[int] = ..., num_ctx: _Optional[int] = ..., min_p: _Optional[float] = ..., repeat_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ...) -> None: ...

class RoutingMetadata(_message.Message):
    __slots__ = ("backend", "reason", "estimated_power_watts", "estimated_latency_ms", "alternatives", "queue_ms")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_POWER_WATTS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    backend: str
    reason: str
    estimated_power_watts: float
    estimated_latency_ms: float
    alternatives: _containers.RepeatedScalarFieldContainer[str]
    queue_ms: float
    def __init__(self, backend: _Optional[str] = ..., reason: _Optional[str] = ..., estimated_power_watts: _Optional[float] = ..., estimated_latency_ms: _Optional[float] = ..., alternatives: _Optional[_Iterable[str]] = ..., queue_ms: _Optional[float] = ...) -> None: ...

class GenerationStats(_message.Message):
    __slots__ = ("time_to_first_token_ms", "total_time_ms", "tokens_generated", "tokens_per_second", "energy_joules", "energy_source", "prompt_tokens")
    TIME_TO_FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_GENERATED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    ENERGY_JOULES_FIELD_NUMBER: _ClassVar[int]
    ENERGY_SOURCE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    time_to_first_token_ms: float
    total_time_ms: float
    tokens_generated: int
    tokens_per_second: float
    energy_joules: float
    energy_source: str
    prompt_tokens: int
    def __init__(self, time_to_first_token_ms: _Optional[float] = ..., total_time_ms: _Optional[float] = ..., tokens_generated: _Optional[int] = ..., tokens_per_second: _Optional[float] = ..., energy_joules: _Optional[float] = ..., energy_source: _Optional[str] = ..., prompt_tokens: _Optional[int] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("prompt", "model", "options", "annotations")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    model: str
    options: GenerateOptions
    annotations: Annotations
    def __init__(self, prompt: _Optional[str] = ..., model: _Optional[str] = ..., options: _Optional[_Union[GenerateOptions, _Mapping]] = ..., annotations: _Optional[_Union[Annotations, _Mapping]] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("response", "backend", "routing", "stats", "finish_reason", "done", "request_id")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    ROUTING_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    response: str
    backend: str
    routing: RoutingMetadata
    stats: GenerationStats
    finish_reason: str
    done: bool
    request_id: str
    def __init__(self, response: _Optional[str] = ..., backend: _Optional[str] = ..., routing: _Optional[_Union[RoutingMetadata, _Mapping]] = ..., stats: _Optional[_Union[GenerationStats, _Mapping]] = ..., finish_reason: _Optional[str] = ..., done: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("role", "content", "images")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    images: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ..., images: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ChatRequest(_message.Message):
    __slots__ = ("model", "messages", "options", "annotations")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    options: GenerateOptions
    annotations: Annotations
    def __init__(self, model: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ..., options: _Optional[_Union[GenerateOptions, _Mapping]] = ..., annotations: _Optional[_Union[Annotations, _Mapping]] = ...) -> None: ...

class ChatResponse(_message.Message):
    __slots__ = ("message", "backend", "routing", "stats", "finish_reason", "done", "request_id")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    ROUTING_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    message: ChatMessage
    backend: str
    routing: RoutingMetadata
    stats: GenerationStats
    finish_reason: str
    done: bool
    request_id: str
    def __init__(self, message: _Optional[_Union[ChatMessage, _Mapping]] = ..., backend: _Optional[str] = ..., routing: _Optional[_Union[RoutingMetadata, _Mapping]] = ..., stats: _Optional[_Union[GenerationStats, _Mapping]] = ..., finish_reason: _Optional[str] = ..., done: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("model", "input", "annotations")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    input: _containers.RepeatedScalarFieldContainer[str]
    annotations: Annotations
    def __init__(self, model: _Optional[str] = ..., input: _Optional[_Iterable[str]] = ..., annotations: _Optional[_Union[Annotations, _Mapping]] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("embeddings", "backend", "routing", "stats", "request_id")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    ROUTING_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    embeddings: _containers.RepeatedCompositeFieldContainer[Embedding]
    backend: str
    routing: RoutingMetadata
    stats: GenerationStats
    request_id: str
    def __init__(self, embeddings: _Optional[_Iterable[_Union[Embedding, _Mapping]]] = ..., backend: _Optional[str] = ..., routing: _Optional[_Union[RoutingMetadata, _Mapping]] = ..., stats: _Optional[_Union[GenerationStats, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "backends", "loaded_on")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    LOADED_ON_FIELD_NUMBER: _ClassVar[int]
    name: str
    backends: _containers.RepeatedScalarFieldContainer[str]
    loaded_on: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., backends: _Optional[_Iterable[str]] = ..., loaded_on: _Optional[_Iterable[str]] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class ListBackendsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListBackendsResponse(_message.Message):
    __slots__ = ("backends",)
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    backends: _containers.RepeatedCompositeFieldContainer[Backend]
    def __init__(self, backends: _Optional[_Iterable[_Union[Backend, _Mapping]]] = ...) -> None: ...

class Figure(_message.Message):
    __slots__ = ("value", "source")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    value: float
    source: str
    def __init__(self, value: _Optional[float] = ..., source: _Optional[str] = ...) -> None: ...

class Latency(_message.Message):
    __slots__ = ("ttft_ms", "tokens_per_s")
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    ttft_ms: Figure
    tokens_per_s: Figure
    def __init__(self, ttft_ms: _Optional[_Union[Figure, _Mapping]] = ..., tokens_per_s: _Optional[_Union[Figure, _Mapping]] = ...) -> None: ...

class Calibration(_message.Message):
    __slots__ = ("requests", "mean_error", "bias", "deadlines_met", "deadlines_missed")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MEAN_ERROR_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    DEADLINES_MET_FIELD_NUMBER: _ClassVar[int]
    DEADLINES_MISSED_FIELD_NUMBER: _ClassVar[int]
    requests: int
    mean_error: float
    bias: float
    deadlines_met: int
    deadlines_missed: int
    def __init__(self, requests: _Optional[int] = ..., mean_error: _Optional[float] = ..., bias: _Optional[float] = ..., deadlines_met: _Optional[int] = ..., deadlines_missed: _Optional[int] = ...) -> None: ...

class Backend(_message.Message):
    __slots__ = ("id", "name", "type", "hardware", "endpoint", "enabled", "healthy", "last_error", "models", "loaded_models", "slots", "in_flight", "queued", "latency", "power_watts", "temperature_c", "throttled", "energy_j_per_token", "requests_total", "errors_total", "thermal_state", "asleep", "calibration")
    class QueuedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LOADED_MODELS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    POWER_WATTS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_FIELD_NUMBER: _ClassVar[int]
    ENERGY_J_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ERRORS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    THERMAL_STATE_FIELD_NUMBER: _ClassVar[int]
    ASLEEP_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    type: str
    hardware: str
    endpoint: str
    enabled: bool
    healthy: bool
    last_error: str
    models: _containers.RepeatedScalarFieldContainer[str]
    loaded_models: _containers.RepeatedScalarFieldContainer[str]
    slots: int
    in_flight: int
    queued: _containers.ScalarMap[str, int]
    latency: Latency
    power_watts: Figure
    temperature_c: float
    throttled: bool
    energy_j_per_token: float
    requests_total: int
    errors_total: int
    thermal_state: str
    asleep: bool
    calibration: Calibration
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., type: _Optional[str] = ..., hardware: _Optional[str] = ..., endpoint: _Optional[str] = ..., enabled: bool = ..., healthy: bool = ..., last_error: _Optional[str] = ..., models: _Optional[_Iterable[str]] = ..., loaded_models: _Optional[_Iterable[str]] = ..., slots: _Optional[int] = ..., in_flight: _Optional[int] = ..., queued: _Optional[_Mapping[str, int]] = ..., latency: _Optional[_Union[Latency, _Mapping]] = ..., power_watts: _Optional[_Union[Figure, _Mapping]] = ..., temperature_c: _Optional[float] = ..., throttled: bool = ..., energy_j_per_token: _Optional[float] = ..., requests_total: _Optional[int] = ..., errors_total: _Optional[int] = ..., thermal_state: _Optional[str] = ..., asleep: bool = ..., calibration: _Optional[_Union[Calibration, _Mapping]] = ...) -> None: ...

class RouteRequest(_message.Message):
    __slots__ = ("model", "prompt", "messages", "options", "annotations", "stream")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompt: str
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    options: GenerateOptions
    annotations: Annotations
    stream: bool
    def __init__(self, model: _Optional[str] = ..., prompt: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ..., options: _Optional[_Union[GenerateOptions, _Mapping]] = ..., annotations: _Optional[_Union[Annotations, _Mapping]] = ..., stream: bool = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("backend", "eligible", "why_not", "score", "terms", "predicted_ttft_ms", "predicted_watts")
    class TermsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    ELIGIBLE_FIELD_NUMBER: _ClassVar[int]
    WHY_NOT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_WATTS_FIELD_NUMBER: _ClassVar[int]
    backend: str
    eligible: bool
    why_not: str
    score: float
    terms: _containers.ScalarMap[str, float]
    predicted_ttft_ms: float
    predicted_watts: float
    def __init__(self, backend: _Optional[str] = ..., eligible: bool = ..., why_not: _Optional[str] = ..., score: _Optional[float] = ..., terms: _Optional[_Mapping[str, float]] = ..., predicted_ttft_ms: _Optional[float] = ..., predicted_watts: _Optional[float] = ...) -> None: ...

class RouteResponse(_message.Message):
    __slots__ = ("backend", "reason", "alternatives", "candidates")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    backend: str
    reason: str
    alternatives: _containers.RepeatedScalarFieldContainer[str]
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    def __init__(self, backend: _Optional[str] = ..., reason: _Optional[str] = ..., alternatives: _Optional[_Iterable[str]] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ...) -> None: ...

class GetEfficiencyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SetEfficiencyRequest(_message.Message):
    __slots__ = ("mode",)
    MODE_FIELD_NUMBER: _ClassVar[int]
    mode: str
    def __init__(self, mode: _Optional[str] = ...) -> None: ...

class Mode(_message.Message):
    __slots__ = ("name", "title", "description")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    title: str
    description: str
    def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class EfficiencyState(_message.Message):
    __slots__ = ("mode", "effective_mode", "reason", "modes", "on_battery", "battery_percent", "power_budget_watts", "since")
    MODE_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_MODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MODES_FIELD_NUMBER: _ClassVar[int]
    ON_BATTERY_FIELD_NUMBER: _ClassVar[int]
    BATTERY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    POWER_BUDGET_WATTS_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    mode: str
    effective_mode: str
    reason: str
    modes: _containers.RepeatedCompositeFieldContainer[Mode]
    on_battery: bool
    battery_percent: float
    power_budget_watts: float
    since: str
    def __init__(self, mode: _Optional[str] = ..., effective_mode: _Optional[str] = ..., reason: _Optional[str] = ..., modes: _Optional[_Iterable[_Union[Mode, _Mapping]]] = ..., on_battery: bool = ..., battery_percent: _Optional[float] = ..., power_budget_watts: _Optional[float] = ..., since: _Optional[str] = ...) -> None: ...

class WatchStateRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BackendHealth(_message.Message):
    __slots__ = ("id", "enabled", "healthy", "last_error")
    ID_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    enabled: bool
    healthy: bool
    last_error: str
    def __init__(self, id: _Optional[str] = ..., enabled: bool = ..., healthy: bool = ..., last_error: _Optional[str] = ...) -> None: ...

class RouterState(_message.Message):
    __slots__ = ("mode", "effective_mode", "reason", "thermal_state", "hottest", "on_battery", "backends")
    MODE_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_MODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    THERMAL_STATE_FIELD_NUMBER: _ClassVar[int]
    HOTTEST_FIELD_NUMBER: _ClassVar[int]
    ON_BATTERY_FIELD_NUMBER: _ClassVar[int]
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    mode: str
    effective_mode: str
    reason: str
    thermal_state: str
    hottest: str
    on_battery: bool
    backends: _containers.RepeatedCompositeFieldContainer[BackendHealth]
    def __init__(self, mode: _Optional[str] = ..., effective_mode: _Optional[str] = ..., reason: _Optional[str] = ..., thermal_state: _Optional[str] = ..., hottest: _Optional[str] = ..., on_battery: bool = ..., backends: _Optional[_Iterable[_Union[BackendHealth, _Mapping]]] = ...) -> None: ...
