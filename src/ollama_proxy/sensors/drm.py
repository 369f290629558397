"""Which graphics devices the kernel drives, and by which driver: `/sys/class/drm/cardN`."""

import re
from posixpath import basename

from ollama_proxy.sensors.amdgpu import open_amdgpu
from ollama_proxy.sensors.card_hwmon import find_hwmon
from ollama_proxy.sensors.files import Files, list_or_nothing, read_text
from ollama_proxy.sensors.intel import open_intel
from ollama_proxy.sensors.sensor import Heed, Sensor

DRM = "/sys/class/drm"
_CARD = re.compile(r"card\d+")
_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_AMD, _INTEL = "0x1002", "0x8086"


def find_cards(files: Files, heed: Heed) -> list[Sensor]:
    """A sensor for each graphics device of AMD's and Intel's drivers. Wakes none.

    A framebuffer of the firmware's is a card here, too, often the first; it is no PCI device.
    NVIDIA's driver tells nothing in these files: see `nvidia`.
    """
    found: list[Sensor] = []
    for name in list_or_nothing(files, DRM):
        if not _CARD.fullmatch(name):
            continue
        card = files.real(f"{DRM}/{name}")
        device = files.real(f"{card}/device")
        address = basename(device)
        if not _ADDRESS.fullmatch(address):
            continue
        driver = _driver(files, device)
        if driver == "amdgpu":
            found.append(open_amdgpu(files, device, address, heed))
        elif driver in {"i915", "xe"}:
            found.append(
                open_intel(files, driver, card=card, device=device, address=address, heed=heed)
            )
    return found


def _driver(files: Files, device: str) -> str:
    """The driver of a device; recorded machines may lack the link, and then it is inferred."""
    linked = basename(files.real(f"{device}/driver"))
    if linked != "driver":
        return linked
    vendor = read_text(files, f"{device}/vendor")
    if vendor == _INTEL:
        return "xe" if list_or_nothing(files, f"{device}/tile0") else "i915"
    if vendor == _AMD:
        return "amdgpu"
    hwmon = find_hwmon(files, device)
    return (read_text(files, f"{hwmon}/name") or "") if hwmon else ""
