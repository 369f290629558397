"""Clients that ask without a pause for as long as a test goes on, and what came of it."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import httpx
import trio

from tests.real.envoys import chat
from tests.real.programs import Envoy
from tests.routers import CHAT

WORKERS = 6


@attrs.define
class Outcome:
    """What came of the requests so far.

    Attributes:
        whole: how many were answered to the end.
        failed: what else came, and how often.
        began: when each of those was sent, in seconds.
        chosen: how many of those that were whole a picker has sent where they went.
    """

    whole: int = 0
    chosen: int = 0
    failed: Counter[str] = attrs.field(factory=Counter)
    began: list[float] = attrs.field(factory=list)

    def fail(self, how: str, began: float) -> None:
        """One more has failed."""
        self.failed[how] += 1
        self.began.append(began)

    async def more(self, count: int) -> None:
        """Wait until so many more were answered."""
        until = self.whole + count
        while self.whole < until:  # noqa: ASYNC110 - many tasks count
            await trio.sleep(0.01)


@asynccontextmanager
async def load(envoy: Envoy, workers: int = WORKERS) -> AsyncIterator[Outcome]:
    """Streams, one after the other for each worker, from here to there; the last ones are waited for."""
    outcome, is_over = Outcome(), trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(_work, envoy, outcome, is_over)
        yield outcome
        is_over.set()


async def _work(envoy: Envoy, outcome: Outcome, is_over: trio.Event) -> None:
    async with envoy.client() as client:
        while not is_over.is_set():
            began = trio.current_time()
            try:
                answer = await client.post(CHAT, json=chat(stream=True))
            except httpx.HTTPError as error:
                outcome.fail(repr(error), began)
                continue
            if answer.status_code == httpx.codes.OK and answer.text.rstrip().endswith("[DONE]"):
                outcome.whole += 1
                outcome.chosen += "x-backend-used" in answer.headers
            else:
                outcome.fail(f"{answer.status_code}: {answer.text[-200:]}", began)
