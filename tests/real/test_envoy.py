"""A request through a real Envoy to a node that our picker chose: what comes of it, well or not."""

import json
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trio

from tests.real.envoys import Change, Stage, ask, chat, full_duplex, stage
from tests.real.programs import LIMIT_S
from tests.routers import CHAT, MODEL

DIALECTS = (CHAT, "/api/chat", "/v1/messages")
NO_CHANGE: Change = lambda _: None  # noqa: E731 - a name for nothing
BOTH = pytest.mark.parametrize(
    "change", [pytest.param(NO_CHANGE, id="buffered"), pytest.param(full_duplex, id="full duplex")]
)


def message(path: str, answer: httpx.Response) -> str:
    """What an error says, in the words of the dialect that its path is of."""
    told = answer.json()
    if path == "/v1/messages":
        assert "error" == told["type"]
    said = told["error"] if path.startswith("/api/") else told["error"]["message"]
    assert isinstance(said, str)
    assert not said.startswith("{"), "an error within an error"
    return said


@BOTH
async def test_every_dialect_is_carried_as_it_is(tmp_path: Path, change: Change) -> None:
    """Streamed and whole, with who gave it and why; the node sees what the client has sent."""
    with trio.fail_after(LIMIT_S):
        async with stage(tmp_path, "a", change=change) as stage_, stage_.envoy.client() as client:
            for path in DIALECTS:
                for stream in (True, False):
                    answer = await ask(client, path, stream=stream)
                    assert 200 == answer.status_code, answer.text
                    assert " a a" in answer.text.replace("\n", "") or answer.text.count(" a") > 1
                    assert "a" == answer.headers["x-backend-used"]
                    assert "x-routing-reason" in answer.headers
            seen = await stage_.nodes["a"].seen()
            assert [path for path in DIALECTS for _ in range(2)] == [each["path"] for each in seen]
            assert all(chat(stream=each["body"]["stream"]) == each["body"] for each in seen)
            await stage_.pickers[0].idle()


async def test_a_listed_page_may_read_what_comes_through_envoy(tmp_path: Path) -> None:
    """Its browser lets it, as at the router's own door."""
    page = "https://chat.example"
    more = f'[server]\nallowed_origins = ["{page}"]\n'
    with trio.fail_after(LIMIT_S):
        async with stage(tmp_path, "a", more=more) as stage_, stage_.envoy.client() as client:
            answer = await client.post(CHAT, json=chat(), headers={"origin": page})

    assert (200, page) == (answer.status_code, answer.headers["access-control-allow-origin"])


@BOTH
async def test_a_long_prompt_is_carried(tmp_path: Path, change: Change) -> None:
    """Four megabytes, whole."""
    with trio.fail_after(LIMIT_S):
        async with stage(tmp_path, "a", change=change) as stage_, stage_.envoy.client() as client:
            text = "word " * (4 << 18)
            answer = await ask(client, messages=[{"role": "user", "content": text}])
            assert 200 == answer.status_code, answer.text
            (seen,) = await stage_.nodes["a"].seen()
            assert len(text) < seen["body_bytes"]


@BOTH
async def test_a_name_for_a_model_is_changed_into_the_nodes_own(
    tmp_path: Path, change: Change
) -> None:
    """In a body that Envoy holds, and whose length is another one then."""
    each = 'aliases = {"short" = "a-name-that-is-longer:latest"}'
    with trio.fail_after(LIMIT_S):
        async with (
            stage(
                tmp_path,
                "a",
                each=each,
                change=change,
                script=["--models", "a-name-that-is-longer:latest"],
            ) as stage_,
            stage_.envoy.client() as client,
        ):
            for path in DIALECTS:
                answer = await ask(client, path, model="short")
                assert 200 == answer.status_code, answer.text
            models = [seen["body"]["model"] for seen in await stage_.nodes["a"].seen()]
            assert ["a-name-that-is-longer:latest"] * 3 == models


async def test_what_is_no_inference_is_the_routers_own(tmp_path: Path) -> None:
    """The models of all nodes, and how the router is."""
    with trio.fail_after(LIMIT_S):
        async with stage(tmp_path, "a", "b") as stage_, stage_.envoy.client() as client:
            models = (await client.get("/v1/models")).json()
            assert [MODEL] == [each["id"] for each in models["data"]]
            assert {"a", "b"} == set((await client.get("/health")).json()["backends"])


@BOTH
async def test_what_the_picker_refuses_is_told_in_the_callers_words(
    tmp_path: Path, change: Change
) -> None:
    """A model that nobody has, a wish that is none, and a deadline that nobody can meet."""
    with trio.fail_after(LIMIT_S):
        async with stage(tmp_path, "a", change=change) as stage_, stage_.envoy.client() as client:
            for path in DIALECTS:
                missing = await ask(client, path, model="nobody-has-it")
                assert 404 == missing.status_code, missing.text
                assert "nobody-has-it" in message(path, missing)
                wrong = await ask(client, path, headers={"x-priority": "very"})
                assert 400 == wrong.status_code, wrong.text
                assert "very" in message(path, wrong)
                late = await ask(client, path, headers={"x-max-latency-ms": "0.001"})
                assert late.status_code in {503, 504}, late.text
                assert message(path, late)
            assert [] == await stage_.nodes["a"].seen()
            await stage_.pickers[0].idle()


async def test_a_full_line_is_told_with_when_to_come_again(tmp_path: Path) -> None:
    """429, as the protocol of endpoint pickers has it, or 503 as our own doors do."""
    more = "[scheduler]\nqueue_capacity = 0\n"
    with trio.fail_after(LIMIT_S):
        async with (
            stage(
                tmp_path, "a", more=more, each="slots = 1", script=["--interval-s", "0.3"]
            ) as stage_,
            stage_.envoy.client() as client,
            client.stream("POST", CHAT, json=chat(stream=True)) as first,
        ):
            assert 200 == first.status_code
            for path in DIALECTS:
                second = await ask(client, path)
                assert second.status_code in {429, 503}, second.text
                assert int(second.headers["retry-after"]) > 0
                assert message(path, second)


async def test_without_any_node_it_is_said_at_once(tmp_path: Path) -> None:
    """503 in the caller's words, with when to come again: nothing hangs."""
    with trio.fail_after(LIMIT_S):
        async with stage(tmp_path, "a") as stage_, stage_.envoy.client() as client:
            await stage_.nodes["a"].end()
            await stage_.pickers[0].until(lambda all_: not any(b["healthy"] for b in all_))
            for path in DIALECTS:
                answer = await ask(client, path)
                assert 503 == answer.status_code, answer.text
                assert int(answer.headers["retry-after"]) > 0
                assert "a is unhealthy" in message(path, answer), "the picker was not asked"


async def test_a_body_over_the_limit_is_told_in_the_callers_words(tmp_path: Path) -> None:
    """413, and no node sees it; Envoy itself says so."""
    server = "[server]\nmax_body_mib = 1\n"
    with trio.fail_after(LIMIT_S):
        async with stage(tmp_path, "a", more=server) as stage_, stage_.envoy.client() as client:
            for path in DIALECTS:
                answer = await _send_too_much(stage_, path)
                assert 413 == answer.status_code, answer.text
                assert message(path, answer)
            assert [] == await stage_.nodes["a"].seen()
            assert 200 == (await ask(client)).status_code


async def _send_too_much(stage_: Stage, path: str) -> httpx.Response:
    """Three megabytes to a server that may close after the first of them: no HTTP client likes that."""
    size = 3 << 20
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n"
    async with await trio.open_tcp_stream("127.0.0.1", stage_.envoy.port) as stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(head.encode() + b"x" * size)
        said = b""
        while not said.endswith(b"}"):
            said += await stream.receive_some(1000)
    top, _, body = said.partition(b"\r\n\r\n")
    return httpx.Response(int(top.split()[1]), content=body)


@BOTH
async def test_a_client_that_leaves_frees_its_node(tmp_path: Path, change: Change) -> None:
    """Within its answer, and in line."""
    script = ["--interval-s", "0.2", "--tokens", "500"]
    with trio.fail_after(LIMIT_S):
        async with (
            stage(tmp_path, "a", each="slots = 1", change=change, script=script) as stage_,
            stage_.envoy.client() as client,
        ):
            async with client.stream("POST", CHAT, json=chat(stream=True)):
                with trio.move_on_after(0.5):
                    await ask(client)  # waits, since the slot is taken
                assert 1 == len(await stage_.nodes["a"].seen())
            await stage_.pickers[0].idle()
            while not (await stage_.nodes["a"].seen())[0]["client_left_s"]:  # noqa: ASYNC110 - it tells when asked
                await trio.sleep(0.01)


async def test_a_client_names_no_node(tmp_path: Path) -> None:
    """The header by which the picker does is taken from it, with a picker and without."""
    with trio.fail_after(LIMIT_S):
        async with stage(tmp_path, "a", "b") as stage_, stage_.envoy.client() as client:
            await stage_.nodes["b"].end()
            await stage_.envoy.well("nodes", 1)
            place = f"127.0.0.1:{stage_.nodes['b'].port}"
            headers = {"x-gateway-destination-endpoint": place}
            assert 200 == (await ask(client, headers=headers)).status_code
            await stage_.pickers[0].end()
            assert 200 == (await ask(client, headers=headers)).status_code
            seen = await stage_.nodes["a"].seen()
            assert all(place not in value for each in seen for name, value in each["headers"]), seen


async def test_a_node_is_asked_for_by_its_own_name(tmp_path: Path) -> None:
    """Whatever clients call Envoy: a router there would refuse a name that it does not know."""
    more = 'allowed_hosts = ["ai.example.org"]\n'
    with trio.fail_after(LIMIT_S):
        async with stage(tmp_path, "a", more=more) as stage_, stage_.envoy.client() as client:
            answer = await ask(client, headers={"host": "ai.example.org"})
            assert 200 == answer.status_code, answer.text
            (seen,) = await stage_.nodes["a"].seen()
            host = httpx.URL(stage_.nodes["a"].url).netloc.decode()
            assert host == dict(seen["headers"])["host"]


async def test_a_node_that_is_killed_before_its_answer_is_replaced(tmp_path: Path) -> None:
    """By the next one, unseen."""
    with trio.fail_after(LIMIT_S):
        async with stage(tmp_path, "a", "b") as stage_, stage_.envoy.client() as client:
            for node in stage_.nodes.values():
                await node.script(behaviour="hang")
            answers: list[httpx.Response] = []

            async def wait() -> None:
                answers.append(await ask(client))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                asked = await _first_asked(stage_)
                (other,) = {"a", "b"} - {asked}
                await stage_.nodes[other].script(behaviour="ok")
                await stage_.nodes[asked].end()
            assert 200 == answers[0].status_code, answers[0].text
            assert f" {other}" in answers[0].text


async def _first_asked(stage_: Stage) -> str:
    """Which node has seen a request."""
    while True:
        for name, node in stage_.nodes.items():
            if await node.seen():
                return name
        await trio.sleep(0.01)


async def test_a_node_that_is_killed_within_its_answer_breaks_it_off(tmp_path: Path) -> None:
    """The client cannot take what it got for all there is; the next request goes elsewhere."""
    script = ["--interval-s", "0.1", "--tokens", "500"]
    with trio.fail_after(LIMIT_S):
        async with (
            stage(tmp_path, "a", "b", script=script) as stage_,
            stage_.envoy.client() as client,
        ):
            async with client.stream("POST", CHAT, json=chat(stream=True)) as answer:
                asked = answer.headers["x-backend-used"]
                await stage_.nodes[asked].end()
                with pytest.raises(httpx.RemoteProtocolError):
                    await answer.aread()
            for node in set(stage_.nodes) - {asked}:
                await stage_.nodes[node].script(interval_s=0)
            for _ in range(4):
                after = await ask(client)
                assert 200 == after.status_code, after.text
                assert asked not in after.json()["choices"][0]["message"]["content"].split()


async def test_priorities_hold_over_all_nodes(tmp_path: Path) -> None:
    """Whoever is more urgent is served first by whichever node is free first."""
    order: list[str] = []
    with trio.fail_after(LIMIT_S):
        async with (
            stage(tmp_path, "a", "b", each="slots = 1") as stage_,
            stage_.envoy.client() as client,
        ):
            for node in stage_.nodes.values():
                await node.script(behaviour="slow", delay_s=1.5, times=1)

            async def one(priority: str) -> None:
                answer = await ask(client, headers={"x-priority": priority})
                assert 200 == answer.status_code, answer.text
                order.append(priority)

            async def in_line(count: int) -> None:
                await stage_.pickers[0].until(
                    lambda all_: count == sum(sum(b["queued"].values()) for b in all_)
                )

            async with trio.open_nursery() as nursery:
                nursery.start_soon(one, "critical")
                nursery.start_soon(one, "critical")
                await stage_.pickers[0].until(lambda all_: all(b["in_flight"] for b in all_))
                for count, priority in enumerate(("best-effort", "normal", "high", "high"), 1):
                    nursery.start_soon(one, priority)
                    await in_line(count)
            assert ["critical", "critical"] == order[:2]
            assert ["high", "high"] == order[2:4]


async def test_errors_of_a_node_are_told_in_the_callers_words(tmp_path: Path) -> None:
    """When no other is there that could do better."""
    with trio.fail_after(LIMIT_S):
        async with stage(tmp_path, "a") as stage_, stage_.envoy.client() as client:
            await stage_.nodes["a"].script(behaviour="refuse", status=503)
            for path in DIALECTS:
                answer = await ask(client, path)
                assert answer.status_code in {502, 503}, answer.text
                assert message(path, answer)
                json.loads(answer.text)
