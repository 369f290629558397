"""Who a router is: the same each time, another at each port, and nothing of the machine's id in it."""

import logging
from pathlib import Path

import pytest

from ollama_proxy.identity import machine_since_start, node_id, state_directory

MACHINE = "0123456789abcdef0123456789abcdef"


def machine(tmp_path: Path, text: str = MACHINE + "\n") -> Path:
    path = tmp_path / "etc-machine-id"
    path.write_text(text)
    return path


def test_it_is_the_machines_and_the_ports(tmp_path: Path) -> None:
    """Always the same, and known from what is written here alone."""
    ids = [node_id(port, None, machine_ids=[machine(tmp_path)]) for port in (8080, 8081, 8080)]

    assert ids[0] == ids[2] != ids[1]
    assert all(len(each) == 32 and not set(each) - set("0123456789abcdef") for each in ids)


def test_any_port_has_an_id_of_its_own(tmp_path: Path) -> None:
    """Two that take what is free are two, and not one that is found twice."""
    ids = {node_id(0, tmp_path, machine_ids=[machine(tmp_path)]) for _ in range(2)}

    assert 2 == len(ids)


def test_it_does_not_tell_the_machines_id(tmp_path: Path) -> None:
    """Not even a part of it."""
    told = node_id(8080, None, machine_ids=[machine(tmp_path)])

    assert not any(MACHINE[at : at + 6] in told for at in range(26))


@pytest.mark.parametrize("text", ["", "uninitialized\n", "0" * 31, "x" * 100_000])
def test_a_machine_without_an_id_keeps_one(tmp_path: Path, text: str) -> None:
    """As a container is one: the same at the next start, and another machine's is another."""
    here, there = tmp_path / "a" / "state", tmp_path / "b"
    files = [tmp_path / "missing", machine(tmp_path, text)]
    first, second, other = (node_id(8080, at, machine_ids=files) for at in (here, here, there))

    assert first == second != other
    assert ["machine-id"] == [each.name for each in here.iterdir()]


def test_what_was_kept_and_is_damaged_is_made_anew(tmp_path: Path) -> None:
    """An empty file after a crash is no id for ever."""
    (tmp_path / "machine-id").write_text("")

    assert node_id(8080, tmp_path, machine_ids=[]) == node_id(8080, tmp_path, machine_ids=[])


def test_where_nothing_can_be_kept_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And the router has an id all the same."""
    (tmp_path / "file").write_text("no directory")
    with caplog.at_level(logging.WARNING):
        first = node_id(8080, tmp_path / "file" / "state", machine_ids=[])
        second = node_id(8080, None, machine_ids=[])

    assert first != second
    assert ["set fleet.node_id", "see fleet.node_id"] == [
        record.getMessage()[-17:].strip() for record in caplog.records
    ]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"HOME": "/h"}, "/h/.local/state/ollama-proxy"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/s"}, "/s/ollama-proxy"),
        ({"HOME": "/h", "XDG_STATE_HOME": "s"}, "/h/.local/state/ollama-proxy"),
        ({"HOME": "/h", "STATE_DIRECTORY": "/v/a:/v/b"}, "/v/a"),
    ],
)
def test_what_stays_is_where_the_system_says(environ: dict[str, str], expected: str | None) -> None:
    """The service manager's directory, else the user's own."""
    assert (None if expected is None else Path(expected)) == state_directory(environ)


def test_a_machine_is_told_from_its_copy(tmp_path: Path) -> None:
    """The same for as long as it runs, another at each port, and nothing of the kernel's id in it."""
    boots = [tmp_path / "a", tmp_path / "b"]
    for path, digit in zip(boots, "12", strict=True):
        path.write_text(f"{digit * 8}-{digit * 4}-{digit * 4}-{digit * 4}-{digit * 12}\n")
    here, again, there = (machine_since_start(8080, boot_id=boots[n]) for n in (0, 0, 1))

    assert here == again
    assert 3 == len({here, there, machine_since_start(8081, boot_id=boots[0])})
    assert "1111" not in here


@pytest.mark.parametrize("text", [None, "", "\xff", "x" * 100_000])
def test_a_kernel_that_does_not_say_when_it_started(tmp_path: Path, text: str | None) -> None:
    """Then nobody is told apart."""
    path = tmp_path / "boot_id"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))

    assert "" == machine_since_start(8080, boot_id=path)
