"""How a request's headers and body become a job, whichever door they came through."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import hypothesis
import msgspec
import pytest
from hypothesis import strategies

from ollama_proxy.engine.job import Caller, Job, Stage
from ollama_proxy.inbound.http.inference import ChannelCaller
from ollama_proxy.inbound.reading import RoutingHeaders, make_request_id, read_ask, read_job
from ollama_proxy.policy.ask import Call, MediaType, Priority, Wishes
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

BODY = b'{"model":"m","stream":true}'
WISHES: dict[str, tuple[str, Wishes]] = {
    "x-target-backend": ("npu", Wishes(target="npu")),
    "x-latency-critical": ("TRUE", Wishes(latency_critical=True)),
    "x-power-efficient": ("1", Wishes(power_efficient=True)),
    "x-max-latency-ms": ("250.5", Wishes(max_latency_s=0.2505)),
    "x-max-power-watts": ("12.5", Wishes(max_power_watts=12.5)),
    "x-priority": ("Best_Effort", Wishes(priority=Priority.BEST_EFFORT)),
    "x-media-type": (
        "audio",
        Wishes(media_type=MediaType.AUDIO, priority=Priority.HIGH),
    ),
    "x-slo-ttft-ms": ("250.5", Wishes(max_latency_s=0.2505)),
}
CALLER: Caller = ChannelCaller()
T = TypeVar("T")


def read(
    *headers: tuple[str, str], body: bytes | bytearray = BODY, call: Call = Call.OPENAI_CHAT
) -> Job:
    """Read a request that arrived at second 7."""
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return read_job(call, RoutingHeaders(pairs), body, caller=CALLER, door="http", arrived=7.0)


def refusal_of(*headers: tuple[str, str], body: bytes | bytearray = BODY) -> Refusal:
    """Read one that is refused."""
    with pytest.raises(RequestRefused) as refused:
        read(*headers, body=body)
    return refused.value.refusal


def outcome_of(reading: Callable[[], T]) -> T | Refusal:
    """What was read, or why it was not."""
    try:
        return reading()
    except RequestRefused as refused:
        return refused.refusal


class TestHeaders:
    """Those that bear on routing, and those that are passed on."""

    @pytest.mark.parametrize("name", WISHES)
    def test_each_wish_has_its_header(self, name: str) -> None:
        """One header, one wish, in SI units."""
        value, expected = WISHES[name]

        assert expected == read((name, value)).wishes

    def test_no_header_is_no_wish(self) -> None:
        """What others mean by their headers is not guessed."""
        assert Wishes() == read(("x-forwarded-for", "1.2.3.4"), ("priority", "high")).wishes

    def test_the_alias_of_the_deadline_is_for_streams(self) -> None:
        """A whole answer has no first token, and the deadline's own name comes first."""
        alias, own = ("x-slo-ttft-ms", "100"), ("x-max-latency-ms", "200")
        whole = b'{"model":"m","stream":false}'

        limits = [
            read(alias).wishes.max_latency_s,
            read(alias, own).wishes.max_latency_s,
            read(alias, body=whole).wishes.max_latency_s,
            read(("x-slo-ttft-ms", "soon"), body=whole).wishes.max_latency_s,
        ]

        assert [0.1, 0.2, None, None] == limits

    def test_a_malformed_alias_is_named_itself(self) -> None:
        """Nobody is told of a header that was not sent."""
        refusal = refusal_of(("x-slo-ttft-ms", "soon"))

        assert (Code.INVALID_HEADER, "X-SLO-TTFT-Ms") == (refusal.code, refusal.param)
        assert "'soon'" in refusal.message

    def test_the_first_fault_is_told(self) -> None:
        """Of several."""
        refusal = refusal_of(
            ("x-request-id", "not fit"), ("x-priority", "high"), ("x-priority", "high")
        )

        assert "X-Request-ID" == refusal.param

    def test_a_long_value_is_told_in_part(self) -> None:
        """The error is not an echo."""
        assert len(refusal_of(("x-priority", "x" * 10_000)).message) < 300

    @pytest.mark.parametrize(("given", "client"), [("indexer", "indexer"), ("x" * 999, "x" * 128)])
    def test_a_client_may_name_itself(self, given: str, client: str) -> None:
        """Those of one name share its turns in line; a name is no place to keep data."""
        assert client == read(("x-client-id", given)).client

    def test_only_a_few_are_passed_on(self) -> None:
        """No key, no cookie, nothing of the connection; the id always."""
        passed = [
            ("accept", "text/event-stream"),
            ("user-agent", "curl/8"),
            ("traceparent", "00-1-2-01"),
            ("tracestate", "a=b"),
            ("anthropic-version", "2023-06-01"),
            ("openai-beta", "assistants=v2"),
            ("x-request-id", "mine"),
        ]
        kept = [
            ("authorization", "Bearer secret"),
            ("cookie", "a=b"),
            ("x-api-key", "secret"),
            ("host", "localhost"),
            ("connection", "close"),
            ("origin", "null"),
            ("x-priority", "high"),
        ]

        errand = read(*kept, *passed).errand

        assert [(n.encode(), v.encode()) for n, v in passed] == list(errand.headers)

    @pytest.mark.parametrize("fit", ["a", "x" * 128, "0-9_A.Z:b@c/d+e=f"])
    def test_an_id_that_is_fit_is_kept(self, fit: str) -> None:
        """Letters, digits and what UUIDs, ULIDs, base64 and e-mail ids need."""
        assert fit == read(("x-request-id", fit)).request_id

    @pytest.mark.parametrize("unfit", ["", "x" * 129, "a b", "a\n", "caf\xe9", "a,b", "<a>", '"'])
    def test_an_id_that_is_not_is_refused(self, unfit: str) -> None:
        """It would be written into logs and headers."""
        refusal = refusal_of(("x-request-id", unfit))

        assert (Code.INVALID_HEADER, "X-Request-ID") == (refusal.code, refusal.param)

    def test_made_up_ids_differ(self) -> None:
        """Each is new, and fit to be sent back to us."""
        made = [make_request_id() for _ in range(1000)]

        assert 1000 == len(set(made))
        assert made[0] == read(("x-request-id", made[0])).request_id

    @hypothesis.given(
        strategies.lists(
            strategies.tuples(
                strategies.sampled_from([*WISHES, "x-request-id", "accept", "x-other"]),
                strategies.text(strategies.characters(max_codepoint=255), max_size=12),
            ),
            max_size=4,
        )
    )
    def test_whatever_they_say_it_is_a_job_or_a_refusal(
        self, headers: Iterable[tuple[str, str]]
    ) -> None:
        """Nothing else is raised."""
        outcome = outcome_of(lambda: read(*headers))

        if isinstance(outcome, Refusal):
            assert Code.INVALID_HEADER is outcome.code
            assert outcome.param
        else:
            assert outcome.request_id


class TestBody:
    """Three fields are read, the rest is let alone."""

    def test_the_job_keeps_the_body(self) -> None:
        """Its bytes, its size, and when it was there."""
        body = bytearray(b'{ "model" : "m" , "stream" : true , "odd" : [1.50, "\\u0041"] }')

        job = read(body=body, call=Call.OLLAMA_CHAT)

        assert body is job.errand.body
        assert (len(body), "m", True) == (job.ask.prompt_bytes, job.ask.model, job.ask.stream)
        assert (Call.OLLAMA_CHAT, 7.0, "http", Stage.NEW) == (
            job.errand.call,
            job.arrived,
            job.door,
            job.stage,
        )

    @pytest.mark.parametrize("call", Call, ids=lambda call: call.path)
    def test_each_call_streams_as_its_dialect_has_it(self, call: Call) -> None:
        """Ollama's generating calls unless told not to, the others when asked, embeddings never."""
        said = [b"", b',"stream":null', b',"stream":true', b',"stream":false']

        streams = [read_ask(call, b'{"model":"m"' + each + b"}").stream for each in said]

        by_default = call in {Call.OLLAMA_CHAT, Call.OLLAMA_GENERATE}
        expected = [by_default, by_default, True, False]
        assert ([False] * 4 if call.embeds else expected) == streams

    def test_text_in_any_script_is_text(self) -> None:
        """Also where its characters are escaped, in pairs."""
        body = '{"model":"mod\u00e8le","x":"\U0001f600 \\ud83d\\ude00"}'.encode()

        assert "mod\u00e8le" == read_ask(Call.OPENAI_CHAT, body).model

    @hypothesis.given(strategies.binary(max_size=60))
    def test_whatever_it_is_it_is_an_ask_or_a_refusal(self, body: bytes) -> None:
        """Nothing else is raised, of any bytes."""
        self._is_read(body)

    @hypothesis.given(
        strategies.recursive(
            strategies.one_of(
                strategies.none(),
                strategies.booleans(),
                strategies.integers(),
                strategies.floats(allow_nan=False, allow_infinity=False),
                strategies.text(max_size=5),
            ),
            lambda inner: strategies.one_of(
                strategies.lists(inner, max_size=3),
                strategies.dictionaries(
                    strategies.sampled_from(["model", "stream", "x"]), inner, max_size=3
                ),
            ),
            max_leaves=8,
        )
    )
    def test_whatever_json_it_is(self, value: Any) -> None:
        """The same of any JSON."""
        self._is_read(msgspec.json.encode(value))

    @staticmethod
    def _is_read(body: bytes) -> None:
        outcome = outcome_of(lambda: read_ask(Call.OPENAI_CHAT, body))

        if isinstance(outcome, Refusal):
            assert Code.INVALID_REQUEST is outcome.code
            msgspec.json.encode(outcome.message)
        else:
            assert outcome.model


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("", None),
        (', "max_tokens": 16', 16),
        (', "max_completion_tokens": 7', 7),
        (', "max_output_tokens": 9', 9),
        (', "options": {"num_predict": 5, "seed": 1}', 5),
        (', "options": {"num_predict": -1}', None),
        (', "options": "num_predict"', None),
        (', "options": null', None),
        (', "max_tokens": null', None),
        (', "max_tokens": 0', None),
        (', "max_tokens": -3', None),
        (', "max_tokens": 1.5', None),
        (', "max_tokens": 1e9', None),
        (', "max_tokens": "16"', None),
        (', "max_tokens": {"num_predict": 5}', None),
        (', "max_tokens": 99999999999999999999', None),
    ],
)
def test_a_limit_that_makes_no_sense_is_none(fields: str, expected: int | None) -> None:
    """Whether it is an error is the backend's to say: it must reach it, whatever its type."""
    body = f'{{"model": "m"{fields}}}'.encode()

    assert expected == read_ask(Call.OPENAI_CHAT, body).answer_limit


@pytest.mark.parametrize("field", ["messages", "prompt", "input"])
def test_what_a_prompt_begins_with_does_not_depend_on_what_is_around_it(field: str) -> None:
    """Two turns of one conversation share their beginning, with other options, too."""
    text = "x" * 2000
    first = f'{{"model": "m", "{field}": ["{text}"]}}'.encode()
    second = f'{{"temperature": 1, "{field}": ["{text}", "more"], "model": "m"}}'.encode()
    keys = [read_ask(Call.OPENAI_CHAT, body).prefix for body in (first, second)]

    assert 3 == len(keys[0]) == len(keys[1])
    assert keys[0] == keys[1]


@pytest.mark.parametrize("value", ["null", "7", '{"a": [1]}', '"short"', "[]"])
def test_a_prompt_of_any_type_is_read(value: str) -> None:
    """What is wrong with it is the backend's to say."""
    body = f'{{"model": "m", "messages": {value}}}'.encode()

    assert () == read_ask(Call.OPENAI_CHAT, body).prefix


@pytest.mark.parametrize(
    "fields",
    [
        '"messages": [{{"role": "user", "content": "hello", "images": ["{data}"]}}]',
        '"messages": [{{"content": [{{"image_url": {{"url": "data:image/png;base64,{data}"}}}}]}}]',
        '"messages": [{{"content": [{{"source": {{"type":"base64", "data": "{data}"}}}}]}}]',
    ],
    ids=["ollama", "openai", "anthropic"],
)
def test_pictures_are_no_text(fields: str) -> None:
    """Their megabytes are not taken for a prompt's tokens, however many there are."""
    fields = fields.format(data="A" * 100_000)
    body = f'{{"model": "m", {fields}, "more": {{{fields}}}}}'.encode()

    assert read_ask(Call.OLLAMA_CHAT, body).prompt_bytes < 1000


def test_a_body_cut_in_a_picture_is_counted() -> None:
    """What only looks like one ends with the body."""
    body = b'{"model": "m", "prompt": "' + b'\\"images\\": ' * 1000 + b'"}'

    assert 0 < read_ask(Call.OLLAMA_GENERATE, body).prompt_bytes <= len(body)


def test_the_same_headers_again_mean_the_same_again() -> None:
    """All that is read of them; but who gave no id is given another one."""
    given = [
        (b"accept", b"a/b"),
        (b"x-priority", b"high"),
        (b"x-max-power-watts", b"none"),
        (b"x-slo-ttft-ms", b"5"),
        (b"x-slo-ttft-ms", b"6"),
        (b"x-gateway-inference-objective", b"critical"),
        (b"x-client-id", b"me"),
    ]
    once = RoutingHeaders(given)
    again = once.again()

    made_up = {"request_id", "passed"}
    kept = [name for name in RoutingHeaders.__slots__ if name not in made_up]
    assert [getattr(once, name) for name in kept] == [getattr(again, name) for name in kept]
    assert once.request_id != again.request_id
    assert [(b"accept", b"a/b"), (b"x-request-id", again.request_id.encode())] == again.passed
    assert RoutingHeaders([(b"x-request-id", b"mine")]).again().request_id == "mine"
