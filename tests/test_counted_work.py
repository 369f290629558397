"""What the hot path may cost, in work that can be counted: the same on any machine, at any load.

Limits are a tenth over what was counted when they were set, with Python 3.11. Whoever raises one
says in the commit what users have of it.
"""

import functools
import gc
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from ollama_proxy.config import Router
from ollama_proxy.policy.fleet import BackendType
from tests.counted import Work, counted_calls
from tests.lockstep import Backend, Client, open_backend
from tests.routers import Owner, backend, configured, running

REQUESTS = 20
TOKENS = 20
WARM = 400  # more than any history keeps

pytestmark = pytest.mark.usefixtures("in_process")

Visit = Callable[[Client], None]


@asynccontextmanager
async def routed(*, names: int = 1, models: int = 1) -> AsyncIterator[tuple[Owner, Backend]]:
    """A router that knows one backend under so many names, and that so many models."""
    with open_backend("fake", *(f"other-{number}" for number in range(models - 1))) as behind:
        one = backend("npu", behind.url, type=BackendType.OPENAI, slots=8)
        fleet = [attrs.evolve(one, id=f"npu-{number}") for number in range(names)]
        # Nothing but requests happens while they are counted.
        config = attrs.evolve(configured(*fleet), router=Router(health_interval_s=3600))
        async with running(config) as owner:
            yield owner, behind


async def count(owner: Owner, behind: Backend, visit: Visit, *, idle: int = 0) -> Work:
    """What the router does for a visit of one client that is known already.

    Args:
        owner: of the router.
        behind: its backend.
        visit: what the client does.
        idle: how many other connections are open meanwhile.
    """

    def call() -> None:
        others = [Client(owner.url, behind) for _ in range(idle)]
        try:
            with Client(owner.url, behind) as client:
                client.stream(2)
                client.stream(2)
                trio.from_thread.run_sync(begin.set)
                visit(client)
        finally:
            for other in others:
                other.close()

    async def watch(work: Work) -> None:
        await begin.wait()
        trio.lowlevel.add_instrument(work)

    # One after the other: an instrument's calls are calls, too.
    counted = Work()
    for work in (Work(), counted):
        begin = trio.Event()
        if work is counted:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, work)
                await trio.to_thread.run_sync(call)
            trio.lowlevel.remove_instrument(work)
        else:
            with counted_calls(work):
                await trio.to_thread.run_sync(call)
            counted.calls = work.calls
    return counted


def stream(client: Client, *, requests: int, tokens: int) -> None:
    """Ask so often for so long an answer."""
    for _ in range(requests):
        client.stream(tokens)


async def added(owner: Owner, behind: Backend, less: Visit, more: Visit) -> Work:
    """What the greater visit takes beyond the lesser: what both have in common does not count."""
    a, b = await count(owner, behind, less), await count(owner, behind, more)
    return Work(calls=b.calls - a.calls, steps=b.steps - a.steps, polls=b.polls - a.polls)


def asking(requests: int, tokens: int) -> Visit:
    """A visit."""
    return functools.partial(stream, requests=requests, tokens=tokens)


async def test_a_request_takes_no_more_work_than_it_did() -> None:
    """From its first byte to its place in the books, a streamed answer of one token."""
    async with routed() as (owner, behind):
        work = await added(owner, behind, asking(REQUESTS, 1), asking(2 * REQUESTS, 1))

    assert work.calls / REQUESTS <= 1125
    assert work.steps / REQUESTS <= 6.5
    assert work.polls / REQUESTS <= 6


async def test_a_token_takes_no_more_work_than_it_did() -> None:
    """Of a stream that passes unchanged: one poll, and one step of the pump."""
    async with routed() as (owner, behind):
        work = await added(owner, behind, asking(REQUESTS, 1), asking(REQUESTS, 1 + TOKENS))

    tokens = REQUESTS * TOKENS
    assert work.calls / tokens <= 83
    assert work.steps / tokens <= 1.2
    assert work.polls / tokens <= 1.2


async def calls_a_request(*, names: int = 1, models: int = 1, idle: int = 0) -> float:
    """Calls for one request, where the router has so much else to know."""
    async with routed(names=names, models=models) as (owner, behind):
        a = await count(owner, behind, asking(REQUESTS, 1), idle=idle)
        b = await count(owner, behind, asking(2 * REQUESTS, 1), idle=idle)
    return (b.calls - a.calls) / REQUESTS


async def test_each_further_backend_costs_a_handful_of_calls() -> None:
    """A choice looks at every backend once, and at nothing twice."""
    few, many = await calls_a_request(names=4), await calls_a_request(names=44)

    assert (many - few) / 40 <= 3


async def test_models_cost_a_request_nothing() -> None:
    """However many a backend lists, a model is looked up, not looked for."""
    few, many = await calls_a_request(models=2), await calls_a_request(models=2000)

    assert many <= 1.15 * few


async def test_idle_connections_cost_a_request_nothing() -> None:
    """Whoever is connected and silent is asked nothing."""
    few, many = await calls_a_request(idle=1), await calls_a_request(idle=200)

    assert many <= 1.15 * few


async def test_a_request_leaves_nothing_behind() -> None:
    """Once the last requests' histories are full, as many blocks of memory are in use as before."""

    def blocks() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    def call() -> tuple[int, int]:
        with Client(owner.url, behind) as client:
            stream(client, requests=WARM, tokens=1)
            before = trio.from_thread.run_sync(blocks)
            stream(client, requests=WARM, tokens=1)
            return before, trio.from_thread.run_sync(blocks)

    async with routed() as (owner, behind):
        before, after = await trio.to_thread.run_sync(call)

    assert (after - before) / WARM <= 0.5
