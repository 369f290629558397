"""Which models there are, by the names that clients may use, and who has them."""

from collections.abc import Iterable

from ollama_proxy.engine.station import Station
from ollama_proxy.policy.fleet import canonical_model


def names(station: Station, installed: Iterable[str] | None) -> set[str]:
    """The names by which a client may call what is installed there, aliases included."""
    listed = {m for m in installed or () if station.spec.may_serve(m)}
    known = listed if installed is None else set(installed)
    aliases = {
        alias
        for alias, real in station.spec.aliases.items()
        if station.spec.may_serve(alias)
        and (installed is None or known & {real, canonical_model(real)})
    }
    return listed | aliases


def holders(stations: Iterable[Station]) -> dict[str, list[str]]:
    """Every model that some of the stations may serve, and the ids of those."""
    found: dict[str, list[str]] = {}
    for station in stations:
        for name in names(station, station.models):
            found.setdefault(name, []).append(station.spec.id)
    return found
