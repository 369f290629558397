"""Where things go on a user's machine: the XDG directories, or one directory in place of all."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

UNIT = "ie.fio.ollamaproxy.service"


@dataclass(frozen=True)
class Places:
    """Where commands, data and configurations of one user are."""

    bin: Path
    data: Path
    config: Path

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> "Places":
        """The user's own. XDG: a variable that is no absolute path is ignored."""
        home = Path.home()

        def place(variable: str, usual: str) -> Path:
            named = environ.get(variable, "")
            return Path(named) if named.startswith("/") else home / usual

        return cls(
            bin=home / ".local/bin",  # XDG knows no variable for it
            data=place("XDG_DATA_HOME", ".local/share"),
            config=place("XDG_CONFIG_HOME", ".config"),
        )

    @classmethod
    def below(cls, prefix: Path) -> "Places":
        """All below one directory."""
        prefix = prefix.resolve()  # one spelling, whichever way it was said
        return cls(bin=prefix / "bin", data=prefix / "share", config=prefix / "config")

    @property
    def command(self) -> Path:
        """The command, as users call it."""
        return self.bin / "ollama-proxy"

    @property
    def ours(self) -> Path:
        """A directory that nobody else uses."""
        return self.data / "ollama-proxy"

    @property
    def venv(self) -> Path:
        """The program with all it needs."""
        return self.ours / "venv"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.venv / "bin/python"

    @property
    def manifest(self) -> Path:
        """What was installed."""
        return self.ours / "installed.json"

    @property
    def configuration(self) -> Path:
        """The user's own, once it is there."""
        return self.config / "ollama-proxy/config.toml"

    @property
    def unit(self) -> Path:
        """Beside the units of other programs in the home directory; the user's own win over it."""
        return self.data / "systemd/user" / UNIT

    @property
    def extensions(self) -> Path:
        """GNOME Shell's extensions of this user."""
        return self.data / "gnome-shell/extensions"
