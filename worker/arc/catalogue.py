"""Programs: the shipped ones, those in a folder of the user's, and those given as source text.

A program is Python source with a function `solve` of one grid that returns a grid (or with one function only whose name
begins with "solve"): straight-line assignments that use the DSL by name. Wherever a program is asked for, a text with a
line break or with "def " in it is the source itself; any other text is a name in the catalogue.
"""

import difflib
import hashlib
import os
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from worker.arc.language import namespace

SHIPPED: Final = os.path.join(os.path.dirname(__file__), "programs")

_SOLVES: Final = re.compile(r"^Solves ([0-9a-f]{8}(?: and [0-9a-f]{8})*)\.$", re.MULTILINE)


def program_names(programs_dir: str | None = None) -> tuple[str, ...]:
    """The names in the catalogue, sorted: a program's file name without ".py".

    Raises:
        FileNotFoundError: There is no such folder.
    """
    return _shipped_names() if programs_dir is None else _names(programs_dir)


def program_source(program: str, programs_dir: str | None = None) -> str:
    """The source text of a program given by name or as source.

    Raises:
        ValueError: No program has this name; names the nearest one.
        FileNotFoundError: There is no such folder.
    """
    if is_source(program):
        return program
    names = program_names(programs_dir)
    if program not in names:
        close = difflib.get_close_matches(program, names, n=1, cutoff=0.0)
        raise ValueError(f"there is no program {program!r}" + (f"; the nearest is {close[0]!r}" if close else ""))
    return _shipped_source(program) if programs_dir is None else _read(programs_dir, program)


def is_source(program: str) -> bool:
    """Whether a program argument is source text; otherwise it is a name."""
    return "\n" in program or "def " in program


def label(program: str) -> str:
    """What results call a program: its name, or the first 12 hex digits of the MD5 of its source."""
    if is_source(program):
        return hashlib.md5(program.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()[:12]
    return program


def claimed_tasks(source: str) -> tuple[str, ...]:
    """The ids of the tasks that a program's docstring says it solves ("Solves 3c9b0459 and 6150a2bd.")."""
    match = _SOLVES.search(source)
    return tuple(match[1].split(" and ")) if match else ()


def load_program(program: str, dsl: str | None = None, programs_dir: str | None = None) -> Callable[[Any], Any]:
    """The function of a program, ready to be called with a grid.

    Raises:
        ValueError: The name is not known, the source is not Python, or it defines no function to solve with.
        ImportError: The program imports what is not there, or the DSL cannot be loaded.
    """
    source = program_source(program, programs_dir)
    names = namespace(dsl)
    given = set(names)
    try:
        exec(_compiled(source), names)
    except ImportError as error:
        raise ImportError(f"program {label(program)} needs no imports, the DSL is there by name: {error}") from error
    solve = names["solve"] if "solve" in names and "solve" not in given else None
    if solve is None:
        found = [value for name, value in names.items() if name.startswith("solve") and name not in given]
        solve = found[0] if len(found) == 1 else None
    if not callable(solve):
        raise ValueError(f"program {label(program)} defines no function `solve`")
    function: Callable[[Any], Any] = solve
    return function


@lru_cache(maxsize=512)
def _compiled(source: str) -> Any:
    try:
        return compile(source, "<program>", "exec")
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"the program is not Python: {error}") from error


def _names(folder: str) -> tuple[str, ...]:
    return tuple(sorted(name[:-3] for name in os.listdir(folder) if name.endswith(".py") and not name.startswith("_")))


def _read(folder: str, name: str) -> str:
    with open(os.path.join(folder, name + ".py"), encoding="utf-8") as file:
        return file.read()


@lru_cache(maxsize=1)
def _shipped_names() -> tuple[str, ...]:
    return _names(SHIPPED)


@lru_cache(maxsize=512)
def _shipped_source(name: str) -> str:
    return _read(SHIPPED, name)
