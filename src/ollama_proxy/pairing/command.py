"""`ollama-proxy pair`: shows a code and waits, asks with a code, lists, removes.

A router that runs is not asked: it sees what was written down, within a second. So it works with one that
is yet to be started, too.
"""

import argparse
import contextlib
import ipaddress
import itertools
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from ollama_proxy.client import OK, complain, print_table
from ollama_proxy.config import Config, Overrides, find_config, load
from ollama_proxy.identity import node_id, state_directory
from ollama_proxy.pairing.book import Peer, is_host, read_book, strike_out, write_down
from ollama_proxy.pairing.card import Card, as_name, is_name
from ollama_proxy.pairing.certificate import MISSING, own_certificate
from ollama_proxy.pairing.code import LASTS_S, Offer, new_code, read_code, spaced
from ollama_proxy.pairing.files import StateFault
from ollama_proxy.tables import ConfigFaults, describe_faults

UNUSABLE = 2
CONNECT_S = 10.0
_CODE_MAX = 64  # of a line that is typed
_TOLD_MAX = 10  # who came and said nothing of use
_PORT_MAX = 65535
# By whom this machine would be asked: no packet goes there (RFC 5737, RFC 3849).
_ELSEWHERE = {4: (socket.AF_INET, "192.0.2.1"), 6: (socket.AF_INET6, "2001:db8::1")}


class _Unusable(Exception):  # noqa: N818 - read as a sentence
    """Arguments that make no sense; the message says which."""


@attrs.frozen
class _Desk:
    """What every way of the command works with."""

    directory: Path
    config: Config
    card: Callable[[], Card]

    def keep(self, card: Card, host: str) -> None:
        """Write somebody down. Raises StateFault."""
        # A zone is this machine's own name for a wire.
        plain = host.partition("%")[0]
        write_down(self.directory, Peer.of(card, plain, time.strftime("%Y-%m-%d")))


def pair(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code: 1 where it came to nothing, 2 for faulty arguments."""
    try:
        desk = _desk(arguments)
        if arguments.list:
            return _list(desk)
        if arguments.remove is not None:
            return _remove(desk, arguments.remove)
        return _pair(desk, arguments)
    except ConfigFaults as faults:
        complain(describe_faults(faults))
        return UNUSABLE
    except _Unusable as error:
        complain(str(error))
        return UNUSABLE
    except StateFault as fault:
        return complain(str(fault))


def _desk(arguments: argparse.Namespace) -> _Desk:
    ways = [arguments.list, arguments.remove is not None, arguments.address is not None]
    if sum(ways) > 1:
        raise _Unusable("--list, --remove and an address are three things: choose one")
    name = arguments.name if arguments.name is not None else as_name(socket.gethostname())
    if not is_name(name):
        raise _Unusable("--name: has up to 63 letters, digits, dots, - and _")
    if arguments.port is not None and not 0 <= arguments.port <= _PORT_MAX:
        raise _Unusable(f"--port: must be 0 to {_PORT_MAX} (got {arguments.port})")
    directory = state_directory(os.environ)
    if directory is None:
        raise StateFault("there is no place to keep anything: set HOME, or XDG_STATE_HOME")
    path = find_config(arguments.config, os.environ, Path.cwd())
    config = load(path, environ=os.environ, overrides=Overrides()).config

    def card() -> Card:
        return Card(
            name=name,
            port=config.pairing.port if config.pairing.door else 0,
            node_id=config.fleet.node_id or node_id(config.server.http_port, directory),
            certificate=own_certificate(directory),
        )

    return _Desk(directory, config, card)


def _list(desk: _Desk) -> int:
    peers = read_book(desk.directory)
    if not peers:
        print("paired with nobody")
        return OK
    rows = [[each.id, each.name, each.url or "asks only", each.since] for each in peers]
    print_table([["ID", "NAME", "ADDRESS", "SINCE"], *rows])
    return OK


def _remove(desk: _Desk, which: str) -> int:
    gone = strike_out(desk.directory, which)
    if gone is None:
        return complain(f"no pair, or more than one, is called {which}; --list shows them by id")
    print(f"{gone.name} ({gone.id}) is paired no more; have it removed there, too")
    return OK


def _pair(desk: _Desk, arguments: argparse.Namespace) -> int:
    try:
        # The extra, and it alone, needs it.
        from ollama_proxy.pairing.exchange import NotPaired  # noqa: PLC0415 - as above
    except ImportError as error:
        return complain(MISSING.format(error.name))
    try:
        if arguments.address is None:
            return trio.run(_offer, desk, arguments.port)
        host, port = _read_address(arguments.address)
        code = _read_code(arguments.code)
        return trio.run(_ask, desk, host, port, code)
    except NotPaired as why:
        return complain(f"not paired: {why}")


def _read_address(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+)):([0-9]{1,5})", text)
    host = "" if found is None else found[1] or found[2]
    if found is None or not 0 < int(found[3]) <= _PORT_MAX or not is_host(host):
        raise _Unusable(
            "the address must be HOST:PORT, or [ADDRESS]:PORT, as the other side shows it"
        )
    return host, int(found[3])


def _read_code(given: str | None) -> str:
    if given is None:
        print("Code: ", end="", file=sys.stderr, flush=True)
        given = sys.stdin.readline(_CODE_MAX)
    try:
        return read_code(given)
    except ValueError as error:
        raise _Unusable(str(error)) from None


async def _offer(desk: _Desk, port: int | None) -> int:
    """Show a code, and wait for who knows it."""
    from ollama_proxy.pairing.exchange import NotPaired  # noqa: PLC0415 - the extra pairing
    from ollama_proxy.pairing.talk import Reception  # noqa: PLC0415 - as above

    port = desk.config.pairing.port + 1 if port is None else port
    try:
        listeners = await trio.open_tcp_listeners(port, host=desk.config.pairing.host)
    except OSError as error:
        return complain(
            f"cannot wait on port {port}: {error.strerror}. Choose another with --port."
        )
    offer = Offer(code=new_code(), ends=trio.current_time() + LASTS_S)

    def keep(card: Card, address: str) -> None:
        try:
            desk.keep(card, address)
        except StateFault as fault:
            raise NotPaired(str(fault)) from fault

    told = itertools.count()

    def tell(address: str, why: NotPaired) -> None:
        # A flood of whoever comes must not wash the code away; of wrong codes there are few.
        if why.word == "wrong" or next(told) < _TOLD_MAX:
            print(f"{address}: not paired: {why}", file=sys.stderr)

    reception = Reception(
        offer=offer,
        card=desk.card(),
        keep=keep,
        tell=tell,
    )
    bound = listeners[0].socket.getsockname()[1]
    try:
        print(f"Code: {spaced(offer.code)}", flush=True)
        print(
            f"Good once, for {LASTS_S / 60:g} minutes. On the other machine:\n"
            + "\n".join(
                f"  ollama-proxy pair {place}" for place in _places(desk.config.pairing.host, bound)
            ),
            flush=True,
        )
        paired = await reception.serve(listeners)
    finally:
        for each in listeners:
            each.socket.close()
    if paired is None:
        why = "three wrong codes came" if not offer.tries else "nobody came in time"
        why = "somebody knew the code, in vain" if offer.is_used else why
        return complain(f"not paired: {why}; the code is void")
    _tell(*paired)
    return OK


async def _ask(desk: _Desk, host: str, port: int, code: str) -> int:
    """Go to where a code is shown."""
    from ollama_proxy.pairing.talk import ask  # noqa: PLC0415 - the extra pairing

    card = desk.card()
    try:
        with trio.fail_after(CONNECT_S):
            stream = await trio.open_tcp_stream(host, port)
    except (OSError, trio.TooSlowError) as error:
        why = getattr(error, "strerror", None) or "no answer"
        return complain(f"not paired: nobody shows a code on {host}:{port}: {why}")
    async with stream:
        theirs = await ask(stream, code, card)
    desk.keep(theirs, host)
    _tell(theirs, host)
    return OK


def _tell(card: Card, host: str) -> None:
    peer = Peer.of(card, host, "")
    place = f"at {peer.url}" if peer.url else "which asks only"
    print(f"Paired with {peer.name} ({peer.id}), {place}")


def _places(host: str, port: int) -> list[str]:
    """Where others may reach this machine, as far as it can be told.

    Args:
        host: where it waits; of all addresses, those of that family.
        port: as well.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return [f"{host}:{port}"]
    if not address.is_unspecified:
        return [_place(host, port)]
    found = []
    family, elsewhere = _ELSEWHERE[address.version]
    with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect((elsewhere, 9))
        found.append(_place(probe.getsockname()[0], port))
    return [*found, f"{socket.gethostname()}:{port}"]


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
