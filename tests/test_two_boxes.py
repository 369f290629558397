"""Two routers as their users start them, one behind the other, each with an Ollama that is a fake."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from trio_websocket import open_websocket_url

from ollama_proxy.inbound.grpc.pb import ollama_proxy_pb2 as pb
from tests.fakes.ollama import Behaviour, Fake, Script, open_fake
from tests.fault.programs import Program
from tests.inbound.grpc.peer import Client
from tests.numb import NUMB_TOML
from tests.routers import CHAT, MODEL, ask, until

LIMIT_S = 60.0
FAR, OWN = "tower", "ollama-cpu"
_ROUTER = """\
[server]
http_port = {port}
grpc_port = 0
drain_s = 10
{server}
[router]
health_interval_s = 0.1
{more}
[[backends]]
id = "{id}"
hardware = "cpu"
endpoint = "{url}"
slots = {slots}
[backends.characteristics]
power_watts = {watts}
avg_latency_ms = {latency_ms}
"""
_TOWER = """
[[backends]]
id = "tower"
type = "router"
hardware = "nvidia"
endpoint = "{url}"
{extra}
[backends.characteristics]
power_watts = 20.0
avg_latency_ms = 100
"""


@attrs.define(eq=False)
class Boxes:
    """What a test looks at.

    Attributes:
        near: the router that is asked.
        client: who asks it.
        own: its own Ollama.
        far: the other router.
        there: the Ollama behind that.
    """

    near: Program
    client: httpx.AsyncClient
    own: Fake
    far: Program
    there: Fake

    async def post(self, *, stream: bool = False, **headers: str) -> httpx.Response:
        """Ask for a chat; `x_priority="high"` is a header."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(CHAT, json=ask(stream=stream), headers=given)

    async def post_there(self, **fields: object) -> httpx.Response:
        """Ask the other one for it."""
        return await self.client.post(self.far.url + CHAT, json=ask(**fields))

    async def tower(self) -> dict[str, Any]:
        """What is known of the far one here."""
        told: list[dict[str, Any]] = (await self.client.get("/backends")).json()
        return next(each for each in told if each["id"] == FAR)

    async def until_tower(self, **wanted: object) -> dict[str, Any]:
        """Wait until so much is known of it; returns all that is."""
        while True:
            told = await self.tower()
            flat = {**told, **(told["node"] or {}), "slots": told["slots"]}
            if all(flat.get(name) == value for name, value in wanted.items()):
                return told
            await trio.sleep(0.02)

    async def until_there(self, count: int = 1) -> None:
        """Wait until the far Ollama was asked so often."""
        while len(calls(self.there)) < count:  # noqa: ASYNC110 - it tells when asked
            await trio.sleep(0.01)


async def until_shut(port: int) -> None:
    """Wait until nobody is let in there any more."""
    while True:
        try:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
        except OSError:
            return
        await trio.sleep(0.01)


def calls(fake: Fake) -> list[dict[str, str]]:
    """The headers of each inference call that it saw."""
    return [dict(record.headers) for record in fake.log if record.method == "POST"]


def program(
    directory: Path,
    url: str,
    *,
    variables: dict[str, str] | None = None,
    behind: str = "",
    **given: Any,
) -> Program:
    """A router in a process of its own, to be started, with `behind` it another."""
    values: dict[str, Any] = {"port": 0, "server": "", "more": NUMB_TOML, "slots": 2} | given
    directory.mkdir(exist_ok=True)
    written = directory / "config.toml"
    written.write_text(_ROUTER.format(url=url, **values) + behind)
    command = ["-m", "ollama_proxy", "serve", "--config", str(written)]
    return Program(command, directory, variables or {})


def far_one(directory: Path, url: str, **given: Any) -> Program:
    """The far one: thrifty and fast."""
    values: dict[str, Any] = {"id": "ollama-npu", "watts": 5.0, "latency_ms": 50.0} | given
    return program(directory / "far", url, **values)


def near_one(directory: Path, url: str, far: str, *, extra: str = "", **given: Any) -> Program:
    """The near one: its own Ollama is neither."""
    behind = _TOWER.format(url=far, extra=extra)
    values: dict[str, Any] = {"id": OWN, "watts": 28.0, "latency_ms": 900.0} | given
    return program(directory / "near", url, behind=behind, **values)


@asynccontextmanager
async def started(made: Program) -> AsyncIterator[Program]:
    """It, from its readiness to its end."""
    try:
        await trio.to_thread.run_sync(made.start)
        yield made
        if made.is_alive:
            assert 0 == await trio.to_thread.run_sync(made.stop), made.log()
    finally:
        made.kill()


@asynccontextmanager
async def asking(made: Program) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who asks it."""
    async with httpx.AsyncClient(
        base_url=made.url, trust_env=False, verify=_TLS, timeout=LIMIT_S
    ) as client:
        yield client


_TLS = httpx.create_ssl_context()  # never used, and dear to make for each


@asynccontextmanager
async def two(
    directory: Path,
    *,
    own: Script | None = None,
    there: Script | None = None,
    near: dict[str, Any] | None = None,
    is_well: bool = True,
    **far: Any,
) -> AsyncIterator[Boxes]:
    """Both, each well; the far one is the better choice, unless it is made worse."""
    with trio.fail_after(LIMIT_S):
        async with (
            open_fake(own or Script()) as mine,
            open_fake(there or Script()) as its,
            started(far_one(directory, its.url, **far)) as box,
            started(near_one(directory, mine.url, box.url, **near or {})) as router,
            asking(router) as client,
        ):
            boxes = Boxes(router, client, mine, box, its)
            if is_well:
                await boxes.until_tower(healthy=True, models=[MODEL])
            yield boxes


# -- all is well -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_it_answers_as_if_it_were_here(tmp_path: Path, *, stream: bool) -> None:
    """In every dialect, byte for byte; who it was, there and here, is told once each."""
    body = ask(stream=stream, prompt="hi", max_tokens=9)
    async with two(tmp_path) as boxes:
        for path in (CHAT, "/api/chat", "/v1/messages", "/v1/completions"):
            answer = await boxes.client.post(path, json=body, headers={"x-request-id": "mine"})
            direct = await boxes.client.post(boxes.there.url + path, json=body)
            names = [name for name, _ in answer.headers.multi_items() if name.startswith("x-")]

            assert (200, FAR, "ollama-npu", "mine") == (
                answer.status_code,
                answer.headers["x-backend-used"],
                answer.headers["x-node-backend"],
                answer.headers["x-request-id"],
            )
            assert len(names) == len(set(names))
            assert _without_times(direct.text) == _without_times(answer.text)
        seen = calls(boxes.there)[::2]

    assert ["mine"] * 4 == [headers["x-request-id"] for headers in seen]


def _without_times(text: str) -> str:
    """What a fake says, but for when it said it."""
    kept = []
    for line in text.splitlines():
        start = line.find("{")
        if start < 0:
            kept.append(line)
            continue
        said = json.loads(line[start:])
        kept.append(line[:start] + json.dumps(_timeless(said)))
    return "\n".join(kept)


def _timeless(said: Any) -> Any:
    if isinstance(said, dict):
        timed = {"created", "created_at", "id"}
        return {
            name: _timeless(value)
            for name, value in said.items()
            if name not in timed and not name.endswith("_duration")
        }
    return [_timeless(each) for each in said] if isinstance(said, list) else said


async def test_each_door_leads_there(tmp_path: Path) -> None:
    """A WebSocket here, and gRPC: the text comes from there, and their wishes went along."""
    async with two(tmp_path, there=Script(tokens=3)) as boxes:
        socket_url = boxes.near.url.replace("http", "ws") + "/v1/stream/ws"
        heard: list[dict[str, Any]] = []
        async with open_websocket_url(socket_url) as ws:
            wanted = {"request_id": "a", "model": MODEL, "prompt": "hi", "priority": "high"}
            await ws.send_message(json.dumps(wanted))
            while not heard or not heard[-1]["done"]:
                heard.append(json.loads(await ws.get_message()))
        request = pb.GenerateRequest(
            prompt="hi", model=MODEL, annotations=pb.Annotations(latency_critical=True)
        )
        host, port = boxes.near.door("grpc")
        async with await trio.open_tcp_stream(host, port) as stream, Client(stream) as client:
            called = await client.call(
                request.SerializeToString(), path="/ollama_proxy.OllamaProxy/GenerateStream"
            )
        seen = [r for r in boxes.there.log if r.path == "/api/generate"]

    assert (" tok tok tok", FAR) == ("".join(f["token"] for f in heard), heard[0]["backend"])
    assert FAR == dict(called.headers)[b"x-backend-used"].decode()
    assert 2 == len(seen)


async def test_what_it_says_of_itself_is_known_here(tmp_path: Path) -> None:
    """Its slots, its mode, what was learned there."""
    async with two(tmp_path, slots=3) as boxes:
        for _ in range(2):
            await boxes.post_there(stream=True)
        await boxes.until_tower(slots=3, mode="balanced", thermal_state="unknown")
        while (told := await boxes.tower())["latency"]["tokens_per_s"]["source"] != "told":  # noqa: ASYNC110 - as above
            await trio.sleep(0.02)

    assert "told" == told["latency"]["ttft_ms"]["source"]
    assert told["node"]["id"]
    assert 0 == told["requests_total"]


async def test_a_key_opens_it(tmp_path: Path) -> None:
    """As for any backend, for what it says of itself, too; without one it is down, and says why."""
    digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"  # of "secret"
    server = f'[server.auth]\napi_keys = ["sha256:{digest} infer read"]'
    near = {"extra": 'api_key_env = "TOWER_KEY"', "variables": {"TOWER_KEY": "secret"}}
    async with two(tmp_path, server=server, near=near) as boxes:
        answer = await boxes.post()
        known = (await boxes.tower())["node"]
    near["variables"] = {"TOWER_KEY": "wrong"}
    async with two(tmp_path, server=server, near=near, is_well=False) as boxes:
        await boxes.until_tower(healthy=False, last_error="/node answered 401")

    assert (200, FAR) == (answer.status_code, answer.headers["x-backend-used"])
    assert known is not None


# -- wishes ----------------------------------------------------------------------------------------


async def test_a_place_in_line_is_kept_there(tmp_path: Path) -> None:
    """Who is urgent here is served before who came first there."""
    slow = Script(first_token_s=0.3, tokens=1)
    async with two(tmp_path, there=slow, slots=1) as boxes, trio.open_nursery() as nursery:
        order: list[str] = []

        async def there(name: str) -> None:
            await boxes.post_there()
            order.append(name)

        for number in range(4):
            nursery.start_soon(there, f"there {number}")
            await trio.sleep(0.02)
        answer = await boxes.post(x_priority="high", x_target_backend=FAR)
        order.append("here")

    assert 200 == answer.status_code
    assert "here" == order[1]


async def test_a_deadline_that_it_cannot_meet_is_met_here(tmp_path: Path) -> None:
    """It says no with its own forecast, in time for another."""
    far: dict[str, Any] = {"there": Script(first_token_s=0.5), "slots": 1}
    async with two(tmp_path, **far, near={"latency_ms": 300.0}) as boxes:
        for _ in range(3):
            await boxes.post_there(stream=True)
        async with trio.open_nursery() as nursery:
            for _ in range(2):  # nobody here sent those
                nursery.start_soon(boxes.post_there)
            await boxes.until_there(4)
            alone = await boxes.post(x_max_latency_ms="450", x_target_backend=FAR, stream=True)
            answer = await boxes.post(x_max_latency_ms="450", stream=True)

    assert (503, "deadline_unmeetable") == (alone.status_code, alone.json()["error"]["code"])
    assert (200, OWN) == (answer.status_code, answer.headers["x-backend-used"])


# -- it is not at its best -------------------------------------------------------------------------


async def test_its_mode_is_heeded(tmp_path: Path) -> None:
    """Quiet there: its watts weigh as they do there, and the work is done here. Then it is not."""
    near = {"watts": 20.0, "latency_ms": 200.0}
    slow, slower = Script(first_token_s=0.05), Script(first_token_s=0.1)
    async with two(tmp_path, near=near, there=slow, own=slower) as boxes:
        before = await boxes.post()
        await boxes.client.post(boxes.far.url + "/efficiency", json={"mode": "quiet"})
        await boxes.until_tower(mode="quiet")
        quiet = await boxes.post()
        await boxes.client.post(boxes.far.url + "/efficiency", json={"mode": "performance"})
        await boxes.until_tower(mode="performance")
        after = await boxes.post()

    used = [answer.headers["x-backend-used"] for answer in (before, quiet, after)]
    assert [FAR, OWN, FAR] == used


@pytest.mark.parametrize(
    ("celsius", "grade", "used"), [(45, "nominal", FAR), (99, "critical", OWN)]
)
async def test_its_heat_is_heeded(tmp_path: Path, celsius: int, grade: str, used: str) -> None:
    """It is measured there, told, and spared from here."""
    hwmon = tmp_path / "sys" / "class" / "hwmon" / "hwmon0"
    hwmon.mkdir(parents=True)
    for name, text in {
        "name": "k10temp",
        "temp1_input": f"{celsius * 1000}",
        "temp1_label": "Tctl",
        "temp1_crit": "95000",
    }.items():
        (hwmon / name).write_text(text + "\n")
    sensors = f"""
[efficiency]
mode = "balanced"
[thermal]
poll_s = 0.5
dwell_s = 0
[sensors]
sysfs_root = "{tmp_path / "sys"}"
procfs_root = "/nowhere/proc"
system_bus = ""
nvml = false
[dbus]
enabled = false
"""
    async with two(tmp_path, more=sensors) as boxes:
        await boxes.until_tower(thermal_state=grade)
        answer = await boxes.post()

    assert (200, used) == (answer.status_code, answer.headers["x-backend-used"])


async def test_one_that_is_full_is_let_be(tmp_path: Path) -> None:
    """Its 503 is seen by nobody: the request goes on, and its circuit stays closed."""
    more = NUMB_TOML + "[scheduler]\nqueue_capacity = 0\n"
    far: dict[str, Any] = {"there": Script(first_token_s=5.0), "slots": 1, "more": more}
    async with two(tmp_path, **far) as boxes, trio.open_nursery() as nursery:
        nursery.start_soon(boxes.post_there)
        await boxes.until_there()
        answers = [await boxes.post(x_latency_critical="true") for _ in range(6)]
        alone = await boxes.post(x_target_backend=FAR)
        told = await boxes.tower()
        nursery.cancel_scope.cancel()

    assert [(200, OWN)] * 6 == [(a.status_code, a.headers["x-backend-used"]) for a in answers]
    assert (503, "queue_full") == (alone.status_code, alone.json()["error"]["code"])
    assert int(alone.headers["retry-after"]) >= 1
    assert (True, 0) == (told["healthy"], told["errors_total"])


async def test_one_that_ends_finishes_what_it_has(tmp_path: Path) -> None:
    """Nothing new goes there, nothing is lost, and it is chosen again once it is back."""
    async with two(tmp_path, there=Script(tokens=20, interval_s=0.05)) as boxes:
        port = int(boxes.far.url.rpartition(":")[2])
        async with boxes.client.stream("POST", CHAT, json=ask(stream=True)) as answer:
            begun = answer.headers["x-backend-used"]
            os.kill(boxes.far.pid, signal.SIGTERM)
            await until_shut(port)
            later = [await boxes.post() for _ in range(3)]
            text = (await answer.aread()).decode()
        assert 0 == await trio.to_thread.run_sync(boxes.far.see_off)
        assert boxes.far.log() == "" or "Traceback" not in boxes.far.log()
        await boxes.until_tower(healthy=False)
        again = far_one(tmp_path, boxes.there.url, port=port)
        async with started(again):
            await boxes.until_tower(healthy=True)
            back = await boxes.post(x_target_backend=FAR)

    assert (FAR, 20, True) == (begun, text.count(" tok"), text.endswith("data: [DONE]\n\n"))
    assert [(200, OWN)] * 3 == [(a.status_code, a.headers["x-backend-used"]) for a in later]
    assert (200, FAR) == (back.status_code, back.headers["x-backend-used"])


async def test_restarts_under_load_cost_nobody_an_answer(tmp_path: Path) -> None:
    """It ends politely, is back, and ends again: every request is answered, there or here."""
    statuses: list[int] = []
    async with two(tmp_path) as boxes:
        port = int(boxes.far.url.rpartition(":")[2])
        stop = trio.Event()

        async def load() -> None:
            while not stop.is_set():
                statuses.append((await boxes.post()).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(load)
            await trio.sleep(0.2)
            assert 0 == await trio.to_thread.run_sync(boxes.far.stop)
            await boxes.until_tower(healthy=False)
            async with started(far_one(tmp_path, boxes.there.url, port=port)):
                await boxes.until_tower(healthy=True)
                await trio.sleep(0.2)
            await boxes.until_tower(healthy=False)
            stop.set()

    assert {200} == set(statuses)


async def test_one_that_is_killed_in_mid_stream_is_told_once(tmp_path: Path) -> None:
    """The stream ends with an error, not as if it were whole; the next one is served here."""
    async with two(tmp_path, there=Script(tokens=1000, interval_s=0.02)) as boxes:
        lines: list[str] = []
        async with boxes.client.stream("POST", CHAT, json=ask(stream=True)) as answer:
            with contextlib.suppress(httpx.RemoteProtocolError):
                async for line in answer.aiter_lines():
                    lines.append(line)
                    if len(lines) == 10:
                        boxes.far.kill()
        # The broken stream's connection is closed a moment after it: whoever asks on it meets that.
        async with asking(boxes.near) as other:
            after = await other.post(CHAT, json=ask())
        await boxes.there.until(lambda log: any(r.client_left_s for r in log if r.path == CHAT))

    errors = [line for line in lines if '"backend_failed"' in line]
    assert (1, 0) == (len(errors), lines.count("data: [DONE]"))
    assert (200, OWN) == (after.status_code, after.headers["x-backend-used"])


async def test_who_leaves_here_leaves_there(tmp_path: Path) -> None:
    """The far backend is freed."""
    async with two(tmp_path, there=Script(tokens=1000, interval_s=0.02)) as boxes:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(boxes.post, stream=True))
            await boxes.until_there()
            nursery.cancel_scope.cancel()
        await boxes.there.until(lambda log: any(r.client_left_s for r in log if r.path == CHAT))
        told = await boxes.until_tower(in_flight=0)

    assert 0 == told["node"]["in_flight"]


# -- other versions --------------------------------------------------------------------------------


async def test_one_that_is_too_old_to_tell_serves(tmp_path: Path) -> None:
    """It lists its models, and all else is unknown: one slot, no heat, no mode."""
    async with (
        open_fake(Script(models=())) as mine,
        open_fake(Script()) as old,
        started(near_one(tmp_path, mine.url, old.url)) as near,
        asking(near) as client,
    ):
        answer = await client.post(CHAT, json=ask())
        told = (await client.get("/backends")).json()[1]

    assert (200, FAR) == (answer.status_code, answer.headers["x-backend-used"])
    assert (None, 1, "unknown", [MODEL]) == (
        told["node"],
        told["slots"],
        told["thermal_state"],
        told["models"],
    )


async def test_one_that_speaks_otherwise_is_down(tmp_path: Path) -> None:
    """It says why, and what to do."""
    said = 'HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{"protocol":7}'
    script = Script(behaviour=Behaviour.VERBATIM, misbehaves_at=("/node",), verbatim=said)
    async with (
        open_fake(Script()) as mine,
        open_fake(script) as odd,
        started(near_one(tmp_path, mine.url, odd.url)) as near,
        asking(near) as client,
    ):
        answer = await client.post(CHAT, json=ask())
        told = (await client.get("/backends")).json()[1]

    assert (200, OWN) == (answer.status_code, answer.headers["x-backend-used"])
    assert not told["healthy"]
    assert "version 7" in told["last_error"]
    assert "install the same version" in told["last_error"]


# -- one hop ---------------------------------------------------------------------------------------


async def test_two_that_name_each_other_send_nobody_round(tmp_path: Path) -> None:
    """A model of one is served for the other; one that neither has is nowhere, at once."""
    port = free_port()
    back = _TOWER.format(url=f"http://127.0.0.1:{port}", extra="").replace(FAR, "back")
    with trio.fail_after(LIMIT_S):
        async with (
            open_fake(Script(models=("near:1",), only_listed=True)) as mine,
            open_fake(Script(models=("far:1",), only_listed=True)) as its,
            started(far_one(tmp_path, its.url, behind=back)) as box,
            started(near_one(tmp_path, mine.url, box.url, port=port)) as router,
            asking(router) as near,
            asking(box) as far,
        ):
            for client in (near, far):
                await until(client, lambda told: all(each["models"] for each in told))
            crossed = [
                await near.post(CHAT, json=ask(model="far:1")),
                await far.post(CHAT, json=ask(model="near:1")),
            ]
            nowhere = [
                (await client.post(CHAT, json=ask(model="none:1"))).status_code
                for client in (near, far)
            ]
            at_each = [(near, "near:1", FAR), (far, "far:1", "back")]
            forced = [
                (
                    await client.post(
                        CHAT, json=ask(model=model), headers={"x-target-backend": other}
                    )
                ).status_code
                for client, model, other in at_each
            ]
            lists = [
                sorted(each["name"] for each in (await client.get("/api/tags")).json()["models"])
                for client in (near, far)
            ]
            shown = (await near.post("/api/show", json={"model": "far:1"})).status_code
            seen = [
                [record.path for record in fake.log if record.path == CHAT] for fake in (mine, its)
            ]

    assert [(200, FAR), (200, "back")] == [
        (answer.status_code, answer.headers["x-backend-used"]) for answer in crossed
    ]
    assert [404, 404] == nowhere == forced
    assert [["far:1", "near:1"]] * 2 == lists
    assert 200 == shown
    assert [[CHAT]] * 2 == seen


def free_port() -> int:
    """One that nobody had a moment ago."""
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return int(any_port.getsockname()[1])
