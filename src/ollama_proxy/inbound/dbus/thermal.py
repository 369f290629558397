"""Heat and fans, for a bus."""

import trio

from ollama_proxy.bus.message import Call
from ollama_proxy.engine.climate import Climate
from ollama_proxy.inbound.dbus.efficiency import VERSION
from ollama_proxy.inbound.dbus.interface import read_interfaces
from ollama_proxy.inbound.dbus.tree import NAME, Body, Exported
from ollama_proxy.inbound.dbus.values import record_of
from ollama_proxy.inbound.heat import fan_of, moment_of, zone_of


def export_thermal(climate: Climate) -> Exported:
    """The object of that name."""

    def states() -> dict[str, object]:
        zones = climate.conditions.zones
        return {
            "State": climate.state.value,
            "Throttling": any(zone.throttling is True for zone in zones),
        }

    def gauges() -> dict[str, object]:
        found = climate.conditions
        return {
            # Without their ages, which would be another figure at each look.
            "Zones": [record_of(zone_of(zone, None)) for zone in found.zones],
            "Fans": [record_of(fan_of(fan)) for fan in found.fans],
        }

    async def history(call: Call) -> Body:
        (seconds,) = call.body
        now = trio.current_time()
        kept = [moment for moment in climate.history if now - moment.at <= seconds]
        return ([record_of(moment_of(moment, now)) for moment in kept],)

    (interface,) = read_interfaces(NAME + ".Thermal")
    return Exported(
        interface=interface,
        constants={"Version": VERSION},
        states=states,
        gauges=gauges,
        methods={"History": history},
    )
