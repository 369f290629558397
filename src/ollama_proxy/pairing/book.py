"""Who this router is paired with: a file that `ollama-proxy pair` writes, and the router reads.

Law: a file with a fault changes nothing; whoever is refused by it is told which line to mend.
"""

import ipaddress
import json
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from ollama_proxy.pairing.card import Card, id_of, is_name, is_node_id
from ollama_proxy.pairing.files import StateFault, locked, read_private, write_private
from ollama_proxy.pinned import der_of, fingerprint_of
from ollama_proxy.tables import Check, dotted, structure, within

_FILE: Final = "peers.toml"
_HEAD: Final = (
    "# Routers that this one is paired with. `ollama-proxy pair` writes it; --list and --remove show and"
    " change it.\n"
)


def _is_certificate(text: str) -> bool:
    try:
        der_of(text)
    except (ValueError, ssl.SSLError):
        return False
    return True


def is_host(text: str) -> bool:
    """Whether a router may be asked under it."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", text) is not None
    return "%" not in text  # a zone is a word of one machine


@attrs.frozen(kw_only=True)
class Peer:
    """A router that this one is paired with.

    Attributes:
        name: for people.
        host: address or name under which it was met.
        port: of its door for paired routers; 0: it has none, and only asks.
        node_id: who it says it is in a fleet; a word, and no proof.
        certificate: in PEM; nothing else is trusted of it.
        since: the day, for people.
    """

    name: str = attrs.field(validator=Check("letters, digits, dots, - and _", is_name))
    host: str = attrs.field(validator=Check("an address or a host name", is_host))
    port: int = attrs.field(validator=within(0, 65535))
    node_id: str = attrs.field(validator=Check("letters, digits, dots, - and _", is_node_id))
    certificate: str = attrs.field(
        validator=Check("a certificate in PEM", _is_certificate, may_show=lambda _: False)
    )
    since: str = attrs.field(default="", validator=Check("printable text", str.isprintable))

    @classmethod
    def of(cls, card: Card, host: str, since: str) -> "Peer":
        """Whoever showed a card, met under an address."""
        return cls(
            name=card.name,
            host=host,
            port=card.port,
            node_id=card.node_id,
            certificate=card.certificate,
            since=since,
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its certificate, in hex."""
        return fingerprint_of(der_of(self.certificate))

    @property
    def id(self) -> str:
        """By what it is known here."""
        return id_of(self.fingerprint)

    @property
    def url(self) -> str:
        """Where it is asked; "" where it cannot be."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}" if self.port else ""


@attrs.frozen
class _Peers:
    peers: tuple[Peer, ...] = ()


def book_file(directory: Path) -> Path:
    """Where they are written down."""
    return directory / _FILE


def read_book(directory: Path) -> tuple[Peer, ...]:
    """Who this router is paired with. Raises StateFault: with every fault of the file."""
    # Not at the head: who has no pairs need not pay for it.
    import tomllib  # noqa: PLC0415 - as above

    path = book_file(directory)
    content = read_private(path)
    if content is None:
        return ()
    try:
        raw = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise StateFault(f"{path}: {error}") from error
    found, faults = structure(raw, _Peers)
    if found is None:
        told = "; ".join(f"{dotted(where)}: {message}" for where, message in faults)
        raise StateFault(f"{path}: {told}")
    return found.peers


def write_down(directory: Path, peer: Peer) -> None:
    """Add one; who is there already is replaced. Raises StateFault."""
    with locked(directory):
        others = [each for each in read_book(directory) if each.id != peer.id]
        _write(directory, [*others, peer])


def strike_out(directory: Path, which: str) -> Peer | None:
    """Remove one, by its id or a name that one alone has; None where there is no such. Raises StateFault."""
    with locked(directory):
        peers = read_book(directory)
        found = [each for each in peers if each.id == which] or [
            each for each in peers if each.name == which
        ]
        if len(found) != 1:
            return None
        _write(directory, [each for each in peers if each is not found[0]])
        return found[0]


def _write(directory: Path, peers: Sequence[Peer]) -> None:
    text = _HEAD + "".join(map(_table, peers))
    write_private(book_file(directory), text.encode())


def _table(peer: Peer) -> str:
    # Texts of JSON are texts of TOML, as long as they are printable, which was checked of all of them.
    lines = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in attrs.asdict(peer).items()
    ]
    return "\n".join(["", "[[peers]]", f"# {peer.fingerprint}", *lines, ""])
