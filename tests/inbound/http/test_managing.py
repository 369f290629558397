"""What is done to the models of one backend."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.backends.backend import BackendFailed, Fault, Probe
from ollama_proxy.inbound.http.pipe import AnswerCut
from ollama_proxy.policy.fleet import BackendType
from tests.fakes.asgi import begin, fetch
from tests.fakes.backend import Called, ScriptedBackend
from tests.fleet import MODEL, spec
from tests.inbound.http.house import MAX_BODY_BYTES, open_house

NDJSON = "application/x-ndjson"
DIGEST = "sha256:" + "0f" * 32
PROGRESS = (b'{"status":"pulling"}\n', b'{"status":"success"}\n')


def pulling(name: str = "npu", *, after: float = 0.0, **changes: Any) -> ScriptedBackend:
    """An Ollama server that pulls, with some time between two lines."""
    backend = ScriptedBackend(spec(name, **changes))
    return backend.answer("POST", "/api/pull", *PROGRESS, content_type=NDJSON, after=after)


class TestPassing:
    """How the answer comes."""

    async def test_progress_is_told_as_it_is_made(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Each line of a pull is there the moment it was said."""
        house = open_house(nursery, pulling(after=1.0))

        answer = await fetch(house.app, "POST", "/api/pull", json={"model": "new"})

        assert 2.0 == autojump_clock.current_time()
        assert list(zip([1.0, 2.0], PROGRESS, strict=True)) == answer.pieces
        assert (200, NDJSON, "npu", True) == (
            answer.status,
            answer.headers["content-type"],
            answer.headers["x-backend-used"],
            answer.ended,
        )

    async def test_a_pulled_model_can_be_used_at_once(self, nursery: trio.Nursery) -> None:
        """The backend is probed before the answer ends."""
        backend = pulling()
        backend.health = Probe(models=frozenset({"new:latest"}))
        house = open_house(nursery, backend)

        await fetch(house.app, "POST", "/api/pull", json={"model": "new"})

        assert frozenset({"new:latest"}) == house.station().models

    async def test_a_failing_probe_does_not_spoil_a_pull(self, nursery: trio.Nursery) -> None:
        """What was pulled is pulled; that the backend is unwell now is told elsewhere."""
        backend = pulling()
        backend.health = BackendFailed(Fault.SILENT, "it did not answer in time")

        answer = await fetch(
            open_house(nursery, backend).app, "POST", "/api/pull", json={"model": "new"}
        )

        assert (b"".join(PROGRESS), True) == (answer.content, answer.ended)

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("POST", "/api/create", b'{"model":"new","from":"%s"}' % MODEL.encode()),
            ("POST", "/api/copy", b'{"source":"%s","destination":"b"}' % MODEL.encode()),
            ("POST", "/api/push", b'{ "name": "%s" }' % MODEL.encode()),
            ("DELETE", "/api/delete", b'{"model":"%s"}' % MODEL.encode()),
        ],
    )
    async def test_each_call_is_passed_with_its_bytes(
        self, nursery: trio.Nursery, method: str, path: str, body: bytes
    ) -> None:
        """Method, path, body and status are passed on as they are."""
        backend = ScriptedBackend(spec("npu")).answer(method, path, b"{}", status=202)
        house = open_house(nursery, backend)

        answer = await fetch(house.app, method, path, body=body)

        assert (202, b"{}") == (answer.status, answer.content)
        assert [Called(method, path, body)] == backend.calls

    async def test_a_failing_backend_is_named(self, nursery: trio.Nursery) -> None:
        """No answer is 502, in Ollama's words."""
        house = open_house(nursery, ScriptedBackend(spec("npu")))

        answer = await fetch(house.app, "POST", "/api/pull", json={"model": "new"})

        assert (502, "backend_failed") == (answer.status, answer.json["code"])
        assert "npu" in answer.json["error"]

    async def test_progress_that_breaks_off_says_so(self, nursery: trio.Nursery) -> None:
        """The error is the last line."""
        backend = ScriptedBackend(spec("npu"))
        backend.answer("POST", "/api/pull", PROGRESS[0], content_type=NDJSON, broken=True)
        house = open_house(nursery, backend)

        answer = await fetch(house.app, "POST", "/api/pull", json={"model": "new"})

        assert PROGRESS[0] == answer.pieces[0][1]
        assert answer.pieces[1][1].startswith(b'{"error":"')
        assert answer.ended

    async def test_a_whole_answer_that_breaks_off_is_not_finished(
        self, nursery: trio.Nursery
    ) -> None:
        """The server is made to hang up."""
        backend = ScriptedBackend(spec("npu")).answer("POST", "/api/copy", b'{"', broken=True)
        exchange = begin(
            open_house(nursery, backend).app, "POST", "/api/copy", json={"source": MODEL}
        )

        with pytest.RaisesGroup(AnswerCut, flatten_subgroups=True):
            await exchange.run()

        assert not exchange.ended

    async def test_a_client_that_leaves_ends_its_pull(self, nursery: trio.Nursery) -> None:
        """Nothing goes on for somebody who has left."""
        backend = ScriptedBackend(spec("npu"))
        backend.answer("POST", "/api/pull", *PROGRESS, content_type=NDJSON, after=3600.0)
        exchange = begin(open_house(nursery, backend).app, "POST", "/api/pull", json={"model": "n"})

        async with trio.open_nursery() as client:
            client.start_soon(exchange.run)
            await wait_all_tasks_blocked()
            exchange.leave.set()

        assert not exchange.ended


class TestBlobs:
    """Layers of models."""

    async def test_a_layer_may_be_of_any_size(self, nursery: trio.Nursery) -> None:
        """The limit for bodies is not for what is passed on and never held."""
        backend = ScriptedBackend(spec("npu"))
        backend.answer("POST", f"/api/blobs/{DIGEST}", status=201)
        pieces = [bytes([number]) * (MAX_BODY_BYTES // 2) for number in range(5)]

        answer = await fetch(
            open_house(nursery, backend).app,
            "POST",
            f"/api/blobs/{DIGEST}",
            body=pieces,
            content_length=str(sum(map(len, pieces))),
        )

        assert 201 == answer.status
        assert b"".join(pieces) == backend.calls[0].body

    @pytest.mark.parametrize("status", [200, 404])
    async def test_whether_a_layer_is_there_is_asked(
        self, nursery: trio.Nursery, status: int
    ) -> None:
        """HEAD is answered with the backend's status."""
        backend = ScriptedBackend(spec("npu"))
        backend.answer("HEAD", f"/api/blobs/{DIGEST}", status=status)

        answer = await fetch(open_house(nursery, backend).app, "HEAD", f"/api/blobs/{DIGEST}")

        assert (status, b"") == (answer.status, answer.content)

    @pytest.mark.parametrize("digest", ["sha256:12", DIGEST + "?x=1", "..", DIGEST + "0"])
    async def test_what_is_no_digest_goes_nowhere(self, nursery: trio.Nursery, digest: str) -> None:
        """Nothing else is ever put into a backend's path."""
        backend = ScriptedBackend(spec("npu"))
        path = f"/api/blobs/{digest.replace('?', '%3F')}"

        answer = await fetch(open_house(nursery, backend).app, "POST", path, body=b"x")

        assert (400, []) == (answer.status, backend.calls)


class TestTarget:
    """Which backend it is."""

    async def test_who_has_the_model_comes_first(self, nursery: trio.Nursery) -> None:
        """Of those that may hold it, one that has it is asked."""
        house = open_house(nursery, pulling("npu"), pulling("igpu"))
        house.station("npu").is_well(Probe(models=frozenset()))

        answer = await fetch(house.app, "POST", "/api/pull", json={"model": MODEL})

        assert "igpu" == answer.headers["x-backend-used"]

    @pytest.mark.parametrize("target", ["cpu", "CPU"])
    async def test_a_target_is_obeyed(self, nursery: trio.Nursery, target: str) -> None:
        """An id or a hardware's name says where."""
        house = open_house(nursery, pulling("npu"), pulling("cpu"))

        answer = await fetch(
            house.app, "POST", "/api/pull", json={"model": "new"}, x_target_backend=target
        )

        assert "cpu" == answer.headers["x-backend-used"]

    async def test_an_unknown_target_is_the_callers_fault(self, nursery: trio.Nursery) -> None:
        """400, and the backends there are."""
        house = open_house(nursery, pulling("npu"))

        answer = await fetch(
            house.app, "POST", "/api/pull", json={"model": "new"}, x_target_backend="tpu"
        )

        assert (400, "unknown_backend") == (answer.status, answer.json["code"])

    @pytest.mark.parametrize("why", ["unhealthy", "another type", "may not"])
    async def test_without_a_server_for_it_there_is_no_backend(
        self, nursery: trio.Nursery, why: str
    ) -> None:
        """A server must be well, speak Ollama, and be allowed the model."""
        changes: dict[str, dict[str, Any]] = {
            "another type": {"type": BackendType.OPENAI},
            "may not": {"models": ("only-this",)},
        }
        backend = pulling("npu", **changes.get(why, {}))
        house = open_house(nursery, backend)
        if why == "unhealthy":
            house.station().is_down("gone")

        answer = await fetch(house.app, "POST", "/api/pull", json={"model": "new"})

        assert (503, "no_backend", []) == (answer.status, answer.json["code"], backend.calls)
