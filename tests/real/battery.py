"""A laptop's battery and mains, and the real upowerd that watches them, on the system bus.

A program for the distribution's own Python, under umockdev-wrapper. Each line on stdin says how
things are now: whether mains is there (0 or 1), what the battery does, its percentage, its watts.
"""

import importlib
import os
import signal
import subprocess
import sys

FULL_WH = 60
MICRO = 1_000_000

importlib.import_module("gi").require_version("UMockdev", "1.0")
Testbed = importlib.import_module("gi.repository.UMockdev").Testbed


def main() -> None:
    """Run upowerd until the end of stdin, or SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    testbed = Testbed.new()
    battery_is = {
        "type": "Battery",
        "present": "1",
        "scope": "System",
        "technology": "Li-ion",
        "status": "Unknown",
        "energy_full": str(FULL_WH * MICRO),
        "energy_full_design": str(FULL_WH * MICRO),
        "energy_now": "0",
        "power_now": "0",
        "capacity": "0",
        "voltage_now": str(12 * MICRO),
    }
    mains_is = {"type": "Mains", "online": "0"}
    battery, mains = (
        testbed.add_device(
            "power_supply",
            name,
            None,
            [word for entry in attributes.items() for word in entry],
            ["POWER_SUPPLY_NAME", name],
        )
        for name, attributes in (("BAT0", battery_is), ("AC", mains_is))
    )

    def put(line: str) -> None:
        online, status, percent, watts = line.split()
        testbed.set_attribute(mains, "online", online)
        testbed.set_attribute(battery, "status", status)
        testbed.set_attribute(battery, "capacity", percent)
        testbed.set_attribute(battery, "energy_now", str(int(percent) * FULL_WH * MICRO // 100))
        testbed.set_attribute(battery, "power_now", str(int(watts) * MICRO))

    put(sys.stdin.readline())
    environment = os.environ | {"UMOCKDEV_DIR": testbed.get_root_dir()}
    with subprocess.Popen(
        ["/usr/libexec/upowerd"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as upowerd:
        try:
            for line in sys.stdin:
                put(line)
                testbed.uevent(mains, "change")
                testbed.uevent(battery, "change")
        finally:
            upowerd.terminate()


if __name__ == "__main__":
    main()
