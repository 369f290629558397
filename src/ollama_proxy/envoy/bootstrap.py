"""The whole of Envoy's configuration."""

from collections.abc import Sequence

from ollama_proxy.config import Config
from ollama_proxy.envoy.clusters import doors, nodes, pickers
from ollama_proxy.envoy.listener import listener
from ollama_proxy.envoy.places import Place, nodes_of
from ollama_proxy.envoy.tree import address, extension, typed
from ollama_proxy.envoy.yaml import Noted, Tree

ADMIN = Place("127.0.0.1", 9901)


def bootstrap(config: Config, *, listen: Place, asked: Sequence[Place]) -> dict[str, Tree]:
    """Make it.

    Args:
        config: ours.
        listen: where clients come.
        asked: the gRPC doors of the routers that pick, whom to prefer first.
    """
    places, others = nodes_of(config)
    port = config.server.http_port
    clusters: list[Tree] = [nodes(places, config), pickers(asked, config)]
    if port:
        clusters.append(doors([Place(each.host, port) for each in asked], config))
    left = " ".join(f"Not {each.name}: {each.why}." for each in others)
    connections = typed(
        "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=config.server.max_connections,
    )
    return {
        "admin": Noted(
            "On loopback: who reaches it may stop Envoy.",
            {"address": address(ADMIN)},
        ),
        "overload_manager": {
            "resource_monitors": [
                extension("envoy.resource_monitors.global_downstream_max_connections", connections)
            ]
        },
        "static_resources": {
            "listeners": [listener(listen, config, has_doors=port > 0)],
            "clusters": Noted(left, clusters) if left else clusters,
        },
    }
