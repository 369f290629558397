"""A body that is passed on is read as fast as it is taken."""

import trio
from trio.testing import wait_all_tasks_blocked

from ollama_proxy.inbound.http.exchange import PassingBody


async def test_no_more_is_read_than_was_taken(nursery: trio.Nursery) -> None:
    """Whoever brings a body waits until its last piece was taken."""
    body = PassingBody()
    brought: list[int] = []

    async def bring() -> None:
        for number in range(3):
            body.append(bytes([number]))
            await body.wait_taken()
            brought.append(number)
        body.set_complete()

    nursery.start_soon(bring)
    await wait_all_tasks_blocked()
    before = list(brought)
    first = await anext(body)
    await wait_all_tasks_blocked()
    after = list(brought)
    rest = [piece async for piece in body]

    assert ([], b"\0", [0], [b"\1", b"\2"]) == (before, first, after, rest)
