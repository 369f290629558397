"""The real upowerd, on a battery that is not one: it says what its mock says, in the same types."""

import subprocess
from pathlib import Path

import trio

from ollama_proxy.policy.readings import Findings
from ollama_proxy.sensors.system_bus import sense_system_bus
from tests.real.buses import HASTE, PYTHON, PrivateBus, eventually, program, require_devices

BATTERY = Path(__file__).with_name("battery.py")


async def test_a_battery_is_read_of_the_real_daemon(private: PrivateBus) -> None:
    """Discharging, nearly empty, and on mains again: charge, watts and supply follow."""
    require_devices()
    told: list[Findings | None] = [None]

    def publish(name: str, findings: Findings | None) -> None:
        if name == "upower":
            told.append(findings)

    def says(*, on_battery: bool, percent: float, watts: list[float]) -> bool:
        found = told[-1]
        return (
            found is not None
            and found.supply is not None
            and (found.supply.on_battery, found.supply.percent) == (on_battery, percent)
            and [draw.watts for draw in found.draws] == watts
        )

    async def sense() -> None:
        await sense_system_bus(private.address, publish, lambda _: None, pace=HASTE)

    async with (
        program(
            "umockdev-wrapper",
            PYTHON,
            str(BATTERY),
            variables=private.variables,
            stdin=subprocess.PIPE,
        ) as laptop,
        trio.open_nursery() as nursery,
    ):
        assert laptop.stdin is not None
        nursery.start_soon(sense)
        await laptop.stdin.send_all(b"0 Discharging 80 12\n")
        await eventually(lambda: says(on_battery=True, percent=80, watts=[12]))
        await laptop.stdin.send_all(b"0 Discharging 5 12\n")
        await eventually(lambda: says(on_battery=True, percent=5, watts=[12]))
        await laptop.stdin.send_all(b"1 Charging 5 30\n")
        await eventually(lambda: says(on_battery=False, percent=5, watts=[]))
        await laptop.stdin.aclose()
        await laptop.wait()
        await eventually(lambda: told[-1] is None)
        nursery.cancel_scope.cancel()
