"""The metrics, as Prometheus comes for them."""

from quart import Response, request

from ollama_proxy.inbound.http.endpoint import TEXT, Endpoint, Services
from ollama_proxy.inbound.http.replies import reply

OPENMETRICS = "application/openmetrics-text"
_CHARSET = b"; charset=utf-8"


def _prefers_openmetrics() -> bool:
    """Whether the present request names OpenMetrics, and text not before it.

    Not the library's own choice: that fails at versions that are no numbers, and says them back.
    """
    wanted: dict[str, float] = {}
    for media, quality in request.accept_mimetypes:
        name = media.partition(";")[0].strip().lower()
        wanted[name] = max(quality, wanted.get(name, 0.0))
    return 0 < wanted.get(OPENMETRICS, 0.0) >= wanted.get(TEXT, 0.0)


async def metrics(services: Services) -> Response:
    """Tell all metrics."""
    is_openmetrics = _prefers_openmetrics()
    media = (
        OPENMETRICS.encode() + b"; version=1.0.0"
        if is_openmetrics
        else b"text/plain; version=0.0.4"
    )
    return reply(services.metrics(is_openmetrics), 200, [(b"content-type", media + _CHARSET)])


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/metrics",
        view=metrics,
        name="metrics",
        summary="Every metric, as Prometheus reads them; OpenMetrics where Accept names it",
        tag="control",
        answers=(TEXT, OPENMETRICS),
    ),
)
