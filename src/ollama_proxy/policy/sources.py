"""Which of several thermometers decides about the package.

Rule 1: among the drivers that measure the processor, the one that measures it best decides; the
    others are shown and decide nothing.
Rule 2: a driver that tells nothing now is passed over; if none tells anything, the best one's loss
    is what there is to know.
Rule 3: what tells of another place in the package (its graphics), or of no temperature at all (the
    count of throttlings), stands beside them and always counts.

The choice is made anew for each round of readings, not when sensors are found: a driver that is
unloaded an hour later would leave nobody to decide, and no sensor has to be told of the others.
"""

from collections.abc import Iterable

from ollama_proxy.policy.hardware import PACKAGE
from ollama_proxy.policy.readings import Zone

# Best first. The embedded controller's own sensor sits beside the die; ACPI's is whatever the
# board's maker thought of, and often a constant.
_ORDER = (
    ("coretemp",),
    ("k10temp",),
    ("zenpower",),
    ("thinkpad", "cros_ec"),
    ("cpu_thermal",),
    ("x86_pkg_temp",),
    ("acpitz",),
)
_RANKS = {source: rank for rank, sources in enumerate(_ORDER) for source in sources}


def package_zones(zones: Iterable[Zone]) -> tuple[Zone, ...]:
    """The zones that decide about the package, of all that were read in one round.

    Two packages have two zones of the same rank: both are among them, and the hotter one counts.
    """
    ours = [zone for zone in zones if zone.part == PACKAGE]
    ranked = [zone for zone in ours if zone.source in _RANKS]
    telling = [zone for zone in ranked if zone.temperature_c is not None] or ranked
    best = min((_RANKS[zone.source] for zone in telling), default=None)
    chosen = [zone for zone in telling if _RANKS[zone.source] == best]
    return tuple(zone for zone in ours if zone.source not in _RANKS or zone in chosen)
