"""What a browser is shown: the page at the root, its files, and the stream of what changes."""

from functools import partial

from quart import Response, request

from ollama_proxy.dashboard import Asset
from ollama_proxy.inbound.answers import Headers
from ollama_proxy.inbound.http.endpoint import TEXT, Dashboard, Endpoint, Services
from ollama_proxy.inbound.http.exchange import holding, visitor
from ollama_proxy.inbound.http.replies import HeldBody, reply, text_reply
from ollama_proxy.inbound.live.audience import Full, Seat
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

HTML = "text/html"
EVENTS = "text/event-stream"
_ELSEWHERE = ("cross-site", "same-site")
_FULL = Refusal(
    Code.QUEUE_FULL,
    "As many pages as may are watching the router. Close one of them.",
    retry_after_s=10.0,
)
_FOREIGN = Refusal(
    Code.FORBIDDEN, "Another site's page may not watch the router: open the router's own address."
)
# Nothing from elsewhere, nothing written in the page itself, no markup made of text, in no frame.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    b" base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    b" require-trusted-types-for 'script'; trusted-types 'none'"
)
_GUARDED: Headers = [
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def _not_found() -> RequestRefused:
    message = "There is no such file, or the router has another version of it: load the page anew."
    return RequestRefused(Refusal(Code.NOT_FOUND, message))


def _dashboard(services: Services) -> Dashboard:
    if services.dashboard is None:
        raise RequestRefused(
            Refusal(Code.NOT_FOUND, "The dashboard is switched off: observability.dashboard.")
        )
    return services.dashboard


def _asset_reply(asset: Asset, caching: bytes) -> Response:
    headers = [*_GUARDED, (b"etag", asset.etag.encode()), (b"cache-control", caching)]
    # Compared as it was given: it is one that somebody had from here, or none.
    if asset.etag in request.headers.get("If-None-Match", ""):
        return reply(b"", 304, headers)
    return reply(asset.content, 200, [(b"content-type", asset.media.encode()), *headers])


def _is_browser() -> bool:
    """Whether HTML is asked for by its name: `*/*` is what every program says."""
    return any(
        media.partition(";")[0].strip().lower() == HTML and quality > 0
        for media, quality in request.accept_mimetypes
    )


async def root(services: Services) -> Response:
    """Show a browser the page; say to everybody else what Ollama's own clients wait for."""
    if services.dashboard is not None and _is_browser():
        response = _asset_reply(services.dashboard.assets.page, b"no-cache")
    else:
        response = text_reply("Ollama is running")
    response.headers["vary"] = "accept"
    return response


async def page_file(services: Services, digest: str, file: str) -> Response:
    """Give one of the page's files, to be kept for good: another version has another path."""
    assets = _dashboard(services).assets
    if digest != assets.digest or file not in assets.files:
        raise _not_found()
    return _asset_reply(assets.files[file], b"public, max-age=31536000, immutable")


class _SeatBody(HeldBody):
    """What one who watches is told, until either side has enough."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    def __aiter__(self) -> Seat:
        return self._seat


async def events(services: Services) -> Response:
    """Tell what there is, then what changes, for as long as it is listened to."""
    audience = _dashboard(services).audience
    headers: Headers = [(b"content-type", EVENTS.encode()), (b"cache-control", b"no-store")]
    if request.method == "HEAD":
        return reply(b"", 200, headers)
    # Its origin is judged where it is told; as an image's address it is not, and would take a seat.
    if "Origin" not in request.headers and request.headers.get("Sec-Fetch-Site") in _ELSEWHERE:
        raise RequestRefused(_FOREIGN)
    try:
        seat = audience.join(request.headers.get("Last-Event-ID", ""))
    except Full:
        raise RequestRefused(_FULL) from None
    holding().callback(audience.leave, seat)
    dismiss = partial(audience.dismiss_from, seat)
    holding().enter_context(services.gate.admission.stay(visitor(), dismiss))
    return reply(_SeatBody(seat), 200, headers)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/",
        view=root,
        name="root",
        summary="Says that Ollama is running, as its clients ask first; the dashboard where Accept"
        " names HTML",
        tag="control",
        answers=(TEXT, HTML),
    ),
    Endpoint(
        method="GET",
        path="/dashboard/{digest}/{file}",
        view=page_file,
        name="dashboard_file",
        summary="One of the dashboard's files",
        tag="control",
        answers=("text/javascript", "text/css", "image/svg+xml", TEXT),
    ),
    Endpoint(
        method="GET",
        path="/events",
        view=events,
        name="events",
        summary="What the dashboard shows, as server-sent events: `snapshot`, then `change`;"
        " `Last-Event-ID` resumes",
        tag="control",
        answers=(EVENTS,),
    ),
)
