"""What is kept of pairs, and of this router itself."""

import threading
from pathlib import Path

import attrs
import pytest

from ollama_proxy.pairing.book import book_file, read_book, strike_out, write_down
from ollama_proxy.pairing.certificate import identity_file, own_certificate
from ollama_proxy.pairing.files import StateFault
from tests.pairing.cards import Box


def test_a_certificate_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    """Directory and file."""
    first = own_certificate(tmp_path / "state")
    mode = identity_file(tmp_path / "state").stat().st_mode & 0o777

    assert (first, 0o600, 0o700) == (
        own_certificate(tmp_path / "state"),
        mode,
        (tmp_path / "state").stat().st_mode & 0o777,
    )
    assert "PRIVATE" not in first


def test_a_key_that_others_could_read_is_not_used(tmp_path: Path) -> None:
    """The sentence says what to do."""
    own_certificate(tmp_path)
    identity_file(tmp_path).chmod(0o640)
    with pytest.raises(StateFault, match="chmod 600"):
        own_certificate(tmp_path)


def test_pairs_are_kept(tmp_path: Path) -> None:
    """As they were, in a file that is its owner's alone; the same router again replaces itself."""
    one, two = (Box.new(tmp_path, name).peer() for name in ("one", "two"))
    moved = attrs.evolve(one, host="fd00::7", port=9000)
    for each in (one, two, moved):
        write_down(tmp_path, each)

    assert (two, moved) == read_book(tmp_path)
    assert "https://[fd00::7]:9000" == moved.url
    assert 0o600 == book_file(tmp_path).stat().st_mode & 0o777
    assert {"one", "two", "lock", "peers.toml"} == {each.name for each in tmp_path.iterdir()}


def test_a_pair_is_struck_out_by_id_or_by_name(tmp_path: Path) -> None:
    """By a name that two have neither is."""
    one, two = (Box.new(tmp_path, name).peer() for name in ("one", "two"))
    twin = Box.new(tmp_path / "b", "two").peer()
    for each in (one, two, twin):
        write_down(tmp_path, each)

    assert [None, None, one, twin] == [
        strike_out(tmp_path, which) for which in ("three", "two", "one", twin.id)
    ]
    assert (two,) == read_book(tmp_path)


def test_all_that_write_at_once_are_kept(tmp_path: Path) -> None:
    """Two commands at the same time lose nobody."""
    peers = [Box.new(tmp_path, f"box{each}").peer() for each in range(6)]
    threads = [threading.Thread(target=write_down, args=(tmp_path, each)) for each in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {each.id for each in peers} == {each.id for each in read_book(tmp_path)}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[peers]]\n", "peers.0..name: is required|is required"),
        ("peers = 3\n", "list of tables"),
        ("[[peers\n", "peers.toml"),
        (
            '[[peers]]\nname = "a"\nhost = "b"\nport = 1\nnode_id = "c"\ncertificate = "secret"\n',
            "certificate",
        ),
        ("peers = " + "[" * 5000, "peers.toml"),
        ("\xff", "peers.toml"),
    ],
)
def test_a_book_with_a_fault_names_it(tmp_path: Path, text: str, why: str) -> None:
    """And is not believed in part."""
    book_file(tmp_path).write_bytes(text.encode("latin-1"))
    book_file(tmp_path).chmod(0o600)
    with pytest.raises(StateFault, match=why) as caught:
        read_book(tmp_path)

    assert "secret" not in str(caught.value)


def test_a_directory_in_its_place_is_no_book(tmp_path: Path) -> None:
    """And leaves no descriptor open: it is looked at whenever it changes."""
    book_file(tmp_path).mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(StateFault, match="cannot be read"):
            read_book(tmp_path)

    assert before == len(list(Path("/proc/self/fd").iterdir()))


def test_a_book_that_others_could_write_is_not_believed(tmp_path: Path) -> None:
    """Who writes it decides who is let in."""
    write_down(tmp_path, Box.new(tmp_path, "one").peer())
    book_file(tmp_path).chmod(0o660)
    with pytest.raises(StateFault, match="chmod 600"):
        read_book(tmp_path)
