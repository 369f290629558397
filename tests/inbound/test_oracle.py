"""The lane and the Quart routes are two ways to the same answer: one table of cases, both ways."""

from collections.abc import Callable

import attrs
import msgspec
import pytest
import trio

from ollama_proxy.inbound.http.pipe import AnswerCut
from ollama_proxy.inbound.lane import LaneLimits
from ollama_proxy.policy.ask import CALLS_BY_PATH, Call
from tests.fakes.asgi import Exchange
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL
from tests.inbound.ends import (
    BROKEN,
    CHAT,
    HOST,
    STREAM,
    WHOLE,
    Door,
    Pairs,
    patience,
    scripted,
    verbatim,
)
from tests.inbound.http.house import MAX_BODY_BYTES, open_house

# What belongs to the connection, to the server, or to the moment.
NOT_COMPARED = {b"connection", b"transfer-encoding", b"date", b"x-queue-ms", b"x-energy-j"}
DEFAULTS = {"host": HOST, "x-request-id": "mine"}


@attrs.frozen
class Told:
    """What a client is told; `complete`: the answer was finished, not broken off."""

    status: int
    headers: Pairs
    body: bytes
    complete: bool


@attrs.frozen(kw_only=True)
class Case:
    """One request and the fleet that it meets, made anew for each way."""

    path: str = CHAT
    json: object = None
    body: bytes | None = None
    headers: dict[str, str] = attrs.field(factory=dict)
    fleet: Callable[[], list[ScriptedBackend]] = lambda: [scripted().say("{}")]

    @property
    def content(self) -> bytes:
        """The request's body."""
        return self.body if self.body is not None else msgspec.json.encode(self.json or WHOLE)

    @property
    def sent(self) -> Pairs:
        """The request's headers."""
        given = DEFAULTS | {"content-length": str(len(self.content))} | self.headers
        return [(n.encode(), v.encode("latin-1")) for n, v in given.items() if v]


def compared(headers: Pairs) -> Pairs:
    """Headers that must be the same, in an order of their own."""
    return sorted(pair for pair in headers if pair[0] not in NOT_COMPARED)


async def by_lane(case: Case) -> Told:
    """Over a socket."""
    lines = b"".join(b"%b: %b\r\n" % pair for pair in case.sent)
    request = b"POST %b HTTP/1.1\r\n%b\r\n%b" % (case.path.encode(), lines, case.content)
    limits = LaneLimits(max_body_bytes=MAX_BODY_BYTES)
    async with Door.open(*case.fleet(), limits=limits) as door:
        connection = await door.connect()
        answer = await connection.ask(request)
    return Told(answer.status, compared(answer.headers), answer.body, answer.complete)


async def by_quart(case: Case) -> Told:
    """Over ASGI."""
    with patience():
        async with trio.open_nursery() as workers:
            house = open_house(workers, *case.fleet())
            exchange = Exchange(house.app, "POST", case.path, case.content, case.sent)
            exchange.reading.set()
            try:
                await exchange.run()
            except* AnswerCut:
                assert not exchange.ended
            workers.cancel_scope.cancel()
    headers = [(name.encode(), value.encode()) for name, value in exchange.headers.items()]
    return Told(exchange.status, compared(headers), exchange.content, exchange.ended)


CASES: dict[str, Case] = {}
for call in Call:
    CASES |= {
        f"{call.path}, whole": Case(path=call.path),
        f"{call.path}, stream": Case(
            path=call.path,
            json=STREAM,
            fleet=lambda: [scripted().say("hel").say("lo").say("!")],
        ),
        f"{call.path}, stream not said": Case(path=call.path, json={"model": MODEL}),
        f"{call.path}, stream breaks off": Case(
            path=call.path,
            json=STREAM,
            fleet=lambda: [scripted().say("hel").say("lo").die_mid_stream()],
        ),
        f"{call.path}, stream breaks off in mid-line": Case(
            path=call.path, json=STREAM, fleet=lambda: [verbatim(b"da", b"ta", failure=BROKEN)]
        ),
        f"{call.path}, no model": Case(path=call.path, json={"stream": True}),
        f"{call.path}, foreign host": Case(path=call.path, headers={"host": "evil.example"}),
        f"{call.path}, backend refuses": Case(path=call.path, fleet=lambda: [scripted().refuse()]),
    }
CASES |= {
    "query": Case(path=f"{CHAT}?beta=true"),
    "one piece": Case(json=STREAM, fleet=lambda: [scripted().say("all")]),
    "nothing said": Case(json=STREAM, fleet=lambda: [scripted()]),
    "whole in pieces": Case(fleet=lambda: [scripted().say('{"a":').say("1}")]),
    "whole of unknown length": Case(fleet=lambda: [verbatim(b'{"a":', b"1}")]),
    "whole of known length": Case(fleet=lambda: [verbatim(b'{"a":', b"1}", length=7)]),
    "whole cut": Case(fleet=lambda: [scripted().say('{"a":').die_mid_stream()]),
    "whole of unknown length cut": Case(fleet=lambda: [verbatim(b'{"a":', failure=BROKEN)]),
    "stream of known length cut": Case(
        json=STREAM, fleet=lambda: [verbatim(b"data: a\n\n", length=99, failure=BROKEN)]
    ),
    "backend's own error": Case(
        fleet=lambda: [verbatim(b'{"error":"no"}', status=404, kind=b"text/plain; charset=x")]
    ),
    "backend's own error to a stream": Case(
        json=STREAM, fleet=lambda: [verbatim(b'{"error":"no"}', status=400, length=14)]
    ),
    "backend dies": Case(fleet=lambda: [scripted().die_mid_stream()]),
    "backend babbles": Case(fleet=lambda: [scripted().garble()]),
    "backend lacks the model": Case(fleet=lambda: [scripted().lack_the_model()]),
    "backend does not know the call": Case(fleet=lambda: [scripted().not_know_the_call()]),
    "backend rejects the call": Case(fleet=lambda: [scripted().reject()]),
    "backend is busy": Case(fleet=lambda: [scripted().refuse(429)]),
    "failover": Case(fleet=lambda: [scripted("npu").refuse(), scripted("igpu").say("{}")]),
    "all fail": Case(fleet=lambda: [scripted("npu").refuse(), scripted("igpu").garble()]),
    "alternatives": Case(fleet=lambda: [scripted(n).say("{}") for n in ("npu", "igpu", "cpu")]),
    "target": Case(
        headers={"x-target-backend": "cpu"},
        fleet=lambda: [scripted(n).say("{}") for n in ("npu", "cpu")],
    ),
    "latency critical": Case(
        headers={"x-latency-critical": "true"},
        fleet=lambda: [scripted(n).say("{}") for n in ("npu", "igpu", "nvidia")],
    ),
    "power efficient": Case(
        headers={"x-power-efficient": "1"},
        fleet=lambda: [scripted(n).say("{}") for n in ("npu", "igpu", "nvidia")],
    ),
    "unknown target": Case(headers={"x-target-backend": "nowhere"}),
    "deadline that cannot be met": Case(headers={"x-max-latency-ms": "0.001"}),
    "too few watts": Case(headers={"x-max-power-watts": "0.5"}),
    "unknown model": Case(json={"model": "nobody-has-it"}),
    "near model": Case(json={"model": MODEL[:-1]}),
    "friendly origin": Case(headers={"origin": "https://friend.example"}),
    "same origin": Case(headers={"origin": f"http://{HOST}"}),
    "foreign origin": Case(headers={"origin": "https://evil.example"}),
    "null origin": Case(headers={"origin": "null"}),
    "empty host": Case(headers={"host": " "}),
    "gzip": Case(headers={"content-encoding": "gzip"}),
    "identity": Case(headers={"content-encoding": "identity"}),
    "too large": Case(body=b"x" * (MAX_BODY_BYTES + 1)),
    "just not too large": Case(
        body=b'{"model":"%b"}' % MODEL.encode() + b" " * (MAX_BODY_BYTES - 50)
    ),
    "form": Case(headers={"content-type": "application/x-www-form-urlencoded"}),
    "multipart": Case(headers={"content-type": "multipart/form-data; boundary=x"}),
    "text": Case(headers={"content-type": "text/plain"}),
    "unprepared headers": Case(headers={"accept": "\xe9", "user-agent": "x" * 8000}),
}
for name, content in {
    "empty": b"",
    "nonsense": b"nonsense",
    "array": b"[]",
    "model of a wrong kind": b'{"model":5}',
    "empty model": b'{"model":""}',
    "stream of a wrong kind": b'{"model":"m","stream":"yes"}',
    "deep": b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "invalid UTF-8": b'{"model":"m","x":"\xff"}',
    "lone surrogate": b'{"model":"\\ud800"}',
    "model not of ASCII": '{"model":"mod\u00e8le"}'.encode(),
}.items():
    CASES |= {f"body {name}": Case(body=content)}
for header, value in [
    ("x-latency-critical", "maybe"),
    ("x-power-efficient", "2"),
    ("x-max-latency-ms", "nan"),
    ("x-max-power-watts", "-1"),
    ("x-priority", "urgent"),
    ("x-media-type", "smell"),
    ("x-slo-ttft-ms", "soon"),
]:
    CASES |= {f"bad {header}": Case(json=STREAM, headers={header: value})}


@pytest.mark.parametrize("name", CASES)
async def test_both_ways_tell_the_same(name: str) -> None:
    """Status, headers and bytes, and whether the answer is finished."""
    case = CASES[name]

    lane, quart = await by_lane(case), await by_quart(case)

    assert quart == lane


@pytest.mark.parametrize("path", CALLS_BY_PATH)
async def test_both_ways_make_up_an_id(path: str) -> None:
    """Where the caller gave none, or none that is fit, also for what is refused at the gate."""
    for given in ({"x-request-id": ""}, {"x-request-id": "not fit"}):
        for host in (HOST, "evil.example"):
            case = Case(path=path, headers={**given, "host": host})

            answers = [await by_lane(case), await by_quart(case)]

            assert answers[0].status == answers[1].status
            for answer in answers:
                assert dict(answer.headers)[b"x-request-id"].startswith(b"req-")
