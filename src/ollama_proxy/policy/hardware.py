"""What a backend computes on, and which parts of a machine share a heat sink."""

import enum

# The part that all share which are built into the processor: its cores, its graphics, its NPU.
PACKAGE = "package"


class Hardware(enum.Enum):
    """Where a backend computes."""

    NPU = "npu"
    IGPU = "igpu"
    NVIDIA = "nvidia"
    AMD = "amd"
    CPU = "cpu"
    CLOUD = "cloud"
