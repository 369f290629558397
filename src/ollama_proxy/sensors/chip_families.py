"""All families of chips, zones, counters and supplies that the kernel's files offer."""

import logging
from collections.abc import Callable

from ollama_proxy.sensors.files import Files
from ollama_proxy.sensors.hwmon import find_hwmon_chips
from ollama_proxy.sensors.power_supply import find_power_supplies
from ollama_proxy.sensors.profile import find_platform_profile
from ollama_proxy.sensors.rapl import find_rapl_domains
from ollama_proxy.sensors.sensor import Sensor
from ollama_proxy.sensors.throttle import find_throttle_counters
from ollama_proxy.sensors.zones import find_thermal_zones

Find = Callable[[Files], list[Sensor]]

CHIPS: tuple[Find, ...] = (
    find_hwmon_chips,
    find_thermal_zones,
    find_throttle_counters,
    find_rapl_domains,
    find_power_supplies,
    find_platform_profile,
)

log = logging.getLogger("ollama_proxy.sensors")


def discover_chips(files: Files, families: tuple[Find, ...] = CHIPS) -> list[Sensor]:
    """All sensors of chips, zones, counters and supplies. A family that fails loses no other."""
    found: list[Sensor] = []
    for find in families:
        try:
            found += find(files)
        except OSError as error:
            # Each minute again, so not louder: the sensors that are missed say it, too.
            log.debug("%s: %s", find.__name__, error)
    return found
