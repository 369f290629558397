"""The machine, for a bus: what is not known is missing."""

from collections.abc import Callable

from ollama_proxy.engine.climate import Climate
from ollama_proxy.inbound.dbus.efficiency import VERSION
from ollama_proxy.inbound.dbus.interface import read_interfaces
from ollama_proxy.inbound.dbus.tree import NAME, Exported
from ollama_proxy.inbound.dbus.values import text_of
from ollama_proxy.policy.modes import is_within


def export_system_state(climate: Climate, minute_of_day: Callable[[], int]) -> Exported:
    """The object of that name; `minute_of_day`: local time, for quiet hours."""

    def states() -> dict[str, object]:
        found = climate.conditions
        hours = climate.settings.auto.quiet_hours
        profile = None if found.profile is None else text_of(found.profile.active)
        return _known(
            OnBattery=found.on_battery,
            PowerProfile=profile,
            QuietHours=hours is not None and is_within(hours, minute_of_day()),
            Sleeping=found.sleeping,
        )

    def gauges() -> dict[str, object]:
        found = climate.conditions
        return _known(BatteryPercent=found.battery_percent, PowerWatts=found.system_watts)

    (interface,) = read_interfaces(NAME + ".SystemState")
    return Exported(
        interface=interface, constants={"Version": VERSION}, states=states, gauges=gauges
    )


def _known(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}
