"""Where this router keeps what it is to those it is paired with: a certificate and its key, made once.

Law: the key is read by OpenSSL alone; it is never printed, logged, or sent.
"""

import datetime as dt
import secrets
from pathlib import Path
from typing import Final

from ollama_proxy.pairing.files import StateFault, locked, read_private, write_private

_FILE: Final = "identity.pem"
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_BEGINS: Final = dt.datetime(2020, 1, 1)  # noqa: DTZ001 - as X.509 has it
_ENDS: Final = dt.datetime(9999, 12, 31, 23, 59, 59)  # noqa: DTZ001 - RFC 5280: it has no end
MISSING: Final = "pairing needs the extra pairing, and {} is not installed. Install ollama-proxy-router[pairing]."


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
