"""A whole router under TLS, its certificate renewed, and its users: the commands, grpcio, httpx, browsers' sockets.

Those who hear a stream hear it from a backend that never ends it: what was said is there, though nothing
follows.
"""

import argparse
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trio
from trio_websocket import open_websocket_url

from ollama_proxy.client import grpc_target, router_url
from ollama_proxy.inbound.grpc.pb import ollama_proxy_pb2 as pb
from tests.fakes.ollama import Behaviour, Script, open_fake
from tests.papers import Papers
from tests.test_cli import CHAT, Desk, Router, config_for

MODEL = "fake:latest"
UNENDING = Script(behaviour=Behaviour.HANG_MID_STREAM, after_tokens=2, tokens=9)
WAYS = ["--http", "--ws", "--grpc"]
TLS = """\
[server.tls]
cert_file = "papers/server.pem"
key_file = "papers/server.key"
client_ca_file = "{}"
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    made = Papers(tmp_path / "papers")
    made.bundle("client")
    return made


@asynccontextmanager
async def serving(
    desk: Desk, script: Script | None = None, *, mutual: bool = False
) -> AsyncIterator[Router]:
    """A router with all its doors, and a backend."""
    async with open_fake(script or Script(tokens=3)) as fake:
        config = config_for(fake, more=TLS.format("papers/ca.pem" if mutual else ""))
        desk.write(config.replace("grpc = false", "grpc_port = 0"))
        async with desk.serving() as router:
            yield router


def secure(router: Router, way: str = "--http") -> str:
    """Where one of its doors is."""
    plain = router.grpc if way == "--grpc" else router.url.removeprefix("http://")
    return f"https://{plain}"


# -- the commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_say(desk: Desk, papers: Papers, way: str) -> None:
    """The same by each way, under mutual TLS."""
    known = ("--ca-file", papers.ca_file, "--cert-file", papers.bundle("client"))
    async with serving(desk, mutual=True) as router:
        done = await desk.run("say", "hi", way, "--url", secure(router, way), *known)

    assert (0, b" tok tok tok\n") == (done.returncode, done.stdout), done.stderr


async def test_files_may_be_named_by_variables(desk: Desk, papers: Papers) -> None:
    """Once for every command."""
    async with serving(desk, mutual=True) as router:
        desk.variables = {
            "OLLAMA_PROXY_CA_FILE": papers.ca_file,
            "OLLAMA_PROXY_CERT_FILE": papers.bundle("client"),
        }
        done = await desk.run("status", "--url", secure(router))

    assert (0, b"") == (done.returncode, done.stderr)


@pytest.mark.parametrize("way", WAYS)
async def test_a_stranger_is_not_trusted(desk: Desk, papers: Papers, way: str) -> None:
    """Nothing is said to a router whose certificate nobody vouches for; why is a sentence."""
    async with serving(desk) as router:
        url = secure(router, way)
        done = await desk.run("say", "hi", "--model", MODEL, way, "--url", url)

    assert (1, b"", 1) == (done.returncode, done.stdout, done.stderr.count(b"\n")), done.stderr
    assert (b"--ca-file" if way != "--grpc" else b"CERTIFICATE_VERIFY_FAILED") in done.stderr


@pytest.mark.parametrize("way", WAYS)
async def test_plain_text_gets_nowhere(desk: Desk, papers: Papers, way: str) -> None:
    """A sentence, too."""
    async with serving(desk) as router:
        url = secure(router, way).replace("https", "http")
        done = await desk.run("say", "hi", "--model", MODEL, way, "--url", url)

    assert (1, b"", 1) == (done.returncode, done.stdout, done.stderr.count(b"\n")), done.stderr


@pytest.mark.parametrize(
    ("flag", "why"), [("--ca-file", b"cannot use"), ("--cert-file", b"and its key are expected")]
)
@pytest.mark.parametrize("way", ["--http", "--grpc"])
async def test_a_file_that_is_none(
    desk: Desk, papers: Papers, way: str, flag: str, why: bytes
) -> None:
    """It is named."""
    url = ("--url", "https://127.0.0.1:1")
    for path in ("missing.pem", papers.files.key_file):
        done = await desk.run("say", "hi", "--model", MODEL, way, *url, flag, path)

        assert (1, 1) == (done.returncode, done.stderr.count(b"\n")), done.stderr
        assert path.encode() in done.stderr
        assert why in done.stderr


def test_where_it_is_comes_from_the_configuration(
    desk: Desk, papers: Papers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whether it is under TLS."""
    desk.write(TLS.format(""))
    monkeypatch.setenv("OLLAMA_PROXY_CONFIG", str(desk.directory / "config.toml"))
    arguments = argparse.Namespace(url=None)

    assert "https://127.0.0.1:8080" == router_url(arguments)
    assert ("127.0.0.1:50051", True) == grpc_target(arguments)


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutual", [False, True])
async def test_grpcio_hears_each_token(desk: Desk, papers: Papers, mutual: bool) -> None:
    """Under TLS, and under mutual TLS."""
    own = papers.read("client.both") if mutual else None
    credentials = grpc.ssl_channel_credentials(
        papers.read("ca.pem"), private_key=own, certificate_chain=own
    )

    def hear(target: str) -> list[str]:
        with grpc.secure_channel(target, credentials) as channel:
            call: Any = channel.unary_stream(
                "/ollama_proxy.OllamaProxy/GenerateStream",
                request_serializer=pb.GenerateRequest.SerializeToString,
                response_deserializer=pb.GenerateResponse.FromString,
            )(pb.GenerateRequest(prompt="hi", model=MODEL), timeout=20)
            heard = [next(call).response for _ in range(2)]
            call.cancel()
            return heard

    async with serving(desk, UNENDING, mutual=mutual) as router:
        heard = await trio.to_thread.run_sync(hear, router.grpc)

    assert [" tok"] * 2 == heard


async def test_grpcio_without_a_certificate_is_refused(desk: Desk, papers: Papers) -> None:
    """Where one is needed: before any call."""
    credentials = grpc.ssl_channel_credentials(papers.read("ca.pem"))

    def ask(target: str) -> object:
        with grpc.secure_channel(target, credentials) as channel:
            call: Any = channel.unary_unary(
                "/ollama_proxy.OllamaProxy/ListModels",
                request_serializer=pb.ListModelsRequest.SerializeToString,
                response_deserializer=pb.ListModelsResponse.FromString,
            )
            try:
                call(pb.ListModelsRequest(), timeout=20)
            except grpc.RpcError as error:
                return error.code()
            return None

    async with serving(desk, mutual=True) as router:
        code = await trio.to_thread.run_sync(ask, router.grpc)

    assert grpc.StatusCode.UNAVAILABLE == code


async def test_a_websocket_hears_each_token(desk: Desk, papers: Papers) -> None:
    """wss:// from a real client, with its certificate."""
    async with serving(desk, UNENDING, mutual=True) as router:
        url = secure(router).replace("https", "wss") + "/v1/stream/ws"
        async with open_websocket_url(url, papers.client(known=True)) as socket:
            await socket.send_message(
                json.dumps({"request_id": "it", "model": MODEL, "prompt": "hi"})
            )
            frames = [json.loads(await socket.get_message()) for _ in range(2)]

    assert [" tok"] * 2 == [frame["token"] for frame in frames]


async def test_httpx_hears_each_token(desk: Desk, papers: Papers) -> None:
    """Over the lane, with its certificate."""
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "hi"}]}

    def hear(url: str) -> int:
        heard = b""
        with (
            httpx.Client(verify=papers.client(known=True), trust_env=False) as client,
            client.stream("POST", url + CHAT, json=body) as answer,
        ):
            for data in answer.iter_bytes():
                heard += data
                if heard.count(b" tok") == 2:
                    return answer.status_code
        return 0

    async with serving(desk, UNENDING, mutual=True) as router:
        status = await trio.to_thread.run_sync(hear, secure(router))

    assert 200 == status


# -- renewal ---------------------------------------------------------------------------------------


async def shown(router: Router, papers: Papers) -> bytes | dict[str, Any] | None:
    """The certificate that who connects now is shown."""
    host, _, port = router.url.removeprefix("http://").partition(":")
    async with trio.SSLStream(
        await trio.open_tcp_stream(host, int(port)),
        papers.client(),
        server_hostname="localhost",
        https_compatible=True,
    ) as stream:
        await stream.do_handshake()
        found: bytes | dict[str, Any] | None = stream.getpeercert(binary_form=True)
        return found


async def test_on_SIGHUP_the_certificate_is_read_anew(  # noqa: N802 - its name
    desk: Desk, papers: Papers
) -> None:
    """Without waiting for a look; a broken one changes nothing, and it is said what is wrong with it."""
    async with serving(desk) as router:
        certificates = [await shown(router, papers)]
        papers.put("server.pem")
        router.process.send_signal(signal.SIGHUP)
        await router.said(b"server.tls.cert_file: there is no certificate in")
        certificates.append(await shown(router, papers))
        papers.issue("server")
        router.process.send_signal(signal.SIGHUP)
        await router.said(b"the certificate was read anew")
        certificates.append(await shown(router, papers))

    first, kept, new = certificates
    assert (True, False) == (first == kept, first == new)


async def test_a_router_does_not_start_with_a_broken_one(desk: Desk, papers: Papers) -> None:
    """Nor in plain text instead."""
    papers.put("server.pem")
    desk.write(config_for("http://127.0.0.1:1", more=TLS.format("")))
    done = [await desk.run(*command) for command in (["serve"], ["check-config"])]

    assert [(2, b"")] * 2 == [(each.returncode, each.stdout) for each in done]
    assert all(b"server.tls.cert_file: there is no certificate" in each.stderr for each in done)
