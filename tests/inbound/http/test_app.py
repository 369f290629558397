"""What is true of every path: who may ask, and how errors are told."""

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.asgi import begin, fetch
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL, spec
from tests.inbound.http.house import MAX_BODY_BYTES, open_house


class TestGate:
    """Host and Origin."""

    @pytest.mark.parametrize("path", ["/health", "/v1/models", "/api/tags", "/nowhere", "/"])
    async def test_a_foreign_host_is_not_heard(self, nursery: trio.Nursery, path: str) -> None:
        """A page that rebinds its name to loopback is turned away on every path."""
        answer = await fetch(open_house(nursery).app, "GET", path, host="evil.example")

        assert (403, True) == (answer.status, answer.ended)

    async def test_a_foreign_origin_is_not_heard(self, nursery: trio.Nursery) -> None:
        """A page of another origin may not even read."""
        app = open_house(nursery).app

        answer = await fetch(app, "GET", "/health", origin="https://evil.example")

        assert (403, "forbidden") == (answer.status, answer.json["error"]["code"])

    async def test_a_listed_origin_is_heard(self, nursery: trio.Nursery) -> None:
        """A page of an origin that the owner lists may ask."""
        app = open_house(nursery).app

        answer = await fetch(app, "GET", "/health", origin="https://friend.example")

        assert 200 == answer.status

    async def test_of_two_hosts_none_is_believed(self, nursery: trio.Nursery) -> None:
        """A request that names two hosts is turned away, though one of them is right."""
        exchange = begin(open_house(nursery).app, "GET", "/health")
        exchange.sent_headers.append((b"host", b"evil.example"))

        await exchange.run()

        assert 403 == exchange.status


class TestErrors:
    """Their form."""

    @pytest.mark.parametrize(
        ("path", "error"),
        [
            ("/api/nothing", {"error": "There is nothing at /api/nothing.", "code": "not_found"}),
            (
                "/v1/messages/nothing",
                {
                    "type": "error",
                    "error": {
                        "type": "not_found_error",
                        "message": "There is nothing at /v1/messages/nothing.",
                        "code": "not_found",
                    },
                },
            ),
            (
                "/v1/nothing",
                {
                    "error": {
                        "message": "There is nothing at /v1/nothing.",
                        "type": "invalid_request_error",
                        "param": None,
                        "code": "not_found",
                    }
                },
            ),
        ],
    )
    async def test_an_unknown_path_is_told_in_its_dialect(
        self, nursery: trio.Nursery, path: str, error: object
    ) -> None:
        """404 comes as JSON in the words of whom the path belongs to."""
        answer = await fetch(open_house(nursery).app, "GET", path)

        assert (404, "application/json") == (answer.status, answer.headers["content-type"])
        assert error == answer.json

    @pytest.mark.parametrize(
        ("method", "path", "allow"),
        [
            ("GET", "/api/chat", "POST"),
            ("POST", "/health", "GET, HEAD"),
            ("GET", "/api/blobs/x", "HEAD, POST"),
            ("OPTIONS", "/v1/models", "GET, HEAD"),
        ],
    )
    async def test_a_wrong_method_is_told_the_right_ones(
        self, nursery: trio.Nursery, method: str, path: str, allow: str
    ) -> None:
        """405 names in Allow what the path takes."""
        answer = await fetch(open_house(nursery).app, method, path)

        assert (405, allow) == (answer.status, answer.headers["allow"])
        assert "application/json" == answer.headers["content-type"]

    @pytest.mark.parametrize("path", ["/api/chat", "/v1/route", "/api/show", "/api/pull"])
    async def test_a_body_over_the_limit_is_refused(self, nursery: trio.Nursery, path: str) -> None:
        """A body that is too long is refused by its announced length, before it was sent."""
        app = open_house(nursery).app
        length = str(MAX_BODY_BYTES + 1)

        answer = await fetch(app, "POST", path, content_length=length)

        assert 413 == answer.status
        assert "1 MiB" in str(answer.json["error"])

    async def test_a_body_that_grows_over_the_limit_is_refused(self, nursery: trio.Nursery) -> None:
        """A body whose length was not announced is refused once it is too long."""
        app = open_house(nursery).app

        answer = await fetch(app, "POST", "/api/chat", body=[b"x" * (MAX_BODY_BYTES // 2)] * 3)

        assert 413 == answer.status

    async def test_a_body_that_does_not_come_is_not_waited_for(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """A client has a minute for its body."""
        exchange = begin(open_house(nursery).app, "POST", "/v1/chat/completions", body=[])

        await exchange.run()

        assert (408, 60.0) == (exchange.status, autojump_clock.current_time())

    async def test_a_mistake_of_the_router_is_told_without_its_details(
        self, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A fault in a view is 500 for the caller, and its traceback is the log's."""
        house = open_house(nursery, ScriptedBackend(spec("npu")))
        house.dispatcher.stations["npu"].estimates = None  # type: ignore[assignment]  # the fault

        answer = await fetch(house.app, "GET", "/backends")

        assert (500, "internal_error") == (answer.status, answer.json["error"]["code"])
        assert "AttributeError" in caplog.text
        assert "Attribute" not in answer.content.decode()


async def test_what_answers_get_answers_head(nursery: trio.Nursery) -> None:
    """HEAD has the status and the length of GET."""
    app = open_house(nursery, ScriptedBackend(spec("npu"))).app
    path = f"/v1/models/{MODEL}"

    got, asked = await fetch(app, "GET", path), await fetch(app, "HEAD", path)

    assert (got.status, got.headers) == (asked.status, asked.headers)


async def test_the_document_names_every_route(nursery: trio.Nursery) -> None:
    """`/openapi.json` describes exactly the methods and paths that the app has."""
    app = open_house(nursery).app

    document = (await fetch(app, "GET", "/openapi.json")).json

    described = {(m.upper(), path) for path, item in document["paths"].items() for m in item}
    routed = {
        (method, rule.rule.replace("<path:", "<").replace("<", "{").replace(">", "}"))
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method != "HEAD" or "GET" not in (rule.methods or ())
    }
    assert routed == described
    assert "3.1.0" == document["openapi"]


async def test_the_document_has_no_loose_ends(nursery: trio.Nursery) -> None:
    """Operation ids are unique, and every reference leads somewhere."""
    document = (await fetch(open_house(nursery).app, "GET", "/openapi.json")).json
    operations = [op for item in document["paths"].values() for op in item.values()]

    def references(value: object) -> set[str]:
        if isinstance(value, dict):
            inner = {ref for each in value.values() for ref in references(each)}
            return inner | ({value["$ref"]} if "$ref" in value else set())
        if isinstance(value, list):
            return {ref for each in value for ref in references(each)}
        return set()

    ids = [op["operationId"] for op in operations]
    known = {
        f"#/components/{kind}/{name}"
        for kind, named in document["components"].items()
        for name in named
    }
    assert len(ids) == len(set(ids))
    assert set() == references(document) - known
