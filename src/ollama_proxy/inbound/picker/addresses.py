"""Where hosts are: literal addresses as they are, names as they were last looked up.

A proxy is told addresses, not names. A name is waited for when it is first needed; from then on what
was found is told, and looked up again beside the work. A name may have several addresses, and a server listen
on one of them alone, as most do of those that `localhost` has: the proxy is told all, and finds out which.
"""

import contextlib
import functools
import ipaddress

import trio

from ollama_proxy.engine.job import BackendFailed, Fault

FRESH_S = 30.0
_MOST = 4  # of one name


@functools.lru_cache(maxsize=1024)
def _literal(host: str) -> str | None:
    """A host as it stands before a port; None where it is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return f"[{address}]" if isinstance(address, ipaddress.IPv6Address) else str(address)


class Addresses:
    """What is known of names. As many as there are backends."""

    def __init__(self) -> None:
        """Know nothing."""
        self._known: dict[str, tuple[tuple[str, ...], float]] = {}

    def known(self, host: str, port: int) -> list[str]:
        """`address:port` of each, as the system prefers them; none where the name was never looked up."""
        literal = _literal(host)
        found, _ = ((literal,), 0.0) if literal is not None else self._known.get(host, ((), 0.0))
        return [f"{each}:{port}" for each in found]

    async def find(self, host: str, port: int) -> list[str]:
        """The same, looked up if need be: at least one.

        Raises:
            BackendFailed: there is no such name, or nobody says.
        """
        known = self.known(host, port)
        if not known:
            await self._look_up(host)
            known = self.known(host, port)
        return known

    def is_stale(self, host: str) -> bool:
        """Whether a name should be looked up again."""
        return host in self._known and self._known[host][1] <= trio.current_time()

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
        told = (_literal(str(each[4][0])) for each in found)
        addresses = list(dict.fromkeys(each for each in told if each is not None))
        if not addresses:
            raise BackendFailed(Fault.UNREACHABLE, "its name leads nowhere")
        self._known[host] = (tuple(addresses[:_MOST]), trio.current_time() + FRESH_S)
