#!/usr/bin/env python3
"""Many scripted nodes in one process, each at a port of its own; says `ready ports=1,2,3`; ends on SIGTERM.

All have the same script: it is what choosing among them costs that is measured, not what they do.
"""

import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fakes.ollama import Script, open_fake

SCRIPT = Script(tokens=1)


async def serve(count: int) -> None:
    """Serve on so many ports until SIGTERM."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with AsyncExitStack() as stack:
            fakes = [await stack.enter_async_context(open_fake(SCRIPT)) for _ in range(count)]
            print(f"ready ports={','.join(str(each.port) for each in fakes)}", flush=True)
            await anext(signals)


if __name__ == "__main__":
    trio.run(serve, int(sys.argv[1]))
