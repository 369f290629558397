"""The metrics of the whole router: known traffic in, exact counts out."""

import signal

import httpx
import pytest

from tests.fakes.ollama import Behaviour, Script
from tests.metrics.scrapes import Scrape, read
from tests.routers import CHAT, MODEL, ask, backend, configured, fakes, idle, running, until

pytestmark = pytest.mark.usefixtures("in_process")

ON_NPU = {"x-target-backend": "ollama-npu"}


async def scrape(client: httpx.AsyncClient) -> Scrape:
    """What Prometheus would read."""
    answer = await client.get("/metrics")
    assert 200 == answer.status_code
    return read(answer.content)


async def test_known_traffic_has_exact_counts() -> None:
    """Whole answers, streams, a failover, refusals and a caller who leaves, each in its place."""
    async with fakes("npu", "igpu", script=Script(tokens=8)) as fleet:
        made = configured(*(backend(name, fake.url) for name, fake in fleet.items()))
        async with running(made) as owner, owner.client() as client:
            await client.post(CHAT, json=ask(), headers={**ON_NPU, "x-max-latency-ms": "100"})
            for stream in (False, False, True):
                await client.post(CHAT, json=ask(stream=stream), headers=ON_NPU)
            await client.post(CHAT, json=ask(model="nobody-has-it"))
            await client.post(
                CHAT, json=ask(stream=True), headers={**ON_NPU, "x-max-latency-ms": "10000"}
            )
            fleet["npu"].script = Script(behaviour=Behaviour.DIE_BEFORE_HEAD)
            await client.post(CHAT, json=ask(), headers={"x-power-efficient": "true"})
            fleet["igpu"].script = Script(tokens=100_000, interval_s=0.01)
            async with client.stream(
                "POST", CHAT, json=ask(stream=True), headers={"x-target-backend": "ollama-igpu"}
            ) as answer:
                assert 200 == answer.status_code  # its head comes with its first token
            await idle(client)
            told = await scrape(client)

    by_model = {
        (labels["backend"], labels["model"], labels["status"]): count
        for labels, count in told.all("requests_total")
    }
    assert by_model == {
        ("ollama-npu", MODEL, "200"): 4,
        ("ollama-igpu", MODEL, "200"): 1,
        ("ollama-igpu", MODEL, "499"): 1,
        ("none", "other", "404"): 1,
        ("none", MODEL, "503"): 1,
    }
    assert {"http"} == {labels["door"] for labels, _ in told.all("requests_total")}
    assert {("met",): 1, ("refused",): 1, ("missed",): 0, ("left",): 0} == told.by("deadline_total")
    assert [({"from": "ollama-npu", "to": "ollama-igpu"}, 1.0)] == list(told.all("failovers_total"))
    assert 1 == told.one("cancellations_total", stage="answering")
    counts = {
        "request_duration_seconds": 6,
        "queue_wait_seconds": 6,
        "time_to_first_token_seconds": 3,
        "inter_token_seconds": 2,
        "proxy_overhead_seconds": 6,
    }
    assert counts == {name: told.one(f"{name}_count") for name in counts}
    completion = {
        labels["backend"]: count
        for labels, count in told.all("tokens_total")
        if labels["kind"] == "completion"
    }
    # Streams that are not asked for usage tell pieces: eight tokens, and one at either end.
    assert {"ollama-npu": 2 * 8 + 2 * 10, "ollama-igpu": 8} == completion
    assert {("ollama-npu",): 0, ("ollama-igpu",): 0} == told.by("in_flight")


async def test_after_a_reload_nothing_is_told_of_who_is_gone() -> None:
    """The others' counts go on."""
    async with fakes("npu", "igpu") as fleet:
        npu, igpu = (backend(name, fake.url) for name, fake in fleet.items())
        async with running(configured(npu, igpu)) as owner, owner.client() as client:
            for name in ("ollama-npu", "ollama-igpu"):
                await client.post(CHAT, json=ask(), headers={"x-target-backend": name})
            owner.config = configured(npu)
            owner.signal(signal.SIGHUP)
            await until(client, lambda backends: len(backends) == 1)
            told = await scrape(client)

    shown = {v for family in told.families for s in family.samples for v in s.labels.values()}
    assert "ollama-igpu" not in shown
    assert [1.0] == [count for _, count in told.all("requests_total")]
