"""What sensors tell of the machine: facts with their source, None where something is not known.

Nothing here is ever 0 for want of a reading: 0 watts, 0 RPM and 0 degrees are readings, too. Which
part of the machine a reading belongs to is said by `part`: `hardware.PACKAGE`, or the PCI address
of a card ("0000:01:00.0"); None where it belongs to none that computes (a disk, a Wi-Fi card).
"""

import enum

import attrs

from ollama_proxy.policy.hardware import Hardware


class Quality(enum.Enum):
    """How far a reading can be believed, and if there is none, why."""

    OK = "ok"
    STALE = "stale"  # it was true once; nothing newer came
    LEFT_ALONE = "left-alone"  # not read, so that the device may fall asleep
    ABSENT = "absent"  # there is no such file or device (any more)
    DENIED = "denied"  # the kernel lets others read it, not us
    ASLEEP = "asleep"  # reading it would wake the device, or the device says it sleeps
    IMPLAUSIBLE = "implausible"  # a number that no working sensor tells
    ERROR = "error"  # the read failed, or what came is no number


class Kind(enum.Enum):
    """What is at the place where a temperature is measured."""

    CPU = "cpu"
    GPU = "gpu"
    NPU = "npu"
    MEMORY = "memory"
    STORAGE = "storage"
    NETWORK = "network"
    BATTERY = "battery"
    BOARD = "board"


@attrs.frozen(kw_only=True)
class Zone:
    """A place whose temperature is measured.

    Attributes:
        name: stable while the machine runs, whatever number the kernel gives the chip next time.
        kind: what is there.
        part: whose heat it tells; None: of none that computes, or not to be trusted to decide.
        hardware: what computes there, for people to read; None where it is nothing of that kind.
        temperature_c: degrees Celsius; None where it is not known.
        limit_c: where the part itself says that it must slow down or stop; None where it is silent.
        throttling: it is slowed down by heat now, and something other than its temperature says so.
        emergency: the hardware itself pulled the brake (PROCHOT, NVML's HwThermalSlowdown).
        quality: of the temperature.
        source: which driver or interface told: "coretemp", "acpitz", "amdgpu", "nvml" ...
            `policy.sources` knows which of several tells best of the package.
    """

    name: str
    kind: Kind
    part: str | None = None
    hardware: Hardware | None = None
    temperature_c: float | None = None
    limit_c: float | None = None
    throttling: bool | None = None
    emergency: bool = False
    quality: Quality = Quality.OK
    source: str = "hwmon"


@attrs.frozen(kw_only=True)
class Fan:
    """A fan. `share` is of the most that it turned or says it can turn, 0 to 1."""

    name: str
    rpm: float | None = None
    share: float | None = None
    quality: Quality = Quality.OK
    source: str = "hwmon"


class Scope(enum.Enum):
    """Whose power a sensor measures."""

    DEVICE = "device"  # one card, alone
    PACKAGE = "package"  # all that is built into the processor
    SYSTEM = "system"  # the whole machine, screen and disks included


@attrs.frozen(kw_only=True)
class Draw:
    """Power that is drawn, or energy that was.

    Attributes:
        name: as for `Zone`.
        scope: whose it is.
        part: the same by name; None for the whole machine.
        watts: the mean since the last reading, or of the sensor's own interval.
        joules: a counter that never goes back while this sensor lives (wraps and resets are taken
            out); only its differences mean something. None where there is no counter.
        quality: of both.
        source: "rapl", "nvml", "amdgpu", "xe", "battery" ...
    """

    name: str
    scope: Scope
    part: str | None = None
    watts: float | None = None
    joules: float | None = None
    quality: Quality = Quality.OK
    source: str


@attrs.frozen(kw_only=True)
class Part:
    """A part of the machine with a heat sink of its own: the package, or a card.

    Attributes:
        id: `PACKAGE` or a PCI address.
        name: for people.
        hardware: the kind of backend that computes on it; the package: CPU.
        awake: whether it has power now; False: suspended. None where that is not known.
        can_sleep: it is suspended when nobody uses it.
    """

    id: str
    name: str
    hardware: Hardware
    awake: bool | None = None
    can_sleep: bool = False


@attrs.frozen(kw_only=True)
class Load:
    """How busy something is, 0 to 1."""

    name: str
    hardware: Hardware
    share: float | None


@attrs.frozen(kw_only=True)
class Supply:
    """Where the machine's power comes from.

    Attributes:
        on_battery: whether nothing but a battery feeds it.
        percent: charge of all its batteries together, 0 to 100; None: there is none, or unknown.
        to_empty_s: how long it lasts, as far as the source tells.
        source: "upower" or "power_supply".
    """

    on_battery: bool | None = None
    percent: float | None = None
    to_empty_s: float | None = None
    source: str


@attrs.frozen(kw_only=True)
class Profile:
    """What power-profiles-daemon (or the firmware) was told: "power-saver", "balanced" ..."""

    active: str
    degraded: str = ""  # why performance is held back: "", "lap-detected", ...
    source: str = "power-profiles-daemon"


@attrs.frozen(kw_only=True)
class Findings:
    """All that one sensor told in one round."""

    zones: tuple[Zone, ...] = ()
    fans: tuple[Fan, ...] = ()
    draws: tuple[Draw, ...] = ()
    parts: tuple[Part, ...] = ()
    loads: tuple[Load, ...] = ()
    supply: Supply | None = None
    profile: Profile | None = None
    sleeping: bool | None = None
