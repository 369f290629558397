"""Completions of the command line for bash, zsh and fish, made from its own parser.

`tools/install` runs it as a program: `python -m ollama_proxy.completion bash`. Nothing is asked from a
router, and no Python runs, when a key is pressed.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence

import attrs

from ollama_proxy.cli import new_parser
from ollama_proxy.policy.modes import Mode

PROGRAM = "ollama-proxy"
_FILES = {"PATH", "SCENARIO", "FILE"}  # metavars of arguments that are files
# Words that the parser takes in more spellings than it can list.
_WORDS = {("mode", "name"): tuple(mode.value for mode in Mode)}


@attrs.frozen(kw_only=True)
class Argument:
    """One argument of a command.

    Attributes:
        flags: its spellings; none where it goes by its place.
        about: its help.
        takes: what stands for its value; "" for a flag without one.
        words: the values that it may have, as far as they are known.
        is_file: whether its value is a file.
    """

    flags: Sequence[str]
    about: str
    takes: str
    words: Sequence[str]
    is_file: bool


@attrs.frozen(kw_only=True)
class Command:
    """One command; the first of all has no name."""

    name: str
    about: str
    arguments: Sequence[Argument]

    @property
    def options(self) -> list[Argument]:
        """Those with flags."""
        return [each for each in self.arguments if each.flags]

    @property
    def places(self) -> list[Argument]:
        """Those without."""
        return [each for each in self.arguments if not each.flags]

    @property
    def flags(self) -> list[str]:
        """All flags."""
        return [flag for each in self.options for flag in each.flags]


def commands(parser: argparse.ArgumentParser, name: str = "", about: str = "") -> Iterator[Command]:
    """The commands of a parser, the unnamed one of what stands before any of them first."""
    plain = [a for a in parser._actions if not isinstance(a, argparse._SubParsersAction)]  # noqa: SLF001 - argparse tells it no other way
    yield Command(name=name, about=about, arguments=[_argument(name, each) for each in plain])
    for action in parser._actions:  # noqa: SLF001 - as above
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            abouts = {each.dest: each.help or "" for each in action._choices_actions}  # noqa: SLF001 - as above
            for each, its_parser in action.choices.items():
                yield from commands(its_parser, each, abouts.get(each, ""))


def _argument(command: str, action: argparse.Action) -> Argument:
    takes = "" if action.nargs == 0 else str(action.metavar or action.dest)
    words = [str(each) for each in action.choices or _WORDS.get((command, action.dest), ())]
    return Argument(
        flags=action.option_strings,
        about=action.help or "",
        takes=takes,
        words=words,
        is_file=takes in _FILES,
    )


# -- bash ------------------------------------------------------------------------------------------

_BASH = """\
# bash completion of {program}
_ollama_proxy() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} command= word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in {names}) command=$word && break ;; esac
    done
    COMPREPLY=()
    case $command:$prev in
{values}
    esac
    case $command in
{words}
    esac
}}
complete -F _ollama_proxy {program}
"""


def bash(all_commands: Sequence[Command]) -> str:
    """For `bash-completion/completions`."""
    values, words = [], []
    for each in all_commands:
        for option in each.options:
            if option.takes:
                pattern = "|".join(f"{each.name}:{flag}" for flag in option.flags)
                values.append(
                    f"        {pattern}) {_compgen(option.words, option.is_file)}return ;;"
                )
        named = [*each.flags, *(word for place in each.places for word in place.words)]
        if not each.name:
            named = [*(c.name for c in all_commands if c.name), *named]
        files = any(place.is_file for place in each.places)
        words.append(f"        {each.name or chr(34) * 2}) {_compgen(named, files)};;")
    return _BASH.format(
        program=PROGRAM,
        names="|".join(each.name for each in all_commands if each.name),
        values="\n".join(values),
        words="\n".join(words),
    )


def _compgen(words: Sequence[str], files: bool) -> str:  # noqa: FBT001 - two ways of one thing
    if not words and not files:
        return ""
    options = "-f " if files else ""
    marked = "compopt -o filenames; " if files else ""
    listed = f"-W {shlex.quote(' '.join(words))} " if words else ""
    return f'{marked}mapfile -t COMPREPLY < <(compgen {options}{listed}-- "$cur"); '


# -- zsh -------------------------------------------------------------------------------------------

_ZSH = """\
#compdef {program}
local -a commands=(
{names}
)
if (( CURRENT == 2 )); then
    _describe -t commands command commands
    _arguments {top}
    return
fi
case $words[2] in
{cases}
esac
"""


def zsh(all_commands: Sequence[Command]) -> str:
    """For a directory of `fpath`, as `_ollama-proxy`."""
    top, *named = all_commands
    names = [f"    {shlex.quote(f'{each.name}:{each.about}')}" for each in named]
    cases = [
        f"    {each.name}) shift words; (( CURRENT-- )); _arguments {_specs(each)} ;;"
        for each in named
    ]
    return _ZSH.format(
        program=PROGRAM, names="\n".join(names), top=_specs(top), cases="\n".join(cases)
    )


def _specs(command: Command) -> str:
    specs = []
    for each in command.options:
        about = each.about.replace("[", r"\[").replace("]", r"\]").replace(":", r"\:")
        specs += [f"{flag}[{about}]{_spec(each)}" for flag in each.flags]
    specs += [f"{place}{_spec(each)}" for place, each in enumerate(command.places, 1)]
    return " ".join(map(shlex.quote, specs))


def _spec(argument: Argument) -> str:
    if not argument.takes:
        return ""
    among = "_files" if argument.is_file else f"({' '.join(argument.words)})"
    return f":{argument.takes}:{among if argument.words or argument.is_file else ' '}"


# -- fish ------------------------------------------------------------------------------------------


def fish(all_commands: Sequence[Command]) -> str:
    """For `fish/vendor_completions.d`."""
    lines = [f"complete -c {PROGRAM} -f"]
    for each in all_commands:
        when = f"__fish_seen_subcommand_from {each.name}" if each.name else "__fish_use_subcommand"
        begin = f"complete -c {PROGRAM} -n {shlex.quote(when)}"
        if each.name:
            about = _fish_quoted(each.about)
            lines.append(
                f"complete -c {PROGRAM} -n __fish_use_subcommand -a {each.name} -d {about}"
            )
        for argument in each.arguments:
            flags = [
                f"-l {flag[2:]}" if flag[:2] == "--" else f"-s {flag[1:]}"
                for flag in argument.flags
            ]
            values = f" -a {_fish_quoted(' '.join(argument.words))}" if argument.words else ""
            if argument.is_file:
                values = " -F"
            if argument.flags and argument.takes:
                values = (" -r" if argument.is_file else " -x") + values
            if flags or values:
                about = f" -d {_fish_quoted(argument.about)}" if argument.about else ""
                lines.append(f"{' '.join([begin, *flags])}{values}{about}")
    return "\n".join(lines) + "\n"


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


def main() -> None:
    """Print the completion for the shell that is named."""
    sys.stdout.write(SHELLS[sys.argv[1]](list(commands(new_parser()))))


if __name__ == "__main__":
    main()
