"""How refusals and decisions are told, in the words of HTTP and of each dialect."""

import http

import attrs
import msgspec
import pytest

from ollama_proxy.engine.job import Job
from ollama_proxy.inbound.answers import (
    ALTERNATIVES_SHOWN,
    REASON_PHRASES,
    STATUS,
    error_body,
    error_headers,
    error_object,
    error_piece,
    routing_headers,
)
from ollama_proxy.inbound.http.inference import ChannelCaller
from ollama_proxy.inbound.reading import RoutingHeaders, read_job
from ollama_proxy.policy.ask import Call, Dialect, Framing, Wishes
from ollama_proxy.policy.energy import Grade, Spent
from ollama_proxy.policy.refusal import Code, Refusal
from ollama_proxy.policy.route import Decision, RouteSettings, choose
from tests.fleet import ask, view

REFUSAL = Refusal(Code.INVALID_HEADER, 'X-Priority: "urgent"', param="X-Priority")


class TestErrors:
    """A refusal, as the caller's library expects it."""

    @pytest.mark.parametrize("code", Code)
    def test_each_code_has_a_status_with_its_phrase(self, code: Code) -> None:
        """The phrase is the registered one."""
        status = http.HTTPStatus(STATUS[code])
        # Python 3.11 calls 413 by the name it had before RFC 9110.
        phrase = {413: "Content Too Large"}.get(status, status.phrase)

        assert phrase == REASON_PHRASES[status].decode()

    @pytest.mark.parametrize("code", Code)
    def test_whose_fault_it_is_shows_in_the_type(self, code: Code) -> None:
        """OpenAI's libraries tell the two apart by it."""
        body = msgspec.json.decode(error_body(Dialect.OPENAI, Refusal(code, "no")))

        is_callers = STATUS[code] < 500
        assert ("invalid_request_error" if is_callers else "api_error") == body["error"]["type"]

    def test_the_shape_of_openai(self) -> None:
        """All four fields are there."""
        expected = {
            "error": {
                "message": 'X-Priority: "urgent"',
                "type": "invalid_request_error",
                "param": "X-Priority",
                "code": "invalid_header",
            }
        }

        assert expected == msgspec.json.decode(error_body(Dialect.OPENAI, REFUSAL))

    def test_the_shape_of_ollama(self) -> None:
        """The error is text."""
        expected = {"error": 'X-Priority: "urgent"', "code": "invalid_header"}

        assert expected == msgspec.json.decode(error_body(Dialect.OLLAMA, REFUSAL))

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (Code.INVALID_HEADER, "invalid_request_error"),
            (Code.FORBIDDEN, "permission_error"),
            (Code.MODEL_NOT_FOUND, "not_found_error"),
            (Code.BODY_TOO_LARGE, "request_too_large"),
            (Code.NO_BACKEND, "overloaded_error"),
            (Code.DEADLINE_EXCEEDED, "timeout_error"),
            (Code.BACKEND_FAILED, "api_error"),
        ],
    )
    def test_the_shape_of_anthropic(self, code: Code, kind: str) -> None:
        """An error says that it is one, and of what kind."""
        expected = {
            "type": "error",
            "error": {"type": kind, "message": "no", "code": code.value},
        }

        assert expected == error_object(Dialect.ANTHROPIC, Refusal(code, "no"))

    @pytest.mark.parametrize(
        ("after_s", "shown"), [(0.0, b"1"), (0.2, b"1"), (5.0, b"5"), (5.1, b"6")]
    )
    def test_when_to_come_back_is_in_whole_seconds(self, after_s: float, shown: bytes) -> None:
        """Never sooner than it may help, never at once."""
        refusal = attrs.evolve(REFUSAL, retry_after_s=after_s)

        assert (b"retry-after", shown) in error_headers(refusal)

    def test_where_coming_back_does_not_help_nothing_is_said(self) -> None:
        """The type is all there is."""
        assert [(b"content-type", b"application/json")] == error_headers(REFUSAL)


class TestLastPieces:
    """The end of a stream that breaks off."""

    @pytest.mark.parametrize(
        ("after", "apart"),
        [(b"", b""), (b'{"a":1}\n', b""), (b'{"a":', b"\n")],
        ids=["at the start", "between lines", "in a line"],
    )
    def test_lines(self, after: bytes, apart: bytes) -> None:
        """A line of its own, and no empty one: Ollama's clients take each line for JSON."""
        piece = error_piece(Framing.NDJSON, Dialect.OLLAMA, REFUSAL, after)

        assert apart + error_body(Dialect.OLLAMA, REFUSAL) + b"\n" == piece

    @pytest.mark.parametrize(
        ("after", "apart"),
        [
            (b"data: 1\n\n", b""),
            (b"data: 1\r\n\r\n", b""),
            (b"data: 1\n", b"\n\n"),
            (b"data", b"\n\n"),
            (b"", b"\n\n"),
        ],
        ids=["between events", "between events of CRLF", "in an event", "in a line", "unknown"],
    )
    def test_events(self, after: bytes, apart: bytes) -> None:
        """An event of its own."""
        piece = error_piece(Framing.SSE, Dialect.OPENAI, REFUSAL, after)

        assert apart + b"data: " + error_body(Dialect.OPENAI, REFUSAL) + b"\n\n" == piece

    def test_events_of_anthropic_are_named(self) -> None:
        """Its libraries look at the name first."""
        piece = error_piece(Framing.SSE, Dialect.ANTHROPIC, REFUSAL, b"\n\n")

        expected = b"event: error\ndata: " + error_body(Dialect.ANTHROPIC, REFUSAL) + b"\n\n"
        assert expected == piece


def a_job() -> Job:
    """One that arrived at second 7."""
    return read_job(
        Call.OPENAI_CHAT,
        RoutingHeaders([(b"x-request-id", b"mine")]),
        b'{"model":"m"}',
        caller=ChannelCaller(),
        door="http",
        arrived=7.0,
    )


class TestRoutingHeaders:
    """What is told of a job."""

    def test_a_job_without_decision_has_two(self) -> None:
        """Its id, and how long it waited: not at all."""
        assert [(b"x-request-id", b"mine"), (b"x-queue-ms", b"0.000")] == routing_headers(a_job())

    def test_a_job_with_decision_has_all(self) -> None:
        """In the units of their names; of many alternatives the best."""
        names = [f"b{number}" for number in range(100)]
        decision = choose(
            ask(),
            Wishes(power_efficient=True),
            [view("npu", spec_power_watts=3.14, spec_avg_latency_s=0.8004)]
            + [view(name, spec_power_watts=20.0 + at) for at, name in enumerate(names)],
            RouteSettings(),
            now=7.0,
        )
        assert isinstance(decision, Decision)
        job = a_job()
        job.assigned = 7.0125
        job.decision = decision
        job.bill = Spent(12.3456, Grade.APPORTIONED)

        expected = [
            (b"x-request-id", b"mine"),
            (b"x-queue-ms", b"12.500"),
            (b"x-backend-used", b"npu"),
            (b"x-routing-reason", b"power-efficient"),
            (b"x-estimated-latency-ms", b"800"),
            (b"x-estimated-power-w", b"3.1"),
            (b"x-alternatives", ",".join(names[:ALTERNATIVES_SHOWN]).encode()),
            (b"x-energy-j", b"12.346"),
            (b"x-energy-source", b"apportioned"),
        ]
        assert expected == routing_headers(job)
