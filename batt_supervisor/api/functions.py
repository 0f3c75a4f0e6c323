"""Looks for a task function without running any of it: its module is found, and its source is read."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from pathlib import Path
from typing import Final

from batt_supervisor.api.interpreter import Search, listed
from batt_supervisor.errors import BadInput, nearest

OWN = ("worker", "pebble")
"""Modules that every worker holds, beside the standard library's."""

SOURCE_MAX: Final = 2 * 2**20
"""Bytes of a source that is read; parsing nine megabytes would hold up every other request for seconds."""


def check_function(path: str, search: Search) -> None:
    """Look for `package.module:name` without running any of it.

    The source is read, not executed: what a module makes only at run time, what stands in no source file, and what is
    too large or too deep to be read, is taken on trust, and fails as the task's own error where it does not exist.

    Raises:
        BadInput: There is no such module, it is no Python, or defines no such name.
    """
    module, _, name = path.partition(":")
    if not module or not name or not all(part.isidentifier() for part in f"{module}.{name}".split(".")):
        raise BadInput(f"function {path!r} is not of the form package.module:name")
    top = module.partition(".")[0]
    if top in OWN:
        search = Search(search.first, tuple(sys.path))  # every worker has these from battd
    spec = _find(path, module, search)
    _refuse_taken(path, top, search)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return
    source = Path(spec.origin)
    try:
        if source.stat().st_size > SOURCE_MAX:
            return
        tree = ast.parse(source.read_bytes(), str(source))
    except (MemoryError, RecursionError):
        return  # what the parser gives up on, a worker may still have the room for
    except SyntaxError as error:
        raise BadInput(f"function {path!r}: {source} line {error.lineno} is not Python: {error.msg}") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"function {path!r}: {source} cannot be read: {error}") from error
    names = set(_defined(tree))
    first = name.partition(".")[0]
    if first not in names and "*" not in names and "__getattr__" not in names:
        raise BadInput(f"function {path!r}: module {module!r} has no {first!r}{nearest(first, names)}")


def _refuse_taken(path: str, top: str, search: Search) -> None:
    """A worker has some modules before it enters the run's directory; one of the same name there is never imported."""
    if top not in OWN and top not in sys.stdlib_module_names:
        return
    found = PathFinder.find_spec(top, list(search.places))
    if found is None or found.origin is None:
        return  # built in
    if top in OWN:
        taken = importlib.util.find_spec(top)
        same = taken is None or found.origin == taken.origin
    else:
        same = any(found.origin.startswith(sysconfig.get_path(key)) for key in ("stdlib", "platstdlib"))
    if not same:
        whose = "batt-supervisor's" if top in OWN else "the standard library's"
        raise BadInput(
            f"function {path!r}: in a worker the module {top!r} is {whose}, not {found.origin}; rename yours"
        )


def _find(path: str, module: str, search: Search) -> ModuleSpec | None:
    """Where a module is; None for one that can only be found by the interpreter that will import it."""
    places: Sequence[str] = search.places
    spec: ModuleSpec | None = None
    found = ""
    for part in module.split("."):
        name = f"{found}.{part}" if found else part
        PathFinder.invalidate_caches()
        # By its last part alone: for a dotted name a namespace package asks sys.modules for its parent, and nobody has
        # imported that here.
        spec = PathFinder.find_spec(part, list(places)) or _elsewhere(name, places, search)
        if spec is None:
            if search.trusting:
                return None
            inside = f"in package {found!r}" if found else f"from {search.places[0]}"
            raise BadInput(f"function {path!r}: no module {part!r} {inside}{nearest(part, _modules(places))}")
        found, places = name, list(spec.submodule_search_locations or [])
    return spec


def _elsewhere(name: str, places: Sequence[str], search: Search) -> ModuleSpec | None:
    """Built-in modules, and, of battd's own interpreter, what editable installations add to sys.meta_path."""
    for finder in sys.meta_path if search.ours else (BuiltinImporter, FrozenImporter):
        if finder is not PathFinder:
            spec = finder.find_spec(name, list(places) if "." in name else None)
            if spec is not None:
                return spec
    return None


def _modules(places: Sequence[str]) -> Iterator[str]:
    """Names of modules below the places, for a suggestion."""
    for place in map(Path, places):
        for entry in map(Path, listed(place)):
            is_module = entry.suffix == ".py" or os.path.isdir(place / entry)  # noqa: PTH112 - it never raises
            if is_module and entry.stem.isidentifier() and not entry.stem.startswith("__"):
                yield entry.stem


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _defined(tree: ast.AST) -> Iterator[str]:
    """Names that a module's top level binds, in whatever statement; `*` for what it takes from elsewhere unseen."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="globals" | "locals" | "vars" | "setattr" | "exec")):
                yield "*"
            case ast.Attribute(attr="__dict__"):
                yield "*"
            case ast.Global(names=names):
                yield from names
    # Without recursion: a generated module may have thousands of levels.
    pending: list[ast.AST] = list(ast.iter_child_nodes(tree))
    while pending:
        node = pending.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                for alias in aliases:
                    yield (alias.asname or alias.name).partition(".")[0]
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.ExceptHandler(name=str(name)):
                yield name
            case ast.MatchMapping(rest=str(name)):
                yield name
        if isinstance(node, _COMPREHENSIONS):
            # Its own variables are not the module's; what `:=` binds in it is.
            yield from (inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
        elif not isinstance(node, _SCOPES):
            pending += ast.iter_child_nodes(node)
