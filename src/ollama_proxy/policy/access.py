"""Who may do what: the keys, and the permission that each thing that can be asked for needs.

Rule 1: what `NEEDS` does not name needs `admin`, so that what is added and forgotten is closed.
Rule 2: a key is known here by its hash alone, and compared with all of them in constant time.
"""

import enum
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping

import attrs

from ollama_proxy.policy.ask import Call
from ollama_proxy.policy.refusal import Code, Refusal


class Permission(enum.StrEnum):
    """What a key may be good for. None implies another."""

    READ = "read"  # to see the router's state
    INFER = "infer"  # to have a model answer
    ADMIN = "admin"  # to change the mode, and models on backends


Permissions = frozenset[Permission]
ALL: Permissions = frozenset(Permission)
OPEN: Permissions = frozenset()  # needs no key at all
_READ: Permissions = frozenset({Permission.READ})
_INFER: Permissions = frozenset({Permission.INFER})
_ADMIN: Permissions = frozenset({Permission.ADMIN})
_EITHER: Permissions = frozenset({Permission.READ, Permission.INFER})  # what clients ask first

NOTHING = ""  # what does not exist: any key will do to be told so
# Any one of the permissions will do. HTTP by method and path as the endpoint has it (HEAD is GET's),
# gRPC by the method's full name.
NEEDS: Mapping[str, Permissions] = {
    NOTHING: ALL,
    "GET /health": OPEN,  # without a key: its status, no more
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
    "GET /": OPEN,  # the page, in which a key is entered, or a word: nothing of this router
    "GET /dashboard/{digest}/{file}": OPEN,
    "GET /events": _READ,
    "GET /openapi.json": ALL,
    **{f"POST {call.path}": _INFER for call in Call},
    "GET /v1/stream/ws": _INFER,
    "GET /v1/realtime": _INFER,
    "GET /v1/models": _EITHER,
    "GET /v1/models/{model}": _EITHER,
    "GET /api/tags": _EITHER,
    "GET /api/ps": _EITHER,
    "GET /api/version": _EITHER,
    "POST /api/show": _EITHER,
    "POST /v1/route": _EITHER,
    "GET /backends": _READ,
    "GET /thermal": _READ,
    "GET /efficiency": _READ,
    "GET /node": _READ,
    "GET /metrics": _READ,
    "POST /efficiency": _ADMIN,
    "POST /api/pull": _ADMIN,
    "POST /api/create": _ADMIN,
    "POST /api/copy": _ADMIN,
    "POST /api/push": _ADMIN,
    "DELETE /api/delete": _ADMIN,
    "HEAD /api/blobs/{digest}": _ADMIN,
    "POST /api/blobs/{digest}": _ADMIN,
    "/ollama_proxy.OllamaProxy/Generate": _INFER,
    "/ollama_proxy.OllamaProxy/GenerateStream": _INFER,
    "/ollama_proxy.OllamaProxy/Chat": _INFER,
    "/ollama_proxy.OllamaProxy/ChatStream": _INFER,
    "/ollama_proxy.OllamaProxy/Embed": _INFER,
    "/ollama_proxy.OllamaProxy/ListModels": _EITHER,
    "/ollama_proxy.OllamaProxy/Route": _EITHER,
    "/ollama_proxy.OllamaProxy/ListBackends": _READ,
    "/ollama_proxy.OllamaProxy/GetEfficiency": _READ,
    "/ollama_proxy.OllamaProxy/WatchState": _READ,
    "/ollama_proxy.OllamaProxy/SetEfficiency": _ADMIN,
    "/compute.v1.ComputeService/Generate": _INFER,
    "/compute.v1.ComputeService/GenerateStream": _INFER,
    "/compute.v1.ComputeService/Embed": _INFER,
    "/compute.v1.ComputeService/ListBackends": _READ,
    "/compute.v1.ComputeService/HealthCheck": _EITHER,
    # Envoy asks for its own callers, whose keys are judged by the paths that they ask for.
    "/envoy.service.ext_proc.v3.ExternalProcessor/Process": _INFER,
    "/grpc.health.v1.Health/Check": ALL,
    "/grpc.health.v1.Health/Watch": ALL,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": ALL,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ALL,
}

# What a paired router may: all that its users ask for, and what it needs to choose well.
PAIRED: frozenset[str] = frozenset({
    *(f"POST {call.path}" for call in Call),
    "GET /healthz",
    "GET /readyz",
    "GET /node",
    "GET /v1/models",
    "GET /v1/models/{model}",
    "GET /api/tags",
    "GET /api/ps",
    "GET /api/version",
    "POST /api/show",
})


def need_of(what: str) -> Permissions:
    """The permissions of which one is needed; none of them where nobody is asked for a key."""
    return NEEDS.get(what, _ADMIN)


# -- keys ------------------------------------------------------------------------------------------

_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")
_NAME = re.compile(r"name=([A-Za-z0-9][A-Za-z0-9._-]{0,63})")
ENTRY_EXPECTED = (
    'must be "sha256:" and 64 hex digits, then if need be read, infer, admin and name=NAME, with'
    " spaces between them; `ollama-proxy make-key` makes one"
)
_SHOWN_DIGITS = 8


def digest_of(secret: bytes) -> bytes:
    """What is kept of a key: SHA-256, 32 bytes. Keys are random, so no slower hash is called for."""
    return hashlib.sha256(secret).digest()


@attrs.frozen(kw_only=True)
class Key:
    """A key that its owner has let in.

    Attributes:
        digest: SHA-256 of the key.
        permissions: what it may.
        name: for the log.
    """

    digest: bytes = attrs.field(repr=False)
    permissions: Permissions = ALL
    name: str = ""

    @classmethod
    def parse(cls, entry: str) -> "Key":
        """Read an entry such as `sha256:HEX read infer name=phone`; all three where none is named.

        Raises:
            ValueError: it is none. The message does not repeat it: it may be a key itself.
        """
        first, *words = entry.split() or [""]
        digest = _DIGEST.fullmatch(first)
        names = [name[1] for word in words if (name := _NAME.fullmatch(word))]
        given = [word for word in words if not _NAME.fullmatch(word)]
        if digest is None or len(names) > 1 or not set(given) <= set(Permission):
            raise ValueError(ENTRY_EXPECTED)
        key = bytes.fromhex(digest[1])
        if key == digest_of(b""):
            raise ValueError("is the hash of nothing at all")
        return cls(
            digest=key,
            permissions=frozenset(map(Permission, given)) or ALL,
            name=names[0] if names else f"sha256:{digest[1][:_SHOWN_DIGITS].lower()}",
        )


class Ring:
    """The keys that are good."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        """Hold these."""
        self._keys = {key.digest: key for key in keys}
        self._proven: dict[bytes, Key] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def has(self, key: Key) -> bool:
        """Whether a key is still good for what it was."""
        return self._keys.get(key.digest) == key

    def proven(self, digest: bytes) -> Key | None:
        """The key of a hash, if it was found before: without looking at any other."""
        # No more of them than keys, and by the hash, which nobody can choose: this tells no time.
        return self._proven.get(digest)

    def find(self, digest: bytes) -> Key | None:
        """The key of a hash. It takes as long whichever it is, and where there is none."""
        found = None
        for each in self._keys.values():
            if hmac.compare_digest(each.digest, digest):
                found = each
        if found is not None:
            self._proven[digest] = found
        return found

    def replaced_by(self, keys: Iterable[Key]) -> "Ring":
        """Another ring, which knows the proven ones of this if it has them."""
        ring = Ring(keys)
        ring._proven = {d: ring._keys[d] for d in self._proven if d in ring._keys}
        return ring


# -- the judgement ---------------------------------------------------------------------------------

KEYLESS = Refusal(
    Code.INVALID_API_KEY,
    "An API key is needed: send it as `Authorization: Bearer KEY` or as `X-Api-Key`. A key in the"
    " address is not read.",
)
UNKNOWN_KEY = Refusal(Code.INVALID_API_KEY, "The API key is not known here.")
AMBIGUOUS = Refusal(
    Code.INVALID_API_KEY,
    "Send one API key, once: as `Authorization: Bearer KEY` or as `X-Api-Key`.",
)


def forbidden(need: Permissions) -> Refusal:
    """What a key is told that lacks the permission."""
    named = " or ".join(permission for permission in Permission if permission in need)
    return Refusal(Code.PERMISSION_DENIED, f"The API key is good, but not for this: {named}.")


def judge(key: Key, need: Permissions) -> Refusal | None:
    """Say why a good key will not do, or None."""
    return None if not need or need & key.permissions else forbidden(need)
