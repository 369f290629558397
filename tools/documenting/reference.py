"""The configuration's reference as a page, out of config.toml: a file's text in, a page's text out.

`tests/test_config.py` holds config.toml against the code, key by key and value by value; this page is
that file once more, so nothing here has to be kept up by hand.
"""

import re
from collections.abc import Iterator

import attrs

HEAD = """\
# Configuration

This page is made of `config.toml` in the repository by `tools/docs --renew`, which a test holds against
the code. Each key has a default, which is what holds where it is left out; `ollama-proxy check-config
[PATH]` names every fault in a file at once, with a did-you-mean for keys that do not exist.

The file is looked for in this order: `--config`, `$OLLAMA_PROXY_CONFIG`, `./config.toml`,
`$XDG_CONFIG_HOME/ollama-proxy/config.toml` (`~/.config` where that is not set),
`/etc/ollama-proxy/config.toml`. Without any, a local Ollama on `127.0.0.1:11434` is used if it answers,
else the model that comes along. Flags win over `$OLLAMA_PROXY_HOST`, `_HTTP_PORT`, `_GRPC_PORT`,
`_LOG_LEVEL` and `_API_KEYS`, and those over the file.

SIGHUP (`systemctl --user reload ie.fio.ollamaproxy`) has it read again: a good file is applied without
dropping a request, a bad one is reported and changes nothing.
"""
_SECTION = re.compile(r"(\[{1,2})([a-z_.]+)\]{1,2}\s*(?:# *(.*))?")
_KEY = re.compile(r"([a-z_]+) = (.*?)(?:\s+# (.*))?")
# What the lines of an example show is its own, and no default.
_EXAMPLES = {
    "id": "",
    "type": '"ollama"',
    "name": '""',
    "hardware": "",
    "endpoint": '""',
    "power_watts": "10.0",
    "avg_latency_ms": "500",
    "wake_ms": "2000",
    "priority": "0",
}


@attrs.frozen
class Key:
    """One line of the file: `what` is its comment, unit and range included."""

    name: str
    default: str
    what: str


@attrs.frozen
class Section:
    """A table of the file, and what its own comment says."""

    title: str
    about: str
    keys: list[Key] = attrs.field(factory=list)


def sections(toml: str) -> Iterator[Section]:
    """The tables of a reference configuration in order; of `[[backends]]` the first alone.

    Raises:
        ValueError: a line is neither empty, nor a comment, nor a table, nor a key with a comment.
    """
    seen: set[str] = set()
    current: Section | None = None
    for line in toml.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if head := _SECTION.fullmatch(line):
            if current is not None:
                yield current
            bracket, name, about = head.groups()
            current = None
            if name not in seen:
                current = Section(f"{bracket}{name}{']' * len(bracket)}", about or "")
            seen.add(name)
        elif current is not None:
            current.keys.append(_key(line, in_example="backends" in current.title))
    if current is not None:
        yield current


def _key(line: str, *, in_example: bool) -> Key:
    found = _KEY.fullmatch(line)
    if found is None or not found[3]:
        raise ValueError(f"no key with a comment: {line}")
    default = _EXAMPLES.get(found[1], found[2]) if in_example else found[2]
    return Key(found[1], default, found[3])


def reference(toml: str) -> str:
    """The page."""
    return HEAD + "".join(map(_told, sections(toml)))


def _told(section: Section) -> str:
    lines = [f"\n## {section.title}\n"]
    if section.about:
        lines.append(f"{section.about[0].upper()}{section.about[1:]}.\n")
    lines += ["| key | default | unit, range, meaning |", "| --- | --- | --- |"]
    for key in section.keys:
        default = f"`{key.default}`" if key.default else "required"
        lines.append(f"| `{key.name}` | {default} | {_in_cell(key.what)} |")
    return "\n".join(lines) + "\n"


def _in_cell(text: str) -> str:
    """A comment in a table's cell: what Markdown would read into it outside of code is escaped."""
    text = text.replace("|", "\\|")
    prose_and_code = text.split("`")
    prose_and_code[::2] = [re.sub(r"([*_<>\[\]])", r"\\\1", each) for each in prose_and_code[::2]]
    return "`".join(prose_and_code)
