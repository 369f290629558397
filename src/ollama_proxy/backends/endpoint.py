"""Where a backend listens, read from its URL."""

from urllib.parse import urlsplit

import attrs


@attrs.frozen(kw_only=True)
class Endpoint:
    """A server's address: a TCP port, with TLS or without, or a Unix socket.

    Attributes:
        host: name or address; the Host header's value for a Unix socket is `localhost`.
        port: TCP port; 0 for a Unix socket.
        base_path: what its paths begin with, without a closing slash.
        tls: whether to speak TLS.
        unix_path: the socket's path; empty for TCP.
    """

    host: str
    port: int = 0
    base_path: str = ""
    tls: bool = False
    unix_path: str = ""

    @classmethod
    def parse(cls, url: str) -> "Endpoint":
        """Read `http://host:port/base`, `https://...` or `unix:/path`.

        Raises:
            ValueError: none of these.
        """
        if url.startswith("unix:"):
            return cls(host="localhost", unix_path=url.removeprefix("unix:").removeprefix("//"))
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"not an http, https or unix URL: {url!r}")
        tls = parts.scheme == "https"
        return cls(
            host=parts.hostname,
            port=parts.port or (443 if tls else 80),
            base_path=parts.path.rstrip("/"),
            tls=tls,
        )

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        if self.unix_path:
            return self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme and authority, as a URL begins."""
        return f"{'https' if self.tls else 'http'}://{self.authority}"
