"""Whatever is called on the bus, with whatever values: an answer of the promised type or a refusal."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jeepney import DBusAddress, new_method_call

from ollama_proxy.bus.message import Call, CallRefused
from ollama_proxy.engine.climate import Climate, ClimateSettings
from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.ledger import Ledger
from ollama_proxy.engine.news import News
from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.dbus.door import BusDoor
from ollama_proxy.inbound.dbus.tree import Tree
from tests.fakes.backend import ScriptedBackend
from tests.fleet import spec
from tests.fuzz.inputs import tries

SENDER = ":1.7"
TEXT = st.one_of(
    st.sampled_from(["", "quiet", "Ultra Efficiency", "Mode", "npu", "\0", "é" * 300]),
    st.text(max_size=20),
)
PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "s": TEXT,
    "o": st.just("/"),
    "g": st.just("s"),
    "b": st.booleans(),
    "y": st.integers(0, 255),
    "u": st.integers(0, 2**32 - 1),
    "i": st.integers(-(2**31), 2**31 - 1),
    "x": st.integers(-(2**63), 2**63 - 1),
    "t": st.integers(0, 2**64 - 1),
    "d": st.floats(),
}
VARIANT = st.sampled_from(sorted(PLAIN)).flatmap(lambda kind: st.tuples(st.just(kind), PLAIN[kind]))
RECORD = st.dictionaries(
    st.one_of(st.sampled_from(["model", "priority", "max_latency_ms", "target"]), TEXT),
    VARIANT,
    max_size=4,
)
KINDS = PLAIN | {"v": VARIANT, "a{sv}": RECORD}


def tree() -> Tree:
    """All our objects, over a backend and a machine of which nothing is known."""
    dispatcher = Dispatcher(DispatchSettings(), Ledger(), clock=float)
    station = Station(ScriptedBackend(spec("npu")), queue_capacity=2)
    dispatcher.add(station)
    news = News()
    climate = Climate(dispatcher, ClimateSettings(), news, minute_of_day=lambda: 0, clock=float)
    door = BusDoor(dispatcher, climate, news, Ledger(), minute_of_day=lambda: 0)
    return door._tree


def parts(signature: str) -> list[str]:
    """A signature's types, of those that our interfaces take."""
    found = []
    while signature:
        kind = next(each for each in ("a{sv}", signature[0]) if signature.startswith(each))
        found.append(kind)
        signature = signature[len(kind) :]
    return found


TREE = tree()
METHODS = [
    (path, interface, name, method.takes)
    for path, offers in sorted(TREE._offers.items())
    for interface, offer in sorted(offers.items())
    for name, method in sorted(offer.interface.methods.items())
    if name not in {"GetMachineId", "HoldMode"}
]


def calls() -> st.SearchStrategy[Call]:
    """Each method of each object, with values of its types."""
    return st.sampled_from(METHODS).flatmap(
        lambda method: st.tuples(*(KINDS[kind] for kind in parts(method[3]))).map(
            lambda body: Call(
                sender=SENDER,
                path=method[0],
                interface=method[1],
                member=method[2],
                signature=method[3],
                body=body,
            )
        )
    )


@tries(0.1)
@given(calls())
async def test_every_call_is_answered_or_refused(call: Call) -> None:
    """Nothing else is raised, and what is answered can be sent."""
    try:
        signature, body = await TREE.answer(call)
    except CallRefused:
        return
    new_method_call(DBusAddress("/", ":1.1"), "It", signature, body).serialise(serial=1)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: " ".join(method[:3]))
async def test_types_that_are_not_its_own_are_refused(method: tuple[str, str, str, str]) -> None:
    """Before anything is done."""
    path, interface, name, takes = method
    wrong = Call(
        sender=SENDER,
        path=path,
        interface=interface,
        member=name,
        signature=takes + "s",
        body=("",),
    )
    with pytest.raises(CallRefused):
        await TREE.answer(wrong)
