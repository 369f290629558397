"""Whether SIGTERM under load cuts no answer that can end in time, and how soon the process is gone.

Once with streams that end within `drain_s`, once with a caller that has stopped reading beside them.
"""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import psutil
from benching import servers
from benching.servers import Server

DRAIN_S = 5.0
MORE_S = 2.0
STREAMS = 32
TOKENS = 30
INTERVAL_S = 0.1
CONFIG = """\
[server]
http_port = 0
drain_s = {drain_s}
[[backends]]
id = "fake"
type = "ollama"
hardware = "cpu"
endpoint = "{url}"
slots = 64
"""


def _ask(router: Server, tokens: int, *, buffer_bytes: int = 0) -> socket.socket:
    connection = socket.socket()
    if buffer_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    connection.connect((router.host, router.port))
    body = b'{"model":"fake","prompt":"hi","options":{"num_predict":%d}}' % tokens
    head = f"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.replace("Host: x", f"Host: {router.host}").encode() + body)
    return connection


def _read(connection: socket.socket) -> bytes:
    answer = b""
    with suppress(OSError):
        while data := connection.recv(65536):
            answer += data
    return answer


def _endure(what: str, stuck: int, drain_s: float, streams: int) -> bool:
    with servers.fake_backend() as fake:
        config = CONFIG.format(url=fake.url, drain_s=drain_s)
        with servers.configured(config) as router, ExitStack() as stack:
            # Who wants fewer says so; the others never end.
            servers.instruct(fake, tokens=1_000_000, interval_s=INTERVAL_S * drain_s / DRAIN_S)
            asked = [stack.enter_context(_ask(router, TOKENS)) for _ in range(streams)]
            for connection in asked:
                connection.recv(1, socket.MSG_PEEK)
            servers.instruct(fake, tokens=1_000_000, token_bytes=10_000)
            for _ in range(stuck):
                slow = stack.enter_context(_ask(router, 1_000_000, buffer_bytes=4096))
                slow.recv(1, socket.MSG_PEEK)
            process = psutil.Process(router.pid)
            with ThreadPoolExecutor(streams) as threads:
                answers = [threads.submit(_read, each) for each in asked]
                os.kill(router.pid, signal.SIGTERM)
                began = time.perf_counter()
                with suppress(psutil.TimeoutExpired):
                    process.wait(drain_s + 20.0)
                took = time.perf_counter() - began
                whole = sum(b'"done":true' in each.result() for each in answers)
    print(
        f"{what}: {whole} of {streams} answers whole; gone after {took:.2f} s"
        f" (at most drain_s = {drain_s:g} s + {MORE_S:g})"
    )
    return whole == streams and took <= drain_s + MORE_S


def measure(drain_s: float = DRAIN_S, streams: int = STREAMS) -> bool:
    """Print how each end went; whether the promise is kept by both."""
    cases: dict[str, int] = {"under load": 0, "and with a caller that does not read": 1}
    kept = [_endure(what, stuck, drain_s, streams) for what, stuck in cases.items()]
    return all(kept)
