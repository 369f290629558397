"""Builds the senses out of their rooms, and holds the nursery that they live in.

    senses   closes last   a task per sensor, the system's bus, the climate, the desktop: notices, wishes

Nothing here is needed to serve: a machine without sensors, and one without a bus, is routed by what
its owner wrote down.
"""

import datetime as dt
import functools
import logging
from typing import NoReturn

import attrs
import trio

from ollama_proxy.config import Config
from ollama_proxy.desktop import Awake, Desktop, Performance
from ollama_proxy.engine.climate import Climate, ClimateSettings
from ollama_proxy.engine.courtesy import Courtesy
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.news import (
    BackendChanged,
    HeatChanged,
    Item,
    ModeChanged,
    News,
    Routed,
)
from ollama_proxy.notifier import Notifier
from ollama_proxy.policy import notice
from ollama_proxy.policy.courtesy import CourtesySettings
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.modes import AutoSettings, Cause, parse_quiet_hours
from ollama_proxy.policy.readings import Findings
from ollama_proxy.policy.thermal import ThermalSettings, Thresholds
from ollama_proxy.sensors.discovery import discover
from ollama_proxy.sensors.files import KernelFiles
from ollama_proxy.sensors.nvml import load_nvml
from ollama_proxy.sensors.senses import Senses
from ollama_proxy.sensors.sensor import Heed
from ollama_proxy.sensors.system_bus import sense_system_bus, slept_s

# The doors open when every sensor has told something, or after so long.
FIRST_LOOK_S = 1.0
CLOCK_EVERY_S = 2.0
CLOCKS_DIFFER_S = (
    1.0  # two clocks, of which one stands still in sleep, are read one after the other
)

log = logging.getLogger("ollama_proxy")


def minute_of_day() -> int:
    """The minute on the wall, 0 to 1439."""
    now = dt.datetime.now().astimezone()
    return now.hour * 60 + now.minute


def climate_settings(config: Config) -> ClimateSettings:
    """What the owner wrote of modes and heat, in the words of the policy."""
    efficiency, thermal = config.efficiency, config.thermal
    return ClimateSettings(
        poll_s=thermal.poll_s,
        auto=AutoSettings(
            quiet_hours=parse_quiet_hours(efficiency.quiet_hours),
            follow_profile=efficiency.follow_power_profile,
            low_percent=efficiency.low_battery_percent,
        ),
        thermal=ThermalSettings(
            warning_c=thermal.warning_c or None,
            critical_c=thermal.critical_c or None,
            hysteresis_c=thermal.hysteresis_c,
            dwell_s=thermal.dwell_s,
            lookahead_s=thermal.lookahead_s,
            per_hardware={
                Hardware(name): Thresholds(
                    warning_c=limits.warning_c or None, critical_c=limits.critical_c or None
                )
                for name in ("npu", "igpu", "nvidia", "amd", "cpu")
                if (limits := getattr(thermal, name)) != type(limits)()
            },
        ),
    )


def open_climate(config: Config, dispatcher: Dispatcher, news: News) -> Climate:
    """The climate that a configuration asks for, with nothing known yet."""
    return Climate(
        dispatcher,
        climate_settings(config),
        news,
        mode=config.efficiency.mode,
        minute_of_day=minute_of_day,
    )


async def run_senses(
    config: Config,
    dispatcher: Dispatcher,
    climate: Climate,
    news: News,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Sense until cancelled. Reports itself started after the first look at what was read.

    Error handling: whatever cannot be read is unknown; faults of ours go up.
    """
    told = _Told(climate)
    heed = Heed(used_at=dispatcher.used_at)

    def publish(sensor: str, findings: Findings | None) -> None:
        told.publish(sensor, findings)
        heed.on_battery = climate.conditions.on_battery

    files = KernelFiles(config.sensors.sysfs_root, config.sensors.procfs_root)
    load = load_nvml if config.sensors.nvml else lambda: None
    senses = Senses(functools.partial(discover, files, heed, load=load), publish)
    async with trio.open_nursery() as nursery:
        sleep = _Sleep(nursery, senses, dispatcher, climate)
        nursery.start_soon(sleep.watch_clock, name="sleep")
        if config.sensors.system_bus:
            nursery.start_soon(
                sense_system_bus,
                config.sensors.system_bus,
                publish,
                sleep.heard,
                name="system bus",
            )
        if config.dbus.enabled and config.dbus.bus:
            notifier = Notifier(notice.Notices(kinds=wanted_kinds(config)))
            news.read_by(functools.partial(_notify, notifier))
            nursery.start_soon(notifier.run, config.dbus.bus, name="notices")
        if config.sensors.system_bus and (
            config.dbus.hold_performance or config.dbus.inhibit_sleep
        ):
            desktop = _open_desktop(config, dispatcher, climate, news)
            nursery.start_soon(desktop.run, config.sensors.system_bus, name="desktop")
        await nursery.start(senses.run, name="sensors")
        with trio.move_on_after(FIRST_LOOK_S):
            await told.wait_for(senses.known)
        climate.look()
        nursery.start_soon(climate.keep_looking, name="climate")
        task_status.started()
        await trio.sleep_forever()


def _open_desktop(config: Config, dispatcher: Dispatcher, climate: Climate, news: News) -> Desktop:
    """Who asks the desktop for what requests want while they run."""
    settings = CourtesySettings(
        hold_performance=config.dbus.hold_performance, inhibit_sleep=config.dbus.inhibit_sleep
    )
    courtesy = Courtesy(dispatcher, climate, settings)
    desktop = Desktop(courtesy.wants, [Performance(), Awake()])

    def stir(item: Item) -> None:
        if isinstance(item, Routed):
            desktop.stir()

    news.read_by(stir)
    return desktop


@attrs.define
class _Told:
    """Who has told something already, so that the first choice is made on what there is."""

    climate: Climate
    _names: set[str] = attrs.field(factory=set)
    _more: trio.Event = attrs.field(factory=trio.Event)

    def publish(self, sensor: str, findings: Findings | None) -> None:
        self.climate.publish(sensor, findings)
        self._names.add(sensor)
        self._more.set()

    async def wait_for(self, names: set[str]) -> None:
        while not names <= self._names:
            self._more = trio.Event()
            await self._more.wait()


@attrs.frozen
class _Sleep:
    """What is done when the machine goes to sleep, and when it woke."""

    nursery: trio.Nursery
    senses: Senses
    dispatcher: Dispatcher
    climate: Climate

    def heard(self, is_asleep: bool) -> None:  # noqa: FBT001 - as `sense_system_bus` calls it
        if is_asleep:
            self.nursery.start_soon(self.senses.pause, name="pause sensors")
            return
        self.woke()

    async def watch_clock(self) -> NoReturn:
        """See that the machine slept where no logind tells; to be told twice does no harm."""
        known_s = slept_s()
        while True:
            await trio.sleep(CLOCK_EVERY_S)
            if slept_s() > known_s + CLOCKS_DIFFER_S:
                self.woke()
            known_s = slept_s()

    def woke(self) -> None:
        """What was open is dead, and what was read is of another day."""
        log.info("the machine woke: connections and readings from before are dropped")
        for station in self.dispatcher.stations.values():
            station.backend.forget_connections()
        self.climate.slept()
        self.senses.resume()


# -- notices ---------------------------------------------------------------------------------------


def wanted_kinds(config: Config) -> frozenset[notice.Kind]:
    """The kinds of notice that the owner wants."""
    return frozenset(k for k in notice.Kind if getattr(config.notifications, k.value))


def _notify(notifier: Notifier, item: Item) -> None:
    event = _event(item)
    if event is not None:
        notifier.tell(event)


def _event(item: Item) -> notice.Event | None:
    """News as a notice's event; None for what its reader did himself, and for everyday business."""
    match item:
        case Routed():
            return None
        case ModeChanged(cause=Cause.CHOSEN):
            return None
        case ModeChanged():
            return notice.ModeChanged(item.old.value, item.new.value, item.reason)
        case HeatChanged():
            return notice.HeatChanged(item.new.value, item.why)
        case BackendChanged(healthy=True):
            return notice.BackendBack(item.id)
        case BackendChanged():
            return notice.BackendLost(item.id, item.why)
