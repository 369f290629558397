"""How a request's cost grows with what the router has to know: backends, models, connections.

(With those who wait: `dispatch`.) One client asks again and again for an answer of one token; every
router of an axis is there from the start, and they take turns. What is promised is that no axis costs
more than n log n, which is generous: a model is looked up, and an idle connection is asked nothing.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import attrs
from benching import servers
from benching.load import Load, Yield
from benching.servers import Server

from promising.crowd import connect

LOAD_PROGRAM = Path(__file__).resolve().parents[1] / "benching" / "load.py"
AXES: Mapping[str, Sequence[int]] = {
    "backends": (4, 40, 400),
    "models": (10, 1_000, 10_000),
    "connections": (10, 1_000, 10_000),
}
ROUNDS = 5
REQUESTS = 1_000
# Of the cost at the axis's first value, at its last.
MOST = {"backends": 4.0, "models": 1.25, "connections": 1.25}
CONFIG = """\
[server]
http_port = 0
max_connections = 20000
max_connections_per_peer = 20000
idle_timeout_s = 600
[router]
health_interval_s = 3600
[observability]
dashboard = false
"""


@contextmanager
def _router(axis: str, value: int, fake: Server) -> Iterator[Server]:
    """A router with so much of one thing, and little of the others."""
    names = range(value if axis == "backends" else 1)
    backends = "".join(
        servers.BACKEND.format(id=f"fake-{n}", kind="openai", url=fake.url, slots=2) for n in names
    )
    models = [f"other-{n}" for n in range(value if axis == "models" else 1)]
    servers.instruct(fake, tokens=1, models=["fake:latest", *models])
    with servers.configured(CONFIG + backends) as router, ExitStack() as crowd:
        for _ in range(value if axis == "connections" else 0):
            crowd.enter_context(connect(router))
        yield router


def _ask(router: Server) -> Yield:
    load = Load(host=router.host, port=router.port, requests=REQUESTS, stream=False, pid=router.pid)
    done = subprocess.run(
        [sys.executable, str(LOAD_PROGRAM)],
        input=json.dumps(attrs.asdict(load)),
        capture_output=True,
        text=True,
        check=True,
    )
    return Yield(**json.loads(done.stdout))


def _costs(axis: str) -> dict[int, tuple[float, float]]:
    """Microseconds of processor time, and to the answer at p50, of a request at each value."""
    values = AXES[axis]
    taken: dict[int, list[tuple[float, float]]] = {value: [] for value in values}
    with servers.fake_backend() as fake, ExitStack() as running:
        routers = {v: running.enter_context(_router(axis, v, fake)) for v in values}
        for turn in range(ROUNDS):
            at = turn % len(values)
            for value in (*values[at:], *values[:at]):
                got = _ask(routers[value])
                cpu_us = (got.cpu_s or 0.0) / REQUESTS * 1e6
                taken[value].append((cpu_us, median(got.whole_ns) / 1e3))
    return {
        value: (median(cpu for cpu, _ in costs), median(whole for _, whole in costs))
        for value, costs in taken.items()
    }


def measure() -> bool:
    """Print the curves; whether the promise is kept."""
    is_kept = True
    for axis in AXES:
        costs = _costs(axis)
        for value, (cpu_us, whole_us) in costs.items():
            print(
                f"{value:>6} {axis}: {cpu_us:6.0f} us of processor time, {whole_us:6.0f} us in all"
            )
        (first, _), (last, _) = costs[AXES[axis][0]], costs[AXES[axis][-1]]
        is_kept = is_kept and last <= MOST[axis] * first
    return is_kept
