"""A router that senses nothing: what machine runs the tests, and at which hour, is not their business."""

from typing import Any

from ollama_proxy.config import Dbus, Efficiency, Sensors
from ollama_proxy.policy.modes import Mode

NUMB: dict[str, Any] = {
    "efficiency": Efficiency(mode=Mode.BALANCED),
    "sensors": Sensors(sysfs_root="/nowhere/sys", procfs_root="/nowhere/proc", system_bus=""),
    "dbus": Dbus(enabled=False),
}
NUMB_TOML = """\
[efficiency]
mode = "balanced"
[sensors]
sysfs_root = "/nowhere/sys"
procfs_root = "/nowhere/proc"
system_bus = ""
[dbus]
enabled = false
"""
