"""API keys where their owner keeps them."""

import os
from pathlib import Path

import pytest

from ollama_proxy.keyring import KeyFault, entries_of, make_key, read_keys
from ollama_proxy.policy.access import Key, Permission, digest_of

SECRET = "pl4nted-a-key-of-32-bytes-or-more"  # noqa: S105 - no door's
INFER = frozenset({Permission.INFER})
ENTRY = f"sha256:{digest_of(SECRET.encode()).hex()}"


def read(entry: str, directory: Path, home: str = "") -> tuple[list[Key], list[tuple[str, str]]]:
    """One entry, in place `k`."""
    return read_keys([("k", entry)], environ={"HOME": home}, directory=directory)


def write(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    """A file that is its owner's alone."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


class TestFiles:
    """`file:PATH`."""

    def test_one_entry_a_line(self, tmp_path: Path) -> None:
        """What stands after # is not read, nor an empty line."""
        write(tmp_path / "keys", f"# ours\n\n{ENTRY} infer name=phone # since May\n")

        (key,), faults = read("file:keys", tmp_path)

        assert ("phone", INFER) == (key.name, key.permissions)
        assert not faults

    @pytest.mark.parametrize("where", ["file:~/keys", "file:{}/keys", "file:keys"])
    def test_paths(self, tmp_path: Path, where: str) -> None:
        """Begin at home, at the root, or where the configuration is."""
        write(tmp_path / "keys", ENTRY)

        keys, faults = read(where.format(tmp_path), tmp_path, str(tmp_path))

        assert (1, []) == (len(keys), faults)

    @pytest.mark.parametrize(
        ("text", "mode", "fault"),
        [
            (ENTRY, 0o644, "chmod 600"),
            (ENTRY, 0o620, "chmod 600"),
            (ENTRY, 0o604, "chmod 600"),
            ("", 0o600, "holds no key"),
            ("# none yet\n", 0o600, "holds no key"),
            (f"{ENTRY}\n{SECRET}\n", 0o600, "line 2"),
            (b"\xff\xfe", 0o600, "UTF-8"),
            (b"#" * (1 << 20) + b"#", 0o600, "1 MiB"),
        ],
    )
    def test_faults(self, tmp_path: Path, text: str | bytes, mode: int, fault: str) -> None:
        """What is wrong is said, without what stands there, and no key of it counts."""
        write(tmp_path / "keys", text, mode)

        keys, ((place, message),) = read("file:keys", tmp_path)

        assert ([], "k") == (keys, place)
        assert fault in message
        assert SECRET not in message

    @pytest.mark.parametrize("entry", ["file:", "file:nowhere", "file:.", "file:a\0b", "file:pipe"])
    def test_what_is_no_file(self, tmp_path: Path, entry: str) -> None:
        """Is a fault, and does not hold up the start."""
        os.mkfifo(tmp_path / "pipe", 0o600)

        keys, faults = read(entry, tmp_path)

        assert (0, 1) == (len(keys), len(faults))

    def test_a_group_may_read(self, tmp_path: Path) -> None:
        """As systemd's credentials and containers' secrets have it."""
        write(tmp_path / "keys", ENTRY, 0o640)

        assert 1 == len(read("file:keys", tmp_path)[0])


def test_a_key_that_is_there_twice_is_a_fault(tmp_path: Path) -> None:
    """Which of the two permissions would hold?"""
    entries = [("a", f"{ENTRY} read name=one"), ("b", f"{ENTRY} admin name=two")]

    keys, faults = read_keys(entries, environ={}, directory=tmp_path)

    assert (["one"], [("b", "the key two is there twice")]) == ([k.name for k in keys], faults)


def test_a_variable_may_hold_keys_themselves() -> None:
    """They are hashed at once; entries stay as they are, and what is too short to be a key, too."""
    assert [ENTRY, "file:x", f"{ENTRY} read", "short"] == entries_of(
        f"{SECRET}, file:x,,{ENTRY} read,short"
    )


class TestMaking:
    """New keys."""

    def test_a_key_and_its_entry(self) -> None:
        """The one opens what the other says."""
        secret, entry = make_key("phone", ["infer"])
        key = Key.parse(entry)

        assert digest_of(secret.encode()) == key.digest
        assert ("phone", INFER) == (key.name, key.permissions)
        assert secret not in entry
        assert len(secret) >= 43
        assert secret != make_key("phone", ["infer"])[0]

    @pytest.mark.parametrize(
        ("name", "permissions"), [("a b", []), ("", ["write"]), ("x", ["name=y"])]
    )
    def test_what_is_none(self, name: str, permissions: list[str]) -> None:
        """Is said in terms of what it takes."""
        with pytest.raises(KeyFault, match="read, infer, admin"):
            make_key(name, permissions)
