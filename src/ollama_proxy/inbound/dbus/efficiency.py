"""What the mode is, and who wants which, for a bus."""

from collections.abc import Awaitable, Callable
from typing import Any

from ollama_proxy.bus.message import Call, CallRefused
from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.ledger import Change
from ollama_proxy.inbound.dbus.interface import read_interfaces
from ollama_proxy.inbound.dbus.tree import INVALID_ARGS, LIMITS_EXCEEDED, NAME, Body, Exported
from ollama_proxy.inbound.dbus.values import record_of, text_of
from ollama_proxy.inbound.figures import unknown_mode
from ollama_proxy.policy.modes import Mode, parse_mode

VERSION = "1"
# Waits until it will be told when somebody leaves the bus.
Follow = Callable[[str], Awaitable[None]]


def export_efficiency(climate: Climate, dispatcher: Dispatcher, follow: Follow) -> Exported:
    """The object of that name.

    Args:
        climate: has the mode.
        dispatcher: has the budget.
        follow: is awaited before anybody holds anything.
    """

    def states() -> dict[str, object]:
        effective = climate.effective
        return {
            "Mode": climate.mode.value,
            "CurrentMode": climate.mode.value,
            "EffectiveMode": effective.mode.value,
            "Reason": text_of(effective.reason),
            "PowerBudgetWatts": dispatcher.settings.route.watts_cap or 0.0,
        }

    def choose(wanted: object, sender: str = "") -> None:
        mode = _mode(wanted)
        dispatcher.ledger.change(
            Change(door="dbus", address=sender, key_name="", what=f"mode {mode.value}")
        )
        climate.choose_mode(mode)

    async def set_mode(call: Call) -> Body:
        before = climate.mode
        choose(call.body[0], call.sender)
        return (before.value,)

    async def hold(call: Call) -> Body:
        wanted, reason, app = call.body
        mode = _mode(wanted)
        await follow(call.sender)
        if climate.holds.is_full:
            raise CallRefused(
                LIMITS_EXCEEDED, f"{len(climate.holds)} holds last already; release some."
            )
        return (climate.hold_mode(call.sender, mode, reason=reason, app=app).cookie,)

    async def release(call: Call) -> Body:
        (cookie,) = call.body
        if not climate.release_hold(call.sender, cookie):
            raise CallRefused(
                INVALID_ARGS,
                f"You hold nothing by the cookie {cookie}: it was released, or the user chose a mode.",
            )
        return ()

    async def get_mode(_: Call) -> Body:
        return (climate.mode.value,)

    async def get_effective_mode(_: Call) -> Body:
        return (climate.effective.mode.value,)

    async def list_modes(_: Call) -> Body:
        return ([mode.value for mode in Mode],)

    (interface,) = read_interfaces(NAME + ".Efficiency")
    return Exported(
        interface=interface,
        constants={
            "Version": VERSION,
            "Modes": [
                record_of({
                    "name": mode.value,
                    "title": mode.title,
                    "description": mode.description,
                    "icon": mode.icon,
                })
                for mode in Mode
            ],
        },
        states=states,
        methods={
            "SetMode": set_mode,
            "GetMode": get_mode,
            "GetEffectiveMode": get_effective_mode,
            "ListModes": list_modes,
            "Hold": hold,
            "Release": release,
        },
        setters={"Mode": choose},
    )


def _mode(wanted: Any) -> Mode:  # noqa: ANN401 - its type was checked
    mode = parse_mode(wanted)
    if mode is None:
        raise CallRefused(INVALID_ARGS, unknown_mode(wanted).message)
    return mode
