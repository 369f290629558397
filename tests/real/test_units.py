"""What is installed for a user: files in their places, clean units, and nothing left in the end."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from installing.manifest import Manifest
from installing.places import UNIT, Places
from installing.session import denies_namespaces

import ollama_proxy
from tests.real.parts import require
from tests.real.processes import ROOT

UNITS = ROOT / "units"
ALIASES = ["", ".Backends", ".Efficiency", ".Routing", ".SystemState", ".Thermal"]
LIMIT_S = 300.0
EXPOSURE_MAX = 2.5


def tool(name: str, *arguments: str | Path, home: Path) -> "subprocess.CompletedProcess[str]":
    """Run one of tools/ as the user whose home that is, with pip's cache of whoever runs the tests."""
    cache = {"XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))}
    pip = {k: v for k, v in os.environ.items() if k.startswith("PIP_")}
    return subprocess.run(
        [ROOT / "tools" / name, *arguments],
        env={"HOME": str(home), "PATH": os.environ["PATH"], "PYTHON": sys.executable} | cache | pip,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )


def everything(below: Path) -> set[str]:
    """What lies there, but for what is in the virtual environment."""
    found = {str(path.relative_to(below)) for path in below.rglob("*")}
    return {each for each in found if "/venv/" not in each}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home directory, with a space in its name: paths are words of command lines."""
    with tempfile.TemporaryDirectory(prefix="a home ") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def installed(home: Path) -> Places:
    """Installed there, without the extras: they are large, and add nothing to what is asked here."""
    require((ROOT / "tools/install").exists(), "this is no clone")
    done = tool("install", "--prefix", home / "p", "--extras=", home=home)
    assert 0 == done.returncode, done.stderr
    return Places.below(home / "p")


def test_a_dry_run_touches_nothing(tmp_path: Path) -> None:
    """It names each file, and leaves all as it was."""
    done = tool("install", "--prefix", tmp_path / "p", "--dry-run", home=tmp_path)

    assert (0, set()) == (done.returncode, everything(tmp_path))
    assert f"would write {tmp_path}/p/share/systemd/user/{UNIT}" in done.stdout


def test_everything_is_in_its_place(installed: Places) -> None:
    """Command, unit, an activation file for each name, completions, configuration."""
    activation = {f"dbus-1/services/ie.fio.OllamaProxy{alias}.service" for alias in ALIASES}

    assert {f"systemd/user/{UNIT}", *activation} <= everything(installed.data)
    assert "bash-completion/completions/ollama-proxy" in everything(installed.data)
    assert "man/man1/ollama-proxy.1" in everything(installed.data)
    assert installed.configuration.is_file()


def test_the_installed_command(installed: Places, home: Path) -> None:
    """It is this version, and the first configuration has no fault."""
    said = [
        subprocess.run(
            [installed.command, *arguments],
            cwd=home,
            env={"HOME": str(home), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for arguments in (["--version"], ["check-config", installed.configuration])
    ]

    assert f"ollama-proxy {ollama_proxy.__version__}\n" == said[0]
    assert said[1].startswith(f"{installed.configuration}: good, ")


def analyze(*arguments: str | Path, directory: Path) -> "subprocess.CompletedProcess[str]":
    """Ask systemd itself."""
    try:
        return subprocess.run(
            ["systemd-analyze", "--user", *arguments],
            env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(directory), "HOME": "/"},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        require(condition=False, what="systemd is not installed")
        raise


def test_the_unit_is_clean(installed: Places, tmp_path: Path) -> None:
    """To `systemd-analyze verify`, with the command as it was installed."""
    done = analyze("verify", installed.unit, directory=tmp_path)

    assert (0, "") == (done.returncode, done.stderr)


def test_the_sandbox_is_tight(tmp_path: Path) -> None:
    """As `systemd-analyze security` rates it; what is open is what sensors and callers need."""
    done = analyze("security", "--offline=true", "--no-pager", UNITS / UNIT, directory=tmp_path)

    verdict = done.stdout.strip().splitlines()[-1]
    assert float(verdict.partition(": ")[2].split()[0]) <= EXPOSURE_MAX, done.stdout


@pytest.mark.parametrize("alias", ALIASES)
def test_a_name_is_activated_by_the_unit(installed: Places, alias: str) -> None:
    """The file is named as the name, starts the unit, and without systemd the command itself."""
    name = f"ie.fio.OllamaProxy{alias}"
    lines = (installed.data / f"dbus-1/services/{name}.service").read_text().splitlines()

    assert ["[D-BUS Service]", f"Name={name}"] == lines[:2]
    assert [f'Exec="{installed.command}" serve', f"SystemdService={UNIT}"] == lines[2:]


def test_again_without_harm(installed: Places, home: Path) -> None:
    """A second time changes no file that was there, and never the user's configuration."""
    installed.configuration.write_text("# mine\n")
    before = everything(home)
    done = tool("install", "--prefix", home / "p", "--extras=", home=home)

    assert (0, before) == (done.returncode, everything(home)), done.stderr
    assert "# mine\n" == installed.configuration.read_text()


def test_what_is_not_ours_is_left(tmp_path: Path) -> None:
    """A command of that name that somebody else put there stops all before it begins."""
    (tmp_path / "p/bin").mkdir(parents=True)
    (tmp_path / "p/bin/ollama-proxy").write_text("theirs")
    before = everything(tmp_path)
    done = tool("install", "--prefix", tmp_path / "p", home=tmp_path)

    assert (1, before) == (done.returncode, everything(tmp_path))
    assert "bin/ollama-proxy is there and not of our making" in done.stderr


def test_uninstalling_leaves_what_is_the_users(installed: Places, home: Path) -> None:
    """Everything that was installed goes, and nothing else; the configuration only when asked."""
    theirs = installed.data / "systemd/user/theirs.service"
    theirs.write_text("")
    dry = tool("uninstall", "--prefix", home / "p", "--dry-run", home=home)
    untouched = installed.command.exists()
    removed = tool("uninstall", "--prefix", home / "p", home=home)
    left = {path for path in (home / "p").rglob("*") if path.is_file()}
    again = tool("uninstall", "--prefix", home / "p", "--purge", home=home)

    assert (0, 0, 0, True) == (dry.returncode, removed.returncode, again.returncode, untouched)
    assert {installed.configuration, theirs} == left
    assert {theirs} == {path for path in (home / "p").rglob("*") if path.is_file()}


def test_uninstalling_with_purge_leaves_nothing(tmp_path: Path) -> None:
    """Not even the directories that were made; those that were there stay."""
    places = Places.below(tmp_path / "p")
    manifest = Manifest.read(places, dry=False)
    manifest.write(places.unit, "")
    manifest.link(places.command, places.unit)
    manifest.make_room(places.configuration)
    places.configuration.write_text("")
    done = tool("uninstall", "--prefix", tmp_path / "p", "--purge", home=tmp_path)

    assert (0, set()) == (done.returncode, everything(tmp_path)), done.stderr


def test_a_prefix_is_the_same_however_it_is_spelled(tmp_path: Path) -> None:
    """Installed by a link or by way of "..", removed by its own path."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for spelled in (tmp_path / "link", tmp_path / "real/../real"):
        places = Places.below(spelled)
        manifest = Manifest.read(places, dry=False)
        manifest.write(places.unit, "")
        done = tool("uninstall", "--prefix", tmp_path / "real", home=tmp_path)

        assert (0, {"real", "link"}) == (done.returncode, everything(tmp_path)), done.stderr


def test_a_damaged_manifest_is_said(tmp_path: Path) -> None:
    """In a sentence, and nothing is touched."""
    places = Places.below(tmp_path / "p")
    Manifest.read(places, dry=False).write(places.unit, "")
    places.manifest.write_text('{"files": [')
    before = everything(tmp_path)
    done = tool("uninstall", "--prefix", tmp_path / "p", home=tmp_path)

    assert (1, before) == (done.returncode, everything(tmp_path))
    assert "installed.json is damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_manifest_is_not_followed_anywhere(tmp_path: Path) -> None:
    """One that names what is not below our places removes nothing."""
    places = Places.below(tmp_path / "p")
    (tmp_path / "precious").mkdir()
    for name in (tmp_path / "precious", places.data / "../../precious", places.data):
        manifest = Manifest(places, trees=[str(name)])
        places.data.mkdir(parents=True, exist_ok=True)
        with pytest.raises(ValueError, match="is not where we install"):
            manifest.remove_all()

    assert {"precious", "p", "p/share"} == everything(tmp_path)


def test_what_an_earlier_version_had_goes(tmp_path: Path) -> None:
    """A file that is installed no more is removed by the next installation."""
    places = Places.below(tmp_path)
    earlier = Manifest.read(places, dry=False)
    earlier.write(places.bin / "old", "")
    earlier.write(places.command, "")
    later = Manifest.read(places, dry=False)
    later.write(places.command, "")
    later.drop_stale()

    assert ["ollama-proxy"] == [path.name for path in places.bin.iterdir()]
    assert [str(places.command)] == Manifest.read(places, dry=False).files


@pytest.mark.parametrize(
    ("sysctls", "denied"),
    [
        ({}, False),
        ({"kernel/apparmor_restrict_unprivileged_userns": "1"}, True),
        ({"kernel/apparmor_restrict_unprivileged_userns": "0"}, False),
        ({"kernel/unprivileged_userns_clone": "0"}, True),
        ({"user/max_user_namespaces": "0"}, True),
        ({"user/max_user_namespaces": "63000"}, False),
    ],
)
def test_systems_that_deny_namespaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sysctls: dict[str, str], denied: bool
) -> None:
    """They are known by what they set, where no session is there to be asked."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, value in sysctls.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(value + "\n")

    assert denied == denies_namespaces(tmp_path)


def test_the_drop_in_turns_off_what_needs_namespaces(tmp_path: Path) -> None:
    """All of the part of the unit that says so, and nothing of the rest."""
    unit, drop_in = ((UNITS / n).read_text() for n in (UNIT, "without-namespaces.conf"))
    needing = unit.partition("need namespaces")[2].partition("[Install]")[0]

    def keys(text: str) -> list[str]:
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return [line.partition("=")[0] for line in lines if "=" in line]

    assert keys(needing) == keys(drop_in)
