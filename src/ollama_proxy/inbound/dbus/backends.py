"""Who serves requests, for a bus."""

from ollama_proxy.bus.message import Call, CallRefused
from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.inbound.dbus.efficiency import VERSION
from ollama_proxy.inbound.dbus.interface import read_interfaces
from ollama_proxy.inbound.dbus.tree import INVALID_ARGS, NAME, Body, Exported
from ollama_proxy.inbound.dbus.values import record_of
from ollama_proxy.inbound.figures import figures_of


def export_backends(dispatcher: Dispatcher, climate: Climate) -> Exported:
    """The object of that name."""

    def states() -> dict[str, object]:
        enabled = [s for s in dispatcher.stations.values() if s.spec.enabled]
        return {"Count": len(enabled), "HealthyCount": sum(s.healthy for s in enabled)}

    def gauges() -> dict[str, object]:
        stations = dispatcher.stations.values()
        return {"Backends": [record_of(figures_of(station, climate)) for station in stations]}

    async def get_backend(call: Call) -> Body:
        (wanted,) = call.body
        station = dispatcher.stations.get(wanted)
        if station is None:
            ids = ", ".join(dispatcher.stations) or "there is none"
            raise CallRefused(INVALID_ARGS, f"id: expected one of {ids}, got {wanted!r}.")
        return (record_of(figures_of(station, climate)),)

    async def refresh(_: Call) -> Body:
        for station in dispatcher.stations.values():
            if station.watch is not None:
                station.watch()
        return ()

    (interface,) = read_interfaces(NAME + ".Backends")
    return Exported(
        interface=interface,
        constants={"Version": VERSION},
        states=states,
        gauges=gauges,
        methods={"GetBackend": get_backend, "Refresh": refresh},
    )
