"""Notices on a desktop: the mock of a notification daemon, on a bus of our own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ollama_proxy.bus.message import Remote
from ollama_proxy.notifier import APP_NAME, DESKTOP, Notifier
from ollama_proxy.policy.notice import (
    BackendBack,
    BackendLost,
    Event,
    HeatChanged,
    ModeChanged,
    Notices,
)
from tests.real.buses import HASTE, MOCK, PrivateBus, eventually, require_mocks, tell

CONTROL = Remote(DESKTOP.name, DESKTOP.path, MOCK)


@asynccontextmanager
async def desktop(private: PrivateBus) -> AsyncIterator[trio.Process]:
    """A desktop that shows notices."""
    require_mocks()
    arguments = ("-t", "notification_daemon")
    async with private.mocked(DESKTOP.name, *arguments) as process:
        yield process


@asynccontextmanager
async def notifying(private: PrivateBus) -> AsyncIterator[Notifier]:
    notifier = Notifier(Notices(interval_s=0.05))

    async def run() -> None:
        await notifier.run(private.address, pace=HASTE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield notifier
        nursery.cancel_scope.cancel()


async def shown(private: PrivateBus, count: int) -> list[list[Any]]:
    """The arguments of all Notify calls, once there are so many: variants without their types."""
    calls: list[Any] = []
    async with private.client() as bus:
        with trio.fail_after(20):
            while len(calls) < count:
                (calls,) = await bus.call(
                    CONTROL, "GetMethodCalls", "s", ("Notify",), returns="a(tav)", timeout_s=20
                )
    assert count == len(calls)
    return [[value for _, value in arguments] for _, arguments in calls]


async def test_a_notice_is_shown(private: PrivateBus) -> None:
    """With our name, what happened in plain text, its urgency, and for as long as is usual."""
    async with desktop(private), notifying(private) as notifier:
        notifier.tell(BackendLost("npu", "HTTP 500 <html> & more"))
        ((app, replaces, icon, summary, body, actions, hints, lasting),) = await shown(private, 1)

    assert (APP_NAME, 0, "npu is down", [], -1) == (app, replaces, summary, actions, lasting)
    assert body.endswith("HTTP 500 &lt;html&gt; &amp; more")
    assert "network-offline-symbolic" == icon
    assert {"urgency": ("y", 1), "desktop-entry": ("s", "ie.fio.OllamaProxy")} == hints


async def test_a_notice_replaces_the_one_before(private: PrivateBus) -> None:
    """In its own slot, and in no other."""
    async with desktop(private), notifying(private) as notifier:
        events: tuple[Event, ...] = (
            BackendLost("npu", "gone"),
            HeatChanged("severe"),
            BackendLost("gpu", "gone"),
            BackendBack("npu"),
            HeatChanged("nominal"),
        )
        for count, event in enumerate(events, 1):
            notifier.tell(event)
            await shown(private, count)
        calls = await shown(private, len(events))

    assert [0, 0, 0, 1, 2] == [call[1] for call in calls]


async def test_a_notice_that_was_closed_is_not_replaced(private: PrivateBus) -> None:
    """What the person put away stays away; the next is a new one."""
    async with desktop(private), notifying(private) as notifier, private.client() as bus:
        notifier.tell(BackendLost("npu", "gone"))
        await shown(private, 1)
        closed = [("u", 1), ("u", 2)]
        await tell(
            bus,
            DESKTOP,
            "EmitSignal",
            "sssav",
            DESKTOP.interface,
            "NotificationClosed",
            "uu",
            closed,
        )
        await eventually(lambda: not notifier._shown)
        notifier.tell(BackendBack("npu"))
        calls = await shown(private, 2)

    assert [0, 0] == [call[1] for call in calls]


async def test_a_desktop_that_restarts_knows_no_notices(private: PrivateBus) -> None:
    """Its successor is not asked to replace what it never showed."""
    async with notifying(private) as notifier:
        async with desktop(private):
            notifier.tell(BackendLost("npu", "gone"))
            await shown(private, 1)
        async with desktop(private):
            notifier.tell(BackendBack("npu"))
            ((_, replaces, *_),) = await shown(private, 1)

    assert 0 == replaces


async def test_what_was_not_shown_is_shown_by_the_next_bus(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Events while there is no bus wait for it, and only what is so still is told."""
    private = PrivateBus(directory)
    async with notifying(private) as notifier:
        await eventually(lambda: bool(caplog.records))
        notifier.tell(ModeChanged("balanced", "quiet", "it is night"))
        notifier.tell(BackendLost("npu", "gone"))
        notifier.tell(BackendBack("npu"))
        async with private.running(), desktop(private):
            ((_, _, _, summary, *_),) = await shown(private, 1)

    assert "AI Efficiency: Quiet" == summary


async def test_without_a_desktop_it_is_said_once(
    private: PrivateBus, caplog: pytest.LogCaptureFixture
) -> None:
    """A bus without anybody who shows notices is no reason to fill the log."""
    async with notifying(private) as notifier:
        notifier.tell(BackendLost("npu", "gone"))
        await eventually(lambda: bool(caplog.records))
        notifier.tell(BackendLost("gpu", "gone"))
        async with desktop(private):
            await shown(private, 2)

    assert 1 == len(caplog.records)
