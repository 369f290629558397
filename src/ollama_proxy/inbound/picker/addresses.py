"""Where hosts are: literal addresses as they are, names as they were last looked up.

A proxy is told addresses, not names. A name is waited for when it is first needed; from then on what
was found is told, and looked up again beside the work.
"""

import contextlib
import ipaddress

import trio

from ollama_proxy.engine.job import BackendFailed, Fault

FRESH_S = 30.0


def _literal(host: str) -> str | None:
    """A host as it stands before a port; None where it is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return f"[{address}]" if isinstance(address, ipaddress.IPv6Address) else str(address)


class Addresses:
    """What is known of hosts. As many as there are backends."""

    def __init__(self) -> None:
        """Know nothing."""
        self._known: dict[str, tuple[str, float]] = {}

    def known(self, host: str, port: int) -> str | None:
        """`address:port`; None where the name was never looked up."""
        found = self._known.get(host)
        if found is None:
            literal = _literal(host)
            if literal is None:
                return None
            found = self._known[host] = (literal, float("inf"))
        return f"{found[0]}:{port}"

    async def find(self, host: str, port: int) -> str:
        """The same, looked up if need be.

        Raises:
            BackendFailed: there is no such name, or nobody says.
        """
        known = self.known(host, port)
        if known is None:
            await self._look_up(host)
            known = self.known(host, port)
            assert known is not None, "it was just found"  # noqa: S101 - as above
        return known

    def is_stale(self, host: str) -> bool:
        """Whether a name should be looked up again."""
        return self._known[host][1] <= trio.current_time()

    async def renew(self, host: str) -> None:
        """Look a name up again; what was found before stands where it fails."""
        # Others need not look as well, nor at once again where it fails.
        self._known[host] = (self._known[host][0], trio.current_time() + FRESH_S)
        with contextlib.suppress(BackendFailed):
            await self._look_up(host)

    async def _look_up(self, host: str) -> None:
        try:
            found = await trio.socket.getaddrinfo(host, None, type=trio.socket.SOCK_STREAM)
        except OSError as error:
            raise BackendFailed(Fault.UNREACHABLE, "its name could not be looked up") from error
        # The first is the one that the system prefers.
        literal = _literal(str(found[0][4][0]))
        if literal is None:
            raise BackendFailed(Fault.UNREACHABLE, "its name leads nowhere")
        self._known[host] = (literal, trio.current_time() + FRESH_S)
