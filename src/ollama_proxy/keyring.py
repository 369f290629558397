"""API keys as their owner keeps them: in the configuration, in files, in a variable; and new ones.

Law: no fault repeats an entry, which may be a key in the wrong place.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ollama_proxy.policy.access import Key, Permission, digest_of

FILE = "file:"
_HASH = "sha256:"
MAX_FILE_BYTES = 1 << 20
_TOO_OPEN = stat.S_IWGRP | stat.S_IRWXO
_PLAIN = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")


class KeyFault(ValueError):  # noqa: N818 - a fault of the owner, not an error of the program
    """An entry that cannot be used; the message is the fault without its place."""


def read_keys(
    entries: Iterable[tuple[str, str]], *, environ: Mapping[str, str], directory: Path
) -> tuple[list[Key], list[tuple[str, str]]]:
    """Read entries into keys.

    Args:
        entries: each with the place where it stands, such as `server.auth.api_keys[0]`.
        environ: HOME is what `file:~/` begins with.
        directory: what other relative paths begin with.

    Returns:
        The keys, and every fault with its place.
    """
    keys: dict[bytes, Key] = {}
    faults: list[tuple[str, str]] = []
    for place, entry in entries:
        try:
            found = list(_keys_of(entry, environ, directory))
        except KeyFault as fault:
            faults.append((place, str(fault)))
            continue
        twice = [key for key in found if keys.setdefault(key.digest, key) is not key]
        faults += [(place, f"the key {key.name} is there twice") for key in twice]
    return list(keys.values()), faults


def _keys_of(entry: str, environ: Mapping[str, str], directory: Path) -> Iterator[Key]:
    if not entry.startswith(FILE):
        yield _parsed(entry)
        return
    named = entry.removeprefix(FILE).strip()
    if named.startswith("~/") and environ.get("HOME"):
        named = environ["HOME"] + named[1:]
    if not named:
        raise KeyFault("names no file")
    path = directory / named
    found = 0
    for number, line in enumerate(_read(path).splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found += 1
        try:
            yield _parsed(text)
        except KeyFault as fault:
            raise KeyFault(f"{path}, line {number}: {fault}") from None
    if not found:
        # Nobody who names a file means to ask for no key at all.
        raise KeyFault(f"{path} holds no key")


def _parsed(entry: str) -> Key:
    try:
        return Key.parse(entry)
    except ValueError as error:
        raise KeyFault(str(error)) from None


def _read(path: Path) -> str:
    """A file that nobody but its owner and its group can read, and its owner alone can write."""
    try:
        # Not blocking: a pipe in its place would hold up the start.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(number, "rb") as file:  # noqa: PTH123 - a descriptor, so that what is judged is what is read
            about = os.fstat(number)
            if not stat.S_ISREG(about.st_mode):
                raise KeyFault(f"{path} is no file")
            if about.st_mode & _TOO_OPEN:
                raise KeyFault(
                    f"{path} can be read or written by others (mode {about.st_mode & 0o777:o});"
                    f" make it yours alone: chmod 600 {path}"
                )
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, KeyFault):
            raise
        why = error.strerror if isinstance(error, OSError) else None
        raise KeyFault(f"{path} cannot be read: {why or error}") from None
    if len(content) > MAX_FILE_BYTES:
        raise KeyFault(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB: hardly a list of keys")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise KeyFault(f"{path} is not UTF-8") from None


def entries_of(variable: str) -> list[str]:
    """The entries in OLLAMA_PROXY_API_KEYS; there, a key may stand itself, and is hashed at once."""
    entries = [entry.strip() for entry in variable.split(",")]
    return [
        f"{_HASH}{digest_of(entry.encode()).hex()}" if _PLAIN.fullmatch(entry) else entry
        for entry in entries
        if entry
    ]


def make_key(name: str, permissions: Iterable[str]) -> tuple[str, str]:
    """A new key of 256 random bits, and its entry for the configuration.

    Raises:
        KeyFault: the name, or a permission, is none.
    """
    secret = f"op-{secrets.token_urlsafe(32)}"
    words = [f"{_HASH}{digest_of(secret.encode()).hex()}", *permissions]
    entry = " ".join([*words, f"name={name}"] if name else words)
    try:
        Key.parse(entry)
    except ValueError:
        known = ", ".join(Permission)
        raise KeyFault(
            f"permissions are {known}; a name has up to 64 letters, digits, dots, - and _"
        ) from None
    return secret, entry
