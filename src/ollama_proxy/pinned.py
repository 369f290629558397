"""TLS between two ends that know each other's certificates: exactly those are let in.

Rule 1: the certificate is what is trusted. No authority signs for it, no name in it and no date counts:
houses have no names, and a machine whose battery ran out does not know the year.
Rule 2: a stranger's handshake fails, so that nothing of ours was sent and nothing of theirs was read.

OpenSSL itself does the comparing: the pinned certificates are all that a context trusts, and none of them
can vouch for another. The alternative was to verify nothing and to compare fingerprints afterwards. A
server cannot do so (Python's `ssl` verifies a client's certificate or does not ask for it), and a client
would have shown its own certificate first, and would need a way of its own into each HTTP library.
"""

import hashlib
import ssl
from collections.abc import Iterable
from pathlib import Path

import attrs

from ollama_proxy.certificates import HTTP1

# X509_V_FLAG_NO_CHECK_TIME, which the ssl module has no name for.
_WHATEVER_THE_TIME = ssl.VerifyFlags(0x200000)


def fingerprint_of(certificate: bytes) -> str:
    """SHA-256 of a certificate in DER, in hex."""
    return hashlib.sha256(certificate).hexdigest()


def der_of(pem: str) -> bytes:
    """The certificate in a PEM, in DER. Raises ValueError: there is not exactly one."""
    der = ssl.PEM_cert_to_DER_cert(pem)
    if not der or ssl.DER_cert_to_PEM_cert(der).split() != pem.split():
        raise ValueError("not one certificate in PEM")
    # It tells, too, whether OpenSSL can make anything of it.
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    return der


def server_context(own: Path, peers: Iterable[str]) -> ssl.SSLContext:
    """What a server encrypts with that hears only these.

    Args:
        own: its certificate and the key of it, in one PEM file.
        peers: certificates of who may come, in PEM; at least one.

    Raises:
        OSError: the file cannot be used; an SSLError is one.
    """
    context = _pinned(ssl.PROTOCOL_TLS_SERVER, own, peers)
    context.verify_mode = ssl.CERT_REQUIRED
    # Who takes up an earlier session is not asked for a certificate again, which may be gone since.
    context.num_tickets = 0
    return context


def client_context(own: Path, peer: str) -> ssl.SSLContext:
    """What a client encrypts with that speaks only to this one. As `server_context`."""
    return _pinned(ssl.PROTOCOL_TLS_CLIENT, own, [peer])


@attrs.frozen
class Pin:
    """How one other end is spoken with.

    Attributes:
        own: as `server_context` has it.
        certificate: the other end's, in PEM.
    """

    own: Path
    certificate: str = attrs.field(repr=False)

    def context(self) -> ssl.SSLContext:
        """What is encrypted with. Raises OSError: our file cannot be used."""
        return client_context(self.own, self.certificate)


def _pinned(side: int, own: Path, peers: Iterable[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.check_hostname = False
    # Both ends are of this program: nothing older is needed, and certificates are not shown in clear.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([HTTP1])
    context.load_cert_chain(own, password=lambda: b"")
    context.load_verify_locations(cadata="\n".join(peers))
    # Else it would look for who signed it, also of what is trusted itself.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _WHATEVER_THE_TIME
    return context
