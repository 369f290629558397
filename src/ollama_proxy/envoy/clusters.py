"""Whom Envoy sends to: the nodes, the pickers, and the doors for what is no inference."""

from collections.abc import Mapping, Sequence

from ollama_proxy.config import Config
from ollama_proxy.envoy.places import Place
from ollama_proxy.envoy.tree import endpoint, extension, seconds, typed
from ollama_proxy.envoy.yaml import Noted, Tree

# A name that every router lets itself be called by; that of a cluster is none.
LOCAL = "localhost"
NODES, PICKERS, DOORS = "nodes", "pickers", "doors"
KEY_VARIABLE = "OLLAMA_PROXY_API_KEY"
DESTINATION = "x-gateway-destination-endpoint"
LB_METADATA = "envoy.lb"
# A new connection to each node so often; with hundreds of nodes less, so that they are some 100/s.
LOOK_S, LOOKS_PER_S = 0.5, 100
EJECTION_S, EJECTION_MAX_S = 2.0, 10.0
# In hundredths: of so many addresses one that is well is enough.
ALL_TO_ONE = 100_000
# HTTP/2 pings to a picker: whoever is silent for so long holds nobody's request.
PING_S, PONG_MAX_S = 1.0, 2.0


def _common(name: str, places: Sequence[Place], config: Config) -> dict[str, Tree]:
    connections = config.server.max_connections
    named: dict[str, Tree] = {"type": "STRICT_DNS", "dns_lookup_family": "ALL"}
    return {
        "name": name,
        **({"type": "STATIC"} if all(each.is_numeric for each in places) else named),
        "connect_timeout": seconds(_connect_s(config)),
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": connections,
                    "max_pending_requests": connections,
                    "max_requests": connections,
                    "retry_budget": {
                        "budget_percent": {"value": 20},
                        "min_retry_concurrency": 64,
                    },
                }
            ]
        },
    }


def _connect_s(config: Config) -> float:
    return max([each.connect_timeout_s for each in config.backends], default=2.0)


def _http(protocol: Mapping[str, Tree]) -> dict[str, Tree]:
    name = "extensions.upstreams.http.v3.HttpProtocolOptions"
    return {f"envoy.{name}": typed(name, **protocol)}


def nodes(places: Sequence[Place], config: Config) -> dict[str, Tree]:
    """The nodes, of which the picker names the one to take, and others in case that one fails."""
    path: Tree = {"key": LB_METADATA, "path": [{"key": DESTINATION}]}
    served: Tree = {"key": LB_METADATA, "path": [{"key": f"{DESTINATION}-served"}]}
    named = _policy(
        "override_host",
        "OverrideHost",
        override_host_sources=Noted(
            "From the picker's metadata and not from the header of the same name, which a client could"
            " send.",
            [{"metadata": path}],
        ),
        selected_host_key=served,
        fallback_policy=_unpicked(config),
    )
    return {
        **_common(NODES, places, config),
        "load_balancing_policy": Noted(
            "The node that the picker named, then those that it named in case that one fails.",
            {"policies": [{"typed_extension_config": named}]},
        ),
        "common_lb_config": Noted(
            "Without a healthy node the answer is 503 at once, not a try at one that is known to be"
            " gone.",
            {"healthy_panic_threshold": {"value": 0}},
        ),
        "health_checks": Noted(
            "Whether it accepts connections: all kinds of server do, and no model is woken. How well it"
            " answers is the picker's to know.",
            [
                {
                    "timeout": seconds(_connect_s(config)),
                    **_looks(len(places)),
                    "unhealthy_threshold": 1,
                    "healthy_threshold": 1,
                    "tcp_health_check": {},
                }
            ],
        ),
        "outlier_detection": Noted(
            "Connections that break off count, and errors that a node says do not: a busy one is not"
            " broken.",
            {
                "split_external_local_origin_errors": True,
                "consecutive_local_origin_failure": 2,
                "enforcing_consecutive_local_origin_failure": 100,
                "enforcing_local_origin_success_rate": 0,
                "enforcing_consecutive_5xx": 0,
                "enforcing_consecutive_gateway_failure": 0,
                "enforcing_success_rate": 0,
                "interval": seconds(LOOK_S),
                "base_ejection_time": seconds(EJECTION_S),
                "max_ejection_time": seconds(EJECTION_MAX_S),
                "max_ejection_percent": 100,
            },
        ),
        "typed_extension_protocol_options": _http({
            "common_http_protocol_options": {"idle_timeout": seconds(config.server.idle_timeout_s)},
            "explicit_http_config": {"http_protocol_options": {}},
        }),
        "load_assignment": {
            **_assigned(NODES),
            "endpoints": Noted(
                "Of the second priority are those that need a key or a path which the picker alone puts"
                " there.",
                _by_trust(places),
            ),
        },
    }


def _unpicked(config: Config) -> Noted:
    """Who serves what no picker has chosen for.

    Where keys are asked for, nobody: the picker is who asks. That it could not be asked is no error of the
    filter's all the same, since that would break off answers that have begun.
    """
    least: Tree = {
        "policies": [{"typed_extension_config": _policy("least_request", "LeastRequest")}]
    }
    if not asks_for_keys(config):
        return Noted(
            "Without any picker the least busy node serves: less well chosen beats not served.",
            least,
        )
    nobody = _policy(
        "subset",
        "Subset",
        fallback_policy="NO_FALLBACK",
        subset_selectors=[{"keys": ["nobody"]}],
        subset_lb_policy=least,
    )
    return Noted(
        "Without any picker nobody serves, since it is the picker who asks for keys: 503.",
        {"policies": [{"typed_extension_config": nobody}]},
    )


def _policy(name: str, message: str, **fields: Tree) -> dict[str, Tree]:
    return extension(
        f"envoy.load_balancing_policies.{name}",
        typed(f"extensions.load_balancing_policies.{name}.v3.{message}", **fields),
    )


def asks_for_keys(config: Config) -> bool:
    """Whether not everybody may use the router."""
    return bool(config.server.auth.api_keys)


def _known(config: Config) -> dict[str, Tree]:
    return {"initial_metadata": [{"header": own_key()}]} if asks_for_keys(config) else {}


def own_key() -> dict[str, Tree]:
    """The header by which Envoy itself is known to a picker that asks for keys."""
    return {"key": "authorization", "value": f"Bearer %ENVIRONMENT({KEY_VARIABLE})%"}


def _looks(count: int) -> dict[str, Tree]:
    between = seconds(max(LOOK_S, count / LOOKS_PER_S))
    return {"interval": between, "no_traffic_interval": between, "interval_jitter_percent": 10}


def pickers(places: Sequence[Place], config: Config) -> dict[str, Tree]:
    """Those who choose: the first that is well, so that one mind decides."""
    return {
        **_common(PICKERS, places, config),
        "health_checks": [
            {
                "timeout": seconds(PONG_MAX_S),
                **_looks(len(places)),
                "unhealthy_threshold": 1,
                "healthy_threshold": 1,
                "grpc_health_check": {
                    "service_name": "envoy.service.ext_proc.v3.ExternalProcessor",
                    "authority": LOCAL,
                    **_known(config),
                },
            }
        ],
        "close_connections_on_host_health_failure": True,
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "typed_extension_protocol_options": _http({
            "explicit_http_config": {
                "http2_protocol_options": {
                    "connection_keepalive": Noted(
                        "A request may wait in line for long, and a picker that hangs must not hold it:"
                        " it is known by these.",
                        {"interval": seconds(PING_S), "timeout": seconds(PONG_MAX_S)},
                    )
                }
            }
        }),
        **_encrypted(config, ["h2"]),
        "load_assignment": {
            **_assigned(PICKERS),
            "endpoints": Noted(
                "The next one is asked only while those before it are not well.", _by_turn(places)
            ),
        },
    }


def doors(places: Sequence[Place], config: Config) -> dict[str, Tree]:
    """The HTTP doors of the routers that pick, for lists of models, WebSockets and the rest."""
    return {
        **_common(DOORS, places, config),
        "health_checks": [
            {
                "timeout": seconds(PONG_MAX_S),
                **_looks(len(places)),
                "unhealthy_threshold": 1,
                "healthy_threshold": 1,
                "http_health_check": {"host": LOCAL, "path": "/healthz"},
            }
        ],
        **_encrypted(config, ["http/1.1"]),
        "load_assignment": {**_assigned(DOORS), "endpoints": _by_turn(places)},
    }


def _assigned(name: str) -> dict[str, Tree]:
    return {
        "cluster_name": name,
        "policy": Noted(
            "A priority takes all while one of its addresses is well. Of localhost's two mostly one alone is, and"
            " Envoy would send every third request to the next priority.",
            {"overprovisioning_factor": {"value": ALL_TO_ONE}},
        ),
    }


def _by_turn(places: Sequence[Place]) -> list[Tree]:
    return [
        {"priority": turn, "lb_endpoints": [endpoint(each)]} for turn, each in enumerate(places)
    ]


def _by_trust(places: Sequence[Place]) -> list[Tree]:
    groups = [
        [_named(each) for each in places if each.takes_any is is_so] for is_so in (True, False)
    ]
    return [
        {"priority": at, "lb_endpoints": group}
        for at, group in enumerate(groups)
        if group or not at
    ]


def _named(place: Place) -> dict[str, Tree]:
    """A node, and the host that it is asked for: its own, as the router asks it, and not the caller's."""
    named = endpoint(place)
    return {"endpoint": {**named["endpoint"], "hostname": str(place)}}


def _encrypted(config: Config, protocols: Sequence[str]) -> dict[str, Tree]:
    """TLS, where the routers' doors have it: who shows their certificate is one of them."""
    files = config.server.tls.files
    if files is None:
        return {}
    common: dict[str, Tree] = {
        "alpn_protocols": protocols,
        "validation_context": {"trusted_ca": {"filename": files.cert_file}},
    }
    if files.client_ca_file:
        common["tls_certificates"] = Noted(
            "They want a certificate of their clients: it must be signed by"
            " server.tls.client_ca_file.",
            [certificate(config)],
        )
    context = typed(
        "extensions.transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context=common
    )
    return {"transport_socket": extension("envoy.transport_sockets.tls", context)}


def certificate(config: Config) -> dict[str, Tree]:
    """What our doors encrypt with, which Envoy's encrypts with as well."""
    return {
        "certificate_chain": {"filename": config.server.tls.cert_file},
        "private_key": {"filename": config.server.tls.key_file},
    }
