"""TOML files of declared shape: read strictly, with errors that name the table; written so that they read back.

A path in a file is relative to that file's folder, so that a folder can be moved or copied whole.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from qsotn.errors import UsageError

T = TypeVar("T", bound=msgspec.Struct)

_WHERE = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>[^`]*)`")
_STEP = re.compile(r"\.(?P<key>[\w-]+)|\[(?P<index>\d+|\.\.\.)\]")


def read_toml(path: Path, kind: type[T]) -> T:
    """Read one file as the struct `kind`; unknown keys are errors. Raises `UsageError`: which file, and which table."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML file: {error}") from error
    try:
        return msgspec.convert(document, kind, dec_hook=partial(_path_in, path.absolute().parent))
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {_told(str(error), kind)}") from error


def _path_in(folder: Path, wanted: Any, value: Any) -> Path:
    """Make what msgspec does not know: a path."""
    if wanted is not Path or not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no path: expected a text that is not empty")
    return folder / value


def _told(message: str, kind: type) -> str:
    found = _WHERE.search(message)
    steps = [] if found is None else [match["key"] or match["index"] for match in _STEP.finditer(found["path"])]
    message = _WHERE.sub("", message)
    there = _kind_at(kind, steps)
    if unknown := _UNKNOWN.match(message):
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(there))
        message = f"unknown key {unknown['key']!r}; known there are {known}"
    elif get_origin(there) is Literal:
        message = f"{message}; expected one of {', '.join(map(repr, get_args(there)))}"
    whole = isinstance(there, type) and issubclass(there, msgspec.Struct)
    return f"{_place(steps, whole=whole)}: {message}" if steps else message


def _place(steps: list[str], *, whole: bool) -> str:
    """Say where, as the file's author sees it: `[[cpe]] number 2, city`."""
    name, *rest = steps
    if rest and rest[0].isdigit():
        name, rest = f"[[{name}]] number {int(rest[0]) + 1}", rest[1:]
    elif rest or whole:
        name = f"[{name}]"
    return ", ".join([name, *rest])


def _kind_at(kind: Any, steps: list[str]) -> Any:
    for step in steps:
        kind = _inside(kind, step)
    return kind


def _inside(kind: Any, step: str) -> Any:
    """Return the type of a struct's key, or of the items of a tuple or the values of a table."""
    if step.isdigit() or step == "...":
        return next(each for each in reversed(get_args(kind)) if each is not Ellipsis)
    name = next(field.name for field in msgspec.structs.fields(kind) if field.encode_name == step)
    hint = get_type_hints(kind)[name]
    options = [each for each in get_args(hint) if each is not type(None)]
    return options[0] if type(None) in get_args(hint) else hint


def write_toml(document: Mapping[str, Any], heading: str) -> str:
    """Return a TOML document of texts, numbers, truth values, lists of them, tables, and arrays of tables."""
    lines = [f"# {line}".rstrip() for line in heading.splitlines()]
    return "\n".join([*lines, *_body(document, ())]).strip() + "\n"


def _body(table: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[str]:
    """Yield a table's own values first: in TOML, whatever follows a sub-table's header belongs to that."""
    for key, value in table.items():
        if not isinstance(value, Mapping) and not _is_tables(value):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in table.items():
        inner = (*place, key)
        name = ".".join(map(_key, inner))
        if isinstance(value, Mapping):
            yield from ("", f"[{name}]", *_body(value, inner))
        elif _is_tables(value):
            for one in value:
                yield from ("", f"[[{name}]]", *_body(one, inner))


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            # A TOML basic string is a JSON string, but for DEL, which TOML wants escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"TOML files here hold no {type(value).__name__}")
