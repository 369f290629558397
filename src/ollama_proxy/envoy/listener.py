"""Where Envoy listens, and what becomes of a request there: the picker is asked, then it is carried."""

import re

from ollama_proxy.config import Config
from ollama_proxy.envoy.clusters import (
    DESTINATION,
    DOORS,
    KEY_VARIABLE,
    LB_METADATA,
    LOCAL,
    NODES,
    PICKERS,
    asks_for_keys,
    certificate,
    own_key,
)
from ollama_proxy.envoy.errors import own_errors
from ollama_proxy.envoy.places import Place
from ollama_proxy.envoy.tree import MIB, address, extension, seconds, typed
from ollama_proxy.envoy.yaml import Noted, Tree
from ollama_proxy.policy.ask import Call

# How long a picker may think, and for how long it may ask Envoy to wait in its line: all that Envoy allows.
THOUGHT_MAX_S, LINE_MAX_S = 10.0, 3600.0
RETRIES = 3
_ANY_TIME = seconds(0)  # a stream takes what it takes
# What a router's own failover takes for the backend's fault.
_RETRIED = [429, 500, 502, 503, 504]
_KEYS = ("authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key")
_PICKER = "envoy.filters.http.ext_proc"


def listener(place: Place, config: Config, *, has_doors: bool) -> dict[str, Tree]:
    """The one listener, with TLS where our own doors have it."""
    manager = extension("envoy.filters.network.http_connection_manager", _http(config, has_doors))
    chain: dict[str, Tree] = {"filters": [manager]}
    if files := config.server.tls.files:
        asked: dict[str, Tree] = {}
        if files.client_ca_file:
            asked = {"validation_context": {"trusted_ca": {"filename": files.client_ca_file}}}
        context = typed(
            "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            **({"require_client_certificate": True} if asked else {}),
            common_tls_context={
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [certificate(config)],
                **asked,
            },
        )
        chain["transport_socket"] = extension("envoy.transport_sockets.tls", context)
    return {
        "name": "clients",
        "address": address(place),
        "per_connection_buffer_limit_bytes": Noted(
            "A request's body is held until the picker has chosen, and until the node has begun to"
            " answer, so that another one can be tried: server.max_body_mib. A larger one is answered"
            " 413.",
            config.server.max_body_mib * MIB,
        ),
        "filter_chains": [chain],
    }


def _http(config: Config, has_doors: bool) -> dict[str, Tree]:  # noqa: FBT001 - as its caller has it
    server = config.server
    silence_s = max(config.router.first_byte_timeout_s, config.router.stall_timeout_s)
    return typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="clients",
        **_access_log(config),
        use_remote_address=True,
        normalize_path=True,
        preserve_external_request_id=True,
        server_header_transformation="PASS_THROUGH",
        early_header_mutation_extensions=Noted(
            "No client names a node. What it has to show to others is no node's business, and without a picker"
            " nobody else would take it away.",
            [
                extension(
                    "envoy.http.early_header_mutation.header_mutation",
                    typed(
                        "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                        mutations=[{"remove": each} for each in _withheld(config)],
                    ),
                )
            ],
        ),
        max_request_headers_kb=server.max_head_kib,
        common_http_protocol_options={
            "idle_timeout": seconds(server.idle_timeout_s),
            "max_headers_count": server.max_headers,
        },
        request_headers_timeout=seconds(server.head_timeout_s),
        request_timeout=Noted(
            "Until the request has come: server.head_timeout_s and body_timeout_s.",
            seconds(server.head_timeout_s + server.body_timeout_s),
        ),
        stream_idle_timeout=Noted(
            "Waiting in line is silence too, and comes before the node's own.",
            seconds(LINE_MAX_S + silence_s),
        ),
        stream_flush_timeout=seconds(server.write_timeout_s),
        upgrade_configs=[{"upgrade_type": "websocket"}],
        http_filters=[
            extension(_PICKER, _picker(config)),
            extension(
                "envoy.filters.http.router",
                typed("extensions.filters.http.router.v3.Router", suppress_envoy_headers=True),
            ),
        ],
        route_config={
            "name": "calls",
            "virtual_hosts": [_calls(config, silence_s, has_doors=has_doors)],
        },
        local_reply_config=Noted(
            "What Envoy itself has to say, in the caller's dialect; what the picker said stays as it is.",
            own_errors(),
        ),
    )


def _withheld(config: Config) -> list[str]:
    """What is taken away before anybody is asked. Keys, only where nobody asks for them."""
    return [DESTINATION, "cookie", *(() if asks_for_keys(config) else _KEYS)]


def _picker(config: Config) -> dict[str, Tree]:
    return typed(
        "extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service=_asking(config),
        processing_mode=Noted(
            "The whole request, since the model's name is in its body; of the answer the head alone, so"
            " that no token waits for us.",
            {
                "request_header_mode": "SEND",
                "request_body_mode": "BUFFERED",
                "request_trailer_mode": "SKIP",
                "response_header_mode": "SEND",
                "response_body_mode": "NONE",
                "response_trailer_mode": Noted(
                    "Keeps the picker's stream open to the answer's end, when its slot is free.",
                    "SEND",
                ),
            },
        ),
        allow_mode_override=True,
        route_cache_action=Noted(
            "The path that a node wants it under is no reason to take another way.", "RETAIN"
        ),
        failure_mode_allow=Noted(
            "That a picker dies breaks off no answer. Who serves what was not picked is said below, in"
            " fallback_policy.",
            True,  # noqa: FBT003 - a value
        ),
        message_timeout=Noted(
            "So long may it think. To hold a request in its line it asks for more, and that it lives is"
            " watched by pings.",
            seconds(THOUGHT_MAX_S),
        ),
        max_message_timeout=seconds(LINE_MAX_S),
        mutation_rules=Noted(
            "It takes away what is between clients and it, and puts a node's key and path there; for whom a"
            " request is, and how it came, stays.",
            {"allow_all_routing": False, "allow_envoy": False},
        ),
        response_attributes=Noted(
            "Who has answered: a node, or Envoy itself.",
            ["response.code_details", "upstream.address"],
        ),
        metadata_options={
            "receiving_namespaces": {"untyped": [LB_METADATA]},
            "forwarding_namespaces": {"untyped": [LB_METADATA]},
        },
    )


def _asking(config: Config) -> Tree:
    calls: dict[str, Tree] = {"envoy_grpc": {"cluster_name": PICKERS, "authority": LOCAL}}
    if not asks_for_keys(config):
        return calls
    return Noted(
        f"A key for `infer` in Envoy's environment, {KEY_VARIABLE}, lets Envoy ask. It lets nobody else in:"
        " clients send their own.",
        {**calls, "initial_metadata": [own_key()]},
    )


def _calls(config: Config, silence_s: float, *, has_doors: bool) -> dict[str, Tree]:
    return {
        "name": "all",
        "domains": ["*"],
        **({"retry_policy": _retries(silence_s)} if config.router.retry_before_first_byte else {}),
        "routes": Noted(
            "Inference is carried to a node; all else is a router's.",
            [*_inference(), _rest(has_doors)],
        ),
    }


def _inference() -> list[Tree]:
    """A route for the calls below each first part of a path."""
    post: Tree = {"name": ":method", "string_match": {"exact": "POST"}}
    via: Tree = {
        "header": {"key": "via", "value": "1.1 ollama-proxy"},
        "append_action": "ADD_IF_ABSENT",  # where a picker has not chosen, and said so
    }
    calls: dict[str, list[str]] = {}
    for call in Call:
        top, _, rest = call.path[1:].partition("/")
        calls.setdefault(top, []).append(re.escape(rest))
    return [
        {
            "match": {"safe_regex": {"regex": f"/{top}/({'|'.join(rest)})"}, "headers": [post]},
            "request_headers_to_add": Noted(
                "A node that is a router sends it to no other router.", [via]
            ),
            "route": {
                "cluster": NODES,
                "timeout": _ANY_TIME,
                "auto_host_rewrite": Noted(
                    "A node answers for its own name, and need not know what clients call Envoy.",
                    True,  # noqa: FBT003 - a value
                ),
            },
        }
        for top, rest in calls.items()
    ]


def _retries(silence_s: float) -> Tree:
    previous = extension(
        "envoy.retry_host_predicates.previous_hosts",
        typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
    )
    return Noted(
        "Before the first byte of the answer only.",
        {
            "num_retries": RETRIES,
            "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
            "retriable_status_codes": _RETRIED,
            "per_try_idle_timeout": seconds(silence_s),
            "retry_back_off": {"base_interval": seconds(0.001), "max_interval": seconds(0.02)},
            "retry_host_predicate": [previous],
            "host_selection_retry_max_attempts": RETRIES,
        },
    )


def _rest(has_doors: bool) -> dict[str, Tree]:  # noqa: FBT001 - as its caller has it
    unasked = typed("extensions.filters.http.ext_proc.v3.ExtProcPerRoute", disabled=True)
    once: Tree = {"num_retries": 1, "retry_on": "connect-failure,refused-stream"}
    answer: dict[str, Tree] = (
        {"route": {"cluster": DOORS, "timeout": _ANY_TIME, "retry_policy": once}}
        if has_doors
        else {"direct_response": {"status": 404}}
    )
    return {
        "match": {"prefix": "/"},
        "typed_per_filter_config": {_PICKER: unasked},
        **answer,
    }


def _access_log(config: Config) -> dict[str, Tree]:
    if not config.observability.access_log:
        return {}
    stdout = typed("extensions.access_loggers.stream.v3.StdoutAccessLog")
    return {"access_log": [extension("envoy.access_loggers.stdout", stdout)]}
