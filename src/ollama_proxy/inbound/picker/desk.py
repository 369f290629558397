"""What every conversation with Envoy works with, and what is asked about nodes that no job decides."""

import functools
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

import attrs
import trio

from ollama_proxy.engine.attempt import Attempt
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.job import BackendFailed, Report
from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.bounds import Bounds
from ollama_proxy.inbound.lane import LaneLimits
from ollama_proxy.inbound.picker.addresses import Addresses
from ollama_proxy.inbound.trust import Gate
from ollama_proxy.policy.ask import Call, Dialect
from ollama_proxy.policy.sampling import is_read


@attrs.frozen(kw_only=True)
class PickerSettings:
    """What the picker needs to know. Bytes and seconds.

    Attributes:
        limits: of a request, as the HTTP door has them.
        hold_s: how long Envoy may be asked to wait; it must be no more than its `max_message_timeout`.
    """

    limits: LaneLimits = attrs.field(factory=LaneLimits)
    hold_s: float = 3600.0


class Overhears(Protocol):
    """Reads an answer as it passes.

    Attributes:
        pieces: how many of a stream have come; None for a whole answer.
    """

    pieces: int | None

    def feed(self, data: bytes) -> None:
        """Read some bytes of it."""

    def report(self) -> Report | None:
        """What its server says of it, once it is whole."""


@attrs.frozen(kw_only=True)
class Desk:
    """What every conversation works with.

    Attributes:
        overhear: begins to read an answer, by its content type; None: none is read.
    """

    dispatcher: Dispatcher
    gate: Gate
    bounds: Bounds
    settings: PickerSettings
    addresses: Addresses
    overhear: Callable[[bytes], Overhears] | None = None

    async def reach(self, endpoints: frozenset[str] | None) -> frozenset[str] | None:
        """The ids of the backends at these endpoints; None, and then all, where there are none given."""
        if endpoints is None:
            return None
        stations = list(self.dispatcher.stations.values())
        return frozenset([
            station.spec.id
            for station in stations
            if station.spec.enabled and not endpoints.isdisjoint(await self._endpoints_of(station))
        ])

    async def idlest(self, dialect: Dialect, subset: frozenset[str] | None) -> str | None:
        """Where the node listens that has the least to do, of those that speak the dialect, keyless.

        What is asked of it is no job, and takes no slot.

        Args:
            dialect: which.
            subset: the endpoints that may be told; None: all.
        """
        call = Call.OLLAMA_CHAT if dialect is Dialect.OLLAMA else Call.OPENAI_CHAT
        stations = [
            station
            for station in self.dispatcher.stations.values()
            if station.spec.enabled
            and station.healthy
            and station.spec.carries(call)
            and not station.spec.api_key_env
        ]
        for station in sorted(stations, key=lambda each: each.in_flight / each.spec.slots):
            if endpoints := among(await self._endpoints_of(station), subset):
                return ",".join(endpoints)
        return None

    async def _endpoints_of(self, station: Station) -> list[str]:
        """Where a backend listens; none where its name leads nowhere, or nobody else can ask there."""
        place = _place(station.spec.endpoint)
        try:
            return [] if place is None else await self.addresses.find(*place)
        except BackendFailed:
            return []

    def wants_bytes(self, attempt: Attempt) -> bool:
        """Whether an answer is to be read as it passes. Envoy may not let us; then nothing comes."""
        ask = attempt.job.ask
        station = self.dispatcher.stations.get(attempt.decision.backend)
        if station is None or self.overhear is None or not ask.stream:
            return False
        speeds = station.estimates.subjects.get(ask.subject)
        speed = None if speeds is None else speeds.decode
        return is_read(speed, station.requests_total + 1, trio.current_time())


def among(endpoints: list[str], subset: frozenset[str] | None) -> list[str]:
    """Those of a backend's endpoints that may be told; all, where there is no subset.

    One address of a name may be in it, and another not.
    """
    return endpoints if subset is None else [each for each in endpoints if each in subset]


@functools.lru_cache(maxsize=1024)
def _place(endpoint: str) -> tuple[str, int] | None:
    """Host and port; None where it is no plain URL."""
    parts = urlsplit(endpoint)
    if parts.scheme != "http" or not parts.hostname:
        return None
    return parts.hostname, parts.port or 80
