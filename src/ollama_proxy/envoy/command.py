"""`ollama-proxy envoy-config`: reads our configuration, prints Envoy's."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ollama_proxy.config import Config, Overrides, find_config, is_loopback, load
from ollama_proxy.envoy.bootstrap import bootstrap
from ollama_proxy.envoy.clusters import LOCAL
from ollama_proxy.envoy.places import Place, escaped, nodes_of, parse_place, parse_places
from ollama_proxy.envoy.tree import MIB
from ollama_proxy.envoy.yaml import to_yaml
from ollama_proxy.tables import ConfigFaults, describe_faults

OK, UNUSABLE = 0, 2
PORT = 10000
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - as an address to connect to
_BUFFER_MAX_MIB = (1 << 32) // MIB - 1
_HEAD = """\
# Envoy's configuration, made by `ollama-proxy envoy-config` from {path}:
# Envoy carries the bytes, and asks {pickers} which node to take them to.
# Make it again when that file changes, and look at it: `envoy --mode validate -c FILE`.
"""


def envoy_config(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code: 0, or 2 where there is nothing to make it of."""
    try:
        path = find_config(arguments.config, os.environ, Path.cwd())
        config = load(path, environ=os.environ, overrides=Overrides()).config
    except ConfigFaults as faults:
        print(describe_faults(faults), file=sys.stderr)
        return UNUSABLE
    try:
        listen = _listen(arguments.listen, config)
        pickers = _pickers(arguments.picker, config)
    except ValueError as fault:
        print(f"ollama-proxy: {fault}", file=sys.stderr)
        return UNUSABLE
    if wrong := list(_faults(config, listen)):
        print("\n".join(f"ollama-proxy: {each}" for each in wrong), file=sys.stderr)
        return UNUSABLE
    asked = ", then ".join(map(str, pickers))
    print(_HEAD.format(path=path or "the built-in defaults", pickers=asked), end="")
    print(to_yaml(bootstrap(config, listen=listen, asked=pickers)), end="")
    return OK


def _listen(text: str | None, config: Config) -> Place:
    """Where clients come. Envoy binds addresses, and asks nobody what a name means."""
    host = config.server.host
    try:
        place = parse_place(text) if text is not None else Place(host, PORT)
    except ValueError as fault:
        raise ValueError(f"--listen: {fault}") from None
    if place.is_numeric:
        return place
    if place.host.lower() == LOCAL:
        return Place("127.0.0.1", place.port)
    raise ValueError(f"--listen: Envoy listens on addresses, not on names (got {place.host!r})")


def _pickers(texts: Sequence[str] | None, config: Config) -> list[Place]:
    """Those that are named, else the router of this configuration."""
    if texts:
        try:
            return parse_places(texts)
        except ValueError as fault:
            raise ValueError(f"--picker: {fault}") from None
    server = config.server
    if not server.grpc:
        raise ValueError(
            "server.grpc: is false, and the picker is on that door; or name one: --picker"
        )
    if not server.grpc_port:
        raise ValueError(
            "server.grpc_port: is 0, any free one; name the picker's: --picker HOST:PORT"
        )
    return [Place(_ANYWHERE.get(server.host, server.host), server.grpc_port)]


def _faults(config: Config, listen: Place) -> Iterator[str]:
    """What Envoy would do, or not do, that nobody can want."""
    server = config.server
    if not (is_loopback(listen.host) or server.auth.api_keys or server.insecure):
        yield (
            f"--listen: {listen.host} can be reached from other machines, and nobody is asked for a key;"
            " name keys in server.auth.api_keys, or set server.insecure = true if whoever reaches it may"
            " use it"
        )
    if server.max_body_mib > _BUFFER_MAX_MIB:
        yield f"server.max_body_mib: Envoy holds at most {_BUFFER_MAX_MIB} (got {server.max_body_mib})"
    for name, host in escaped(config):
        plain = host.replace("%25", "%")
        yield f"{name}: write {plain}, not {host}, which neither Envoy nor the router understands"
    nodes, others = nodes_of(config)
    if not nodes:
        yield "backends: Envoy can reach none of them" + "".join(
            f"; {each.name}: {each.why}" for each in others
        )
