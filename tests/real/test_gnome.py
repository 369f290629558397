"""The extension in a real GNOME Shell: what its user sees and does, and what the router is told."""

import pytest

from tests.fakes.desk import desk_router, record
from tests.real.buses import PrivateBus, eventually
from tests.real.gnome import Desktop, desktop, suites

pytestmark = pytest.mark.parametrize("suite", suites())


async def test_the_menu_tells_the_state(suite: str, private: PrivateBus) -> None:
    """Battery, heat, fan and watts in a line; what runs and waits; each backend; in pictures, too."""
    async with (
        private.client() as service,
        desk_router(service) as router,
        desktop(suite, private) as shown,
    ):
        await shown.until("tile.visible")
        await router.say("Efficiency", EffectiveMode="efficiency", Reason="on battery (64 %)")
        await router.say("SystemState", OnBattery=True, BatteryPercent=64.2, PowerWatts=18.4)
        await router.say(
            "Thermal",
            State="light",
            Zones=[
                record(name="Tctl", temperature_c=71.4),
                record(name="edge", temperature_c=55.0),
                record(name="npu"),
            ],
            Fans=[record(name="fan1", rpm=2411.0), record(name="fan2", rpm=1800.0)],
        )
        await router.say("Routing", InFlight=2, QueueDepths={"npu": {"normal": 3}})
        await router.say(
            "Backends",
            Backends=[
                record(id="npu", name="Ollama NPU", enabled=True, healthy=True, temperature_c=61.0),
                record(id="nv", name="NVIDIA", enabled=True, healthy=False),
                record(id="igpu", name="iGPU", enabled=True, healthy=True, throttled=True),
                record(id="off", name="Off", enabled=False, healthy=False),
            ],
        )
        await shown.until("tile.subtitle", "Auto · Efficiency")
        await shown.open_panel()
        await shown.shoot("tile")
        await shown.open_menu()
        await shown.shoot("menu")

        assert [
            "Battery 64 % · Tctl 71 °C · Fan 2411 rpm · 18 W",
            "2 requests running · 3 waiting",
            "Ollama NPU | 61 °C",
            "NVIDIA | Not reachable",
            "iGPU | Slowed by heat",
        ] == await shown.texts()
        assert not shown.faults()
