"""What is known of each recorded machine, read from the recordings by eye and by a pocket calculator.

Zones: degrees, limit, whether it speaks for the package; a quality in place of the degrees says why
there are none. Fans: RPM and share. Draws: watts. Whatever is not listed must not be told.
"""

import attrs

from ollama_proxy.policy.readings import Profile, Quality

ASLEEP, IMPLAUSIBLE, DENIED = Quality.ASLEEP, Quality.IMPLAUSIBLE, Quality.DENIED
Degrees = float | Quality
PACKAGE, OTHER = True, False


@attrs.frozen(kw_only=True)
class Known:
    """A machine as it was when it was recorded.

    Attributes:
        decide: the zones that decide about the package.
        supply: on battery, percent, seconds to empty; None: nothing is told.
    """

    zones: dict[str, tuple[Degrees, float | None, bool]]
    fans: dict[str, tuple[float | Quality, float | None]] = attrs.field(factory=dict)
    draws: dict[str, float | Quality | None] = attrs.field(factory=dict)
    supply: tuple[bool, float | None, float | None] | None = None
    profile: Profile | None = None
    decide: tuple[str, ...]


_P1_UNLOADED: dict[str, tuple[Degrees, float | None, bool]] = {
    "acpitz temp1": (52.0, None, OTHER),  # it may be a constant
    "coretemp Core 0": (52.0, 100.0, OTHER),
    "coretemp Core 1": (52.0, 100.0, OTHER),
    "coretemp Core 2": (54.0, 100.0, OTHER),
    "coretemp Core 3": (52.0, 100.0, OTHER),
    "coretemp Core 4": (51.0, 100.0, OTHER),
    "coretemp Core 5": (54.0, 100.0, OTHER),
    "coretemp Core 6": (63.0, 100.0, OTHER),
    "coretemp Core 7": (60.0, 100.0, OTHER),
    "nvme 0000:04:00.0 Composite": (45.85, 84.85, OTHER),
    "nvme 0000:04:00.0 Sensor 1": (45.85, None, OTHER),
    "nvme 0000:04:00.0 Sensor 2": (46.85, None, OTHER),
    # zones 0 and 9 are the hwmon chips acpitz and iwlwifi_1 once more
    "INT3400 Thermal zone": (20.0, None, OTHER),
    "SEN1 zone": (51.05, None, OTHER),
    "SEN2 zone": (48.05, None, OTHER),
    "SEN3 zone": (46.05, None, OTHER),
    "SEN4 zone": (40.05, None, OTHER),
    "SEN5 zone": (48.05, None, OTHER),
    "SEN6 zone": (43.05, None, OTHER),
    "TCPU zone": (52.05, None, OTHER),
    "x86_pkg_temp zone": (60.0, None, PACKAGE),
    "cpu throttle": (Quality.OK, None, PACKAGE),
}

KNOWN: dict[tuple[str, ...], Known] = {
    ("thinkpad-p1-gen4i-intel-nvidia-optimus",): Known(
        zones={
            **_P1_UNLOADED,
            "coretemp Package id 0": (59.0, 100.0, PACKAGE),
            "iwlwifi_1 temp1": (39.0, None, OTHER),
            "thinkpad CPU": (52.0, None, PACKAGE),
            "thinkpad GPU": (ASLEEP, None, OTHER),
            "thinkpad temp3": (51.0, None, OTHER),
            "thinkpad temp4": (0.0, None, OTHER),
            "thinkpad temp5": (48.0, None, OTHER),
            "thinkpad temp6": (46.0, None, OTHER),
            "thinkpad temp7": (40.0, None, OTHER),
            "thinkpad temp8": (ASLEEP, None, OTHER),
        },
        fans={"thinkpad fan1": (2420.0, 0.484), "thinkpad fan2": (2228.0, 0.4456)},
        draws={"rapl package-0": DENIED},
        supply=(False, 79.225, None),  # "Not charging", and a USB port that says "Discharging"
        decide=("coretemp Package id 0", "cpu throttle"),
    ),
    ("thinkpad-p1-gen4i-intel-nvidia-optimus", "thinkpad-p1-gen4i-load"): Known(
        zones={
            **_P1_UNLOADED,
            "coretemp Package id 0": (77.0, 100.0, PACKAGE),
            "iwlwifi_1 temp1": (46.0, None, OTHER),
            "thinkpad CPU": (74.0, None, PACKAGE),
            "thinkpad GPU": (58.0, None, OTHER),
            "thinkpad temp3": (63.0, None, OTHER),
            "thinkpad temp4": (1.0, None, OTHER),
            "thinkpad temp5": (61.0, None, OTHER),
            "thinkpad temp6": (56.0, None, OTHER),
            "thinkpad temp7": (49.0, None, OTHER),
            "thinkpad temp8": (ASLEEP, None, OTHER),
        },
        fans={"thinkpad fan1": (3486.0, 0.6972), "thinkpad fan2": (3238.0, 0.6476)},
        draws={"rapl package-0": DENIED},
        supply=(False, 79.225, None),
        decide=("coretemp Package id 0", "cpu throttle"),
    ),
    ("thinkpad-lunarlake-npu",): Known(
        zones={
            "coretemp Package id 0": (31.0, 100.0, PACKAGE),
            "nvme Composite": (25.0, None, OTHER),
            "thinkpad CPU": (30.0, None, PACKAGE),
            "thinkpad GPU": (ASLEEP, None, OTHER),
            "thinkpad temp3": (24.0, None, OTHER),
            "thinkpad temp4": (0.0, None, OTHER),
            "thinkpad temp5": (27.0, None, OTHER),
            "thinkpad temp6": (27.0, None, OTHER),
            "thinkpad temp7": (26.0, None, OTHER),
            "thinkpad temp8": (ASLEEP, None, OTHER),
            "cpu throttle": (Quality.OK, None, PACKAGE),
        },
        fans={"thinkpad fan1": (0.0, 0.0)},  # the controller has a fan; it stands
        draws={"battery": 2.898, "rapl package-0": DENIED},
        supply=(True, 71.316, 51764.0),  # 41.67 Wh of 58.43 Wh at 2.898 W
        profile=Profile(active="power-saver", source="platform_profile"),
        decide=("coretemp Package id 0", "cpu throttle"),
    ),
    ("thinkpad-p14s-gen6-amd-strix",): Known(
        zones={
            "acpitz temp1": (51.0, None, OTHER),
            "k10temp Tctl": (51.375, None, PACKAGE),
            "mt7925_phy0 temp1": (36.0, None, OTHER),
            "thinkpad CPU": (51.0, None, PACKAGE),
            "thinkpad GPU": (ASLEEP, None, OTHER),
            "thinkpad temp3": (51.0, None, OTHER),
            "thinkpad temp4": (0.0, None, OTHER),
            "thinkpad temp5": (26.0, None, OTHER),
            "thinkpad temp6": (51.0, None, OTHER),
            "thinkpad temp7": (51.0, None, OTHER),
            "thinkpad temp8": (ASLEEP, None, OTHER),
        },
        fans={"thinkpad fan1": (IMPLAUSIBLE, None)},
        supply=(False, 100.0, None),
        decide=("k10temp Tctl",),
    ),
    ("framework13-amd-7040",): Known(
        zones={
            "iwlwifi_1 temp1": (34.0, None, OTHER),
            "k10temp Tctl": (94.0, None, PACKAGE),
            "nvme Composite": (39.85, 94.85, OTHER),
            "nvme Sensor 1": (39.85, None, OTHER),
            "nvme Sensor 2": (41.85, None, OTHER),
        },
        fans={"cros_ec fan1": (6900.0, 1.0)},
        supply=(False, 100.0, None),
        decide=("k10temp Tctl",),
    ),
    ("framework16-amd-rx7700s",): Known(
        zones={"k10temp Tctl": (40.75, None, PACKAGE)},
        draws={"battery": 13.992},  # 15.9 V, 0.88 A
        supply=(True, 61.0, 13725.0),  # 3.355 Ah at 0.88 A
        decide=("k10temp Tctl",),
    ),
    ("framework16-amd-rx7700s", "framework16-dgpu-suspended"): Known(
        zones={"k10temp Tctl": (40.75, None, PACKAGE)},
        draws={"battery": 13.992},
        supply=(True, 61.0, 13725.0),
        decide=("k10temp Tctl",),
    ),
    ("desktop-amd-rx7900xtx",): Known(
        zones={
            "k10temp Tctl": (30.5, None, PACKAGE),
            "k10temp Tccd1": (24.0, None, OTHER),
            "nvme Composite": (23.85, 84.85, OTHER),
            "nvme Sensor 1": (23.85, None, OTHER),
        },
        # three headers more, with nothing plugged into them
        fans={"nct6687 CPU Fan": (1581.0, 0.3162), "nct6687 Pump Fan": (3448.0, None)},
        draws={"rapl package-0": DENIED},
        supply=(False, None, None),  # a keyboard's battery at 4 % is no battery of the machine's
        decide=("k10temp Tctl",),
    ),
    ("lenovo-cometlake-i915-igpu",): Known(zones={}, decide=()),
    ("raspberrypi5",): Known(
        zones={
            "cpu_thermal temp1": (56.75, 110.0, PACKAGE),
            "rp1_adc temp1": (55.472, None, OTHER),
        },
        fans={"pwmfan fan1": (1468.0, 0.2936)},
        decide=("cpu_thermal temp1",),
    ),
    ("raspberrypi5", "raspberrypi5-fan-lies"): Known(
        zones={
            "cpu_thermal temp1": (56.75, 110.0, PACKAGE),
            "rp1_adc temp1": (55.472, None, OTHER),
        },
        fans={"pwmfan fan1": (IMPLAUSIBLE, None)},
        decide=("cpu_thermal temp1",),
    ),
    ("thinkpad-prometheus-procfs",): Known(
        zones={
            "nvme 0000:01:00.0 Composite": (43.85, 94.85, OTHER),
            "nvme 0000:01:00.0 Sensor 1": (43.85, None, OTHER),
            "nvme 0000:01:00.0 Sensor 2": (45.85, None, OTHER),
            "nvme 0000:01:00.0 Sensor 8": (43.85, None, OTHER),
            "bcm2835_thermal zone": (49.925, None, PACKAGE),
            "acpitz zone": (IMPLAUSIBLE, None, OTHER),  # 44 degrees below zero
            "cpu throttle": (Quality.OK, None, PACKAGE),  # tens of thousands, at rest
        },
        draws={"battery": 4.83, "rapl package-0": None, "rapl package-10": None},
        supply=(True, 98.781, 36857.0),  # 49.45 Wh of 50.06 Wh at 4.83 W
        decide=("bcm2835_thermal zone", "cpu throttle"),
    ),
}
