"""Whether five times what can be served leaves as much served as before, and how soon the rest is told.

Callers come at random times whether others are served or not, as from outside; each has a deadline that
a backend's slots meet only for as many as they can serve. Goodput is whole answers within the deadline.
"""

import json
import random
import re
import time
from collections import Counter
from statistics import median

import attrs
import trio
from benching import servers
from benching.servers import Server

SLOTS = 4
SERVICE_S = 0.1
CAPACITY = SLOTS / SERVICE_S
LOADS = (0.5, 1.0, 1.5, 5.0)
DURATION_S = 10.0
DEADLINE_MS = 1000
LEAST_SHARE = 0.95
MOST_SHED_S = 0.050
CONFIG = """\
[server]
http_port = 0
[[backends]]
id = "fake"
type = "ollama"
hardware = "cpu"
endpoint = "{url}"
slots = 4
[backends.characteristics]
avg_latency_ms = 100
"""


@attrs.define
class Tally:
    """What became of callers.

    Attributes:
        good: answered whole and within the deadline.
        late: answered whole and later.
        missed: taken on, and told at the deadline that it was missed (504).
        other: anything else, by its status and code.
        shed_s: how long each that was refused waited for that.
    """

    good: int = 0
    late: int = 0
    missed: int = 0
    other: Counter[str] = attrs.field(factory=Counter)
    shed_s: list[float] = attrs.field(factory=list)


async def _call(router: Server, tally: Tally) -> None:
    body = json.dumps({"model": "fake", "messages": [{"role": "user", "content": "hi"}]}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {router.host}\r\nConnection: close\r\n"
        f"X-Max-Latency-Ms: {DEADLINE_MS}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    began = trio.current_time()
    answer = b""
    async with await trio.open_tcp_stream(router.host, router.port) as stream:
        await stream.send_all(head.encode() + body)
        async for data in stream:
            answer += data
    took = trio.current_time() - began
    match b"".join(answer.split(b" ", 2)[1:2]):
        case b"200" if took <= DEADLINE_MS / 1000:
            tally.good += 1
        case b"200":
            tally.late += 1
        case b"503" | b"429":
            tally.shed_s.append(took)
        case b"504":
            tally.missed += 1
        case _:
            tally.other[_kind(answer)] += 1


def _kind(answer: bytes) -> str:
    """Status and code of an answer, and what it says where it is none that is known."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2] or [b"no answer"]
    found = re.search(rb'"code":"(\w+)"', body)
    return f"{status[0].decode()} {found[1].decode() if found else body[:80]!r}"


async def _load(router: Server, per_second: float, seconds: float, chance: random.Random) -> Tally:
    tally = Tally()
    async with trio.open_nursery() as nursery:
        until = trio.current_time() + seconds
        at = trio.current_time()
        while at < until:
            await trio.sleep_until(at)
            nursery.start_soon(_call, router, tally)
            at += chance.expovariate(per_second)
    return tally


def measure(seconds: float = DURATION_S, loads: tuple[float, ...] = LOADS) -> bool:
    """Print what each load left served; whether the promise is kept."""
    chance = random.Random(1)  # noqa: S311 - it makes arrivals
    peak, share, slow, others = 0.0, 0.0, 0.0, 0
    with servers.fake_backend() as fake, servers.configured(CONFIG.format(url=fake.url)) as router:
        servers.instruct(fake, tokens=4, first_token_s=SERVICE_S)
        trio.run(
            _load, router, CAPACITY, min(2.0, seconds), chance
        )  # it learns what takes how long
        for times in loads:
            began = time.perf_counter()
            tally = trio.run(_load, router, CAPACITY * times, seconds, chance)
            goodput = tally.good / (time.perf_counter() - began)
            peak = max(peak, goodput)
            share = goodput / peak if peak else 0.0
            shed = sorted(tally.shed_s)
            slow = shed[int(len(shed) * 0.99)] if shed else 0.0
            waits = f"p50 {median(shed) * 1000:.1f} ms, p99 {slow * 1000:.1f} ms" if shed else "-"
            print(
                f"{times:4.1f} x capacity: {goodput:5.1f} good answers/s ({share:.0%} of the peak),"
                f" {len(shed)} shed ({waits}), {tally.late} late, {tally.missed} missed, {tally.other.total()} other"
            )
            others += tally.other.total()
            for kind, count in tally.other.items():
                print(f"      {count} were {kind}")
    kept = share >= LEAST_SHARE and slow <= MOST_SHED_S and not others
    print(
        f"at least {LEAST_SHARE:.0%} of the peak; the rest told within {MOST_SHED_S * 1000:.0f} ms;"
        " no answer but these"
    )
    return kept
