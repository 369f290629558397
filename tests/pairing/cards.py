"""Routers as they show themselves, for a test's length."""

from pathlib import Path

import attrs

from ollama_proxy.pairing.book import Peer
from ollama_proxy.pairing.card import Card
from ollama_proxy.pairing.certificate import identity_file, own_certificate


@attrs.frozen
class Box:
    """A router with a directory of its own."""

    directory: Path
    card: Card

    @classmethod
    def new(cls, directory: Path, name: str, port: int = 8443) -> "Box":
        """One that has never been paired."""
        certificate = own_certificate(directory / name)
        return cls(
            directory / name,
            Card(name=name, port=port, node_id=f"id-{name}", certificate=certificate),
        )

    @property
    def identity(self) -> Path:
        """Its certificate and key."""
        return identity_file(self.directory)

    def peer(self, host: str = "127.0.0.1", port: int | None = None) -> Peer:
        """As another knows it."""
        card = self.card if port is None else attrs.evolve(self.card, port=port)
        return Peer.of(card, host, "2026-01-01")
