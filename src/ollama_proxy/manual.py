"""The manual page of the command line, made from its own parser, so that no flag is forgotten.

`tools/install` runs it as a program, as it does `completion`: `python -m ollama_proxy.manual`.
"""

import sys
from collections.abc import Iterator

import ollama_proxy
from ollama_proxy.cli import EXIT_CODES, new_parser
from ollama_proxy.completion import PROGRAM, Argument, Command, commands

# What no parser knows: variables and files, each with what it is for.
ENVIRONMENT = {
    "OLLAMA_PROXY_CONFIG": "The configuration file, where --config names none.",
    "OLLAMA_PROXY_HOST, OLLAMA_PROXY_HTTP_PORT, OLLAMA_PROXY_GRPC_PORT, OLLAMA_PROXY_LOG_LEVEL": (
        "Win over the file; flags win over them."
    ),
    "OLLAMA_PROXY_API_KEYS": "Keys that `serve` asks for, in place of the file's, with commas between.",
    "OLLAMA_PROXY_API_KEY": "The key that a router is asked with, where --api-key-file names none.",
    "OLLAMA_PROXY_CA_FILE, OLLAMA_PROXY_CERT_FILE": "As --ca-file and --cert-file.",
    "NO_COLOR": "If set to anything, no colours, unless --color always asks for them.",
    "TERM": "dumb: neither colours nor lines that change.",
}
FILES = {
    "./config.toml": "",
    "$XDG_CONFIG_HOME/ollama-proxy/config.toml": "",
    "/etc/ollama-proxy/config.toml": (
        "The configuration, looked for in this order. Without any, a local Ollama is the backend, or"
        " the model that comes along."
    ),
}
EXAMPLES = (
    "ollama-proxy serve --config laptop.toml",
    "ollama-proxy route --model qwen2.5:0.5b --latency-critical",
    "ollama-proxy mode quiet",
    "ollama-proxy backends --json | jq '.[].id'",
)


def manual() -> str:
    """The page, in man's macros."""
    parser = new_parser()
    top, *named = commands(parser)
    return "\n".join([
        f'.TH OLLAMA\\-PROXY 1 "" "{PROGRAM} {ollama_proxy.__version__}" "User Commands"',
        ".SH NAME",
        f"{_words(PROGRAM)} \\- {_words(parser.description or '')}",
        ".SH SYNOPSIS",
        f".B {_words(PROGRAM)}",
        "[\\-\\-version] COMMAND [...]",
        ".SH DESCRIPTION",
        *_text(
            "One address for every model server of a machine: each request goes to the one that"
            " suits it, by time and by watts. Commands that ask a running router find it by the"
            " configuration, or by --url."
        ),
        ".SH OPTIONS",
        *_arguments(top),
        ".SH COMMANDS",
        *(line for each in named for line in _command(each)),
        ".SH EXIT STATUS",
        *(line for code, meaning in EXIT_CODES.items() for line in _item(str(code), meaning)),
        ".SH ENVIRONMENT",
        *(line for name, meaning in ENVIRONMENT.items() for line in _item(name, meaning)),
        ".SH FILES",
        *(line for name, meaning in FILES.items() for line in _item(name, meaning)),
        ".SH EXAMPLES",
        ".nf",
        *(f"{_words(each)}" for each in EXAMPLES),
        ".fi",
        "",
    ])


def _command(command: Command) -> Iterator[str]:
    places = " ".join(each.takes for each in command.places)
    yield f'.SS "{_words(f"{command.name} {places}".strip())}"'
    if command.about:
        yield from _text(_sentence(command.about))
    yield from _arguments(command)


def _arguments(command: Command) -> Iterator[str]:
    for each in command.arguments:
        if "--help" not in each.flags or not command.name:
            yield from _item(_spelled(each), _meaning(each))


def _spelled(argument: Argument) -> str:
    if not argument.flags:
        return argument.takes
    takes = argument.takes.upper() if argument.takes.islower() else argument.takes
    return f"{', '.join(argument.flags)} {takes}".strip()


def _meaning(argument: Argument) -> str:
    """What its help says, and which words it may be."""
    words = f"One of {', '.join(argument.words)}." if argument.words else ""
    return f"{_sentence(argument.about)} {words}".strip()


def _sentence(about: str) -> str:
    end = "" if about.endswith((".", "?")) or not about else "."
    return about[:1].upper() + about[1:] + end


def _item(name: str, meaning: str) -> Iterator[str]:
    yield ".TP"
    yield f'.B "{_words(name)}"'
    yield from _text(meaning or "\N{ZERO WIDTH SPACE}")


def _text(text: str) -> Iterator[str]:
    # A line that began with a dot would be a macro.
    yield "\\&" + _words(text).replace("\N{ZERO WIDTH SPACE}", "")


def _words(text: str) -> str:
    """Text as roff has it: hyphens that can be copied into a shell, quotes that end no argument."""
    for plain, escaped in (("\\", "\\e"), ("-", "\\-"), ('"', "\\(dq"), ("'", "\\(aq")):
        text = text.replace(plain, escaped)
    return " ".join(text.split())


if __name__ == "__main__":
    sys.stdout.write(manual())
