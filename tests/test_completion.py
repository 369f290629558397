"""Completions as the shells themselves understand them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ollama_proxy.cli import new_parser
from ollama_proxy.completion import SHELLS, commands
from tests.real.parts import require

MODES = ["auto", "balanced", "efficiency", "performance", "quiet", "ultra-efficiency"]
CASES = [
    (["s"], ["say", "serve", "simulate", "status"]),
    (["serve", "--log-level", ""], ["debug", "error", "info", "warning"]),
    (["serve", "--ho"], ["--host"]),
    (["mode", ""], MODES),
    (["serve", "--config", "conf"], ["config.toml"]),
    (["check-config", "conf"], ["config.toml"]),
    (["serve", "--host", "x"], []),
]
ASK_BASH = """
source completion
compopt() { :; }  # knows only what a key press asks for
COMP_WORDS=(ollama-proxy "$@")
COMP_CWORD=$#
_ollama_proxy
printf '%s\\n' "${COMPREPLY[@]}"
"""


def run(directory: Path, shell: str, *arguments: str) -> list[str]:
    """What a shell says, run beside its completion and a config.toml."""
    require(shutil.which(shell) is not None, f"{shell} is not installed")
    (directory / "completion").write_text(SHELLS[shell](list(commands(new_parser()))))
    (directory / "config.toml").touch()
    done = subprocess.run(
        [shell, *arguments],
        cwd=directory,
        env={"HOME": str(directory), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(("words", "offered"), CASES)
def test_bash_completes(tmp_path: Path, words: list[str], offered: list[str]) -> None:
    """Commands, flags, known values and files; and nothing where a value is anybody's guess."""
    found = run(tmp_path, "bash", "--norc", "-c", ASK_BASH, "bash", *words)

    # Of `mode` only the names are looked at: it takes the flags of every command, too.
    names = {each for each in found if words[0] != "mode" or not each.startswith("-")}
    assert offered == sorted(names - {""})


@pytest.mark.parametrize(("words", "offered"), CASES)
def test_fish_completes(tmp_path: Path, words: list[str], offered: list[str]) -> None:
    """The same."""
    line = " ".join(["ollama-proxy", *words])
    found = run(tmp_path, "fish", "--no-config", "-c", f"source completion; complete -C '{line}'")

    assert offered == sorted(each.partition("\t")[0] for each in found)


def test_zsh_reads_it(tmp_path: Path) -> None:
    """What fpath would load is sound; offering needs a terminal."""
    assert [] == run(tmp_path, "zsh", "-f", "-n", "completion")


def test_every_command_has_its_completion() -> None:
    """None is forgotten, whatever the parser gets."""
    known = list(commands(new_parser()))

    assert "" == known[0].name
    assert {"serve", "check-config", "mode"} <= {each.name for each in known}
    for make in SHELLS.values():
        text = make(known)
        assert all(each.name in text for each in known)
