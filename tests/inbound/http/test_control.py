"""What the router tells of itself."""

from typing import Any

import pytest
import trio

from ollama_proxy.policy.ask import Call
from ollama_proxy.policy.candidate import Terms
from ollama_proxy.policy.estimate import Learned, Speeds
from tests.fakes.asgi import fetch
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL, spec
from tests.inbound.http.house import House, open_house


def laptop(nursery: trio.Nursery) -> House:
    """Two backends that are well, and one that is switched off."""
    return open_house(
        nursery,
        ScriptedBackend(spec("npu")),
        ScriptedBackend(spec("nvidia")),
        ScriptedBackend(spec("cpu", enabled=False)),
    )


class TestHealth:
    """/health, /healthz, /readyz."""

    @pytest.mark.parametrize(
        ("down", "status"), [([], "ok"), (["npu"], "degraded"), (["npu", "nvidia"], "down")]
    )
    async def test_health_is_by_the_enabled(
        self, nursery: trio.Nursery, down: list[str], status: str
    ) -> None:
        """The status is told of the enabled backends alone, always with 200."""
        house = laptop(nursery)
        for name in down:
            house.station(name).is_down("no connection could be made to it")

        answer = await fetch(house.app, "GET", "/health")

        states = {name: "unhealthy" if name in down else "healthy" for name in ("npu", "nvidia")}
        expected = {
            "status": status,
            "backends": states | {"cpu": "disabled"},
            "healthy": 2 - len(down),
            "total": 2,
            "version": "1.2.3",
        }
        assert (200, expected) == (answer.status, answer.json)

    async def test_health_can_be_read_by_people(self, nursery: trio.Nursery) -> None:
        """`Accept: text/plain` gets the lines of old."""
        house = laptop(nursery)

        answer = await fetch(house.app, "GET", "/health", accept="text/plain")

        expected = b"Status: healthy\n  npu: healthy\n  nvidia: healthy\n  cpu: disabled\n"
        assert expected == answer.content
        assert answer.headers["content-type"].startswith("text/plain")

    async def test_healthz_is_200_though_nobody_is_well(self, nursery: trio.Nursery) -> None:
        """The router is alive without backends."""
        assert 200 == (await fetch(open_house(nursery).app, "GET", "/healthz")).status

    @pytest.mark.parametrize(
        ("well", "draining", "status"), [(True, False, 200), (True, True, 503), (False, False, 503)]
    )
    async def test_readyz_is_200_while_requests_are_taken_on(
        self, nursery: trio.Nursery, *, well: bool, draining: bool, status: int
    ) -> None:
        """One healthy backend suffices; a router that drains is not ready."""
        house = open_house(nursery, ScriptedBackend(spec("npu")))
        if not well:
            house.station().is_down("gone")
        if draining:
            house.dispatcher.drain()

        assert status == (await fetch(house.app, "GET", "/readyz")).status

    async def test_readiness_can_be_read_by_people(self, nursery: trio.Nursery) -> None:
        """`Accept: text/plain` gets one line of each probe."""
        app = laptop(nursery).app

        alive = await fetch(app, "GET", "/healthz", accept="text/plain")
        ready = await fetch(app, "GET", "/readyz", accept="text/plain")

        assert (b"ok\n", b"ready: 2/2 backends healthy\n") == (alive.content, ready.content)


class TestBackends:
    """/backends."""

    async def test_an_unused_backend_is_told_as_configured(self, nursery: trio.Nursery) -> None:
        """Every field of the contract is there; unknown is null, and credentials are not shown."""
        endpoint = "http://me:secret@127.0.0.1:1/v1"
        house = open_house(nursery, ScriptedBackend(spec("npu", endpoint=endpoint)))

        answer = await fetch(house.app, "GET", "/backends")

        expected = {
            "id": "npu",
            "name": "npu",
            "type": "ollama",
            "hardware": "npu",
            "endpoint": "http://127.0.0.1:1/v1",
            "enabled": True,
            "healthy": True,
            "last_error": None,
            "models": [MODEL],
            "loaded_models": None,
            "slots": 1,
            "in_flight": 0,
            "queued": {"best_effort": 0, "normal": 0, "high": 0, "critical": 0},
            "latency": {
                "ttft_ms": {"value": 800.0, "source": "configured"},
                "tokens_per_s": {"value": None, "source": None},
            },
            "power_watts": {"value": 3.0, "source": "configured"},
            "temperature_c": None,
            "thermal_state": "unknown",
            "asleep": False,
            "throttled": None,
            "energy_j_per_token": None,
            "calibration": {
                "requests": 0,
                "mean_error": None,
                "bias": None,
                "deadlines_met": 0,
                "deadlines_missed": 0,
            },
            "node": None,
            "requests_total": 0,
            "errors_total": 0,
        }
        assert [expected] == answer.json

    async def test_what_was_learned_last_is_told(self, nursery: trio.Nursery) -> None:
        """Of several models the latest observation counts, and says that it was learned."""
        house = open_house(nursery, ScriptedBackend(spec("npu")))
        estimates = house.station().estimates
        estimates.subjects = {
            "old": Speeds(first_s=Learned(9.0, 1.0)),
            "new": Speeds(first_s=Learned(0.25, 2.0), decode=Learned(40.0, 2.0)),
        }

        answer = await fetch(house.app, "GET", "/backends")

        expected = {
            "ttft_ms": {"value": 250.0, "source": "learned"},
            "tokens_per_s": {"value": 40.0, "source": "learned"},
        }
        assert expected == answer.json[0]["latency"]

    async def test_backends_can_be_read_by_people(self, nursery: trio.Nursery) -> None:
        """`Accept: text/plain` gets a block a backend."""
        answer = await fetch(laptop(nursery).app, "GET", "/backends", accept="text/plain")

        heads = [block.partition("\n")[0] for block in answer.content.decode().split("\n\n")]
        assert ["npu: healthy", "nvidia: healthy", "cpu: disabled"] == heads


class TestRoute:
    """POST /v1/route."""

    async def test_a_decision_is_explained(self, nursery: trio.Nursery) -> None:
        """The eligible come best first with figures, then the others with why not."""
        house = laptop(nursery)

        answer = await fetch(
            house.app, "POST", "/v1/route", json={"model": MODEL}, x_latency_critical="true"
        )

        told: Any = answer.json
        assert 200 == answer.status
        assert ("nvidia", "latency-critical", ["npu"]) == (
            told["backend"],
            told["reason"],
            told["alternatives"],
        )
        rows = [(c["backend"], c["eligible"], c["why_not"]) for c in told["candidates"]]
        assert [
            ("nvidia", True, None),
            ("npu", True, None),
            ("cpu", False, "is disabled"),
        ] == rows
        best = told["candidates"][0]
        assert (150.0, 55.0) == (best["predicted_ttft_ms"], best["predicted_watts"])
        assert Terms._fields == tuple(best["terms"])

    async def test_an_explanation_sends_nothing(self, nursery: trio.Nursery) -> None:
        """No backend hears of it, and no book is kept of it."""
        backend = ScriptedBackend(spec("npu")).say("never")
        house = open_house(nursery, backend)

        await fetch(house.app, "POST", "/v1/route", json={"model": MODEL})

        assert ([], [], []) == (backend.errands, backend.calls, house.facts)

    async def test_a_refusal_says_why_not_of_each(self, nursery: trio.Nursery) -> None:
        """Where nobody is eligible, the error has the candidates beside it."""
        house = laptop(nursery)

        answer = await fetch(
            house.app, "POST", "/v1/route", json={"model": MODEL}, x_max_power_watts="1"
        )

        assert (503, "no_backend") == (answer.status, answer.json["error"]["code"])
        assert answer.headers["retry-after"] == "5"
        reasons = {c["backend"]: c["why_not"] for c in answer.json["candidates"]}
        assert {
            "npu": "draws 3 W, over 1 W",
            "nvidia": "draws 55 W, over 1 W",
            "cpu": "is disabled",
        } == reasons

    async def test_the_path_names_the_call(self, nursery: trio.Nursery) -> None:
        """A decision may be asked for any call, by its path."""
        house = laptop(nursery)
        house.station("npu").does_not_serve(Call.OLLAMA_EMBED)

        answer = await fetch(
            house.app, "POST", "/v1/route", json={"model": MODEL, "path": "/api/embed"}
        )

        barred = {c["backend"]: c["why_not"] for c in answer.json["candidates"]}
        assert "does not serve /api/embed" == barred["npu"]

    @pytest.mark.parametrize("path", ["/api/nothing", 3, ["/api/chat"]])
    async def test_an_unknown_path_is_refused(self, nursery: trio.Nursery, path: object) -> None:
        """A path that is no call is the caller's fault, and is told which there are."""
        answer = await fetch(
            laptop(nursery).app, "POST", "/v1/route", json={"model": MODEL, "path": path}
        )

        assert (400, "path") == (answer.status, answer.json["error"]["param"])
        assert "/v1/chat/completions" in answer.json["error"]["message"]

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"model":"\xff"}'])
    async def test_nonsense_is_the_callers_fault(self, nursery: trio.Nursery, body: bytes) -> None:
        """A body that no call would take is refused as the call would refuse it."""
        answer = await fetch(laptop(nursery).app, "POST", "/v1/route", body=body)

        assert (400, "invalid_request") == (answer.status, answer.json["error"]["code"])

    async def test_a_malformed_header_is_named(self, nursery: trio.Nursery) -> None:
        """A wish that cannot be understood is told by its header's name."""
        answer = await fetch(
            laptop(nursery).app, "POST", "/v1/route", json={"model": MODEL}, x_priority="soon"
        )

        assert (400, "X-Priority") == (answer.status, answer.json["error"]["param"])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_ollamas_clients_find_what_they_look_for(nursery: trio.Nursery, method: str) -> None:
    """The root says what Ollama's own says."""
    answer = await fetch(open_house(nursery).app, method, "/")

    assert (200, b"Ollama is running") == (answer.status, answer.content)
