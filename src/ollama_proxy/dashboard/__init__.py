"""The page that a browser is shown, as bytes: read once, named by what they are.

Every file but the page itself has the digest of all of them in its path, so that a browser may keep
it for good, and never mixes the files of two versions. There is no build step: what is served is what
is in this directory.
"""

import hashlib
from collections.abc import Mapping
from importlib.resources import files

import attrs

PAGE = "index.html"
_DIGEST_HERE = b"{digest}"
_MEDIA = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}


@attrs.frozen
class Asset:
    """One file: what it holds, of which media type, and an entity tag for it."""

    content: bytes
    media: str
    etag: str


@attrs.frozen
class Assets:
    """All of them.

    Attributes:
        digest: of all; it changes whenever one of them does.
        page: the one that names the others.
        files: the others, by name.
    """

    digest: str
    page: Asset
    files: Mapping[str, Asset]


def read_assets() -> Assets:
    """Read them from the package."""
    found = {
        each.name: each.read_bytes()
        for each in sorted(files(__name__).iterdir(), key=lambda each: each.name)
        if each.name.rpartition(".")[2] in _MEDIA
    }
    digest = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]
    found[PAGE] = found[PAGE].replace(_DIGEST_HERE, digest.encode())
    made = {name: _asset(name, content) for name, content in found.items()}
    return Assets(digest, made.pop(PAGE), made)


def _asset(name: str, content: bytes) -> Asset:
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return Asset(content, _MEDIA[name.rpartition(".")[2]], etag)
