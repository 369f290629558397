"""The extension in a real GNOME Shell: what its user sees and does, and what the router is told."""

import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.fakes.desk import DeskRouter, desk_router, record
from tests.real.buses import SOON_S, PrivateBus, eventually
from tests.real.gnome import Desktop, desktop, require_shell, suites
from tests.real.laptop import real_router
from tests.real.parts import require
from tests.routers import fakes

ALL_DAY = "quiet-hours=true\nquiet-hours-begin=0\nquiet-hours-end=1439\n"


@pytest.fixture(params=suites())
def suite(request: pytest.FixtureRequest) -> str:
    """Whose shell it is."""
    name: str = request.param
    require_shell(name)
    return name


async def test_the_real_router_is_steered(suite: str, private: PrivateBus) -> None:
    """A click on Quiet is what GET /efficiency and the next request tell; killed, the tile hides."""
    async with fakes("npu", "cpu") as servers, desktop(suite, private) as shown:
        urls = {name: fake.url for name, fake in servers.items()}
        async with real_router(private, urls) as (process, url):
            await shown.until("tile.visible")
            await shown.until("tile.subtitle", "Auto · Efficiency")
            await shown.open_menu()
            await shown.until("tile._backendLines.length", 2)
            await shown.shoot("real")
            ask = {"model": "fake:latest", "prompt": "hello", "stream": False}
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=SOON_S) as client:
                await client.post("/efficiency", json={"mode": "performance"})
                before = (await client.post("/api/generate", json=ask)).headers
                await shown.until("tile.subtitle", "Performance")
                await shown.click("tile._modeItems.get('quiet')")
                await shown.until("tile.subtitle", "Quiet")
                told = (await client.get("/efficiency")).json()
                after = (await client.post("/api/generate", json=ask)).headers
            assert ("quiet", "quiet") == (told["mode"], told["effective_mode"])
            assert [("ollama-cpu", "mode-performance"), ("ollama-npu", "mode-quiet")] == [
                (each["x-backend-used"], each["x-routing-reason"]) for each in (before, after)
            ]
            for fake in servers.values():
                assert ["/api/generate"] == [
                    each.path for each in fake.log if each.method == "POST"
                ]
            process.send_signal(signal.SIGKILL)
            await shown.until("!tile.visible")
        async with real_router(private, urls):
            await shown.until("tile.visible")
        assert not shown.faults()


async def test_the_real_router_holds_quiet(suite: str, private: PrivateBus) -> None:
    """In the user's quiet hours, and says for whom; who chooses a mode has that."""
    async with fakes("npu") as servers, desktop(suite, private, ALL_DAY) as shown:
        async with real_router(private, {"npu": servers["npu"].url}):
            await shown.until("tile.subtitle", "Auto · Quiet")
            await shown.until(
                "ours._router.read('Efficiency', 'Reason')", "held by GNOME: quiet hours"
            )
            await shown.js("ours._chooser.choose('performance')")
            await shown.until("tile.subtitle", "Performance")
        assert not shown.faults()


@asynccontextmanager
async def desk(
    suite: str, private: PrivateBus, settings: str = ""
) -> AsyncIterator[tuple[Desktop, DeskRouter]]:
    """A desktop on which a scripted router is, and the tile for it."""
    async with (
        private.client() as service,
        desk_router(service) as router,
        desktop(suite, private, settings) as shown,
    ):
        await shown.until("tile.visible")
        yield shown, router
        assert not shown.faults()


async def test_the_menu_tells_the_state(suite: str, private: PrivateBus) -> None:
    """Battery, heat, fan and watts in a line; what runs and waits; each backend; in pictures, too."""
    async with desk(suite, private) as (shown, router):
        await router.say("Efficiency", EffectiveMode="efficiency", Reason="on battery (64 %)")
        await router.say("SystemState", OnBattery=True, BatteryPercent=64.2, PowerWatts=18.4)
        await router.say(
            "Thermal",
            State="light",
            Zones=[
                record(name="k10temp Tctl", kind="cpu", part="package", temperature_c=71.4),
                record(name="nvme", kind="storage", temperature_c=75.0),
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
            "Battery 64 % · CPU 71 °C · Fan 2411 rpm · 18 W",
            "2 requests running · 3 waiting",
            "Ollama NPU | 61 °C",
            "NVIDIA | Not reachable",
            "iGPU | Slowed by heat",
        ] == await shown.texts()


async def test_what_is_not_known_is_not_shown(suite: str, private: PrivateBus) -> None:
    """Not as 0 either; and what becomes unknown vanishes."""
    async with desk(suite, private) as (shown, router):
        await router.say("SystemState", OnBattery=False, PowerWatts=7.26)
        await shown.open_menu()
        await shown.until(
            "tile._measures._name.text", "Mains\N{NO-BREAK SPACE}· 7.3\N{NO-BREAK SPACE}W"
        )
        await router.say("SystemState", OnBattery=None, PowerWatts=None)
        await shown.until("!tile._measures.visible")

        assert [] == await shown.texts()


async def test_a_click_on_a_mode_chooses_it(suite: str, private: PrivateBus) -> None:
    """By the pointer; the router is told, and what it says then is what the tile shows."""
    async with desk(suite, private) as (shown, router):
        await shown.open_menu()
        await shown.click("tile._modeItems.get('quiet')")
        await shown.until("tile.subtitle", "Quiet")

        assert [("SetMode", "quiet")] == router.told
        assert await shown.js("tile.checked")
        assert ["quiet"] == await shown.js(
            "[...tile._modeItems].filter(([, item]) => item._ornament === 2).map(([name]) => name)"
        )
        assert "quiet" == await shown.js("ours._settings.get_string('last-mode')")


async def test_a_click_on_the_tile_goes_back_and_forth(suite: str, private: PrivateBus) -> None:
    """Between the default mode and the latest other one."""
    settings = "default-mode='balanced'\nlast-mode='ultra-efficiency'"
    async with desk(suite, private, settings) as (shown, router):
        await router.say("Efficiency", Mode="balanced")
        await shown.until("tile.subtitle", "Balanced")
        await shown.open_panel()
        for title, is_other in (("Ultra Efficiency", True), ("Balanced", False)):
            await shown.click("tile")
            await shown.until("[tile.subtitle, tile.checked]", [title, is_other])

        assert [("SetMode", "ultra-efficiency"), ("SetMode", "balanced")] == router.told


async def test_a_refusal_is_told(suite: str, private: PrivateBus) -> None:
    """In the menu until something succeeds, and in a notification; the tile stays with the truth."""
    async with desk(suite, private) as (shown, router):
        router.refusal = "the owner locked the mode"
        await shown.open_menu()
        await shown.click("tile._modeItems.get('performance')")
        await shown.until("ours._chooser.trouble", router.refusal)
        await shown.open_menu()
        await shown.shoot("refused")

        assert router.refusal in await shown.texts()
        assert "Auto · Balanced" == await shown.js("tile.subtitle")
        assert "AI Efficiency: The mode could not be changed" in await shown.notifications()
        router.refusal = ""
        await shown.click("tile._modeItems.get('performance')")
        await shown.until("tile.subtitle", "Performance")
        await shown.until("ours._chooser.trouble", "")


async def test_the_tile_is_there_while_the_router_is(suite: str, private: PrivateBus) -> None:
    """Neither it nor the icon in the top bar without one; and both again when it is back."""
    icon = "ours._indicator._indicators?.get_first_child() ?? ours._indicator.get_first_child()"
    async with desktop(suite, private) as shown:
        await shown.until("!tile.visible")
        for _ in range(2):
            async with private.client() as service, desk_router(service):
                await shown.until("tile.visible")
                await shown.until(f"({icon}).visible")
            await shown.until("!tile.visible")
            await shown.until(f"!({icon}).visible")
        async with private.client() as service, desk_router(service):
            await shown.until("tile.visible")
            await shown.js("ours._settings.set_boolean('show-indicator', false)")

            await shown.until(f"!({icon}).visible")
        assert not shown.faults()


async def test_it_leaves_nothing_behind(suite: str, private: PrivateBus) -> None:
    """Disabled and enabled three times: no tile, no key, no timer, no object of it is left."""
    async with desk(suite, private, f"{ALL_DAY}next-mode=['<Super>F9']") as (shown, router):
        await eventually(lambda: router.told == [("Hold", "quiet", "quiet hours")])
        for _ in range(3):
            await shown.js("""globalThis.__left = [ours._router, ours._chooser, ours._indicator, tile,
                ...ours._router._proxies.values()].map(each => new WeakRef(each)), null""")
            await shown.js("globalThis.__timer = ours._quietHours._timer")
            await shown.switch(on=False)
            # A tile that still listened would trip over this.
            await router.say("SystemState", BatteryPercent=50.0)
            await shown.until(
                """(imports.system.gc(),
                globalThis.__left.filter(each => each.deref() !== undefined).length)""",
                0,
            )
            assert await shown.js("GLib.MainContext.default().find_source_by_id(__timer) === null")
            assert not await shown.js("Main.wm._allowedKeybindings?.['next-mode'] ?? null")
            await shown.switch(on=True)
            await shown.until("tile.visible")

        assert [] == await shown.errors()


async def test_quiet_is_held_in_quiet_hours(suite: str, private: PrivateBus) -> None:
    """From their begin to their end, once; a locked screen neither ends nor repeats it."""
    held, released = ("Hold", "quiet", "quiet hours"), ("Release", 1)
    async with desk(suite, private, ALL_DAY) as (shown, router):
        await eventually(lambda: router.told == [held])
        await shown.until("tile.subtitle", "Auto · Quiet")
        await shown.js("Main.sessionMode.pushMode('unlock-dialog')")
        await shown.until("!tile")
        await shown.js("Main.sessionMode.popMode('unlock-dialog')")
        await shown.until("!!tile?.visible")
        await shown.until("tile.subtitle", "Auto · Quiet")
        assert [held] == router.told
        await shown.js("ours._settings.set_boolean('quiet-hours', false)")

        await eventually(lambda: router.told == [held, released])


async def test_the_default_is_chosen_at_the_start(suite: str, private: PrivateBus) -> None:
    """If the user wants that: of the session, and of the router; not after a locked screen."""
    settings = "set-default-at-start=true\ndefault-mode='efficiency'"
    chosen = ("SetMode", "efficiency")
    async with desktop(suite, private, settings) as shown:
        async with private.client() as service, desk_router(service) as router:
            await eventually(lambda: router.told == [chosen])
            await shown.switch(on=False)
            await shown.switch(on=True)
            await shown.until("tile.visible")
            assert [chosen] == router.told
        async with private.client() as service, desk_router(service) as router:
            await eventually(lambda: router.told == [chosen])
        assert not shown.faults()


async def test_keys_choose_modes(suite: str, private: PrivateBus) -> None:
    """The next one, and Quiet on and off; a notification says which it is."""
    settings = "next-mode=['<Super>F9']\ntoggle-quiet=['<Super>F10']"
    async with desk(suite, private, settings) as (shown, router):
        for key, title in (
            ("F9", "Ultra Efficiency"),
            ("F10", "Quiet"),
            ("F10", "Auto · Balanced"),
        ):
            await shown.press("Super", key)
            await shown.until("tile.subtitle", title)

        assert ["ultra-efficiency", "quiet", "auto"] == [mode for _, mode in router.told]
        assert "AI Efficiency: Quiet" in await shown.notifications()


async def test_it_speaks_its_users_language(suite: str, private: PrivateBus) -> None:
    """German, for one: what the tile says itself, and the mode that the router names in English."""
    require(shutil.which("msgfmt") is not None, "gettext is not installed")
    async with (
        private.client() as service,
        desk_router(service) as router,
        desktop(suite, private, locale="de_DE.UTF-8") as shown,
    ):
        await router.say("SystemState", OnBattery=True, BatteryPercent=64.2)
        await shown.until("tile.subtitle", "Automatisch · Ausgeglichen")
        await shown.open_menu()

        assert "KI-Effizienz" == await shown.js("tile.title")
        assert ["Akku 64 %"] == await shown.texts()


async def test_the_preferences_record_a_shortcut(suite: str, private: PrivateBus) -> None:
    """In a window of their own, without a complaint; it counts from then on."""
    tabs = 12  # from the window's own buttons to the first row of shortcuts
    titles = "global.get_window_actors().map(each => each.meta_window.title)"
    async with desk(suite, private) as (shown, router), shown.preferences():
        await shown.until(titles, ["AI Efficiency"])
        await shown.until("global.display.focus_window?.title", "AI Efficiency")
        await shown.shoot("preferences")
        for _ in range(tabs):
            await shown.press("Tab")
        await shown.press("Return")
        await shown.shoot("shortcut")
        await shown.press("Super", "F8")
        await shown.until("ours._settings.get_strv('next-mode')", ["<Super>F8"])
        await shown.press("Super", "F8")
        await eventually(lambda: router.told == [("SetMode", "ultra-efficiency")])

        assert "JS ERROR" not in shown.log("client")
