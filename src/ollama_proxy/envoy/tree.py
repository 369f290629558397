"""Words of Envoy's API that more than one part of its configuration is made of."""

import math
from collections.abc import Mapping

from ollama_proxy.envoy.places import Place
from ollama_proxy.envoy.yaml import Tree

MIB = 1 << 20


def typed(name: str, **fields: Tree) -> dict[str, Tree]:
    """A message of a named type, with its fields."""
    return {"@type": f"type.googleapis.com/envoy.{name}", **fields}


def extension(name: str, message: Mapping[str, Tree]) -> dict[str, Tree]:
    """An extension: a name, and its configuration."""
    return {"name": name, "typed_config": message}


def seconds(amount: float) -> str:
    """A duration. None at all means to Envoy that there is no limit: a short one is a millisecond."""
    return f"{math.ceil(round(amount * 1000, 3)) / 1000:.3f}".rstrip("0").rstrip(".") + "s"


def address(place: Place) -> dict[str, Tree]:
    """Where something is."""
    return {"socket_address": {"address": place.host, "port_value": place.port}}


def endpoint(place: Place) -> dict[str, dict[str, Tree]]:
    """Somebody who answers there."""
    return {"endpoint": {"address": address(place)}}
