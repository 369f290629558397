"""The servers under measure, each a process that says `ready http=HOST:PORT` and ends on SIGTERM."""

import json
import os
import selectors
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import IO
from urllib.parse import urlsplit

import attrs
import psutil

ROOT = Path(__file__).resolve().parents[2]
OURS = (sys.executable, "-m", "ollama_proxy", "serve")
READY_MAX_S = 60.0
GOODBYE_MAX_S = 20.0

SERVER = """\
[server]
http_port = 0
"""
BACKEND = """
[[backends]]
id = "{id}"
type = "{kind}"
hardware = "cpu"
endpoint = "{url}"
slots = {slots}
[backends.characteristics]
power_watts = 10.0
avg_latency_ms = 100
"""


@attrs.frozen(kw_only=True)
class Server:
    """Where a server is.

    Attributes:
        grpc_port: where it speaks gRPC, 0 when nowhere.
        pid: its process, 0 when unknown.
        ready_s: from its start to its readiness; None when somebody else started it.
    """

    host: str
    port: int
    grpc_port: int = 0
    pid: int = 0
    ready_s: float | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}:{self.port}"


def located(url: str) -> Server:
    """A server that runs already, with its process if it may be seen."""
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    if parts.scheme != "http" or host is None or port is None:
        raise ValueError(f"{url}: say http://HOST:PORT")
    try:
        listening = [
            each.pid
            for each in psutil.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port
        ]
    except psutil.AccessDenied:
        listening = []
    return Server(host=host, port=port, pid=next((pid for pid in listening if pid), 0))


@contextmanager
def started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Server]:
    """A server from its readiness to its end.

    Raises:
        RuntimeError: it did not become ready; the text holds the command.
    """
    start_ns = time.monotonic_ns()
    with (
        # What it logs costs it what it costs, but shall not be drawn on a terminal meanwhile.
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **environment},
        ) as process,
    ):
        try:
            line = _first_line(process.stdout)
            ready_s = (time.monotonic_ns() - start_ns) / 1e9
            words = dict(word.split("=", 1) for word in line.split() if "=" in word)
            host, _, port = words.get("http", "").rpartition(":")
            if not port.isdigit():
                log.seek(0)
                said = line + log.read()[-2000:]
                raise RuntimeError(f"not ready: {shlex.join(command)} said {said!r}")
            grpc_port = words.get("grpc", "").rpartition(":")[2]
            yield Server(
                host=host,
                port=int(port),
                grpc_port=int(grpc_port) if grpc_port.isdigit() else 0,
                pid=process.pid,
                ready_s=ready_s,
            )
        finally:
            process.terminate()
            try:
                process.wait(GOODBYE_MAX_S)
            except subprocess.TimeoutExpired:
                process.kill()
                print(
                    f"killed, since SIGTERM did not end it: {shlex.join(command)}", file=sys.stderr
                )


def _first_line(output: IO[str] | None) -> str:
    """What a server says first, "" if it stays silent; the rest is read and dropped."""
    if output is None:
        return ""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        line = output.readline() if selector.select(READY_MAX_S) else ""
    # A full pipe would stop the server in the middle of a measurement.
    Thread(target=deque, args=(output, 0), daemon=True).start()
    return line


@contextmanager
def fake_backend() -> Iterator[Server]:
    """The backend that every path ends at."""
    with started([sys.executable, str(ROOT / "tools" / "fake-ollama")], {}) as server:
        yield server


@contextmanager
def router(
    command: Sequence[str],
    backend: Server,
    *,
    backends: int,
    slots: int,
    door: str = "",
    kind: str = "openai",
) -> Iterator[Server]:
    """A router that knows `backend` under as many names as wanted.

    Args:
        command: starts it.
        backend: what is behind it.
        backends: under how many names.
        slots: of each.
        door: goes into [server].
        kind: the dialect that the backend is spoken to in.
    """
    names = ["fake"] if backends == 1 else [f"fake-{number}" for number in range(backends)]
    config = "".join(
        BACKEND.format(id=name, kind=kind, url=backend.url, slots=slots) for name in names
    )
    with configured(SERVER + door + config, command) as server:
        yield server


@contextmanager
def configured(config: str, command: Sequence[str] = OURS) -> Iterator[Server]:
    """A router with a configuration, on any free port."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        path = Path(directory) / "config.toml"
        path.write_text(config)
        paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            "PYTHONPATH": os.pathsep.join(paths),
            # A measured router must not take the names of the one that this user runs.
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={directory}/no-bus",
        }
        ports = ["--http-port", "0", "--grpc-port", "0"]
        with started([*command, "--config", str(path), *ports], environment) as server:
            yield server


def instruct(fake: Server, **script: object) -> None:
    """Give the fake backend a fresh log and a new script.

    Raises:
        OSError: it did not take it.
    """
    for path, body in (("/fake/reset", b""), ("/fake/script", json.dumps(script).encode())):
        # Loopback never goes through a proxy of the environment.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(fake.url + path, data=body, timeout=READY_MAX_S) as answer:
            answer.read()


def memory_mib(pid: int) -> float | None:
    """Resident memory of a process; None when it cannot be seen."""
    try:
        return float(psutil.Process(pid).memory_info().rss) / 2**20 if pid else None
    except psutil.Error:
        return None


def forget_peak(pid: int) -> bool:
    """Let the kernel count a process's peak memory from now on; False when we may not."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_mib(pid: int) -> float:
    """Most resident memory of a process since `forget_peak`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    words = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(words["VmHWM"].split()[0]) / 1024
