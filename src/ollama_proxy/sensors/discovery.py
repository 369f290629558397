"""All sensors of a machine. Finding them wakes nothing and holds nothing open."""

from collections.abc import Callable

from ollama_proxy.sensors.chip_families import discover_chips
from ollama_proxy.sensors.drm import find_cards
from ollama_proxy.sensors.files import Files
from ollama_proxy.sensors.load import find_load
from ollama_proxy.sensors.npu import find_npus
from ollama_proxy.sensors.nvidia import find_nvidia
from ollama_proxy.sensors.nvml import Nvml, load_nvml
from ollama_proxy.sensors.sensor import Heed, Sensor


def discover(
    files: Files, heed: Heed, *, load: Callable[[], Nvml | None] = load_nvml
) -> list[Sensor]:
    """Every device that can be read now; called again, it finds the same ones by the same keys.

    Args:
        files: the kernel's.
        heed: what sensors must know so as not to wake what they measure.
        load: loads NVIDIA's library.
    """
    return [
        *discover_chips(files),
        *find_load(files),
        *find_cards(files, heed),
        *find_nvidia(files, heed, load),
        *find_npus(files),
    ]
