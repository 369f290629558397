"""The request that Envoy asks about, as far as it has come, within the bounds of all bodies.

Nothing is said here, and nobody waits: what is wrong with it is a refusal, for the conversation to tell.
"""

from collections.abc import Iterator

import attrs

from ollama_proxy.engine.job import Caller, Carriage, Job, Way
from ollama_proxy.inbound.answers import Headers, turned_away
from ollama_proxy.inbound.bounds import TOO_MUCH_HELD
from ollama_proxy.inbound.grpc.pb import ext_proc_v3_pb2 as pb
from ollama_proxy.inbound.grpc.status import CallFailed, Status
from ollama_proxy.inbound.picker import words
from ollama_proxy.inbound.picker.desk import Desk
from ollama_proxy.inbound.picker.head import Head, subset_of, too_large
from ollama_proxy.inbound.reading import RoutingHeaders, make_request_id, read_job
from ollama_proxy.inbound.trust import is_preflight, judge_page, preflight_headers
from ollama_proxy.policy.access import NOTHING
from ollama_proxy.policy.ask import Call, Dialect
from ollama_proxy.policy.refusal import Refusal

BUFFERED, FULL_DUPLEX = pb.ProcessingMode.BUFFERED, pb.ProcessingMode.FULL_DUPLEX_STREAMED
# What may go to any node that is well, since it changes nothing; the others are for the router itself.
_LISTS = {"/v1/models", "/api/tags", "/api/ps", "/api/version"}


@attrs.frozen(kw_only=True)
class Destination:
    """Where a job is to go, and as what."""

    endpoints: str
    way: Way
    headers: tuple[tuple[bytes, bytes], ...]


@attrs.define(eq=False)
class Asked:
    """One request.

    Attributes:
        head: None before it has come.
        call: which inference call it is; None: none.
        dialect: in whose words to answer.
        sharing: headers of an answer by which a browser lets a page read it.
        preflight: headers of the answer to a browser that asks what a page may send; else none.
        subset: endpoints that it may go to; None: any.
        within: ids of the backends there.
        mode: how Envoy gives its body.
        echoes: Envoy wants each piece of an answer's body back.
        in_body: Envoy waits for an answer to the body, not to the head.
        is_whole: nothing more of it comes.
        has_trailers: they were what came last.
    """

    _desk: Desk
    head: Head | None = None
    call: Call | None = None
    dialect: Dialect = Dialect.OPENAI
    sharing: Headers = attrs.field(init=False, factory=list)
    preflight: Headers = attrs.field(init=False, factory=list)
    subset: frozenset[str] | None = None
    within: frozenset[str] | None = None
    mode: int = BUFFERED
    echoes: bool = False
    in_body: bool = False
    is_whole: bool = False
    has_trailers: bool = False
    _routing: RoutingHeaders | None = None
    _key_name: str = ""
    _body: bytearray = attrs.field(init=False, factory=bytearray)
    _held: int = 0

    @property
    def identity(self) -> str:
        """The request's id: its caller's, or made up."""
        return make_request_id() if self._routing is None else self._routing.request_id

    @property
    def is_list(self) -> bool:
        """Whether it only asks what is there."""
        head = self.head
        if head is None or head.method not in {"GET", "HEAD"}:
            return False
        return head.path in _LISTS or head.path.startswith("/v1/models/")

    # -- what comes of it --------------------------------------------------------------------------

    def take_head(self, request: pb.ProcessingRequest) -> Head:
        """Its head has come.

        Raises:
            CallFailed: another one.
        """
        if self.head is not None:
            raise CallFailed(Status.INVALID_ARGUMENT, "There are two request_headers.")
        head = self.head = Head.read(request.request_headers)
        if request.HasField("protocol_config"):
            self.mode = request.protocol_config.request_body_mode
            self.echoes = request.protocol_config.response_body_mode == FULL_DUPLEX
        self.dialect, self.call = head.dialect, head.call
        self._routing = RoutingHeaders(head.headers)
        self.subset = subset_of(request)
        return head

    def judge(self, head: Head, peer: str) -> Refusal | None:
        """Whether its caller is heard, as at the HTTP door.

        Args:
            head: its own.
            peer: who asks us.
        """
        gate = self._desk.gate
        refusal = (
            head.judge(self._desk.settings.limits)
            or gate.judge(head.host, head.origin)
            or judge_page(head.method, head.headers)
        )
        if refusal is not None:
            return refusal
        self.sharing = gate.sharing(head.origin)
        if self.sharing and is_preflight(head.method, head.headers):
            self.preflight = [*preflight_headers(head.headers), *self.sharing]
            return None
        visitor = gate.admission.admit(self._need(head), head.headers, peer)
        if isinstance(visitor, Refusal):
            return visitor
        self._key_name = visitor.name
        return None

    def _need(self, head: Head) -> str:
        """What is asked for, as the table of permissions has it."""
        if self.call is not None:
            return f"POST {self.call.path}"
        if not self.is_list:
            return NOTHING
        return f"GET {head.path}" if head.path in _LISTS else "GET /v1/models/{model}"

    @property
    def may_go_on(self) -> bool:
        """Whether more of it may come."""
        return self.head is not None and not self.is_whole

    def take_body(self, body: pb.HttpBody) -> Refusal | None:
        """A piece of its body has come; what is wrong with that."""
        size = len(body.body)
        limits = self._desk.settings.limits
        if len(self._body) + size > limits.max_body_bytes:
            return too_large(limits)
        if not self._desk.bounds.hold(size):
            return TOO_MUCH_HELD
        self._held += size
        self._body += body.body
        return None

    def free(self) -> None:
        """Let go of the body."""
        self._desk.bounds.free(self._held)
        self._held = 0
        self._body = bytearray()

    # -- what becomes of it ------------------------------------------------------------------------

    def to_job(self, caller: Caller, carriage: Carriage, arrived: float) -> Job:
        """All of it is there.

        Args:
            caller: of the job.
            carriage: the same, who has the answer carried.
            arrived: seconds.

        Raises:
            RequestRefused: it makes no sense.
        """
        assert self.call is not None, "no other is read"  # noqa: S101 - as the conversation has it
        assert self._routing is not None, "its head was read"  # noqa: S101 - as above
        return read_job(
            self.call,
            self._routing,
            self._body,
            caller=caller,
            door=words.DOOR,
            arrived=arrived,
            key_name=self._key_name,
            carriage=carriage,
            within=self.within,
        )

    def turn_away(self, refusal: Refusal) -> None:
        """Book that it becomes no job."""
        # What is no path of ours may hold anything, a key by mistake.
        path = "elsewhere" if self.head is None or self.call is None else self.head.path
        ledger = self._desk.dispatcher.ledger
        ledger.turn_away(turned_away(words.DOOR, path, refusal, self.identity))

    def pointed(self, destination: Destination) -> Iterator[pb.ProcessingResponse]:
        """What tells Envoy where it goes, and what of it changes; a large body piece by piece."""
        assert self.head is not None, "its head was read"  # noqa: S101 - as above
        way = destination.way
        body: bytes | bytearray = self._body if way.body is None else way.body()
        answer = pb.ProcessingResponse()
        message = answer.request_body if self.in_body else answer.request_headers
        response = message.response
        mutation = words.point(answer, response, destination.endpoints)
        passed = [name for name, _ in destination.headers]
        # The others stand there already, as the caller has sent them. Not by their names: of a wish, what
        # goes along to another router may differ from what was sent, as what is left of a deadline does.
        sent = frozenset(self.head.headers)
        changes = [header for header in destination.headers if header not in sent]
        changes += way.headers
        if way.path.encode() != self.head.pseudo.get(b"path"):
            changes.append((b":path", way.path.encode()))
        if way.body is not None and self.in_body:
            response.body_mutation.body = bytes(body)
            changes.append((b"content-length", b"%d" % len(body)))
        words.set_headers(mutation, changes)
        mutation.remove_headers.extend(self.head.withheld([*passed, *dict(way.headers)]))
        yield answer
        if self.mode == FULL_DUPLEX and (body or self.has_trailers):
            yield from words.pieces(body, complete=not self.has_trailers)
            if self.has_trailers:
                yield words.go_on("request_trailers")
