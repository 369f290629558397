"""The measures of tools/promises, short: what they measure holds, and they run at all."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from promising import (
    cancels,
    crowd,
    dashboard,
    dbus,
    drain,
    drift,
    metrics,
    overload,
    schedules,
    senses,
    storm,
    weather,
)

from ollama_proxy.policy.preempt import Started
from ollama_proxy.simulate.scenario import load
from ollama_proxy.simulate.sizing import sized
from tests.engine.storm import Storm
from tests.real.buses import require_bus

COMMAND = Path(__file__).resolve().parents[1] / "tools" / "promises"


def test_every_admitted_request_finishes() -> None:
    """In random schedules beyond what the backends can serve, with preemption and without."""
    results = [schedules.starved(seed) for seed in range(150)]

    assert 0 == sum(unfinished for _, unfinished, _ in results)
    assert sum(put_back for _, _, put_back in results) > 0


def test_every_case_of_drift_is_a_hundred_nodes() -> None:
    """Also where a tenth of them is different."""
    sizes = {
        name: sum(backend.count for backend in sized(scenario, 1).backends)
        for name, scenario in drift.cases(load(drift.SCENARIO))
    }

    assert {100} == set(sizes.values())
    assert 12 == len(sizes)


def test_no_slot_leaks() -> None:
    """Whatever happens in whatever order."""
    for seed, preempts in enumerate([None, *Started]):
        chance = random.Random(seed)  # noqa: S311 - it makes weather
        weather = Storm(preempts=preempts, reserve=seed % 3, hedge_budget=0.5 * (seed % 2))
        for _ in range(1000):
            storm.one_event(weather, chance)
            weather.check()
        weather.subside()


def test_the_senses_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """On a recorded machine that lies in files, with real threads; what they cost is not judged."""
    senses.measure(0.2)

    assert "opens a second" in capsys.readouterr().out


def test_the_door_on_the_bus_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """With a bus and a router in processes of their own; what it costs is not judged."""
    require_bus()
    dbus.measure(calls=20, idle_s=0.2)

    assert "20 calls: p50" in capsys.readouterr().out


def test_cancels_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Over every door the backend sees each answer left; how soon is not judged."""
    cancels.measure(cancels=10)

    said = capsys.readouterr().out
    assert 3 == said.count("10 of 10")


def test_a_crowd_is_held() -> None:
    """A small one is served whole, and who does not read costs what the promise allows."""
    assert crowd.measure(idle=100, active=20, slow=4)


def test_an_end_under_load_cuts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """What can end in time does, beside a caller that does not read, too; how soon is not judged."""
    drain.measure(drain_s=2.0, streams=4)

    assert 2 == capsys.readouterr().out.count("4 of 4 answers whole")


def test_overload_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Beyond capacity some are served and some are told; how many of each is not judged."""
    overload.measure(seconds=1.0, loads=(0.5, 5.0))

    assert 2 == capsys.readouterr().out.count(", 0 other")


def test_the_metrics_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Booking and scraping; what they cost is not judged."""
    metrics.measure(requests=100, scrapes=1)

    assert "booking a request" in capsys.readouterr().out


def test_the_dashboard_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Watched and not, under the same traffic; what it costs is not judged."""
    dashboard.measure(turns=1, turn_s=0.5)

    assert "what it adds" in capsys.readouterr().out


def test_battery_and_heat(capsys: pytest.CaptureFixture[str]) -> None:
    """Modes do not flap, nothing starts on a part at its limit, and no card is woken in vain."""
    is_kept = weather.measure()
    told = capsys.readouterr().out

    assert is_kept, told
    assert "critical: nvidia" in told or "critical: package" in told


def test_an_unknown_promise_is_named() -> None:
    """The command says what it does not know, and what it does."""
    done = subprocess.run(
        [sys.executable, COMMAND, "eternity"], capture_output=True, text=True, check=False
    )

    assert (2, True) == (done.returncode, "no promise eternity" in done.stderr)
