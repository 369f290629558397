"""What floods of each door cost everybody else: the router's memory, and how long others wait.

The flood is a process of its own, as is the router; this one asks /healthz meanwhile. A flood ends
when all is sent or the router has cut it off, which most floods are made for.
"""

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hpack
import httpx
from benching import load, servers
from benching.load import Door, Load
from benching.servers import Server

MOST_MIB = 64.0
# What unread messages of all gRPC connections may take together, and some for the rest.
MOST_UNREAD_MIB = 256.0 + 16.0
MOST_MS = 250.0
SILENCE_S = 5.0
CALLS_AT_ONCE = 100
CONFIG = """\
[server]
http_port = 0
[[backends]]
id = "fake"
type = "ollama"
hardware = "cpu"
endpoint = "{url}"
"""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + load.http2_frame(load.SETTINGS, 0, 0)
PRIORITY, CONTINUATION = 2, 9
SETTINGS_VALUE = (4).to_bytes(2, "big") + (65_536).to_bytes(4, "big")
NO_WINDOW = (4).to_bytes(2, "big") + (0).to_bytes(4, "big")


def _head(path: str = load.GRPC_METHOD) -> bytes:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
    return encoder.encode([
        *fields.items(),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ])


def _call(stream: int, flags: int = load.END_HEADERS) -> bytes:
    return load.http2_frame(load.HEADERS, flags, stream, _head())


# -- the floods: pieces of bytes -------------------------------------------------------------------


def resets() -> Iterator[bytes]:
    """Calls that are taken back at once."""
    yield HELLO
    for stream in range(1, 40_001, 2):
        yield _call(stream) + load.http2_frame(load.RESET, 0, stream, (8).to_bytes(4, "big"))


def pings() -> Iterator[bytes]:
    """Pings of which no answer is read."""
    yield HELLO
    for _ in range(2000):
        yield load.http2_frame(load.PING, 0, 0, bytes(8)) * 100


def settings() -> Iterator[bytes]:
    """Settings, again and again."""
    yield HELLO
    for _ in range(1000):
        yield load.http2_frame(load.SETTINGS, 0, 0, SETTINGS_VALUE) * 100


def priorities() -> Iterator[bytes]:
    """Priorities of calls that there are not."""
    yield HELLO
    for stream in range(1, 2201, 2):
        yield load.http2_frame(PRIORITY, 0, stream, bytes(5))


def continuations() -> Iterator[bytes]:
    """A head without an end."""
    yield HELLO + _call(1, flags=0)
    for _ in range(1000):
        yield load.http2_frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 2000)


def unfinished() -> Iterator[bytes]:
    """As many calls as may be, each with most of a message of 4 MiB."""
    yield HELLO
    piece = load.http2_frame(load.DATA, 0, 1, bytes(16_000))
    for at in range(CALLS_AT_ONCE):
        stream = 2 * at + 1
        yield _call(stream) + load.http2_frame(
            load.DATA, 0, stream, b"\0" + (4 * 2**20 - 100).to_bytes(4, "big")
        )
        for _ in range(250):
            yield piece[:5] + stream.to_bytes(4, "big") + piece[9:]


def windowless() -> Iterator[bytes]:
    """Calls of which no answer may be sent."""
    yield HELLO + load.http2_frame(load.SETTINGS, 0, 0, NO_WINDOW)
    message = load.protobuf_text(1, "hello") + load.protobuf_text(2, "fake")
    body = b"\0" + len(message).to_bytes(4, "big") + message
    for at in range(CALLS_AT_ONCE):
        stream = 2 * at + 1
        yield _call(stream) + load.http2_frame(load.DATA, load.END_STREAM, stream, body)


def _frame(kind: int, payload: bytes = b"") -> bytes:
    """A client's frame of a WebSocket, masked with zeros."""
    small, medium = 126, 2**16
    size = len(payload)
    if size < small:
        told = bytes([0x80 | size])
    elif size < medium:
        told = b"\xfe" + size.to_bytes(2, "big")
    else:
        told = b"\xff" + size.to_bytes(8, "big")
    return bytes([kind]) + told + bytes(4) + payload


def socket_pings() -> Iterator[bytes]:
    """A WebSocket's pings of which no answer is read."""
    for _ in range(2000):
        yield _frame(0x89) * 100


def fragments() -> Iterator[bytes]:
    """A message in pieces of nothing."""
    yield _frame(0x01)
    for _ in range(5000):
        yield _frame(0x00) * 100


def messages() -> Iterator[bytes]:
    """Large messages of which no answer is read."""
    for _ in range(100):
        yield _frame(0x81, b'{"request_id":"' + b"x" * (4 * 2**20 - 100) + b'"}')


def requests() -> Iterator[bytes]:
    """A thousand requests of a socket at once."""
    for number in range(1000):
        asked = b'{"request_id":"%d","model":"fake","prompt":"hello"}' % number
        yield _frame(0x81, asked)


GRPC: Mapping[str, Callable[[], Iterator[bytes]]] = {
    each.__name__: each
    for each in (resets, pings, settings, priorities, continuations, unfinished, windowless)
}
SOCKET: Mapping[str, Callable[[], Iterator[bytes]]] = {
    each.__name__: each for each in (socket_pings, fragments, messages, requests)
}


def flood(name: str, host: str, port: int) -> None:
    """Send one, without reading, until it is cut off or nothing more is taken."""
    with socket.create_connection((host, port), timeout=SILENCE_S) as connection:
        if name in SOCKET:
            load.shake_hands(
                Load(host=host, port=port, path="/v1/stream/ws", door=Door.SOCKET), connection
            )
        with contextlib.suppress(OSError):
            for piece in (GRPC | SOCKET)[name]():
                connection.sendall(piece)
            time.sleep(1.0)  # noqa: TID251 - what was sent is to be worked through


# -- the measure -----------------------------------------------------------------------------------


def _probed(router: Server, process: "subprocess.Popen[bytes]") -> list[float]:
    """Milliseconds of each /healthz while a flood goes on."""
    took = []
    with httpx.Client(base_url=router.url, trust_env=False, timeout=30.0) as client:
        while process.poll() is None:
            begun_ns = time.monotonic_ns()
            client.get("/healthz").raise_for_status()
            took.append((time.monotonic_ns() - begun_ns) / 1e6)
    return took


def _endure(router: Server, name: str) -> bool:
    before = servers.memory_mib(router.pid) or 0.0
    servers.forget_peak(router.pid)
    port = router.grpc_port if name in GRPC else router.port
    command = [sys.executable, __file__, name, router.host, str(port)]
    paths = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}) as process:
        took = _probed(router, process)
    grown = servers.peak_mib(router.pid) - before
    most_mib = MOST_UNREAD_MIB if name == unfinished.__name__ else MOST_MIB
    print(
        f"{name:>14}: memory +{grown:5.1f} MiB at its peak (at most {most_mib:g}); others waited p50"
        f" {statistics.median(took):5.1f} ms, most {max(took):6.1f} ms (at most {MOST_MS:g})"
    )
    return grown <= most_mib and max(took) <= MOST_MS


def measure() -> bool:
    """Print what each flood cost; whether the promise is kept by all."""
    with servers.fake_backend() as fake, servers.configured(CONFIG.format(url=fake.url)) as router:
        servers.instruct(fake, tokens=50, interval_s=0.01)
        kept = [_endure(router, name) for name in (*GRPC, *SOCKET)]
    return all(kept)


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
    flood(sys.argv[1], sys.argv[2], int(sys.argv[3]))
