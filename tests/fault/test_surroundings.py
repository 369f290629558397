"""What may happen to a machine while the router runs: it runs out of things, sleeps, changes its clock."""

import contextlib
import resource
import shutil
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest
import trio

from tests.fault.house import House, open_house
from tests.fault.outcome import PATHS, TOKENS, End, chat, end_of
from tests.inbound.ends import Answer, post
from tests.routers import CHAT, MODEL

SLOWLY = {"tokens": TOKENS, "interval_s": 0.05}
SENSING = """\
[efficiency]
mode = "balanced"
[sensors]
sysfs_root = "{root}"
procfs_root = "/nowhere/proc"
system_bus = ""
[thermal]
poll_s = 0.5
[dbus]
enabled = false
"""


async def ask_many(house: House, requests: list[bytes]) -> list[Answer]:
    """The answers to requests that are made at once, each on a connection of its own."""
    answers: list[Answer] = []

    async def ask(request: bytes) -> None:
        answers.append(await house.ask(request))

    async with trio.open_nursery() as nursery:
        for request in requests:
            nursery.start_soon(ask, request)
    return answers


async def test_without_descriptors(house: House) -> None:
    """Who cannot be let in waits or is told; whoever is in is served, and later everybody is."""
    await house.script("npu", **SLOWLY)
    used = psutil.Process(house.router.pid).num_fds()
    before = house.router.limit(resource.RLIMIT_NOFILE, used + 4)
    answers: list[Answer] = []
    try:
        async with trio.open_nursery() as nursery:
            enough = trio.Event()

            async def ask() -> None:
                answers.append(await house.ask(chat("npu")))
                enough.set()

            for _ in range(40):
                nursery.start_soon(ask)
            await enough.wait()
            house.router.limit(resource.RLIMIT_NOFILE, before)
    finally:
        house.router.limit(resource.RLIMIT_NOFILE, before)
    assert {End.WHOLE, End.TOLD} >= {end_of(each) for each in answers}, answers
    assert 40 == len(answers)


async def test_a_log_that_takes_nothing(tmp_path: Path) -> None:
    """A full disk under the log costs the log: requests are served, and the end is orderly."""
    with open_house(tmp_path, errors=Path("/dev/full")) as house:
        await house.take_base()
        answers = await ask_many(house, [chat("npu", path=path) for path in PATHS])
        assert [200] * 3 == [each.status for each in answers]
        await house.settles()
        assert 0 == house.router.stop()


async def test_without_memory(house: House) -> None:
    """Who asks for little is served beside bodies that do not fit; those fail, and can come again.

    That it was memory which was short is seen: not all of them are taken, and with memory all are.
    """
    size = psutil.Process(house.router.pid).memory_info().vms
    before = house.router.limit(resource.RLIMIT_AS, size + (48 << 20))
    large = post(CHAT, {"model": MODEL, "messages": [], "x": "x" * (40 << 20)})
    said: list[bytes] = []
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(_send_and_hear, house, large, said)
            answer = await house.ask(chat("cpu"))
        assert End.WHOLE is end_of(answer), answer
    finally:
        house.router.limit(resource.RLIMIT_AS, before)
    assert any(not line.startswith(b"HTTP/1.1 200 ") for line in said), said
    again: list[bytes] = []
    await _send_and_hear(house, large, again)
    assert again[0].startswith(b"HTTP/1.1 200 "), again


async def _send_and_hear(house: House, request: bytes, said: list[bytes]) -> None:
    """Send it, and add the first line of what is said to it; nothing where the connection broke."""
    line = b""
    async with house.connected() as client:
        house.asked += 1
        with contextlib.suppress(trio.BrokenResourceError):
            await client.send(request)
            line = await client.read_to(b"\r\n")
            assert line.startswith(b"HTTP/1.1 ") or not line
    said.append(line)


async def test_the_wall_clock_jumps(house: House) -> None:
    """An hour ahead and back: no stream ends of it, no deadline comes sooner or later."""
    await house.script("npu", **SLOWLY)
    async with house.connected() as client:
        house.asked += 1
        await client.send(chat("npu", x_max_latency_ms="20000"))
        first = await client.read_to(b" tok")
        house.router.send(signal.SIGUSR2)
        other = await house.ask(chat("cpu", x_max_latency_ms="20000"))
        house.router.send(signal.SIGUSR2)
        rest = await client.read_to(b"\r\n0\r\n\r\n")
    assert End.WHOLE is end_of(other), other
    assert TOKENS == (first + rest).count(b" tok")
    assert b"[DONE]" in rest
    house.router.send(signal.SIGUSR2)
    await house.script("npu", behaviour="hang")
    late = await house.ask(chat("npu", x_max_latency_ms="300"))
    house.router.send(signal.SIGUSR2)
    assert (504, End.TOLD) == (late.status, end_of(late)), late


@pytest.mark.parametrize("path", PATHS)
async def test_the_router_sleeps(house: House, path: str) -> None:
    """Longer than any silence is borne: what backends said meanwhile is no silence of theirs.

    Where bytes pass unchanged: the backend is started anew, for what an earlier fault had it disown
    is translated until then, and of a translated stream the silence is judged by the clock alone.
    """
    program = house.backends["npu"]
    program.kill()
    await house.until_standing("npu", healthy=False)
    await trio.to_thread.run_sync(program.start_again)
    await house.until_standing("npu", healthy=True)
    await house.script("npu", **SLOWLY)
    async with house.connected() as client:
        house.asked += 1
        await client.send(chat("npu", path=path))
        first = await client.read_to(b" tok")
        house.router.send(signal.SIGSTOP)
        try:
            await house.until_log("npu", ended_s=True)
            await trio.sleep(1.5)  # the promise is about time that passes for the machine alone
        finally:
            house.router.send(signal.SIGCONT)
        rest = await client.read_to(b"\r\n0\r\n\r\n")
    assert TOKENS == (first + rest).count(b" tok"), rest
    assert b"error" not in rest


async def test_requests_come_while_the_router_sleeps(house: House) -> None:
    """They are served when it wakes: nothing that was true before is held against anybody."""
    house.router.send(signal.SIGSTOP)
    answers: list[Answer] = []

    async def ask(name: str) -> None:
        answers.append(await house.ask(chat(name)))

    async with trio.open_nursery() as nursery:
        for name in ("npu", "cpu", ""):
            nursery.start_soon(ask, name)
        await trio.sleep(1.5)
        house.router.send(signal.SIGCONT)
    assert [End.WHOLE] * 3 == [end_of(each) for each in answers], answers


async def test_a_backend_is_killed_under_load(house: House) -> None:
    """Its streams say so, all others are answered by another; and when it is back, so are its callers."""
    for name in house.backends:
        await house.script(name, **SLOWLY)
    program = house.backends["npu"]
    answers: list[Answer] = []

    async def ask_often() -> None:
        for _ in range(5):
            answers.append(await house.ask(chat(stream=bool(len(answers) % 3))))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(ask_often)
        await house.until_log("npu", 2)
        program.kill()
        await house.until_standing("npu", healthy=False)
        await trio.to_thread.run_sync(program.start_again)
    ends = [end_of(each) for each in answers]
    assert {End.WHOLE, End.TOLD} >= set(ends), answers
    # At most what ran there when it was killed, streams that had begun.
    assert ends.count(End.TOLD) <= 2, answers


async def test_reloads_in_the_middle_of_everything(house: House) -> None:
    """Of good files and bad: no request is lost, no stream is cut, the old one stays where the new is bad."""
    for name in house.backends:
        await house.script(name, **SLOWLY)
    path = house.router.directory / "config.toml"
    good = path.read_text()
    answers: list[Answer] = []

    async def ask_often() -> None:
        answers.extend([await house.ask(chat()) for _ in range(4)])

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask_often)
            for number in range(30):
                bad = "[scheduler]\naging_s = -1\n"
                path.write_text(
                    good + (bad if number % 2 else f"[scheduler]\naging_s = {number + 1}\n")
                )
                house.router.send(signal.SIGHUP)
                await house.standing("npu")
    finally:
        path.write_text(good)
        house.router.send(signal.SIGHUP)
    assert [End.WHOLE] * 24 == [end_of(each) for each in answers], answers


async def test_an_end_in_the_middle_of_everything(tmp_path: Path) -> None:
    """SIGTERM: who can be served in time is, all others are told; and the process ends in order."""
    with open_house(tmp_path) as house:
        await house.take_base()
        await house.script("npu", **SLOWLY)
        await house.script("cpu", tokens=100_000, interval_s=0.05)
        async with AsyncExitStack() as stack:
            clients = {}
            for name in ("npu", "cpu"):
                for path in PATHS[:2]:
                    client = await stack.enter_async_context(house.connected())
                    await client.send(chat(name, path=path))
                    clients[name, path] = client
                await house.until_log(name, 2)
            idle = await stack.enter_async_context(house.connected())
            house.router.send(signal.SIGTERM)
            assert await idle.is_let_go()
            for (name, path), client in clients.items():
                wanted = End.WHOLE if name == "npu" else End.TOLD
                answer = await client.read()
                assert wanted is end_of(answer, path), answer
        assert 0 == await trio.to_thread.run_sync(house.router.see_off), house.router.log()


async def test_killed_it_starts_anew(tmp_path: Path) -> None:
    """Without warning, in the middle of everything: nothing that it leaves is in its own way."""
    with open_house(tmp_path) as house:
        await house.script("npu", **SLOWLY)
        async with house.connected() as client:
            await client.send(chat("npu"))
            await client.read_to(b" tok")
            house.router.kill()
        house.router.command = [
            *house.router.command,
            "--http-port",
            str(house.router.door("http")[1]),
        ]
        house.router.start()
        await house.take_base()
        await house.settles()


async def test_sensors_vanish(tmp_path: Path) -> None:
    """And come back as nonsense: what is not known is told as that, and requests are served."""
    root = tmp_path / "sys"
    chip = root / "class" / "hwmon" / "hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("k10temp\n")
    (chip / "temp1_input").write_text("47000\n")
    home = tmp_path / "home"
    home.mkdir()
    with open_house(home, more=SENSING.format(root=root)) as house:
        await house.take_base()
        await _until_zones(house, known=True)
        shutil.rmtree(root)
        await _until_zones(house, known=False)
        assert End.WHOLE is end_of(await house.ask(chat()))
        chip.mkdir(parents=True)
        (chip / "name").write_bytes(b"\xff\xfe\n")
        (chip / "temp1_input").write_text("hot\n")
        assert End.WHOLE is end_of(await house.ask(chat()))
        await house.settles()
        assert 0 == house.router.stop(), house.router.log()


async def _until_zones(house: House, *, known: bool) -> None:
    with trio.fail_after(20.0):
        while bool((await house.get("/thermal")).json()["zones"]) is not known:  # noqa: ASYNC110 - it tells when asked
            await trio.sleep(0.05)
