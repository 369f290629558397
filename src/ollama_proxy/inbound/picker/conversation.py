"""One request that Envoy asks about: its phases in, a destination or a refusal out.

Rule 1: only the stream's own task speaks. Who else has news leaves it here, and rouses that task. But one
whole message, where it goes, is said at once while that task waits.
Rule 2: a request becomes a job like any other, and its slot is taken for as long as the stream lasts.
Rule 3: what a caller sent about us, or for us, goes no further: keys, wishes, a destination above all.
"""

import math
from contextlib import nullcontext

import attrs
import trio

from ollama_proxy.engine.attempt import Attempt
from ollama_proxy.engine.job import (
    Backend,
    BackendFailed,
    Caller,
    CallerLeft,
    CallUnserved,
    Carriage,
    Fault,
    Head,
    Job,
    Served,
    Stage,
    Tap,
    Way,
)
from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.answers import Headers, routing_headers
from ollama_proxy.inbound.grpc.metadata import head_of_answer
from ollama_proxy.inbound.grpc.pb import ext_proc_v3_pb2 as pb
from ollama_proxy.inbound.grpc.rpc import Rpc
from ollama_proxy.inbound.grpc.status import CallFailed, Status
from ollama_proxy.inbound.picker import words
from ollama_proxy.inbound.picker.answering import fault_of
from ollama_proxy.inbound.picker.asked import BUFFERED, FULL_DUPLEX, Asked, Destination
from ollama_proxy.inbound.picker.desk import Desk, Overhears, among
from ollama_proxy.inbound.picker.head import Head as Told
from ollama_proxy.inbound.picker.head import origin_of
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

FALLBACKS_MAX = 3
SOON_S = 0.05  # of the 0.2 s that Envoy waits where nobody has told it otherwise
_NO_BODY = Refusal(
    Code.NOT_IMPLEMENTED,
    "The proxy does not show the router what is asked. Its ext_proc filter must have request_body_mode"
    " BUFFERED or FULL_DUPLEX_STREAMED.",
)


class _News:
    """Somebody has left some."""


class Conversation(Caller, Carriage):
    """One stream of Envoy's, from its first message to its end."""

    def __init__(self, rpc: Rpc, desk: Desk) -> None:
        """Make ready; `run` does the rest."""
        self._rpc = rpc
        self._desk = desk
        self._asked = Asked(desk)
        self._job: Job | None = None
        self._refusal: Refusal | None = None
        self._destination: Destination | None = None
        self._is_waiting = False  # this task: another may speak
        self._is_refused = False
        self._ended = trio.Event()
        self._served: Served | None = None
        self._failure: Exception | None = None
        self._attempt: Attempt | None = None
        self._answer: pb.ProcessingRequest | None = None  # of another node than ours
        self._content_type = b""
        self._others: dict[str, str] = {}  # where else the request may go, and who that is
        self._overheard: Overhears | None = None
        self._is_let_go = False

    async def run(self) -> None:
        """Talk until Envoy ends the stream, or has no more to ask."""
        try:
            while not await self._take_turn():
                pass
        finally:
            self._close()

    async def _take_turn(self) -> bool:
        """Say what there is to say, or hear what Envoy has; whether that was all."""
        if self._is_let_go:
            return True
        if self._refusal is not None and not self._is_refused:
            await self._refuse(self._refusal)
            return False
        if self._answer is not None and self._failure is None:
            answer, self._answer = self._answer, None
            await self._take_answer(answer)
            return False
        if self._destination is not None and not self._is_refused:
            destination, self._destination = self._destination, None
            await self._point(destination)
            return False
        heard = await self._hear()
        if isinstance(heard, _News):
            return False
        if heard is None or heard.observability_mode:
            return True  # who only watches is not answered, and may be sent home
        # What comes before a refusal could be said must not be answered: it would come before it.
        if not (self._is_refused or self._is_lost):
            await self._heed(heard)
        return False

    @property
    def _is_lost(self) -> bool:
        """Whether a refusal is on its way, for what has become of the request at its node."""
        attempt = self._attempt
        return self._failure is not None or (
            attempt is not None and self._served is None and attempt.scope.cancel_called
        )

    async def _hear(self, until: float = math.inf) -> "pb.ProcessingRequest | _News | None":
        """What Envoy has said, None where it says no more; or wait for either, or for news."""
        rpc = self._rpc
        # What follows an answer's head is answered after it.
        is_deaf = self._answer is not None and not self._is_refused
        try:
            request: pb.ProcessingRequest | None = None if is_deaf else rpc.take()
        except CallFailed as failed:
            if failed.ended.status is not Status.RESOURCE_EXHAUSTED:
                raise
            # The rest of it is not read; what is said comes before the stream's end.
            refusal = failed.ended.booked
            self._turn_away(refusal)
            await self._refuse(refusal)
            return None
        if request is not None or (rpc.has_ended and not is_deaf):
            return request
        self._is_waiting = True
        try:
            with trio.move_on_at(until) if until < math.inf else nullcontext():
                await rpc.wait()
        finally:
            self._is_waiting = False
        return _News()

    def _close(self) -> None:
        """The stream is over. That is also how an answer ends whose bytes Envoy does not show."""
        self._free()
        job = self._job
        if job is None:
            return
        # It refers to us: a circle for each request would be the collector's to find.
        self._job = self._attempt = None
        is_cut = self._overheard is not None and not self._ended.is_set()
        if self._failure is not None or (self._served is not None and not is_cut):
            self._ended.set()
        else:
            self._desk.dispatcher.withdraw(job)

    # -- the request -------------------------------------------------------------------------------

    async def _heed(self, request: pb.ProcessingRequest) -> None:
        phase = request.WhichOneof("request")
        match phase:
            case "request_headers":
                await self._take_head(request)
            case "request_body":
                await self._take_body(request.request_body)
            case "request_trailers":
                await self._take_trailers()
            case "response_headers":
                await self._take_answer(request)
            case "response_body":
                await self._take_answers_body(request.response_body)
            case "response_trailers":
                await self._rpc.send(words.go_on(phase))
                self._finish()
            case _:
                raise CallFailed(Status.INVALID_ARGUMENT, "A message is of no known phase.")

    async def _take_head(self, request: pb.ProcessingRequest) -> None:
        asked = self._asked
        head = asked.take_head(request)
        asked.within = await self._desk.reach(asked.subset)
        refusal = asked.judge(head, self._rpc.peer)
        if refusal is not None:
            self._turn_away(refusal)
        elif asked.preflight:
            self._is_refused = True  # or rather answered: there is no more to say
            await self._rpc.send(words.allow(asked.preflight))
        elif asked.call is None:
            await self._send_anywhere(head)
        elif request.request_headers.end_of_stream:
            await self._submit()
        elif asked.mode == BUFFERED:
            asked.in_body = True
            await self._rpc.send(words.go_on("request_headers"))
        elif asked.mode != FULL_DUPLEX:
            self._turn_away(_NO_BODY)

    async def _take_body(self, body: pb.HttpBody) -> None:
        asked = self._asked
        if not asked.may_go_on:
            raise CallFailed(Status.INVALID_ARGUMENT, "A request_body came out of turn.")
        if asked.call is None:
            await self._pass_body(body)
        elif (refusal := asked.take_body(body)) is not None:
            self._turn_away(refusal)
        elif body.end_of_stream or asked.mode == BUFFERED:
            await self._submit()

    async def _pass_body(self, body: pb.HttpBody) -> None:
        """Of a request that was sent anywhere: nobody reads it here."""
        if self._asked.mode != FULL_DUPLEX:
            await self._rpc.send(words.go_on("request_body"))
            return
        for piece in words.pieces(body.body, complete=body.end_of_stream):
            await self._rpc.send(piece)

    async def _take_trailers(self) -> None:
        asked = self._asked
        if asked.mode != FULL_DUPLEX or asked.call is None:
            await self._rpc.send(words.go_on("request_trailers"))
        elif not asked.may_go_on:
            raise CallFailed(Status.INVALID_ARGUMENT, "The request_trailers came out of turn.")
        else:
            asked.has_trailers = True
            await self._submit()

    async def _submit(self) -> None:
        """All of the request is there: it becomes a job, and waits its turn."""
        self._asked.is_whole = True
        try:
            job = self._asked.to_job(self, self, trio.current_time())
        except RequestRefused as refused:
            self._turn_away(refused.refusal)
            return
        self._job = job
        self._rpc.is_job = True
        self._desk.dispatcher.submit(job)
        await self._wait_for_turn(job)

    async def _wait_for_turn(self, job: Job) -> None:
        """Have Envoy wait: for as long as it may, and with an answer before it gives up by itself.

        Also where the turn has come at once: a node's name may be looked up for long, or lead nowhere,
        and then another node's line is next.
        """
        hold_s = self._desk.settings.hold_s
        since = trio.current_time()
        # Most turns come before Envoy grows impatient, and nothing need be said of them.
        steps = [(min(SOON_S, hold_s / 2), words.hold(hold_s)), (hold_s * 0.95, None)]
        if self._asked.mode == FULL_DUPLEX:
            # Envoy has no timer then. But a stream that ends before anything was said counts as one that
            # was opened for nothing, and the callers of a whole Envoy are one peer.
            if job.stage is Stage.WAITING:
                self._rpc.begin(head_of_answer(self._rpc.initial, gzip=False))
            del steps[0]
        for waited_s, then in steps:
            if await self._turn_comes(job, since + waited_s):
                return
            if then is not None:
                await self._rpc.send(then)
        self._desk.dispatcher.give_up(
            job,
            Refusal(
                Code.QUEUE_FULL,
                f"Its turn did not come within {hold_s:g} s, for which the proxy waits.",
                retry_after_s=5.0,
            ),
        )

    async def _turn_comes(self, job: Job, until: float) -> bool:
        """Wait for its turn, or its end; whether either came in time."""
        while self._refusal is None and not job.told:
            if trio.current_time() >= until:
                return False
            heard = await self._hear(until)
            if heard is None:
                self._is_let_go = True
                break
            if not isinstance(heard, _News):
                await self._heed(heard)
        return True

    # -- what is told ------------------------------------------------------------------------------

    def _turn_away(self, refusal: Refusal) -> None:
        """Refuse a request that becomes no job."""
        self._asked.turn_away(refusal)
        self._refusal = refusal

    async def _refuse(self, refusal: Refusal) -> None:
        self._is_refused = True
        self._free()
        job, asked = self._job, self._asked
        more: Headers
        if job is not None:
            more = routing_headers(job)
        else:
            more = [(b"x-request-id", asked.identity.encode())]
        await self._rpc.send(words.refuse(asked.dialect, refusal, [*more, *asked.sharing]))

    def _point_at_once(self, destination: Destination) -> bool:
        """Tell Envoy where the request goes, if that is one message, and nobody need wait for it.

        To rouse who waits only to say so takes another turn of the scheduler, for each request.
        """
        if not self._is_waiting or self._refusal is not None or self._asked.mode != BUFFERED:
            return False
        [answer] = self._asked.pointed(destination)
        if not self._rpc.send_at_once(answer):
            return False
        self._was_pointed()
        return True

    async def _point(self, destination: Destination) -> None:
        for answer in self._asked.pointed(destination):
            await self._rpc.send(answer)
        self._was_pointed()

    def _was_pointed(self) -> None:
        if (attempt := self._attempt) is not None:
            attempt.asked()
            attempt.job.overhead_s += trio.current_time() - attempt.started
        self._free()

    # -- the answer --------------------------------------------------------------------------------

    async def _take_answer(self, request: pb.ProcessingRequest) -> None:
        """An answer's head is there: the node's, or Envoy's own."""
        head = Told.read(request.response_headers)
        job, attempt = self._job, self._attempt
        if job is None or attempt is None or job.stage is Stage.DONE or self._served is not None:
            # Not ours: for a request that was sent anywhere, or of a filter before us.
            await self._rpc.send(words.go_on("response_headers"))
            return
        origin = origin_of(request, head)
        landed = self._others.pop(origin.endpoint, "")
        if landed in self._desk.dispatcher.stations:
            # Envoy had no answer from ours, and went down the list: the engine follows it there.
            job.landed, self._answer = landed, request
            self._failure = BackendFailed(Fault.UNREACHABLE, "the proxy had to go elsewhere")
            self._ended.set()
            return
        station = self._desk.dispatcher.stations.get(attempt.decision.backend)
        of_router = station is not None and station.spec.type is BackendType.ROUTER
        fault = fault_of(head, origin, of_router=of_router)
        if isinstance(fault, CallerLeft):
            await self._rpc.send(words.go_on("response_headers"))
            self._desk.dispatcher.withdraw(job)
            return
        if fault is not None:
            # The worker hears of it, and then the caller, in the words of any other door.
            self._failure = fault
            self._ended.set()
            return
        attempt.hear_head()
        self._served = Served(status=head.status, computed=not job.failovers)
        answer = pb.ProcessingResponse()
        mutation = answer.response_headers.response.header_mutation
        words.set_headers(mutation, [*routing_headers(job), *self._asked.sharing])
        if not self._asked.echoes and self._desk.wants_bytes(attempt):
            answer.mode_override.response_body_mode = pb.ProcessingMode.STREAMED
        self._content_type = head.first(b"content-type") or b""
        await self._rpc.send(answer)
        if request.response_headers.end_of_stream:
            self._finish()

    async def _take_answers_body(self, body: pb.HttpBody) -> None:
        """A piece of an answer, of which nothing is changed."""
        await self._rpc.send(
            words.echo(body) if self._asked.echoes else words.go_on("response_body")
        )
        if self._served is None:
            return
        if self._overheard is None and self._desk.overhear is not None:
            self._overheard = self._desk.overhear(self._content_type)
            if self._attempt is not None and body.body:
                self._attempt.hear_bytes()
        if self._overheard is not None:
            self._overheard.feed(body.body)
        if body.end_of_stream:
            self._finish()

    def _finish(self) -> None:
        """All of an answer has passed."""
        if self._served is None:
            return
        if self._overheard is not None:
            self._served = attrs.evolve(
                self._served, tokens=self._overheard.pieces, report=self._overheard.report()
            )
        self._ended.set()

    # -- requests that are no inference ------------------------------------------------------------

    async def _send_anywhere(self, head: Told) -> None:
        """Let what only asks what is there go to the idlest node; the rest is not for nodes."""
        if not self._asked.is_list:
            self._turn_away(
                Refusal(
                    Code.NOT_FOUND,
                    "Through the proxy there are the inference calls, and the lists of models. What"
                    " else there is, is at the router's own port.",
                )
            )
            return
        found = await self._desk.idlest(self._asked.dialect, self._asked.subset)
        if found is None:
            self._turn_away(
                Refusal(Code.NO_BACKEND, "No backend is there for the proxy.", retry_after_s=5.0)
            )
            return
        answer = pb.ProcessingResponse()
        mutation = words.point(answer, answer.request_headers.response, found)
        mutation.remove_headers.extend(head.withheld(()))
        self._asked.in_body = False
        await self._rpc.send(answer)

    # -- Carriage ----------------------------------------------------------------------------------

    async def carry(self, attempt: Attempt, backend: Backend) -> Served:
        """See `Carriage`."""
        if self._answer is not None:
            self._attempt = attempt
            attempt.asked()
            self._failure = None
            self._ended = trio.Event()
            self._rpc.rouse()
            return await self._end()
        dispatcher = self._desk.dispatcher
        way = backend.way(attempt.errand)
        endpoints = among(await self._desk.addresses.find(way.host, way.port), self._asked.subset)
        if not endpoints:
            # Its name was looked up anew since the subset was read. That tells nothing against it.
            why = "its addresses are not in the proxy's subset any more"
            raise BackendFailed(Fault.DECLINED, why, code=Code.NO_BACKEND)
        for candidate in attempt.decision.candidates[1 : FALLBACKS_MAX + 1]:
            station = dispatcher.stations.get(candidate.id)
            for other in [] if station is None else self._same_way(attempt, station, way):
                if other not in endpoints:
                    endpoints.append(other)
                    self._others[other] = candidate.id
        attempt.job.told = True
        self._attempt = attempt
        destination = Destination(
            endpoints=",".join(endpoints), way=way, headers=attempt.errand.headers
        )
        if not self._point_at_once(destination):
            self._destination = destination
            self._rpc.rouse()
        if self._desk.addresses.is_stale(way.host):
            # Beside the answer, which does not wait for it; who comes next is told what is known.
            async with trio.open_nursery() as beside:
                beside.start_soon(self._desk.addresses.renew, way.host)
                await self._ended.wait()
                beside.cancel_scope.cancel()
        return await self._end()

    async def _end(self) -> Served:
        """How the answer ended, once it has."""
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure
        assert self._served is not None, "it ended well or not"  # noqa: S101 - who sets the event says how
        return self._served

    def _same_way(self, attempt: Attempt, station: Station, way: Way) -> list[str]:
        """Where another backend listens that takes the very same request; nowhere, where it does not."""
        try:
            other = station.backend.way(attempt.errand)
        except CallUnserved:
            return []
        if attrs.evolve(other, host=way.host, port=way.port) != way:
            return []
        return among(self._desk.addresses.known(other.host, other.port), self._asked.subset)

    # -- Caller ------------------------------------------------------------------------------------

    async def begin(self, job: Job, head: Head, first: bytes, *, complete: bool) -> None:
        """See `Caller`. Envoy has the bytes."""
        raise NotImplementedError

    async def write(self, data: bytes, *, complete: bool) -> None:
        """See `Caller`. As above."""
        raise NotImplementedError

    def tap(self) -> Tap | None:
        """See `Caller`. As above."""
        return None

    def refuse(self, job: Job, refusal: Refusal) -> None:
        """See `Caller`. Envoy takes it at any time, and ends what it has begun.

        An answer that is on its way need not end with this router: Envoy goes on without it.
        """
        self._is_let_go = job.told and refusal.code is Code.SHUTTING_DOWN
        self._refusal = refusal
        self._rpc.rouse()

    def done(self, job: Job) -> None:  # noqa: ARG002 - as above
        """See `Caller`."""
        self._free()

    def _free(self) -> None:
        """Let go of the body: the proxy has it, or nobody gets it. The stream may last much longer."""
        self._asked.free()
        if self._job is not None and self._job.errand.body:
            self._job.errand = attrs.evolve(self._job.errand, body=b"")
