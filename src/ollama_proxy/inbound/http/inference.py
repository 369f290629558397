"""The inference calls over ASGI: each is read into a job, submitted, and answered through a pipe.

The lane answers the same calls on the router's own port; this is the plain way for any other host.
"""

from functools import partial

import trio
from quart import Response, request

from ollama_proxy.engine.job import Head, Job, Tap
from ollama_proxy.inbound.answers import error_piece, routing_headers, turned_away
from ollama_proxy.inbound.http.endpoint import JSON, Endpoint, Services
from ollama_proxy.inbound.http.exchange import holding, raw_headers, visitor
from ollama_proxy.inbound.http.openapi import ROUTING_HEADERS
from ollama_proxy.inbound.http.pipe import Pipe, piped_reply
from ollama_proxy.inbound.http.replies import refusal_reply
from ollama_proxy.inbound.reading import RoutingHeaders, read_job
from ollama_proxy.policy.ask import Call
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused


class ChannelCaller:
    """A `Caller` whose answer is taken by another task, piece by piece, from `pipe`."""

    def __init__(self) -> None:
        """Open the pipe."""
        self.pipe = Pipe()

    async def begin(self, job: Job, head: Head, first: bytes, *, complete: bool) -> None:  # noqa: ARG002 - as `Caller` has it
        """See `Caller`."""
        await self.pipe.begin(head, first, complete=complete)

    async def write(self, data: bytes, *, complete: bool) -> None:
        """See `Caller`."""
        await self.pipe.write(data, complete=complete)

    def tap(self) -> Tap | None:
        """See `Caller`. The socket is the ASGI server's."""
        return None

    def refuse(self, job: Job, refusal: Refusal) -> None:  # noqa: ARG002 - as above
        """See `Caller`."""
        self.pipe.refuse(refusal)

    def done(self, job: Job) -> None:  # noqa: ARG002 - as above
        """See `Caller`."""
        self.pipe.end()


async def infer(services: Services, *, call: Call) -> Response:
    """Serve one inference request."""
    ledger = services.dispatcher.ledger
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        refusal = Refusal(Code.UNSUPPORTED_MEDIA_TYPE, "Send the body without Content-Encoding.")
        ledger.turn_away(turned_away("http", call.path, refusal))
        return refusal_reply(refusal)
    body = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    headers = RoutingHeaders(raw_headers())
    caller = ChannelCaller()
    try:
        job = read_job(
            call,
            headers,
            body,
            caller=caller,
            door="http",
            arrived=trio.current_time(),
            key_name=visitor().name,
        )
    except RequestRefused as refused:
        ledger.turn_away(turned_away("http", call.path, refused.refusal, headers.request_id))
        return refusal_reply(refused.refusal, [(b"x-request-id", headers.request_id.encode())])
    return await _answer(services, job, caller.pipe)


async def _answer(services: Services, job: Job, pipe: Pipe) -> Response:
    def let_go() -> None:
        # After the last piece the worker ends the job by itself; withdrawn, it would be booked as
        # one whose caller left.
        if not pipe.is_complete:
            services.dispatcher.withdraw(job)
        pipe.close()

    holding().callback(let_go)
    services.dispatcher.submit(job)
    first = await pipe.take()
    more = routing_headers(job)
    if isinstance(first, Refusal):
        return refusal_reply(first, more)
    # Part of a whole answer is no answer: only a broken connection says that it is not whole.
    last_words = None
    if job.ask.stream and pipe.head.length is None and not pipe.is_complete:
        more.append((b"x-accel-buffering", b"no"))
        last_words = partial(error_piece, job.ask.call.framing, job.ask.call.dialect)
    return piped_reply(pipe, first.data, more, last_words)


def _endpoint(call: Call) -> Endpoint:
    name = call.name.lower()
    return Endpoint(
        method="POST",
        path=call.path,
        view=partial(infer, call=call),
        name=name,
        summary=f"{call.dialect.name.capitalize()}'s {name.partition('_')[2]} call, passed to the"
        " backend that is chosen",
        tag="inference",
        takes=JSON,
        answers=(JSON,) if call.embeds else (JSON, call.framing.value),
        headers=ROUTING_HEADERS,
    )


ENDPOINTS = tuple(_endpoint(call) for call in Call)
