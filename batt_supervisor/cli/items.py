"""Items of a run: JSON lines for functions, plain lines for commands, values that a function yields."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from batt_supervisor.errors import BadInput, nearest

Json = Any

FUNCTION: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
"""An import path: `package.module:name`."""


def json_lines(path: str) -> Iterator[Json]:
    """The values of a file of JSON lines, read as they are asked for; `-` is standard input.

    Raises:
        BadInput: The file cannot be read or a line is not JSON; the sentence has the line's number.
    """
    for number, text in _lines(path):
        if text.strip():
            try:
                yield parse_json(text)
            except ValueError as error:
                raise BadInput(f"{_called(path)} line {number} is not JSON: {error}") from None


def text_lines(path: str) -> Iterator[str]:
    """The lines of a file, each the text of one item; a line that is a JSON string stands for its value.

    Raises:
        BadInput: The file cannot be read, or a line cannot be a word of a command line.
    """
    for number, line in _lines(path):
        if not line.strip():
            continue
        text = line
        if line.startswith('"'):
            try:
                value = parse_json(line)
            except ValueError:
                value = None
            text = value if isinstance(value, str) else line
        if "\0" in text:
            raise BadInput(f"{_called(path)} line {number} holds a NUL character, which no command line can hold")
        yield text


def parse_json(text: str) -> Json:
    """A value of JSON in its strict form: no NaN, no infinities.

    Raises:
        ValueError: It is none; the message says where and why, for people.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"{error.msg[:1].lower()}{error.msg[1:]} at {line}column {error.colno}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def yielded(function: str, args: Mapping[str, Json] | list[Json], cwd: Path, env: Mapping[str, str]) -> Iterator[Json]:
    """The values that a function yields, called here, with the run's directory first on the import path.

    Raises:
        BadInput: It cannot be imported, or raises, or yields what JSON cannot say.
    """
    with _import_path([str(cwd), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]):
        call = _imported(function)
        number = 0
        try:
            values = call(**args) if isinstance(args, Mapping) else call(*args)
            iterator = iter(values)
        except TypeError as error:
            raise BadInput(f"items function {function}: {error}{_where(error)}") from error
        except (Exception, SystemExit) as error:
            _blame(function, error)
        while True:
            try:
                value = next(iterator)
            except StopIteration:
                return
            except (Exception, SystemExit) as error:
                _blame(function, error)
            try:
                # There and back: tuples become lists, and the caller may not change what was yielded.
                copy = json.loads(json.dumps(value, allow_nan=False))
            except (TypeError, ValueError, RecursionError) as error:
                raise BadInput(
                    f"items function {function} yielded an item {number} that is not JSON: {error}"
                ) from None
            yield copy
            number += 1


def arguments(item: Json) -> dict[str, Json] | list[Json]:
    """What a task is called with: an object by name, an array by position, anything else as one argument."""
    return item if isinstance(item, dict | list) else [item]


def item_text(item: Json) -> str:
    """What `{item}` stands for: a string itself, anything else as JSON."""
    return item if isinstance(item, str) else json.dumps(item, separators=(",", ":"))


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends. Read as bytes, so that a broken character has its line."""
    with _opened(path) as stream:
        number = 0
        while True:
            try:
                line = stream.readline()
            except OSError as error:
                raise _unreadable(path, error) from error
            if not line:
                return
            number += 1
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise BadInput(f"{_called(path)} line {number} is not UTF-8 (byte {error.start + 1})") from None
            yield number, text.rstrip("\r\n")


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(path).open("rb")  # noqa: SIM115 - closed below; only the opening is blamed on the path
    except OSError as error:
        raise _unreadable(path, error) from error
    with stream:
        yield stream


def _unreadable(path: str, error: OSError) -> BadInput:
    return BadInput(f"the items file {path} cannot be read: {error.strerror or error}")


def _called(path: str) -> str:
    return "standard input" if path == "-" else path


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it says {name}, which JSON has not")


@contextmanager
def _import_path(first: list[str]) -> Iterator[None]:
    before = list(sys.path)
    sys.path[:0] = first
    try:
        yield
    finally:
        sys.path[:] = before


def _imported(function: str) -> Any:
    module_name, _, names = function.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise BadInput(
                f"items function {function}: there is no module {error.name!r} in the run's directory or on the "
                "import path"
            ) from error
        _blame(function, error)
    except (Exception, SystemExit) as error:
        _blame(function, error)
    for name in names.split("."):
        if not hasattr(found, name):
            raise BadInput(f"items function {function}: {module_name} has no {name!r}{nearest(name, _public(found))}")
        found = getattr(found, name)
    if not callable(found):
        raise BadInput(f"items function {function} is not a function")
    return found


def _public(found: object) -> list[str]:
    return [name for name in dir(found) if not name.startswith("_")]


def _blame(function: str, error: BaseException) -> NoReturn:
    raise BadInput(f"items function {function} failed: {type(error).__name__}: {error}{_where(error)}") from error


def _where(error: BaseException) -> str:
    """The last place of an error in somebody else's code."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__ and "<" not in f.filename]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
