"""The files of a certificate: what is wrong with them, and what a server or a client makes of them.

Rule 1: a fault is named by the key that names the file, and says what to do.
Rule 2: what only clients will mind is a worry: the server can serve with it, so it does.
"""

import contextlib
import os
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

HTTP1: Final = "http/1.1"
HTTP2: Final = "h2"
_MAX_BYTES = 1 << 20
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_KEY = b"PRIVATE KEY-----"
_LOCKED = (b"ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED")
# X509_V_FLAG_NO_CHECK_TIME, which the ssl module has no name for: a rehearsal asks for the dates.
_WHATEVER_THE_TIME = 0x200000
_FLIGHTS = 4  # of a handshake, in either version
# How long before its end a certificate is a worry: some live for days, and are renewed late.
_AHEAD_S = 14 * 86400.0
_AHEAD_OF_LIFE = 0.1

Fault = tuple[str, str]


class BadCertificate(Exception):  # noqa: N818 - a fault of the owner, not an error of the program
    """Files that cannot be used. `faults`: each with the key that names the file."""

    def __init__(self, *faults: Fault) -> None:
        """Keep what was found."""
        super().__init__("; ".join(f"{key}: {message}" for key, message in faults))
        self.faults = faults


@attrs.frozen
class CertificateFiles:
    """Where a server's certificate is; as paths, in PEM.

    Attributes:
        cert_file: the certificate, then those that lead to its root.
        key_file: its private key.
        client_ca_file: certificates that sign those of clients; "" where clients need none.
    """

    cert_file: str
    key_file: str
    client_ca_file: str = ""

    def named(self) -> Iterator[tuple[str, str]]:
        """Each file there is, after its key."""
        for key, path in attrs.asdict(self).items():
            if path:
                yield key, path

    def stamp(self) -> tuple[object, ...]:
        """What is another when a file has changed."""
        return tuple(_stamp(path) for _, path in self.named())


def _stamp(path: str) -> object:
    try:
        found = os.stat(path)  # noqa: PTH116 - as much as a Path's, and no Path
    except OSError as error:
        return error.errno
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def server_contexts(files: CertificateFiles) -> dict[str, ssl.SSLContext]:
    """What a server encrypts with, by the protocol that is then spoken: HTTP1 or HTTP2.

    Raises:
        BadCertificate: with every fault of the files.
    """
    faults = list(_faults(files))
    if faults:
        raise BadCertificate(*faults)
    return {protocol: _server_context(files, protocol) for protocol in (HTTP1, HTTP2)}


def client_context(ca_file: str, cert_file: str) -> ssl.SSLContext:
    """What a client encrypts with.

    Args:
        ca_file: whom it trusts, in PEM; "" = whom the system trusts.
        cert_file: its own certificate and the key of it, in one PEM; "" = it has none.

    Raises:
        BadCertificate: a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ValueError) as error:
        raise BadCertificate(("ca_file", f"cannot use {ca_file}: {_in_words(error)}")) from error
    if cert_file:
        try:
            context.load_cert_chain(cert_file, password=lambda: b"")
        except (OSError, ValueError) as error:
            why = f"cannot use {cert_file}, in which a certificate and its key are expected"
            raise BadCertificate(("cert_file", f"{why}: {_in_words(error)}")) from error
    return context


def _faults(files: CertificateFiles) -> Iterator[Fault]:
    """What can be said of each file by itself."""
    for key, path in files.named():
        try:
            data = _read(Path(path))
        except OSError as error:
            yield key, f"cannot read {path}: {error.strerror or error}"
            continue
        if key != "key_file":
            if _CERTIFICATE not in data:
                yield key, f"there is no certificate in {path}; PEM is expected"
        elif any(mark in data for mark in _LOCKED):
            yield key, f"the key in {path} has a passphrase, and nobody can be asked for it"
        elif _KEY not in data:
            yield key, f"there is no private key in {path}; PEM is expected"


def _read(path: Path) -> bytes:
    """A file's content. Raises OSError, also for what is no file: a pipe would be waited for."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is not a file")
    with path.open("rb") as file:
        return file.read(_MAX_BYTES)


def _server_context(files: CertificateFiles, protocol: str) -> ssl.SSLContext:
    """Raises BadCertificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client that asks for handshake after handshake would have all the work done for nothing.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([protocol])
    try:
        # Without a password to give, OpenSSL would ask whoever sits at the terminal.
        context.load_cert_chain(files.cert_file, files.key_file, password=lambda: b"")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            fault = "key_file", f"{files.key_file} is not the key of {files.cert_file}"
        else:
            fault = "cert_file", f"cannot be used with {files.key_file}: {_in_words(error)}"
        raise BadCertificate(fault) from error
    if files.client_ca_file:
        try:
            context.load_verify_locations(cafile=files.client_ca_file)
        except (OSError, ValueError) as error:
            fault = "client_ca_file", f"cannot use {files.client_ca_file}: {_in_words(error)}"
            raise BadCertificate(fault) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _in_words(error: Exception) -> str:
    """OpenSSL's reason, without the file and line of its source."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "the file is damaged").lower().replace("_", " ")
    return str(getattr(error, "strerror", None) or error)


# -- what clients will mind ------------------------------------------------------------------------


def worries(files: CertificateFiles, now: float) -> Iterator[Fault]:
    """What is odd about good files.

    Args:
        files: have been found good.
        now: seconds since 1970.
    """
    with contextlib.suppress(OSError):  # it was there just before
        mode = Path(files.key_file).stat().st_mode
        if mode & stat.S_IROTH:
            message = f"everybody on this machine can read {files.key_file}; chmod o-r it"
            yield "key_file", message
    try:
        begins, ends = _life(files)
    except BadCertificate as bad:  # it was good just before
        yield from bad.faults
        return
    except (OSError, ValueError) as error:
        why = getattr(error, "verify_message", "") or _in_words(error)
        yield "cert_file", f"clients will refuse {files.cert_file}: {why}"
        return
    if now >= ends:
        yield "cert_file", f"{files.cert_file} has expired; clients will refuse it"
    elif now < begins:
        yield "cert_file", f"{files.cert_file} is not valid yet; clients will refuse it"
    elif ends - now < min(_AHEAD_S, (ends - begins) * _AHEAD_OF_LIFE):
        day = time.strftime("%Y-%m-%d", time.gmtime(ends))
        yield "cert_file", f"{files.cert_file} expires on {day}; renew it"


def _life(files: CertificateFiles) -> tuple[float, float]:
    """From when to when a certificate is good, in seconds since 1970.

    Asked of a client that trusts just this certificate and shakes hands with it in memory: the ssl
    module parses none that no peer has shown.

    Raises:
        BadCertificate, OSError, ValueError: no client could make use of it.
    """
    server = _server_context(attrs.evolve(files, client_ca_file=""), HTTP1)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.verify_flags |= ssl.VerifyFlags(_WHATEVER_THE_TIME)
    client.load_verify_locations(cafile=files.cert_file)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for _ in range(_FLIGHTS):
        for end in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    shown = theirs.getpeercert() or {}
    begins, ends = str(shown["notBefore"]), str(shown["notAfter"])
    return ssl.cert_time_to_seconds(begins), ssl.cert_time_to_seconds(ends)
