"""What Envoy itself has to say, in the caller's dialect: what its picker said is in it already."""

from collections.abc import Mapping

from ollama_proxy.envoy.tree import extension, typed
from ollama_proxy.envoy.yaml import Tree

# By what is so of a request, in the words of CEL: the error in its caller's dialect. The last is OpenAI's.
_ERRORS: Mapping[str, Mapping[str, Tree]] = {
    "request.path.startsWith('/api/')": {"error": "%LOCAL_REPLY_BODY%"},
    "request.path.startsWith('/v1/messages')": {
        "type": "error",
        "error": {"type": "api_error", "message": "%LOCAL_REPLY_BODY%"},
    },
    "": {
        "error": {
            "message": "%LOCAL_REPLY_BODY%",
            "type": "server_error",
            "param": None,
            "code": "%RESPONSE_CODE_DETAILS%",
        }
    },
}
# By what is so of the answer: what is said beside the error.
_HEADERS: Mapping[str, Mapping[str, str]] = {
    "response.code == 503": {"retry-after": "1"},
    "": {},
}


def own_errors() -> dict[str, Tree]:
    """How its errors are written."""
    its_own = "!response.code_details.startsWith('ollama_proxy')"
    return {
        "mappers": [
            _mapper(" && ".join(filter(None, (its_own, status, path))), body, headers)
            for status, headers in _HEADERS.items()
            for path, body in _ERRORS.items()
        ]
    }


def _mapper(
    expression: str, body: Mapping[str, Tree], headers: Mapping[str, str]
) -> dict[str, Tree]:
    message = typed(
        "extensions.access_loggers.filters.cel.v3.ExpressionFilter", expression=expression
    )
    added: list[Tree] = [{"header": {"key": k, "value": v}} for k, v in headers.items()]
    return {
        "filter": {
            "extension_filter": extension("envoy.access_loggers.extension_filters.cel", message)
        },
        "body_format_override": {"json_format": body},
        **({"headers_to_add": added} if added else {}),
    }
