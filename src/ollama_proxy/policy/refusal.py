"""Why a request is not served: whose fault, which code, and what the caller can do."""

import enum

import attrs


class Code(enum.Enum):
    """Every reason for which a request ends without its answer, as callers read it."""

    INVALID_REQUEST = "invalid_request"
    INVALID_HEADER = "invalid_header"
    UNKNOWN_BACKEND = "unknown_backend"
    INVALID_API_KEY = "invalid_api_key"
    FORBIDDEN = "forbidden"
    PERMISSION_DENIED = "permission_denied"
    RATE_LIMITED = "rate_limit_exceeded"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    MODEL_NOT_FOUND = "model_not_found"
    REQUEST_TIMEOUT = "request_timeout"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    HEADERS_TOO_LARGE = "headers_too_large"
    NOT_IMPLEMENTED = "not_implemented"
    HTTP_VERSION = "http_version_not_supported"
    BACKEND_FAILED = "backend_failed"
    NO_BACKEND = "no_backend"
    QUEUE_FULL = "queue_full"
    PREEMPTED = "preempted"
    SHUTTING_DOWN = "shutting_down"
    DEADLINE_UNMEETABLE = "deadline_unmeetable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL = "internal_error"


@attrs.frozen
class Refusal:
    """One request not served, in words for the person who sent it.

    Attributes:
        code: the machine's word for it.
        message: a sentence that says whose fault it is and what to do.
        param: the field or header at fault, if one is.
        retry_after_s: when trying again may help; None where it will not.
    """

    code: Code
    message: str
    param: str | None = None
    retry_after_s: float | None = None


class RequestRefused(Exception):  # noqa: N818 - a refusal is an answer, not an error of the program
    """Carries a refusal out of code that can only return a success."""

    def __init__(self, refusal: Refusal) -> None:
        """Keep the refusal for the door that answers it."""
        super().__init__(refusal.message)
        self.refusal = refusal
