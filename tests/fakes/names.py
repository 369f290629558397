"""A resolver that knows what a test tells it."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import trio


class Names(trio.abc.HostnameResolver):
    """Addresses by name, in place of the system's resolver.

    Attributes:
        addresses: by name; a name that is missing is not known.
        is_broken: every question fails.
        is_silent: no question is answered.
        asked: when each question came.
    """

    def __init__(self, addresses: dict[str, list[str]]) -> None:
        self.addresses = addresses
        self.is_broken = False
        self.is_silent = False
        self.asked: list[float] = []

    async def getaddrinfo(  # type: ignore[override]
        self,
        host: bytes | None,
        port: int,
        *_: int,
        **__: int,
    ) -> list[tuple[Any, ...]]:
        """Trio's hook: as `socket.getaddrinfo` answers."""
        self.asked.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.is_silent:
            await trio.sleep_forever()
        known = self.addresses.get((host or b"").decode())
        if self.is_broken or known is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [
            (
                socket.AF_INET6 if ":" in each else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (each, port, 0, 0) if ":" in each else (each, port),
            )
            for each in known
        ]

    async def getnameinfo(self, *_: object) -> tuple[str, str]:
        """Trio's other hook."""
        raise AssertionError("nobody asks whose an address is")

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Answer all of this run's questions."""
        before = trio.socket.set_custom_hostname_resolver(self)
        try:
            yield
        finally:
            trio.socket.set_custom_hostname_resolver(before)
