"""slowhttptest in its four modes against the whole router: who is slow is let go, who is not is served."""

import re
import shutil
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from ollama_proxy.config import Server
from tests.real.parts import require
from tests.routers import configured, running

CONNECTIONS = 100
# How long any of them may take here; each of the tool's modes would go on for longer.
PATIENT_S = 2.0
LASTS_S = 9
MODES = {
    "slow heads": "-H -i 1 -t GET -u {url}/health",
    "slow heads of inference": "-H -i 1 -t POST -u {url}/api/chat",
    "slow bodies": "-B -i 1 -f application/json -u {url}/api/chat",
    "many ranges": "-R -t HEAD -a 1 -b 2000 -u {url}/openapi.json",
    "slow readers": "-X -n 1 -w 8 -y 16 -z 4 -k 3 -u {url}/openapi.json",
}
IMPATIENT = Server(
    http_port=0,
    grpc=False,
    drain_s=1.0,
    head_timeout_s=PATIENT_S,
    body_timeout_s=PATIENT_S,
    idle_timeout_s=PATIENT_S,
    write_timeout_s=PATIENT_S,
)


@attrs.define(eq=False)
class Other:
    """Somebody who asks all the time, and is answered.

    Attributes:
        seen: how many connections the HTTP door had, its own included, each time.
    """

    client: httpx.AsyncClient
    seen: list[int] = attrs.field(factory=list)

    async def ask(self) -> None:
        """Until cancelled."""
        while True:
            with trio.fail_after(1.0):
                page = (await self.client.get("/metrics")).text
            found = re.search(r'^ollama_proxy_connections\{door="http"\} (\d+)', page, re.MULTILINE)
            assert found is not None
            self.seen.append(int(found[1]))
            await trio.sleep(0.05)


@pytest.mark.parametrize("mode", MODES)
async def test_slow_clients_are_let_go(mode: str, tmp_path: Path) -> None:
    """While they last others are served; and they do not last as long as they would."""
    program = shutil.which("slowhttptest")
    require(program is not None, "slowhttptest is not installed")
    assert program is not None
    config = attrs.evolve(configured(), server=IMPATIENT)
    async with running(config) as owner, owner.client() as client:
        words = [word.format(url=owner.url) for word in MODES[mode].split()]
        many = ["-c", str(CONNECTIONS), "-r", str(CONNECTIONS), "-l", str(LASTS_S), "-p", "2"]
        other = Other(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.ask)
            done = await trio.run_process(
                [program, *many, *words],
                check=False,  # it fails where it hits its time limit
                cwd=tmp_path,
                capture_stdout=True,
                capture_stderr=True,
            )
            nursery.cancel_scope.cancel()

    assert b"YES" in done.stdout.rpartition(b"service available:")[2]
    if mode != "many ranges":  # which are none to us: a whole answer, at once
        assert max(other.seen) > CONNECTIONS // 4
    # Who reads a byte now and then sees its end only after all that the kernels hold.
    assert b"No open connections left" in done.stdout or other.seen[-1] == 1
