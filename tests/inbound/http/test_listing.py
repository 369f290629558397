"""What all backends have, told as if it were one server's."""

import json
from typing import Any

import ollama
import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.backends.backend import Probe
from ollama_proxy.policy.fleet import BackendType
from tests.fakes.asgi import fetch
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL, spec
from tests.inbound.http.house import open_house

# With spaces and a field that the router does not know, so that changed bytes would be seen.
ENTRY = '{ "name": "%s",  "model": "%s", "size": 17, "digest": "sha256abcdef0", "new_field": 1.0 }'


def entry(name: str) -> str:
    """One of Ollama's entries."""
    return ENTRY % (name, name)


def listed(*names: str) -> bytes:
    """An answer of Ollama's that lists models."""
    return b'{"models":[' + ",".join(map(entry, names)).encode() + b"]}"


def openai(name: str = "cpu", **changes: Any) -> ScriptedBackend:
    """A backend of the other kind."""
    return ScriptedBackend(spec(name, type=BackendType.OPENAI, **changes))


class TestOpenAiModels:
    """/v1/models."""

    async def test_models_are_merged_by_name(self, nursery: trio.Nursery) -> None:
        """Each name comes once, sorted, with the healthy backends that may serve it."""
        house = open_house(
            nursery,
            ScriptedBackend(spec("npu", aliases={"gpt-4o-mini": "a:1"})),
            ScriptedBackend(spec("igpu", exclude=("b:*",))),
            ScriptedBackend(spec("nvidia")),
            models=frozenset({"b:1", "a:1"}),
        )
        house.station("nvidia").is_down("gone")

        told = (await fetch(house.app, "GET", "/v1/models")).json

        expected = [("a:1", ["npu", "igpu"]), ("b:1", ["npu"]), ("gpt-4o-mini", ["npu"])]
        assert expected == [(each["id"], each["backends"]) for each in told["data"]]
        assert "list" == told["object"]

    async def test_an_alias_of_nothing_is_not_listed(self, nursery: trio.Nursery) -> None:
        """An alias is only worth as much as the model behind it."""
        house = open_house(nursery, ScriptedBackend(spec("npu", aliases={"gpt-4o": "not-here"})))

        told = (await fetch(house.app, "GET", "/v1/models")).json

        assert [MODEL] == [each["id"] for each in told["data"]]

    @pytest.mark.parametrize("asked", ["hf.co/org/model", "hf.co/org/model:latest"])
    async def test_one_model_is_told(self, nursery: trio.Nursery, asked: str) -> None:
        """Names hold slashes and colons, and `latest` goes without saying."""
        models = frozenset({"hf.co/org/model:latest"})
        house = open_house(nursery, ScriptedBackend(spec("npu")), models=models)

        told = (await fetch(house.app, "GET", f"/v1/models/{asked}")).json

        assert ("hf.co/org/model:latest", "model", "ollama-proxy", ["npu"]) == (
            told["id"],
            told["object"],
            told["owned_by"],
            told["backends"],
        )

    async def test_an_unknown_model_names_its_neighbours(self, nursery: trio.Nursery) -> None:
        """404 helps whoever has mistyped."""
        house = open_house(nursery, ScriptedBackend(spec("npu")))

        answer = await fetch(house.app, "GET", "/v1/models/qwen2.5:0.6b")

        assert (404, "model_not_found") == (answer.status, answer.json["error"]["code"])
        assert MODEL in answer.json["error"]["message"]


class TestTags:
    """/api/tags and /api/ps."""

    async def test_the_first_entry_keeps_its_bytes(self, nursery: trio.Nursery) -> None:
        """An entry is passed as its backend wrote it; a second of the same name is dropped."""
        first = ScriptedBackend(spec("npu")).answer("GET", "/api/tags", listed("a:1", "b:1"))
        other = ScriptedBackend(spec("igpu")).answer("GET", "/api/tags", listed("b:1", "c:1"))
        house = open_house(nursery, first, other)

        answer = await fetch(house.app, "GET", "/api/tags")

        assert listed("a:1", "b:1", "c:1") == answer.content

    async def test_who_does_not_answer_is_left_out(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Neither a failure, nor nonsense, nor three seconds of silence spoil the list."""
        house = open_house(
            nursery,
            ScriptedBackend(spec("npu")),
            ScriptedBackend(spec("igpu")).answer("GET", "/api/tags", b"<html>"),
            ScriptedBackend(spec("nvidia")).answer("GET", "/api/tags", b"{}", after=60.0),
            ScriptedBackend(spec("cpu")).answer("GET", "/api/tags", listed("a:1"), after=2.0),
        )

        answer = await fetch(house.app, "GET", "/api/tags")

        assert (["a:1"], 3.0) == (
            [m["name"] for m in answer.json["models"]],
            autojump_clock.current_time(),
        )

    async def test_models_of_other_servers_are_listed_too(self, nursery: trio.Nursery) -> None:
        """Ollama's own client can read the entry that is made up for them."""
        house = open_house(
            nursery,
            ScriptedBackend(spec("npu", aliases={"fast": "a:1"})).answer(
                "GET", "/api/tags", listed("a:1")
            ),
            openai(),
            models=frozenset({"org/qwen"}),
        )

        answer = await fetch(house.app, "GET", "/api/tags")

        read = ollama.ListResponse.model_validate_json(answer.content)
        assert ["a:1", "fast", "org/qwen"] == [m.model for m in read.models]
        # Ollama's CLI takes the first twelve letters of the digest.
        assert 64 == len(read.models[2].digest or "")

    async def test_what_is_loaded_is_merged(self, nursery: trio.Nursery) -> None:
        """Models in memory are told likewise."""
        house = open_house(
            nursery,
            ScriptedBackend(spec("npu")).answer("GET", "/api/ps", listed("a:1")),
            openai(),
        )
        house.station("cpu").is_well(Probe(loaded=frozenset({"org/qwen"})))

        answer = await fetch(house.app, "GET", "/api/ps")

        read = ollama.ProcessResponse.model_validate_json(answer.content)
        assert ["a:1", "org/qwen"] == [m.model for m in read.models]

    async def test_with_no_backend_the_list_is_empty(self, nursery: trio.Nursery) -> None:
        """Nothing is an answer too."""
        assert {"models": []} == (await fetch(open_house(nursery).app, "GET", "/api/tags")).json


class TestVersion:
    """/api/version."""

    async def test_the_highest_counts(self, nursery: trio.Nursery) -> None:
        """Versions are compared by number, not by letter, and nonsense is passed over."""
        house = open_house(
            nursery,
            ScriptedBackend(spec("npu")).answer("GET", "/api/version", b'{"version":"0.9.6"}'),
            ScriptedBackend(spec("igpu")).answer("GET", "/api/version", b'{"version":"0.13.1"}'),
            ScriptedBackend(spec("cpu")).answer("GET", "/api/version", b"<html>"),
        )

        assert {"version": "0.13.1"} == (await fetch(house.app, "GET", "/api/version")).json

    async def test_without_ollama_it_is_the_routers(self, nursery: trio.Nursery) -> None:
        """Where no Ollama server tells its version, the router tells its own."""
        house = open_house(nursery, openai())

        assert {"version": "1.2.3"} == (await fetch(house.app, "GET", "/api/version")).json


class TestShow:
    """/api/show."""

    async def test_the_first_that_has_the_model_answers(self, nursery: trio.Nursery) -> None:
        """Its bytes are passed on, under the name by which it knows the model."""
        told = b'{ "model_info": {},  "new_field": 1.0 }'
        backend = ScriptedBackend(spec("npu", aliases={"fast": MODEL}))
        house = open_house(nursery, backend.answer("POST", "/api/show", told))

        answer = await fetch(
            house.app, "POST", "/api/show", json={"model": "fast", "verbose": True}
        )

        assert (200, told) == (answer.status, answer.content)
        assert {"model": MODEL, "verbose": True} == json.loads(backend.calls[0].body)

    async def test_where_one_fails_the_next_answers(self, nursery: trio.Nursery) -> None:
        """A server that does not answer, or has lost the model, is passed over."""
        lost = ScriptedBackend(spec("igpu")).answer("POST", "/api/show", b"{}", status=404)
        well = ScriptedBackend(spec("cpu")).answer("POST", "/api/show", b'{"model_info":{}}')
        house = open_house(nursery, ScriptedBackend(spec("npu")), lost, well)

        answer = await fetch(house.app, "POST", "/api/show", json={"name": MODEL})

        assert (200, {"model_info": {}}) == (answer.status, answer.json)

    async def test_a_model_of_another_server_is_shown_as_far_as_known(
        self, nursery: trio.Nursery
    ) -> None:
        """Ollama's own client can read what is made up for it."""
        house = open_house(nursery, openai())

        answer = await fetch(house.app, "POST", "/api/show", json={"model": MODEL})

        read = ollama.ShowResponse.model_validate_json(answer.content)
        assert (200, ["completion"]) == (answer.status, read.capabilities)

    async def test_an_unknown_model_is_told_in_ollamas_words(self, nursery: trio.Nursery) -> None:
        """404, with the one field that Ollama's clients read."""
        house = open_house(nursery, ScriptedBackend(spec("npu")))

        answer = await fetch(house.app, "POST", "/api/show", json={"model": "nobody-has-it"})

        assert 404 == answer.status
        assert "not found" in answer.json["error"]

    async def test_when_all_that_have_it_fail_they_are_at_fault(
        self, nursery: trio.Nursery
    ) -> None:
        """A model that is there but cannot be shown is not denied."""
        house = open_house(nursery, ScriptedBackend(spec("npu")))

        answer = await fetch(house.app, "POST", "/api/show", json={"model": MODEL})

        assert (502, "backend_failed") == (answer.status, answer.json["code"])

    @pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"model":3}', b'{"model":"\xff"}'])
    async def test_nonsense_is_the_callers_fault(self, nursery: trio.Nursery, body: bytes) -> None:
        """A body without a model's name is 400."""
        answer = await fetch(open_house(nursery).app, "POST", "/api/show", body=body)

        assert (400, "invalid_request") == (answer.status, answer.json["code"])
