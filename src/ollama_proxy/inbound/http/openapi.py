"""The OpenAPI 3.1 document of a table of endpoints."""

from collections.abc import Sequence
from http import HTTPStatus

from ollama_proxy.inbound.http.endpoint import JSON, TEXT, Endpoint
from ollama_proxy.inbound.http.replies import dialect_of
from ollama_proxy.policy.ask import Dialect, MediaType, Priority
from ollama_proxy.policy.energy import Grade

Schema = dict[str, object]

_FLAG: Schema = {"type": "boolean"}
_POSITIVE: Schema = {"type": "number", "exclusiveMinimum": 0}
_TEXT: Schema = {"type": "string"}
TARGET = "X-Target-Backend"
_REQUEST_HEADERS: dict[str, tuple[Schema, str]] = {
    TARGET: (_TEXT, "A backend's id, or a hardware name."),
    "X-Latency-Critical": (_FLAG, "The fastest eligible backend to the first token."),
    "X-Power-Efficient": (_FLAG, "The eligible backend that needs the least energy."),
    "X-Max-Latency-Ms": (
        _POSITIVE,
        "Milliseconds from arrival to the first token of a stream, else to the whole answer.",
    ),
    "X-Max-Power-Watts": (_POSITIVE, "Only backends that draw at most this."),
    "X-Priority": (
        {"enum": [name for p in Priority for name in (p.label, str(p.value))]},
        "Who is served first.",
    ),
    "X-Media-Type": (
        {"enum": [m.value for m in MediaType]},
        "audio means priority high, realtime critical, unless X-Priority says otherwise.",
    ),
    "X-SLO-TTFT-Ms": (_POSITIVE, "X-Max-Latency-Ms, for streams alone."),
    "X-Request-ID": (
        {"type": "string", "pattern": "^[A-Za-z0-9._:@/+=-]{1,128}$"},
        "Echoed and logged; made up when absent.",
    ),
}
ROUTING_HEADERS = tuple(_REQUEST_HEADERS)
_ANSWER_HEADERS: dict[str, tuple[Schema, str]] = {
    "X-Backend-Used": (_TEXT, "The backend's id."),
    "X-Node-Backend": (_TEXT, "Where that is another router: the id of its own backend."),
    "X-Routing-Reason": (_TEXT, "Why it was chosen."),
    "X-Estimated-Latency-Ms": ({"type": "number"}, "What was predicted."),
    "X-Estimated-Power-W": ({"type": "number"}, "What it is expected to draw."),
    "X-Alternatives": (_TEXT, "Ids of the others that were eligible, best first, with commas."),
    "X-Request-ID": (_TEXT, "The request's id."),
    "X-Queue-Ms": ({"type": "number"}, "How long it waited."),
    "X-Energy-J": ({"type": "number"}, "Joules that a whole answer cost, beyond rest."),
    "X-Energy-Source": (
        {"enum": [grade.value for grade in Grade]},
        "How they were found: by its card's sensor, as a share, or by the owner's figure.",
    ),
}
_WORDS = {"message": _TEXT, "code": _TEXT, "type": _TEXT, "param": {"type": ["string", "null"]}}
_ERRORS: dict[Dialect, Schema] = {
    Dialect.OPENAI: {"error": {"type": "object", "properties": _WORDS}},
    Dialect.OLLAMA: {"error": _TEXT, "code": _TEXT},
    Dialect.ANTHROPIC: {"type": {"const": "error"}, "error": {"type": "object"}},
}


def describe(endpoints: Sequence[Endpoint], *, version: str) -> Schema:
    """Describe endpoints.

    Returns:
        An OpenAPI 3.1 document, to be encoded as JSON.
    """
    paths: dict[str, dict[str, object]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ollama proxy",
            "version": version,
            "description": "Routes Ollama and OpenAI requests over the backends of one machine."
            " What answers GET answers HEAD.",
        },
        "paths": paths,
        "components": {
            "parameters": {
                name: {
                    "name": name,
                    "in": "header",
                    "required": False,
                    "schema": schema,
                    "description": meaning,
                }
                for name, (schema, meaning) in _REQUEST_HEADERS.items()
            },
            "headers": {
                name: {"schema": schema, "description": meaning}
                for name, (schema, meaning) in _ANSWER_HEADERS.items()
            },
            "responses": {
                _error_name(dialect): {
                    "description": "Why there is no answer; 429 and 503 carry Retry-After.",
                    "content": {JSON: {"schema": {"type": "object", "properties": properties}}},
                }
                for dialect, properties in _ERRORS.items()
            },
        },
    }


def _operation(endpoint: Endpoint) -> Schema:
    success: Schema = {"description": HTTPStatus.OK.phrase}
    if endpoint.method != "HEAD":
        success["content"] = {media: {"schema": _schema(media)} for media in endpoint.answers}
    if endpoint.tag == "inference":
        success["headers"] = {
            name: {"$ref": f"#/components/headers/{name}"} for name in _ANSWER_HEADERS
        }
    operation: Schema = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "responses": {
            "200": success,
            "default": {"$ref": f"#/components/responses/{_error_name(dialect_of(endpoint.path))}"},
        },
    }
    parameters = _parameters(endpoint)
    if parameters:
        operation["parameters"] = parameters
    if endpoint.takes is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {endpoint.takes: {"schema": _schema(endpoint.takes)}},
        }
    return operation


def _parameters(endpoint: Endpoint) -> list[Schema]:
    in_path: list[Schema] = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": _TEXT}
        for part in endpoint.path.split("/")
        if part.startswith("{")
    ]
    return in_path + [{"$ref": f"#/components/parameters/{name}"} for name in endpoint.headers]


def _schema(media: str) -> Schema:
    if media == JSON:
        return {"type": ["object", "array"]}
    return {"type": "string"} if media == TEXT else {}


def _error_name(dialect: Dialect) -> str:
    return f"{dialect.name.capitalize()}Error"
