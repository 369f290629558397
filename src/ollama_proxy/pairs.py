"""Keeps in force who this router is paired with: what the book says, at the door and among the backends.

Rule 1: the book is only read here; `ollama-proxy pair` writes it, and we look whether it has changed.
Rule 2: who is struck out is shut out before anything is waited for.
"""

import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import trio

from ollama_proxy.config import BackendConfig
from ollama_proxy.inbound.paired import Guest, Guests
from ollama_proxy.pairing.book import Peer, book_file, read_book
from ollama_proxy.pairing.certificate import identity_file
from ollama_proxy.pairing.files import StateFault, read_private
from ollama_proxy.pinned import Pin
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.stations import Paired

log = logging.getLogger("ollama_proxy.paired")
LOOK_S = 1.0
_ID_MAX = 63  # of a backend's id


class Pairs:
    """Those in force."""

    def __init__(
        self,
        directory: Path | None,
        guests: Guests | None,
        join: Callable[[Sequence[Paired]], Awaitable[None]],
    ) -> None:
        """None yet.

        Args:
            directory: where the book is; None: there is no place for one.
            guests: who may come in; None where nobody may.
            join: makes these backends, in place of those before.
        """
        self._directory = directory
        self._guests = guests
        self._join = join
        self._stamp: object = None
        self._peers: tuple[Peer, ...] = ()

    def pins(self) -> dict[str, Pin]:
        """How each is spoken with, by who it says it is in a fleet: a word, which the pin proves."""
        if self._directory is None:
            return {}
        own = identity_file(self._directory)
        return {peer.node_id: Pin(own, peer.certificate) for peer in self._peers}

    async def watch(self) -> NoReturn:
        """Read the book whenever it has changed."""
        while True:
            await trio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Read the book if it has changed. One with a fault changes nothing, and is told of once."""
        if self._directory is None:
            return
        stamp = [_stamp(each(self._directory)) for each in (book_file, identity_file)]
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            peers = read_book(self._directory)
            if peers:  # OpenSSL would read it whoever else can
                read_private(identity_file(self._directory))
        except StateFault as fault:
            log.error("who is paired was not read anew: %s", fault)  # noqa: TRY400 - the fault says it all
            return
        self._tell(peers)
        self._peers = peers
        own = identity_file(self._directory)
        if self._guests is not None:
            try:
                self._guests.follow(
                    Guest(name=each.name, certificate=each.certificate) for each in peers
                )
            except OSError as error:
                why = error.strerror or error
                log.error("no paired router is heard: %s cannot be used: %s", own, why)  # noqa: TRY400 - as above
        await self._join(tuple(_backends(peers, own)))

    def _tell(self, peers: Sequence[Peer]) -> None:
        before, now = ({each.id: each for each in some} for some in (self._peers, peers))
        for gone in before.keys() - now.keys():
            log.info("%s (%s) is paired no more", before[gone].name, gone)
        for new in now.keys() - before.keys():
            log.info("paired with %s (%s)", now[new].name, new)


def _backends(peers: Sequence[Peer], own: Path) -> Iterator[Paired]:
    """Each as a backend, by its name; by its id where others have its name."""
    ids = Counter(map(_backend_id, peers))
    for peer in peers:
        if not peer.url:
            continue
        name = _backend_id(peer)
        config = BackendConfig(
            id=name if ids[name] == 1 else f"paired-{peer.id}",
            type=BackendType.ROUTER,
            name=peer.name,
            # Nothing of this machine gets warm by it.
            hardware=Hardware.CLOUD,
            endpoint=peer.url,
        )
        yield Paired(config, Pin(own, peer.certificate))


def _backend_id(peer: Peer) -> str:
    return f"paired-{peer.name.lower()}"[:_ID_MAX]


def _stamp(path: Path) -> object:
    try:
        found = os.stat(path)  # noqa: PTH116 - as much as a Path's, once a second
    except OSError as error:
        return error.errno
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode
