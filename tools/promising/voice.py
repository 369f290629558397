"""A voice assistant beside a batch job on one slot: real processes, a scripted backend.

The same voice three times: alone; beside a batch that always keeps a hundred requests waiting, with
priorities; and beside that batch with none, which is first in, first out.
"""

import json
import random
import time
from collections.abc import Mapping
from functools import partial
from statistics import median

import attrs
import httpx
import trio
from benching import servers
from benching.servers import Server

VOICES = 150
VOICES_IN_LINE = 10  # each waits for seconds
PAUSE_S = (0.9, 1.5)
BATCH = 100
FIRST_TOKEN_S = 0.1
TOKENS = 8
MOST_RATIO = 1.2
LEAST_GAIN = 20.0
RELEASE_MAX_S = 0.05
URL = "/v1/chat/completions"
CONFIG = """
[server]
http_port = 0
[observability]
access_log = false
[scheduler]
queue_capacity = 1000
[[backends]]
id = "one"
hardware = "nvidia"
endpoint = "{url}"
slots = 1
[backends.characteristics]
avg_latency_ms = 100
"""


@attrs.define
class Heard:
    """What a voice heard. Seconds; `sent` is by CLOCK_MONOTONIC, which all processes share."""

    first_s: list[float] = attrs.field(factory=list)
    sent: list[float] = attrs.field(factory=list)
    failed: int = 0
    batch_served: int = 0
    batch_failed: int = 0


def percentile(values: list[float], share: float) -> float:
    """The value that so large a share does not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def _body(*, stream: bool, tokens: int) -> dict[str, object]:
    message = {"role": "user", "content": "hello"}
    return {"model": "fake", "stream": stream, "max_tokens": tokens, "messages": [message]}


async def _speak(client: httpx.AsyncClient, heard: Heard, headers: Mapping[str, str]) -> None:
    """One request of the voice: from its first byte out to its first token in."""
    sent = time.monotonic_ns() / 1e9
    body = _body(stream=True, tokens=TOKENS)
    async with client.stream("POST", URL, json=body, headers=headers) as answer:
        first_s = None
        async for chunk in answer.aiter_raw():
            if first_s is None and b"content" in chunk:
                first_s = time.monotonic_ns() / 1e9 - sent
        if first_s is None:
            heard.failed += 1
            return
    heard.first_s.append(first_s)
    heard.sent.append(sent)


async def _toil(client: httpx.AsyncClient, heard: Heard, headers: Mapping[str, str]) -> None:
    """One place of the batch: as soon as a request is answered, the next one is sent."""
    while True:
        answer = await client.post(URL, json=_body(stream=False, tokens=1), headers=headers)
        if answer.status_code == httpx.codes.OK:
            heard.batch_served += 1
        else:
            heard.batch_failed += 1


def _heard(router: Server, *, voices: int, batch: int, priorities: bool = True) -> Heard:
    """What so many requests of a voice heard beside so many of a batch."""
    return trio.run(partial(_listen, router, voices=voices, batch=batch, priorities=priorities))


async def _listen(router: Server, *, voices: int, batch: int, priorities: bool) -> Heard:
    heard = Heard()
    chance = random.Random(1)  # noqa: S311 - it spaces requests
    voice_headers = {"X-Priority": "critical"} if priorities else {}
    batch_headers = {"X-Priority": "best-effort"} if priorities else {}
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(
            base_url=router.url, timeout=120, trust_env=False, limits=limits
        ) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(batch):
            nursery.start_soon(_toil, client, heard, batch_headers)
        if batch:
            await trio.sleep(3)  # until the line is as long as it gets
        for _ in range(voices):
            await _speak(client, heard, voice_headers)
            await trio.sleep(chance.uniform(*PAUSE_S))
        nursery.cancel_scope.cancel()
    return heard


def _released(fake: Server, sent: list[float]) -> list[float]:
    """How long after each voice's request the backend saw a batch request's connection close."""
    log = httpx.get(f"{fake.url}/fake/log", trust_env=False, timeout=60).json()
    left = sorted(entry["client_left_s"] for entry in log if entry["client_left_s"] is not None)
    waits = []
    for at in sent:
        after = next((gone - at for gone in left if gone >= at), None)
        if after is not None and after < FIRST_TOKEN_S:
            waits.append(after)
    return waits


def measure() -> bool:
    """Print what the voice heard; whether the promises are kept."""
    with servers.fake_backend() as fake:
        servers.instruct(fake, tokens=TOKENS, interval_s=0.01, first_token_s=FIRST_TOKEN_S)
        with servers.configured(CONFIG.format(url=fake.url)) as router:
            idle = _heard(router, voices=VOICES // 2, batch=0)
            servers.instruct(fake, tokens=TOKENS, interval_s=0.01, first_token_s=FIRST_TOKEN_S)
            ours = _heard(router, voices=VOICES, batch=BATCH)
            released = _released(fake, ours.sent)
            calibration = httpx.get(f"{router.url}/backends", trust_env=False).json()[0]
            fifo = _heard(router, voices=VOICES_IN_LINE, batch=BATCH, priorities=False)
    for name, heard in (("alone", idle), ("beside the batch", ours), ("first in first out", fifo)):
        first_s = heard.first_s
        print(
            f"{name:>19}: voice p50 {median(first_s) * 1000:7.1f} ms, p99"
            f" {percentile(first_s, 0.99) * 1000:7.1f} ms, of {len(first_s)} ({heard.failed}"
            f" failed); batch served {heard.batch_served}, failed {heard.batch_failed}"
        )
    ratio = percentile(ours.first_s, 0.99) / percentile(idle.first_s, 0.99)
    gain = percentile(fifo.first_s, 0.99) / percentile(ours.first_s, 0.99)
    print(f"p99 beside the batch / alone: {ratio:.2f} (at most {MOST_RATIO})")
    print(f"p99 first in first out / beside the batch: {gain:.0f} (at least {LEAST_GAIN:.0f})")
    print(
        f"preempted work's connection was closed after p50 {median(released) * 1000:.1f} ms, most"
        f" {max(released) * 1000:.1f} ms, of {len(released)} (at most {RELEASE_MAX_S * 1000:.0f})"
    )
    print(f"calibration: {json.dumps(calibration['calibration'])}")
    return ratio <= MOST_RATIO and gain >= LEAST_GAIN and max(released) <= RELEASE_MAX_S
