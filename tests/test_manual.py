"""The manual page, as groff and man read it."""

import shutil
import subprocess

from ollama_proxy.cli import EXIT_CODES, new_parser
from ollama_proxy.completion import commands
from ollama_proxy.manual import manual
from tests.real.parts import require


def formatted(*flags: str) -> "subprocess.CompletedProcess[str]":
    """The page as groff makes it."""
    require(shutil.which("groff") is not None, "groff is not installed")
    return subprocess.run(
        ["groff", "-man", "-ww", *flags], input=manual(), capture_output=True, text=True, check=True
    )


def test_groff_has_nothing_to_say() -> None:
    """No warning of any kind."""
    assert "" == formatted("-z").stderr


def test_every_command_and_flag_is_told() -> None:
    """With hyphens that a shell takes, and with every exit code."""
    page = formatted("-Tascii", "-P-c", "-P-b", "-P-u", "-rLL=200n").stdout
    known = list(commands(new_parser()))

    assert [] == [each.name for each in known if each.name not in page]
    assert [] == [flag for each in known for flag in each.flags if flag not in page]
    assert [] == [code for code in EXIT_CODES if f"\n       {code} " not in page]
    assert "jq '.[].id'" in page


def test_no_line_is_taken_for_a_macro() -> None:
    """What a file or a help is called begins no line by itself."""
    known = {".TH", ".SH", ".SS", ".TP", ".B", ".nf", ".fi"}
    begun = {line.split()[0] for line in manual().splitlines() if line.startswith((".", "'"))}

    assert begun == known
