"""Certificates for a test's length: an authority's, a server's and a client's, as files."""

import datetime as dt
import ssl
from pathlib import Path

import attrs
import trustme

from ollama_proxy.certificates import CertificateFiles

NAMES = ("127.0.0.1", "localhost")


@attrs.define
class Papers:
    """What one authority has issued, in a directory of its own.

    Attributes:
        directory: where the files are.
        files: the server's.
    """

    directory: Path
    files: CertificateFiles = attrs.field(init=False)
    _authority: trustme.CA = attrs.field(factory=lambda: trustme.CA(key_type=trustme.KeyType.ECDSA))

    def __attrs_post_init__(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.put("ca.pem", self._authority.cert_pem)
        self.files = self.issue("server")

    @property
    def ca_file(self) -> str:
        """Who trusts these certificates needs it."""
        return str(self.directory / "ca.pem")

    def put(self, name: str, *blobs: trustme.Blob) -> str:
        """Write a file that its owner alone may read, in one step; its path."""
        path = self.directory / name
        new = path.with_suffix(".new")
        new.write_bytes(b"".join(blob.bytes() for blob in blobs))
        new.chmod(0o600)
        new.replace(path)
        return str(path)

    def move(self, name: str, to: str) -> None:
        """Put a file in the place of another."""
        (self.directory / name).replace(self.directory / to)

    def issue(self, name: str, *, days: tuple[int, int] = (-1, 1)) -> CertificateFiles:
        """A certificate for this machine and its key; `days`: from when to when, from now."""
        begins, ends = (dt.datetime.now(dt.UTC) + dt.timedelta(days=each) for each in days)
        made = self._authority.issue_cert(
            *NAMES, not_before=begins, not_after=ends, key_type=trustme.KeyType.ECDSA
        )
        return CertificateFiles(
            self.put(f"{name}.pem", *made.cert_chain_pems),
            self.put(f"{name}.key", made.private_key_pem),
        )

    def bundle(self, name: str) -> str:
        """A certificate and its key in one file; its path."""
        self.issue(name)
        both = self.directory / f"{name}.both"
        both.write_bytes(self.read(f"{name}.key") + self.read(f"{name}.pem"))
        return str(both)

    def read(self, name: str) -> bytes:
        """A file's content."""
        return (self.directory / name).read_bytes()

    def mutual(self) -> CertificateFiles:
        """The server's, and clients must have one of the same authority."""
        return attrs.evolve(self.files, client_ca_file=self.ca_file)

    def client(self, protocol: str = "http/1.1", *, known: bool = False) -> ssl.SSLContext:
        """What a client speaks with that trusts the authority; `known`: it has a certificate."""
        context = ssl.create_default_context(cafile=self.ca_file)
        context.set_alpn_protocols([protocol])
        if known:
            own = self.issue("client")
            context.load_cert_chain(own.cert_file, own.key_file)
        return context
