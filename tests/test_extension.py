"""The GNOME extension as it is packed; what it does is seen in tests/real/test_gnome.py."""

import importlib.machinery
import importlib.util
import json
import re
import shutil
import types
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.real.parts import require

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "extension"
INTERFACES = ROOT / "src/ollama_proxy/inbound/dbus"
UUID = "ollamaproxy@anthropic.com"
IDENTITY = re.compile(r'^msgid ((?:".*"\n)+)', re.MULTILINE)


def packer() -> types.ModuleType:
    """tools/pack-extension, as a module."""
    loader = importlib.machinery.SourceFileLoader("packer", str(ROOT / "tools/pack-extension"))
    spec = importlib.util.spec_from_loader("packer", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def packed(tmp_path: Path) -> zipfile.ZipFile:
    """The zip."""
    require(shutil.which("glib-compile-schemas") is not None, "glib-compile-schemas is missing")
    packer().pack(tmp_path / "a.zip")
    return zipfile.ZipFile(tmp_path / "a.zip")


def test_the_interfaces_are_the_service_s_own(packed: zipfile.ZipFile) -> None:
    """Each of them, byte for byte."""
    names = {name for name in packed.namelist() if name.startswith("dbus/")}
    defined = {
        f"dbus/{path.name}": path.read_bytes()
        for path in INTERFACES.glob("ie.fio.OllamaProxy.*.xml")
    }

    assert 5 == len(defined)
    assert defined.keys() == names
    assert all(packed.read(name) == content for name, content in defined.items())


def test_interfaces_are_defined_nowhere_else() -> None:
    """Not in the extension, and by no other file of the service."""
    ours = re.compile(r"<interface name=.ie\.fio\.OllamaProxy")
    files = [*SOURCE.rglob("*"), *(ROOT / "src").rglob("*"), *(ROOT / "tools").rglob("*")]
    found = {
        path.parent
        for path in files
        if path.suffix in {".js", ".xml", ".py", ""}
        and path.is_file()
        and ours.search(path.read_text(errors="replace"))
    }

    assert {INTERFACES} == found


def test_the_package_is_what_the_shell_loads(packed: zipfile.ZipFile) -> None:
    """Its own uuid, the releases it was run on, settings that compile, a licence, no more than that."""
    told = json.loads(packed.read("metadata.json"))
    names = set(packed.namelist())

    assert UUID == told["uuid"]
    assert ["48", "49", "50", "51"] == told["shell-version"]
    assert f"schemas/{told['settings-schema']}.gschema.xml" in names
    assert {"extension.js", "prefs.js", "schemas/gschemas.compiled", "LICENSE"} <= names
    assert not [name for name in names if name.endswith((".mjs", ".po", ".pot", ".py"))]


def test_the_package_is_the_same_each_time(packed: zipfile.ZipFile, tmp_path: Path) -> None:
    """Byte for byte, so that what is published can be compared."""
    packer().pack(tmp_path / "b.zip")

    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_what_cannot_be_built_leaves_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the schema's compiler the extension of before still works."""
    old = tmp_path / UUID / "extension.js"
    old.parent.mkdir()
    old.write_text("old")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="glib-compile-schemas is missing"):
        packer().build(tmp_path / UUID)

    assert [old] == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_every_import_is_packed(packed: zipfile.ZipFile) -> None:
    """A module that is missing would be found only by who opens it."""
    names = set(packed.namelist())
    wanted = {
        found
        for name in names
        if name.endswith(".js")
        for found in re.findall(r"from '\./(.+?)'", packed.read(name).decode())
    }

    assert wanted
    assert wanted <= names


@pytest.mark.parametrize("script", sorted(SOURCE.glob("*.js")), ids=lambda path: path.name)
def test_the_shell_is_never_made_to_wait(script: Path) -> None:
    """No call that blocks, no program started; GTK in the preferences alone, the shell's parts not there."""
    text = script.read_text()
    is_preferences = script.name in {"prefs.js", "shortcutRow.js"}

    assert not re.findall(r"\w+Sync\(|call_sync|load_contents\(|Subprocess|spawn_", text)
    if is_preferences:
        assert not re.findall(r"gi://(St|Clutter|Meta|Shell)\b|org/gnome/shell/", text)
    elif script.name != "modes.js":
        assert not re.findall(r"gi://(Gtk|Gdk|Adw)\b", text)


def test_each_setting_is_read() -> None:
    """By the extension itself, not by the preferences alone; `last-mode` is no preference."""
    (schema,) = (SOURCE / "schemas").glob("*.xml")
    keys = {key.attrib["name"] for key in ET.parse(schema).iter("key")}  # noqa: S314 - our own file
    preferences = {"prefs.js", "shortcutRow.js"}
    code = "".join(p.read_text() for p in SOURCE.glob("*.js") if p.name not in preferences)
    shown = "".join((SOURCE / name).read_text() for name in preferences)

    assert {key for key in keys if f"'{key}'" in code or f"::{key}'" in code} == keys
    assert {key for key in keys if f"'{key}'" in shown} == keys - {"last-mode"}


def test_the_texts_to_translate_are_those_of_the_code() -> None:
    """As `tools/pack-extension --pot` writes them."""
    require(shutil.which("xgettext") is not None, "gettext is not installed")

    # Not as a whole: each release of xgettext has a header of its own.
    written = (SOURCE / "po/ollamaproxy.pot").read_text()
    assert set(IDENTITY.findall(packer().template())) == set(IDENTITY.findall(written))


def test_german_is_complete() -> None:
    """Every text has a translation."""
    german = (SOURCE / "po/de.po").read_text()

    assert set(IDENTITY.findall((SOURCE / "po/ollamaproxy.pot").read_text())) == set(
        IDENTITY.findall(german)
    )
    assert not re.findall(r'^msgstr(?:\[\d\])? ""\n(?!")', german, re.MULTILINE)
