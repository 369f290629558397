"""What people wrote into a TOML file: read into frozen classes, or into every fault it has at once.

Each key is checked by itself while cattrs builds the classes, with the validator that its field has,
so that one fault does not hide the others. What the classes are is the business of who asks.
"""

import difflib
import enum
import functools
import json
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, override

MAX_FILE_BYTES = 1 << 20
T = TypeVar("T")


class ConfigFaults(Exception):  # noqa: N818 - it is the list of faults, not an error of the program
    """A configuration that cannot be used.

    Attributes:
        faults: one line each, beginning with the key, variable or flag it is about.
        path: the file, if there is one.
    """

    def __init__(self, faults: tuple[str, ...], path: Path | None = None) -> None:
        """Keep what was found."""
        super().__init__("; ".join(faults))
        self.faults = faults
        self.path = path


def describe_faults(faults: ConfigFaults) -> str:
    """The faults for a terminal: one line if there is one, else a heading and a line for each."""
    where = "" if faults.path is None else f"{faults.path}: "
    if len(faults.faults) == 1:
        return where + faults.faults[0]
    return "\n".join([f"{where}{len(faults.faults)} faults", *faults.faults])


# -- what a value may be -------------------------------------------------------------------------


class Wrong(ValueError):  # noqa: N818 - a fault of the owner, not an error of the program
    """A value that its key cannot have; the message is the fault without the key."""


def shown(value: object) -> str:
    """A value as its owner would recognise it, short and harmless for a terminal."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            short = value if len(value) <= 80 else value[:77] + "..."  # noqa: PLR2004 - a line's width
            return json.dumps(short, ensure_ascii=not short.isprintable())
        case int() if not _fits_64_bits(value):
            return "a number beyond 64 bits"
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
        case _:
            return str(value)


def _fits_64_bits(value: float) -> bool:
    """Whether a number is one that TOML promises to keep; infinities and not-a-number are not."""
    return -(1 << 63) <= value < 1 << 63


def wrong(expected: str, *values: object) -> Wrong:
    """A fault in the sentence that all of them are told in."""
    return Wrong(f"must be {expected} (got {', '.join(map(shown, values))})")


@attrs.frozen
class Check:
    """An attrs validator that says what it expects.

    Attributes:
        expected: completes the sentence "must be ...".
        is_good: whether a value will do.
        each: the value is a tuple, and it is its elements that are meant.
        may_show: whether a wrong value may be repeated: it might be a secret in the wrong place.
    """

    expected: str
    is_good: Callable[[Any], bool]
    each: bool = False
    may_show: Callable[[Any], bool] = lambda _: True

    def __call__(self, _instance: object, _attribute: object, value: Any) -> None:  # noqa: ANN401 - attrs gives any
        """Raise ValueError unless `value` will do."""
        bad = [v for v in (value if self.each else (value,)) if not self.is_good(v)]
        if not all(map(self.may_show, bad)):
            raise Wrong(f"must be {self.expected}")
        if bad:
            raise wrong(self.expected, *map(_as_written, bad))


def _as_written(value: object) -> object:
    """Undo the widening of whole numbers: who wrote -3 is not told of -3.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def within(low: float, high: float) -> Check:
    """Check a number against both ends of its range, which belong to it."""
    return Check(f"{low} to {high}", lambda value: low <= value <= high)


ABOVE_0 = Check("> 0", lambda value: value > 0)


# -- from tables to classes ----------------------------------------------------------------------

KeyPath = tuple[str | int, ...]
Fault = tuple[KeyPath, str]
_Hook = Callable[[Any, Any], Any]
Table = dict[str, Any]


def _read_flag(value: object, _: object) -> bool:
    if not isinstance(value, bool):
        raise wrong("true or false", value)
    return value


def _read_whole(value: object, _: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not _fits_64_bits(value):
        raise wrong("a whole number", value)
    return value


def _read_number(value: object, _: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not _fits_64_bits(value):
        raise wrong("a number", value)
    return float(value)


def _read_text(value: object, _: object) -> str:
    if not isinstance(value, str):
        raise wrong("text in quotes", value)
    return value


def _read_word(value: object, words: type[enum.Enum]) -> enum.Enum:
    for member in words:
        if member.value == value:
            return member
    raise wrong("one of " + ", ".join(member.value for member in words), value)


def _list_hook(of: Any) -> _Hook:  # noqa: ANN401 - a type form
    element = typing.get_args(of)[0]
    of_what = "numbers" if element is float else "texts"
    expected = (
        "a list of tables, each headed [[...]]" if attrs.has(element) else f"a list of {of_what}"
    )

    def read(value: object, _: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise wrong(expected, value)
        elements: Any = types.GenericAlias(list, (element,))
        return tuple(_converter().structure(value, elements))

    return read


def _read_texts_by_text(value: object, _: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise wrong("a table of texts", value)
    return _converter().structure(value, dict[str, str])


def _optional_hook(of: Any) -> _Hook:  # noqa: ANN401 - a type form
    first = typing.get_args(of)[0]

    def read(value: object, _: object) -> object:
        return None if value is None else _converter().structure(value, first)

    return read


def _table_hook(of: type[Any]) -> _Hook:
    """Reads a class. Each key is validated as it is read: the class itself stops at the first."""

    def key_hook(attribute: "attrs.Attribute[Any]") -> _Hook:
        def read(value: object, kind: Any) -> object:  # noqa: ANN401 - a type form
            # Not by a hook for every Enum: cattrs takes a StrEnum for any text before it asks one.
            good = (
                _read_word(value, kind)
                if isinstance(kind, type) and issubclass(kind, enum.Enum)
                else _converter().structure(value, kind)
            )
            if attribute.validator is not None:
                attribute.validator(None, attribute, good)
            return good

        return read

    hooks: dict[str, Any] = {a.name: override(struct_hook=key_hook(a)) for a in attrs.fields(of)}
    build = make_dict_structure_fn(of, _converter(), **hooks)

    def read(value: object, _: object) -> object:
        if not isinstance(value, dict):
            raise wrong("a table", value)
        return build(value, of)

    return read


_UNIONS = (types.UnionType, typing.Union)


def _origin(of: Any) -> object:  # noqa: ANN401 - a type form
    return typing.get_origin(of)


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True, forbid_extra_keys=True)
    converter.register_structure_hook(bool, _read_flag)
    converter.register_structure_hook(int, _read_whole)
    converter.register_structure_hook(float, _read_number)
    converter.register_structure_hook(str, _read_text)
    converter.register_structure_hook_func(lambda of: _origin(of) is Mapping, _read_texts_by_text)
    converter.register_structure_hook_factory(lambda of: _origin(of) is tuple, _list_hook)
    # A union is read as the first of its types: the others are what no file can say but by null.
    converter.register_structure_hook_factory(lambda of: _origin(of) in _UNIONS, _optional_hook)
    converter.register_structure_hook_factory(attrs.has, _table_hook)
    return converter


def structure(raw: object, of: type[T]) -> tuple[T | None, list[Fault]]:
    """Read one table into its class: it, or every fault it has.

    Args:
        raw: what TOML or JSON holds.
        of: the class.
    """
    try:
        return _converter().structure(raw, of), []
    except cattrs.BaseValidationError as error:
        return None, list(_faults_in(error, ()))
    except Wrong as error:
        return None, [((), str(error))]


def _faults_in(error: Exception, path: KeyPath) -> Iterator[Fault]:
    """The faults that cattrs has gathered, each with its path."""
    match error:
        case cattrs.ClassValidationError():
            members, rest = error.group_exceptions()
            for inner, member in members:
                yield from _faults_in(inner, (*path, member.name))
            for inner in rest:
                yield from _faults_in(inner, path)
        case cattrs.IterableValidationError():
            for inner, element in error.group_exceptions()[0]:
                yield from _faults_in(inner, (*path, element.index))
        case cattrs.ForbiddenExtraKeysError():
            for key in sorted(error.extra_fields):
                yield (*path, key), "unknown key" + _did_you_mean(key, error.cl)
        case KeyError():
            yield path, "is required"
        case Wrong():
            yield path, str(error)
        case _:
            raise error


def _did_you_mean(key: str, of: type[Any]) -> str:
    known = [field.name for field in attrs.fields(of)]
    for field in attrs.fields(of):
        if attrs.has(field.type) and key in attrs.fields_dict(field.type):
            return f", did you mean {field.name}.{key}?"
    near = difflib.get_close_matches(key, known, n=1)
    return f", did you mean {near[0]}?" if near else ""


def dotted(path: KeyPath) -> str:
    """A path as in `backends[1].characteristics.power_watts`."""
    parts = (
        f"[{step}]"
        if isinstance(step, int)
        else "." + (step if re.fullmatch(r"[A-Za-z0-9_-]+", step) else json.dumps(step))
        for step in path
    )
    return "".join(parts).removeprefix(".")


# -- files ---------------------------------------------------------------------------------------


def parse(path: Path) -> Table:
    """Read a TOML file.

    Raises:
        ConfigFaults: it cannot be read, or is no TOML.
    """

    def fault(message: str) -> ConfigFaults:
        return ConfigFaults((message,), path)

    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else None
        raise fault(f"cannot be read: {reason or error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise fault(f"is larger than {MAX_FILE_BYTES >> 20} MiB: hardly a configuration")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise fault(f"line {line}: is not UTF-8") from error
    except RecursionError as error:
        raise fault("is nested too deeply") from error
    except ValueError as error:  # a TOMLDecodeError, or a number with thousands of digits
        message, at, where = str(error).rpartition(" (at ")
        raise fault(f"{where.removesuffix(')')}: {message}" if at else str(error)) from error
