"""The machine's state through the running router: files on disk in, the next request's backend out.

The machine is a recorded Framework 16 with an AMD card that can sleep, on battery; a test changes
its files as the kernel would.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from ollama_proxy.config import BackendConfig, Efficiency, Sensors, Thermal
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.modes import Mode
from tests.fakes.machine import recorded
from tests.routers import CHAT, ask, backend, configured, fakes, running

pytestmark = pytest.mark.usefixtures("in_process")

LAPTOP = "framework16-amd-rx7700s"
CARD = "sys/devices/pci0000:00/0000:00:01.1/0000:01:00.0/0000:02:00.0/0000:03:00.0"
TCTL = "sys/class/hwmon/hwmon4/temp1_input"
MAINS = "sys/class/power_supply/ACAD/online"
BATTERY = "sys/class/power_supply/BAT1"


@attrs.frozen
class Desk:
    """A laptop, the router that runs on it, and who sits before it."""

    files: Path
    client: httpx.AsyncClient

    def put(self, path: str, value: object) -> None:
        """Let one of the kernel's files hold something else."""
        (self.files / path).write_text(f"{value}\n")

    async def chosen(self, **headers: str) -> tuple[str, str]:
        """Who serves a request, and why."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.client.post(CHAT, json=ask(stream=True), headers=named)
        assert 200 == answer.status_code, answer.text
        return answer.headers["x-backend-used"], answer.headers["x-routing-reason"]

    async def set(self, mode: str) -> None:
        """Choose a mode."""
        answer = await self.client.post("/efficiency", json={"mode": mode})
        assert 200 == answer.status_code

    async def until(self, path: str, is_so: Callable[[Any], object]) -> Any:
        """Wait until an endpoint tells something, and return it."""
        while not is_so(told := (await self.client.get(path)).json()):  # noqa: ASYNC110 - it tells when asked
            await trio.sleep(0.02)
        return told


@asynccontextmanager
async def desk(
    tmp_path: Path, *, mode: Mode = Mode.AUTO, watts: dict[str, float] | None = None
) -> AsyncIterator[Desk]:
    """The four backends on the laptop; its card is what "nvidia" stands for elsewhere."""
    machine = recorded(LAPTOP)
    machine.write("/proc/stat", "cpu  10 0 10 1000 0 0 0 0 0 0")
    machine.unpack(tmp_path)
    async with fakes("npu", "igpu", "nvidia", "cpu") as fleet:
        backends: list[BackendConfig] = []
        for name, fake in fleet.items():
            made = backend(name, fake.url)
            if watts is not None and name in watts:
                written = attrs.evolve(made.characteristics, power_watts=watts[name])
                made = attrs.evolve(made, characteristics=written)
            if name == "nvidia":
                made = attrs.evolve(made, id="ollama-amd", hardware=Hardware.AMD)
            backends.append(made)
        config = attrs.evolve(
            configured(*backends),
            efficiency=Efficiency(mode=mode, quiet_hours=""),
            sensors=Sensors(
                sysfs_root=str(tmp_path / "sys"),
                procfs_root=str(tmp_path / "proc"),
                system_bus="",
            ),
            thermal=Thermal(poll_s=0.5, dwell_s=1.0),
        )
        async with running(config) as owner, owner.client() as client:
            yield Desk(tmp_path, client)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("performance", ("ollama-amd", "mode-performance")),
        ("balanced", ("ollama-npu", "mode-balanced")),
        ("efficiency", ("ollama-npu", "mode-efficiency")),
        ("Quiet", ("ollama-npu", "mode-quiet")),
        ("Ultra Efficiency", ("ollama-npu", "mode-ultra-efficiency")),
        ("auto", ("ollama-npu", "battery")),
    ],
)
async def test_a_mode_decides_about_the_next_request(
    tmp_path: Path, mode: str, expected: tuple[str, str]
) -> None:
    """From the other end of the scale, without a pause between."""
    async with desk(tmp_path, mode=Mode.PERFORMANCE) as at:
        await at.set("performance" if mode != "performance" else "quiet")
        await at.chosen()
        await at.set(mode)

        assert expected == await at.chosen()


async def test_the_first_request_is_decided_on_what_was_read(tmp_path: Path) -> None:
    """The doors open after the sensors have told something."""
    async with desk(tmp_path) as at:
        assert ("ollama-npu", "battery") == await at.chosen()
        told = (await at.client.get("/efficiency")).json()

    assert ("auto", "efficiency", True, 61.0) == (
        told["mode"],
        told["effective_mode"],
        told["on_battery"],
        told["battery_percent"],
    )
    assert "61 %" in told["reason"]


async def test_plug_and_charge_move_auto(tmp_path: Path) -> None:
    """On mains it is balanced, with an empty battery it saves all it can."""
    async with desk(tmp_path) as at:
        at.put(f"{BATTERY}/charge_now", 550_000)
        at.put(f"{BATTERY}/capacity", 10)
        await at.until("/efficiency", lambda t: t["effective_mode"] == "ultra-efficiency")
        assert ("ollama-npu", "battery") == await at.chosen()


async def test_a_hot_card_gets_nothing_and_the_others_go_on(tmp_path: Path) -> None:
    """Whatever is asked for; a target that is too hot is refused, and says how hot."""
    async with desk(tmp_path, mode=Mode.PERFORMANCE) as at:
        assert ("ollama-amd", "mode-performance") == await at.chosen()
        at.put(f"{CARD}/power/control", "on")  # it is watched though nobody uses it
        at.put(f"{CARD}/hwmon/hwmon9/temp2_input", 109_000)
        await at.until("/thermal", lambda t: t["state"] == "critical")

        backend_id, reason = await at.chosen(x_latency_critical="true")
        refused = await at.client.post(CHAT, json=ask(), headers={"x-target-backend": "ollama-amd"})
        listed = (await at.client.get("/backends")).json()

    assert ("ollama-igpu", "thermal") == (backend_id, reason)
    assert (503, "no_backend") == (refused.status_code, refused.json()["error"]["code"])
    assert "109 °C" in refused.json()["error"]["message"]
    assert refused.headers["retry-after"]
    states = {each["id"]: each["thermal_state"] for each in listed}
    assert ("critical", "nominal") == (states["ollama-amd"], states["ollama-npu"])


async def test_on_battery_a_sleeping_card_is_left_asleep(tmp_path: Path) -> None:
    """Nothing of it is read, and nothing is sent to it that another can do."""
    async with desk(tmp_path, mode=Mode.PERFORMANCE) as at:
        at.put(f"{CARD}/power/runtime_status", "suspended")
        listed = await at.until(
            "/backends", lambda t: any(each["asleep"] for each in t if each["id"] == "ollama-amd")
        )
        chosen, _ = await at.chosen()

    assert {"ollama-amd"} == {each["id"] for each in listed if each["asleep"]}
    assert chosen != "ollama-amd"


async def test_a_power_budget_holds_what_is_measured_against_it(tmp_path: Path) -> None:
    """The owner's figure counts until the card's own sensor has told what an answer cost."""
    async with desk(tmp_path, mode=Mode.PERFORMANCE, watts={"nvidia": 5.0}) as at:
        assert "ollama-amd" == (await at.chosen(x_max_power_watts="40"))[0]


async def test_a_lost_sensor_is_unknown(tmp_path: Path) -> None:
    """Its name stays, without a value, and nobody takes it for cool."""
    async with desk(tmp_path) as at:
        (at.files / TCTL).unlink()
        told = await at.until(
            "/thermal",
            lambda t: any(z["name"] == "k10temp Tctl" and z["quality"] != "ok" for z in t["zones"]),
        )

    (zone,) = [z for z in told["zones"] if z["name"] == "k10temp Tctl"]
    assert zone["temperature_c"] is None


async def test_a_wrong_mode_is_told_all_six(tmp_path: Path) -> None:
    """In words, and nothing changes."""
    async with desk(tmp_path, mode=Mode.QUIET) as at:
        bodies: list[object] = [{"mode": "silent"}, {"mode": 3}, {}, [], "quiet"]
        answers = [await at.client.post("/efficiency", json=body) for body in bodies]
        told = (await at.client.get("/efficiency")).json()

    assert {400} == {answer.status_code for answer in answers}
    assert all(mode.value in answers[0].text for mode in Mode)
    assert "quiet" == told["mode"]
