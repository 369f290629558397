"""Puts everything in place. Called by tools/install."""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from installing import session
from installing.manifest import Manifest
from installing.places import UNIT, Places

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "units"
EXTENSION = ROOT / "extension"
UUID = "ollamaproxy@anthropic.com"
MANUAL = "man/man1/ollama-proxy.1"  # where `man` looks for a command in the bin beside share
# shell: where its completions of a user are looked for, below the data directory
COMPLETIONS = {
    "bash": "bash-completion/completions/ollama-proxy",
    "zsh": "zsh/site-functions/_ollama-proxy",
    "fish": "fish/vendor_completions.d/ollama-proxy.fish",
}


def main() -> int:
    """Run the command."""
    flags = argparse.ArgumentParser(prog="tools/install", description=__doc__)
    flags.add_argument("--prefix", type=Path, metavar="DIR", help="put all of it below DIR")
    flags.add_argument("--dry-run", action="store_true", help="say what would be done")
    flags.add_argument("--extras", default="embedded,nvidia,tui", help="default: %(default)s")
    flags.add_argument("--no-start", action="store_true", help="leave the service as it is")
    given = flags.parse_args()
    places = Places.below(given.prefix) if given.prefix else Places.of_user(os.environ)
    manifest = Manifest.read(places, dry=given.dry_run)
    if foreign := [path for path in _planned(places) if manifest.is_foreign(path)]:
        for path in foreign:
            print(f"{path} is there and not of our making: move it away", file=sys.stderr)
        return 1
    try:
        _install(manifest, given.extras)
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"not installed: {error}", file=sys.stderr)
        return 1
    if not given.dry_run:
        is_live = not given.prefix and not given.no_start and session.is_running()
        if is_live:
            session.take_over()
        _tell_next(places, is_live=is_live)
    return 0


def _install(manifest: Manifest, extras: str) -> None:
    places = manifest.places
    _install_program(manifest, extras)
    manifest.link(places.command, places.venv / "bin/ollama-proxy")
    for path, text in _unit_files(places):
        manifest.write(path, text)
    for shell, name in COMPLETIONS.items():
        manifest.write(places.data / name, _made(manifest, "completion", shell))
    manifest.write(places.data / MANUAL, _made(manifest, "manual"))
    _install_extension(manifest)
    manifest.drop_stale()
    if os.path.lexists(places.configuration):
        print(f"{places.configuration} is left as it is")
    elif manifest.dry:
        print(f"would write {places.configuration}")
    else:
        # Not in the manifest: from now on it is the user's.
        manifest.make_room(places.configuration)
        places.configuration.write_text(_made(manifest, "starter"))


def _planned(places: Places) -> list[Path]:
    """Where nothing of anybody else's may lie."""
    written = [path for path, _ in _unit_files(places)]
    made = [places.data / name for name in (*COMPLETIONS.values(), MANUAL)]
    return [places.venv, places.command, *written, *made]


def _install_program(manifest: Manifest, extras: str) -> None:
    places = manifest.places
    if not manifest.claim_tree(places.venv):
        return
    # Asked, since one that was interrupted, or lost its Python to an upgrade, looks whole.
    if not session.does(str(places.python), "-m", "pip", "--version"):
        subprocess.run([sys.executable, "-m", "venv", "--clear", places.venv], check=True)
    try:
        _pip(places, f"{ROOT}[{extras}]" if extras else str(ROOT))
    except subprocess.CalledProcessError:
        if "embedded" not in extras:
            raise
        print("the model that comes along cannot be installed here; all else can", file=sys.stderr)
        rest = ",".join(each for each in extras.split(",") if each != "embedded")
        _pip(places, f"{ROOT}[{rest}]" if rest else str(ROOT))


def _pip(places: Places, what: str) -> None:
    quietly = ("-qq", "--disable-pip-version-check", "--retries", "5")
    subprocess.run([places.python, "-m", "pip", "install", *quietly, what], check=True)


def _made(manifest: Manifest, module: str, *arguments: str) -> str:
    """What a module of the installed program writes."""
    if manifest.dry:
        return ""
    # -I: neither this directory nor the caller's variables have a say in what is run.
    command = [manifest.places.python, "-I", "-m", f"ollama_proxy.{module}", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _unit_files(places: Places) -> Iterator[tuple[Path, str]]:
    """Unit and activation files, with the command where it really is."""
    command = str(places.command)
    unit = (UNITS / UNIT).read_text()
    yield places.unit, unit.replace("%h/.local/bin/ollama-proxy", _quoted(command, "%"))
    for path in sorted(UNITS.glob("ie.fio.OllamaProxy*.service")):
        activation = path.read_text().replace("/usr/bin/ollama-proxy", _quoted(command))
        yield places.data / "dbus-1/services" / path.name, activation
    if session.denies_namespaces():
        drop_in = UNITS / "without-namespaces.conf"
        yield places.unit.with_name(f"{UNIT}.d") / drop_in.name, drop_in.read_text()


def _quoted(path: str, doubled: str = "") -> str:
    """A path as one word of a command line, for systemd and D-Bus alike; `doubled` are specifiers."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    for each in doubled:
        escaped = escaped.replace(each, each * 2)
    return f'"{escaped}"' if any(c in escaped for c in " '\"\\$`") else escaped


def _install_extension(manifest: Manifest) -> None:
    extensions = manifest.places.extensions
    if not (EXTENSION / "metadata.json").exists():
        return
    if manifest.is_foreign(extensions / UUID):
        print(f"{extensions / UUID} is left as it is: it was not put there by us")
        return
    if not manifest.claim_tree(extensions / UUID):
        return
    command = [sys.executable, ROOT / "tools/pack-extension", "--into", extensions]
    if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode != 0:
        print("the GNOME extension is left out", file=sys.stderr)


def _tell_next(places: Places, *, is_live: bool) -> None:
    print(f"installed: {places.command}, configured by {places.configuration}")
    if is_live:
        print(f"started, now and at each login; systemctl --user status {UNIT} tells how it is")
    else:
        print(f"start it, now and at each login: systemctl --user enable --now {UNIT}")
    if str(places.bin) not in os.environ.get("PATH", "").split(":"):
        print(f"{places.bin} is not in PATH: add it, or call the command by its whole path")


if __name__ == "__main__":
    sys.exit(main())
