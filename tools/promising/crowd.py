"""What a crowd costs: connections held idle and active at once, and callers that do not read.

The crowd's connections are this process's; router and backend have one each. Who may not open as many
descriptors is told, and measures what it may.
"""

import resource
import selectors
import socket
import time
from contextlib import ExitStack

from benching import servers
from benching.servers import Server

IDLE = 10_000
ACTIVE = 1_000
SLOW = 64
MOST_SLOW_MIB = 1.0
SPARE = 500
CONFIG = """\
[server]
http_port = 0
max_connections = {connections}
max_connections_per_peer = {connections}
idle_timeout_s = 600
[[backends]]
id = "fake"
type = "ollama"
hardware = "cpu"
endpoint = "{url}"
slots = 1024
"""


def connect(router: Server, buffer_bytes: int = 0) -> socket.socket:
    """One of the crowd; with 0 the kernel chooses how much it takes unread."""
    connection = socket.socket()
    if buffer_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    connection.connect((router.host, router.port))
    return connection


def _post(router: Server, tokens: int) -> bytes:
    body = b'{"model":"fake","prompt":"hi","options":{"num_predict":%d}}' % tokens
    return (
        f"POST /api/generate HTTP/1.1\r\nHost: {router.host}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def _answers(connections: list[socket.socket], mark: bytes, patience_s: float) -> int:
    """How many say something that ends so, in time."""
    done = 0
    tails = dict.fromkeys(connections, b"")
    until = time.perf_counter() + patience_s
    with selectors.DefaultSelector() as selector:
        for each in connections:
            selector.register(each, selectors.EVENT_READ)
        while selector.get_map() and time.perf_counter() < until:
            for key, _ in selector.select(1.0):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)  # noqa: S101 - for the types
                data = connection.recv(65536)
                tails[connection] = (tails[connection] + data)[-4096:]
                if mark in tails[connection] or not data:
                    done += mark in tails[connection]
                    selector.unregister(connection)
    return done


def measure(idle: int = IDLE, active: int = ACTIVE, slow: int = SLOW) -> bool:
    """Print what each crowd cost; whether the promise is kept."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = idle + 2 * active + SPARE
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, hard)), hard))
    try:
        return _measure(idle, active, slow)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _measure(idle: int, active: int, slow: int) -> bool:
    config = CONFIG.format(url="{url}", connections=idle + active + slow + SPARE)
    with (
        servers.fake_backend() as fake,
        servers.configured(config.format(url=fake.url)) as router,
        ExitStack() as stack,
    ):
        servers.instruct(fake, tokens=20, interval_s=0.2)
        before = servers.memory_mib(router.pid) or 0.0
        asking = f"GET /healthz HTTP/1.1\r\nHost: {router.host}\r\n\r\n".encode()
        crowd = []
        for _ in range(idle):
            crowd.append(stack.enter_context(connect(router)))
            if len(crowd) % 500 == 0:
                _knock(crowd[-500:], asking)
        idle_mib = (servers.memory_mib(router.pid) or 0.0) - before
        busy = [stack.enter_context(connect(router)) for _ in range(active)]
        for each in busy:
            each.sendall(_post(router, 20))
        answered = _answers(busy, b'"done":true', 120.0)
        held = _knock(crowd, asking)
        print(
            f"{idle} idle: +{idle_mib:.0f} MiB; beside them {answered} of {active} active ones had"
            f" their whole answers, and then {held} of the idle ones another"
        )
        for each in (*crowd, *busy):
            each.close()
        return _slow(fake, router, stack, slow) and (answered, held) == (active, idle)


def _knock(connections: list[socket.socket], asking: bytes) -> int:
    for each in connections:
        each.sendall(asking)
    return _answers(connections, b" 200 ", 60.0)


def _slow(fake: Server, router: Server, stack: ExitStack, slow: int) -> bool:
    servers.instruct(fake, tokens=1_000_000, token_bytes=2000)
    time.sleep(1.0)  # noqa: TID251 - who has left is to be gone
    before = servers.memory_mib(router.pid) or 0.0
    servers.forget_peak(router.pid)
    for _ in range(slow):
        stack.enter_context(connect(router, 4096)).sendall(_post(router, 1_000_000))
    time.sleep(5.0)  # noqa: TID251 - what is unread is to pile up
    each_mib = (servers.peak_mib(router.pid) - before) / slow
    print(f"{slow} that do not read: {each_mib:.2f} MiB each (at most {MOST_SLOW_MIB:g})")
    return each_mib <= MOST_SLOW_MIB
