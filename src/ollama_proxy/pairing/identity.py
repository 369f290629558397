"""Where this router keeps what it is to those it is paired with: a certificate and its key, made once.

Rule 1: the key is read by OpenSSL alone; it is never printed, logged, or sent.
Rule 2: what is written is whole or not there, and its owner's alone.
"""

import contextlib
import datetime as dt
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

_FILE: Final = "identity.pem"
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_TOO_OPEN: Final = stat.S_IRWXG | stat.S_IRWXO
_BEGINS: Final = dt.datetime(2020, 1, 1)  # noqa: DTZ001 - as X.509 has it
_ENDS: Final = dt.datetime(9999, 12, 31, 23, 59, 59)  # noqa: DTZ001 - RFC 5280: it has no end
MISSING: Final = "pairing needs the extra pairing, and {} is not installed. Install ollama-proxy-router[pairing]."


class StateFault(Exception):  # noqa: N818 - the owner's to mend
    """What is kept cannot be read or written; the message says what and why."""


def state_directory(environ: Mapping[str, str]) -> Path | None:
    """Where a router keeps what it remembers, by the XDG specification; None where it has no home."""
    home = environ.get("XDG_STATE_HOME", "")
    if not home.startswith("/"):  # the specification: ignore what is relative
        home = f"{environ['HOME']}/.local/state" if environ.get("HOME") else ""
    return Path(home, "ollama-proxy") if home else None


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Be the only one that writes there. The directory is made if need be. Raises StateFault."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateFault(f"{directory} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def write_private(path: Path, content: bytes) -> None:
    """Put a file in place, whole, for its owner alone. Raises StateFault."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(number, "wb") as file:  # noqa: PTH123 - a descriptor, whose mode was never another
                file.write(content)
                file.flush()
                os.fsync(number)
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StateFault(f"{path} cannot be written: {error.strerror}") from error


def read_private(path: Path) -> bytes | None:
    """A file that is its owner's alone; None where there is none. Raises StateFault."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(1 << 20)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateFault(f"{path} cannot be read: {error.strerror}") from error
    if mode & _TOO_OPEN:
        raise StateFault(
            f"{path} can be read or written by others (mode {mode & 0o777:o}); if nobody has, make it"
            f" yours alone: chmod 600 {path}"
        )
    return content


def identity_file(directory: Path) -> Path:
    """Where certificate and key are, in one PEM."""
    return directory / _FILE


def own_certificate(directory: Path) -> str:
    """This router's certificate, in PEM; it is made if there is none. Raises StateFault."""
    path = identity_file(directory)
    with locked(directory):
        kept = read_private(path)
        if kept is None:
            kept = _new_identity()
            write_private(path, kept)
    _, begin, rest = kept.decode(errors="replace").partition(_BEGIN)
    if not begin:
        raise StateFault(f"{path} holds no certificate; move it away, and pair anew")
    return begin + rest


def _new_identity() -> bytes:
    """A key and a certificate that it signs itself, in PEM. Raises StateFault."""
    try:
        from cryptography import x509  # noqa: PLC0415 - the extra pairing
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - as above
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - as above
    except ImportError as error:
        raise StateFault(MISSING.format(error.name)) from error
    key = ec.generate_private_key(ec.SECP256R1())
    # A name of its own, for OpenSSL looks for certificates by their names; nobody else reads it.
    name = x509.Name([
        x509.NameAttribute(x509.NameOID.COMMON_NAME, f"ollama-proxy {secrets.token_hex(8)}")
    ])
    certificate = (
        x509
        .CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGINS)
        .not_valid_after(_ENDS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)
