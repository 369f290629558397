"""The page as a whole: the contract's names with exactly their labels, in both forms."""

import json
import re
from pathlib import Path

import pytest
from trio.testing import MockClock

from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.job import Stage
from ollama_proxy.engine.ledger import Fact, Ledger, Outcome, TurnedAway
from ollama_proxy.metrics.doors import DoorState
from ollama_proxy.metrics.sources import SourceState
from ollama_proxy.policy.ask import Call, Priority
from ollama_proxy.policy.energy import Grade
from ollama_proxy.policy.hardware import PACKAGE
from ollama_proxy.policy.readings import Fan, Findings, Kind, Supply, Zone
from ollama_proxy.policy.refusal import Code
from ollama_proxy.policy.route import Reason
from tests.fleet import MODEL
from tests.metrics.scrapes import PREFIX, Machine, read, watched

DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "grafana.json"
# Section 7 of the contract, and `backend` where a metric of backends says nothing of labels.
NAMES = {
    "requests_total": {"backend", "model", "status", "door"},
    "request_duration_seconds": set(),
    "time_to_first_token_seconds": set(),
    "inter_token_seconds": set(),
    "proxy_overhead_seconds": set(),
    "queue_depth": {"backend", "priority"},
    "queue_wait_seconds": set(),
    "in_flight": {"backend"},
    "deadline_total": {"outcome"},
    "preemptions_total": set(),
    "cancellations_total": {"stage"},
    "failovers_total": {"from", "to"},
    "routing_decisions_total": {"reason", "backend"},
    "tokens_total": {"backend", "model", "kind"},
    "backend_up": {"backend", "hardware"},
    "backend_temperature_celsius": {"backend"},
    "backend_power_watts": {"backend", "source"},
    "backend_throttled": {"backend"},
    "fan_rpm": {"name"},
    "energy_joules_total": {"backend", "source"},
    "efficiency_mode": {"mode"},
    "battery_percent": set(),
    "on_battery": set(),
    "build_info": {"version"},
}
# What is told beyond it.
MORE = {
    "efficiency_effective_mode": {"mode"},
    "forecast_error_ratio": {"backend"},
    "forecast_bias_ratio": {"backend"},
    "forecasts_total": {"backend"},
    "turned_away_total": {"door", "code"},
    "backend_deadline_total": {"backend", "outcome"},
    "node_requests_waiting": set(),
    "node_requests_running": set(),
    "node_cache_usage_ratio": set(),
    "model_loaded": {"backend", "model"},
    "connections": {"door"},
    "buffered_bytes": {"door"},
    "bounds_reached_total": {"door", "bound"},
    "log_lines_lost_total": set(),
    "fleet_nodes": {"source"},
    "fleet_source_up": {"source"},
}


@pytest.fixture
def machine(mock_clock: MockClock) -> Machine:
    """One of which everything is known, and that has served a request."""
    dispatcher = Dispatcher(DispatchSettings(), Ledger(), clock=mock_clock.current_time)
    made = watched(dispatcher, mock_clock)
    made.station("npu").calibration.compare(1.0, 2.0, now=0.0)
    made.station("cpu").loaded = frozenset({MODEL})
    dispatcher.meters.books.charge("npu", Grade.ESTIMATED, 1.5)
    made.climate.publish(
        "all",
        Findings(
            zones=(
                Zone(
                    name="cpu",
                    kind=Kind.CPU,
                    part=PACKAGE,
                    temperature_c=50.0,
                    throttling=False,
                    source="coretemp",
                ),
            ),
            fans=(Fan(name='of "all"\\', rpm=900.0),),
            supply=Supply(on_battery=True, percent=50.0, source="upower"),
        ),
    )
    made.climate.look()
    made.metrics.doors = lambda: {
        "http": DoorState(connections=3, held_bytes=5, reached={"head_time": 2})
    }
    made.metrics.sources = lambda: {
        "dns": SourceState(nodes=3, is_up=True),
        "avahi": SourceState(nodes=0, is_up=False),
    }
    made.metrics.turn_away(
        TurnedAway(request_id="", door="grpc", path="/x", code=Code.INVALID_API_KEY, status=401)
    )
    made.metrics.record(
        Fact(
            request_id="1",
            door="http",
            call=Call.OPENAI_CHAT,
            model=MODEL,
            stream=True,
            priority=Priority.NORMAL,
            outcome=Outcome.SERVED,
            stage=Stage.RUNNING,
            status=200,
            backend="npu",
            reason=Reason.FAILOVER,
            promised_s=1.0,
            first_s=0.5,
            whole_s=1.0,
            overhead_s=0.001,
            answer_tokens=5,
            failovers=(("cpu", "npu"),),
        )
    )
    return made


@pytest.mark.parametrize("is_openmetrics", [False, True], ids=["text", "openmetrics"])
async def test_every_name_has_exactly_its_labels(machine: Machine, is_openmetrics: bool) -> None:
    """And there are no others than these."""
    told = read(machine.metrics.page(is_openmetrics), is_openmetrics=is_openmetrics)

    assert NAMES | MORE == told.labels


async def test_doors_tell_what_is_open_held_and_reached(machine: Machine) -> None:
    """By door, and by bound."""
    told = machine.scrape()

    assert {("http",): 3} == told.by("connections")
    assert {("http",): 5} == told.by("buffered_bytes")
    assert {("head_time", "http"): 2} == told.by("bounds_reached_total")


async def test_sources_tell_of_how_many_nodes_and_whether_they_work(machine: Machine) -> None:
    """By source."""
    told = machine.scrape()

    assert {("avahi",): 0, ("dns",): 3} == told.by("fleet_nodes")
    assert {("avahi",): 0, ("dns",): 1} == told.by("fleet_source_up")


async def test_every_name_is_there_before_anything_happened(mock_clock: MockClock) -> None:
    """A dashboard that is set up first finds what it asks for."""
    dispatcher = Dispatcher(DispatchSettings(), Ledger(), clock=mock_clock.current_time)
    told = watched(dispatcher, mock_clock).scrape()

    assert {*NAMES, *MORE} - {"build_info"} == told.names - {"build_info", "build"}
    assert {("1.2.3",): 1} == told.by("build_info")


async def test_names_with_quotes_come_through(machine: Machine) -> None:
    """A label's value is escaped, and read back as it was."""
    assert {('of "all"\\',): 900} == machine.scrape().by("fan_rpm")


def test_the_dashboard_asks_for_what_there_is() -> None:
    """Each query of docs/grafana.json names metrics, and labels, that are told."""
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for query in queries
        for name in re.findall(rf"{PREFIX}(\w+)", query)
    }
    grouped = {
        label.strip()
        for query in queries
        for inner in re.findall(r"by \(([^)]*)\)", query)
        for label in inner.split(",")
    }

    assert len(dashboard["panels"]) >= 12
    assert used <= NAMES.keys() | MORE.keys()
    assert grouped <= {"le"}.union(*NAMES.values(), *MORE.values())
