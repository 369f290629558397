"""What the channels of a hwmon chip or a thermal zone measure, by driver and by label."""

import re
from collections.abc import Mapping

from ollama_proxy.policy.readings import Kind

INTERVAL_S = 2.0
_SLOW_S = {
    "dell_smm": 5.0,  # each file is a call into the firmware, which may stop a CPU for half a second
    "nvme": 30.0,  # each read is a command to the drive, and disks warm up slowly
}

# The other sensors of these cards know whether reading would wake them.
CARDS = frozenset({"amdgpu", "i915", "nouveau", "xe"})

# Reading a disk's temperature starts its spin-down timer anew (the kernel's drivetemp.rst): it
# would never sleep, for a number by which nobody decides.
_KEPT_AWAKE = frozenset({"drivetemp"})

# Drivers that make a fan's file only where there is a fan; elsewhere it may be an empty header.
_SURE_OF_FANS = frozenset({"applesmc", "asus", "cros_ec", "dell_smm", "hp", "pwmfan", "thinkpad"})

_DRIVERS = (
    (r"coretemp|k10temp|zenpower|cpu_thermal|cluster\w*_thermal|x86_pkg_temp|TCPU", Kind.CPU),
    (r"gpu\w*_thermal", Kind.GPU),
    (r"nsp\w*_thermal", Kind.NPU),
    (r"nvme", Kind.STORAGE),
    (r"spd5118|jc42|(mem|ddr)\w*_thermal", Kind.MEMORY),
    (r"iwlwifi\w*|ath\d+k\w*|mt\d+\w*_phy\d+|r8169\w*", Kind.NETWORK),
)
_LABELS = (
    (r"cpu.*", Kind.CPU),
    (r"gpu.*", Kind.GPU),
    (r"(so-?)?dimm.*|ddr.*|memory.*", Kind.MEMORY),
    (r"battery.*", Kind.BATTERY),
)

# Whose labels speak for the package, the best first.
_SPEAKERS = {
    "coretemp": (r"Package id \d+", r"Core \d+"),
    "k10temp": (r"Tdie", r"Tctl", r""),  # Tctl may be offset from the die, to drive fans
    "zenpower": (r"Tdie", r"Tctl"),
    "thinkpad": (r"CPU",),
    "cros_ec": (r"cpu.*",),
    "cpu_thermal": (r".*",),
    "x86_pkg_temp": (r".*",),
    "acpitz": (r".*",),
}


def family_of(driver: str) -> str:
    """The driver's name; that of one which makes a chip for each core, without the core."""
    named = driver.replace("-", "_")
    return "cpu_thermal" if re.fullmatch(r"(cpu\w*|bcm2835)_thermal", named) else named


def interval_of(driver: str) -> float:
    """How often the chip is worth reading, in seconds."""
    return _SLOW_S.get(driver, INTERVAL_S)


def is_ours(driver: str) -> bool:
    """Whether reading the chip is for us, and does no harm."""
    return driver not in CARDS and driver not in _KEPT_AWAKE


def is_sure_of_fans(driver: str) -> bool:
    """Whether a fan of this driver is there even if it never turned."""
    return driver in _SURE_OF_FANS


def is_believed_when_it_moves(driver: str) -> bool:
    """Whether the thermometer is often a constant of the firmware's."""
    return driver == "acpitz"


def kind_of(driver: str, label: str) -> Kind:
    """What is measured; where neither driver nor label says it, something on the board."""
    for pattern, kind in _DRIVERS:
        if re.fullmatch(pattern, family_of(driver)):
            return kind
    for pattern, kind in _LABELS:
        if re.fullmatch(pattern, label, re.IGNORECASE):
            return kind
    return Kind.BOARD


def speakers(driver: str, labels: Mapping[int, str]) -> set[int]:
    """Which of a chip's channels speak for the package, by number."""
    for pattern in _SPEAKERS.get(family_of(driver), ()):
        found = {n for n, label in labels.items() if re.fullmatch(pattern, label, re.IGNORECASE)}
        if found:
            return found
    return set()
