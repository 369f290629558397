"""What a user would pick instead, from its own packages, each in a throw-away environment.

Environments are made once, in the user's cache, and are used again; where a rival would keep files in
the home directory, it has one that goes with it.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from benching.servers import GOODBYE_MAX_S, Server

READY_MAX_S = 90.0
LOOPBACK = "127.0.0.1"
PATH = "/v1/chat/completions"
ASK = b'{"model":"fake","messages":[{"role":"user","content":"hello"}]}'


@attrs.frozen(kw_only=True)
class Peer:
    """A rival, and how it is started.

    Attributes:
        requirement: what pip installs, "" for nothing.
        start: the commands that run it, by its environment, a directory of its own, the backend and
            its port; the first one's process is the one that is measured.
    """

    requirement: str = ""
    start: Callable[[Path, Path, str, int], Sequence[Sequence[str]]]
    variables: Mapping[str, str] = {}


class NotHad(Exception):  # noqa: N818 - read as a sentence
    """A rival cannot be had here."""


# -- each of them ----------------------------------------------------------------------------------


def _litellm(place: Path, own: Path, backend: str, port: int) -> Sequence[Sequence[str]]:
    (own / "config.yaml").write_text(
        "model_list:\n  - model_name: fake\n    litellm_params:\n      model: openai/fake\n"
        f"      api_base: {backend}/v1\n      api_key: none\n"
    )
    flags = ["--host", LOOPBACK, "--port", str(port), "--num_workers", "1"]
    return [[str(place / "bin/litellm"), "--config", str(own / "config.yaml"), *flags]]


def _herd(place: Path, _: Path, backend: str, port: int) -> Sequence[Sequence[str]]:
    herd, node = place / "bin/herd", place / "bin/herd-node"
    return [
        [str(herd), "--host", LOOPBACK, "--port", str(port), "--log-level", "ERROR"],
        [
            *(str(node), "--node-id", "here", "--ollama-host", backend),
            *("--router-url", f"http://{LOOPBACK}:{port}"),
        ],
    ]


def _nginx(_: Path, own: Path, backend: str, port: int) -> Sequence[Sequence[str]]:
    for name in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
        (own / name).mkdir()
    temporary = "".join(
        f"{name}_temp_path {own}/{name}; " for name in ("proxy", "fastcgi", "uwsgi", "scgi")
    )
    (own / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {own}/pid; error_log stderr error;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; client_max_body_size 64m; client_body_temp_path {own}/body;\n"
        f"{temporary}\n"
        f"upstream backend {{ server {backend.removeprefix('http://')}; keepalive 512; }}\n"
        f"server {{ listen {LOOPBACK}:{port}; location / {{ proxy_pass http://backend;\n"
        'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}\n}\n'
    )
    return [[_nginx_program(), "-p", str(own), "-c", str(own / "nginx.conf")]]


def _bare(_: Path, __: Path, backend: str, port: int) -> Sequence[Sequence[str]]:
    return [[sys.executable, str(Path(__file__).with_name("bare.py")), backend, str(port)]]


PEERS: Mapping[str, Peer] = {
    "litellm": Peer(
        requirement="litellm[proxy]==1.106.2",
        start=_litellm,
        variables={
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
            "LITELLM_TELEMETRY": "False",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
    ),
    "herd": Peer(requirement="ollama-herd==0.11.4", start=_herd),
    "nginx": Peer(start=_nginx),
    "bare": Peer(start=_bare),
}


# -- having them -----------------------------------------------------------------------------------


def _cache() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "ollama-proxy/peers"


def _nginx_program() -> str:
    """nginx, or the one of Debian's package, unpacked without being installed.

    Raises:
        NotHad: there is none.
    """
    if found := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"):
        return found
    place = _cache() / "nginx"
    program = place / "usr/sbin/nginx"
    if not program.exists():
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            fetched = subprocess.run(
                ["apt-get", "-qq", "download", "nginx"],
                cwd=directory,
                check=False,
                stderr=subprocess.DEVNULL,
            )
            if fetched.returncode:
                raise NotHad("nginx is not installed, and Debian's package cannot be had")
            for package in Path(directory).glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", str(package), str(place)], check=True)
    return str(program)


def _environment(name: str, requirement: str) -> Path:
    """A virtual environment with a rival in it.

    Raises:
        NotHad: pip cannot install it.
    """
    place = _cache() / f"{name}-{requirement.rpartition('==')[2]}"
    if not requirement or (place / "complete").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    installed = subprocess.run(
        [str(place / "bin/pip"), "install", "-q", "--disable-pip-version-check", requirement],
        check=False,
        stderr=subprocess.DEVNULL,
    )
    if installed.returncode:
        raise NotHad(f"{requirement} cannot be installed")
    (place / "complete").touch()
    return place


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind((LOOPBACK, 0))
        return int(trial.getsockname()[1])


@contextmanager
def _process(command: Sequence[str], variables: Mapping[str, str]) -> Iterator[int]:
    """A process that says nothing, from its start to its end."""
    with subprocess.Popen(
        command,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(GOODBYE_MAX_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_ready(port: int, name: str) -> None:
    """Until it answers a chat.

    Raises:
        NotHad: it does not.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{LOOPBACK}:{port}{PATH}", ASK, headers)
    until_ns = time.monotonic_ns() + int(READY_MAX_S * 1e9)
    said = "nothing"
    while time.monotonic_ns() < until_ns:
        try:
            with opener.open(request, timeout=5.0) as answer:
                answer.read()
        except OSError as fault:
            said = str(fault)
            time.sleep(0.2)  # noqa: TID251 - another process is waited for
        else:
            return
    raise NotHad(f"{name} does not serve: {said}")


@contextmanager
def running(name: str, backend: Server) -> Iterator[Server]:
    """A rival in front of `backend`, once it answers.

    Raises:
        NotHad: it cannot be had, or does not answer.
    """
    peer = PEERS[name]
    place = _environment(name, peer.requirement)
    with ExitStack() as stack:
        own = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peer-")))
        port = _free_port()
        variables = {**peer.variables, "HOME": str(own)}
        pids = [
            stack.enter_context(_process(command, variables))
            for command in peer.start(place, own, backend.url, port)
        ]
        _wait_ready(port, name)
        yield Server(host=LOOPBACK, port=port, pid=pids[0])
