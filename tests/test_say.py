"""`ollama-proxy say` as its users run it, against a router in another process."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from tests.fakes.ollama import Behaviour, Fake, Script, open_fake
from tests.routers import idle
from tests.test_cli import LIMIT_S, MODULE, Desk, Router, config_for, on_a_terminal

WAYS = ["--http", "--ws"]
SLOW = Script(tokens=1000, interval_s=0.01)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@asynccontextmanager
async def asked(desk: Desk, fake: Fake, *flags: str) -> AsyncIterator[tuple[trio.Process, Router]]:
    """The command at work on an answer, its first token said."""
    desk.write(config_for(fake))
    async with desk.serving() as router:
        process = await trio.lowlevel.open_process(
            [sys.executable, *MODULE, "say", "hi", "--url", router.url, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=desk.directory,
            env=desk.environment,
        )
        try:
            assert process.stdout is not None
            assert await process.stdout.receive_some(1)
            yield process, router
            async with httpx.AsyncClient(base_url=router.url, trust_env=False) as client:
                await idle(client)
        finally:
            if process.returncode is None:
                process.kill()
            assert process.stdout is not None
            assert process.stderr is not None
            await process.stdout.aclose()
            await process.stderr.aclose()


@pytest.mark.parametrize("way", [[], *([way] for way in WAYS)])
async def test_the_text_is_said_and_what_was_decided(desk: Desk, way: list[str]) -> None:
    """The one on stdout alone, the other on stderr; without a model the first there is."""
    async with open_fake(Script(tokens=3, word="yes")) as fake:
        desk.write(config_for(fake))
        async with desk.serving() as router:
            done = await desk.run("say", "hi", "--url", router.url, *way)

    assert 0 == done.returncode, done.stderr
    assert re.fullmatch(rb"(yes ?){3}\n", done.stdout), done.stdout
    assert re.fullmatch(
        rb"npu \([a-z-]+\): first token after [0-9]+ ms, ([0-9.]+ tokens/s, )?[0-9.]+ J \([a-z]+\)\n",
        done.stderr,
    ), done.stderr


@pytest.mark.parametrize("way", WAYS)
async def test_wishes_are_those_of_route(desk: Desk, way: str) -> None:
    """They decide who answers, and come back as the reason; figures are there as JSON, too."""
    async with open_fake(Script(tokens=3)) as npu, open_fake(Script(tokens=3)) as cpu:
        desk.write(config_for(npu, cpu))
        async with desk.serving() as router:
            flags = ("--url", router.url, "--target", "cpu", "--max-latency-ms", "60000", "--json")
            done = await desk.run("say", "hi", "--model", "fake", way, *flags)

    told = json.loads(done.stdout)
    assert (0, b"") == (done.returncode, done.stderr)
    assert ("cpu", "explicit-target", 3, None) == (
        told["backend"],
        told["routing_reason"],
        told["token_count"],
        told["error"],
    )
    assert told["text"]
    assert told["ttft_ms"] > 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model", "no"], b"model 'no'"),
        (["--model", "fake", "--target", "nobody"], b"nobody"),
        (["--model", "fake", "--max-latency-ms", "soon"], b"soon"),
        (["--model", "fake", "--max-power-watts", "1"], b"ollama-proxy: "),
    ],
)
async def test_what_is_refused_is_a_sentence(
    desk: Desk, way: str, flags: list[str], sentence: bytes
) -> None:
    """On stderr, and the exit code is 1."""
    async with open_fake() as fake:
        desk.write(config_for(fake))
        async with desk.serving() as router:
            done = await desk.run("say", "hi", "--url", router.url, way, *flags)

    assert (1, b"", 1) == (done.returncode, done.stdout, done.stderr.count(b"\n")), done.stderr
    assert sentence in done.stderr


@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_that_breaks_off_is_an_error(desk: Desk, way: str) -> None:
    """After what there was of it."""
    script = Script(behaviour=Behaviour.DIE_MID_STREAM, tokens=5, after_tokens=2, word="yes")
    async with open_fake(script) as fake:
        desk.write(config_for(fake))
        async with desk.serving() as router:
            done = await desk.run("say", "hi", "--url", router.url, way)

    assert (1, 1) == (done.returncode, done.stderr.count(b"\n")), done.stderr
    assert b"yes" in done.stdout


@pytest.mark.parametrize("way", WAYS)
async def test_nobody_there(desk: Desk, way: str) -> None:
    """Or somebody else: one sentence, and no traceback."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        done = [await desk.run("say", "hi", "--model", "m", "--url", url, way)]
    async with open_fake() as ollama:
        done.append(await desk.run("say", "hi", "--model", "fake", "--url", ollama.url, way))
        done.append(await desk.run("say", "hi", "--model", "m", "--url", "nonsense", way))

    for each in done:
        assert (1, b"", 1) == (each.returncode, each.stdout, each.stderr.count(b"\n")), each.stderr
        assert b"Error" not in each.stderr  # its name says nothing to whoever reads it


async def test_over_grpc_it_is_the_same(desk: Desk) -> None:
    """The text, who gave it and why; without a model the first that there is."""
    async with open_fake(Script(tokens=3)) as fake:
        desk.write(config_for(fake).replace("grpc = false", "grpc = true\ngrpc_port = 0"))
        async with desk.serving() as router:
            done = await desk.run("say", "hi", "--grpc", "--url", router.grpc)
            refused = await desk.run("say", "hi", "--grpc", "--url", router.grpc, "--model", "no")

    assert (0, b" tok tok tok\n") == (done.returncode, done.stdout)
    assert b"npu (" in done.stderr
    assert b"J (" in done.stderr
    assert (1, b"") == (refused.returncode, refused.stdout)
    assert b"model 'no' not found" in refused.stderr


async def test_over_grpc_nobody_there_is_said_in_a_sentence(desk: Desk) -> None:
    """As over the other ways."""
    done = await desk.run("say", "hi", "--grpc", "--url", "127.0.0.1:1")

    assert (1, b"") == (done.returncode, done.stdout)
    assert done.stderr.startswith(b"ollama-proxy: ")


async def test_no_model_steers_the_terminal(desk: Desk) -> None:
    """What would be obeyed is replaced where people read it; a file gets what was said."""
    async with open_fake(Script(tokens=2, word="\x1b[2Jhi")) as fake:
        desk.write(config_for(fake))
        async with desk.serving() as router:
            shown = await on_a_terminal(desk, "say", "hi", "--url", router.url)
            piped = await desk.run("say", "hi", "--url", router.url)

    assert "�[2Jhi�[2Jhi\r\n" == shown.decode()
    assert b"\x1b[2Jhi\x1b[2Jhi\n" == piped.stdout


@pytest.mark.parametrize("way", WAYS)
async def test_an_interrupt_ends_it_and_frees_the_backend(desk: Desk, way: str) -> None:
    """As Ctrl-C: exit code 130, without a traceback, and with what was decided."""
    with trio.fail_after(LIMIT_S):
        async with open_fake(SLOW) as fake, asked(desk, fake, way) as (process, _):
            process.send_signal(signal.SIGINT)
            code = await process.wait()
            assert process.stderr is not None
            said = bytes(await process.stderr.receive_some())

    assert 130 == code
    assert re.match(rb"npu \([a-z-]+\): first token", said)


@pytest.mark.parametrize("way", WAYS)
async def test_nobody_need_read_it_to_the_end(desk: Desk, way: str) -> None:
    """As before `head`: it stops in silence, and its backend is free."""
    with trio.fail_after(LIMIT_S):
        async with open_fake(SLOW) as fake, asked(desk, fake, way) as (process, _):
            assert process.stdout is not None
            await process.stdout.aclose()
            code = await process.wait()
            assert process.stderr is not None
            said = bytes(await process.stderr.receive_some())

    assert (0, b"") == (code, said)
