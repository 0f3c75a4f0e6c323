"""Checks a submission before anything of it is written: can its functions and commands be found, may they run?"""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from batt_supervisor.config import Settings
from batt_supervisor.core.model import Room, Work
from batt_supervisor.errors import BadInput, NotAllowed, nearest
from batt_supervisor.store.submit import NewRun, NewStage
from batt_supervisor.wire import RunSpec, StageSpec

OWN = ("worker", "pebble")
"""Modules that every worker holds, beside the standard library's."""


def new_run(spec: RunSpec, settings: Settings, environ: Mapping[str, str]) -> NewRun:
    """The run that a specification asks for.

    Args:
        environ: battd's own environment, which the run's variables are set over.

    Raises:
        BadInput: A function, command, directory, stage or limit in it cannot be meant.
        NotAllowed: `allow` has no pattern for it.
    """
    if not os.path.isabs(spec.cwd) or not os.path.isdir(spec.cwd):
        raise BadInput(f"cwd: {spec.cwd!r} is not an absolute path of a directory")
    for name, value in spec.env.items():
        if not name or "=" in name or "\0" in name + value or not _encodable(name + value):
            raise BadInput(f"env: {name!r} cannot be a variable, or have this value")
    names = [stage.name for stage in spec.stages]
    if len(set(names)) != len(names):
        raise BadInput(f"stages: two have the name {next(name for name in names if names.count(name) > 1)!r}")
    room = Room(spec.cwd, tuple(sorted(spec.env.items())))
    stages = []
    for number, stage in enumerate(spec.stages):
        _check_work(stage, settings, {**environ, **spec.env}, spec.cwd)
        limits = settings.limits(
            timeout_s=stage.timeout_s,
            soft_timeout_s=stage.soft_timeout_s,
            max_attempts=stage.max_attempts,
            retry_delay_s=stage.retry_delay_s,
        )
        work = Work(room, limits, stage.function, stage.command or (), stage.shell)
        stages.append(NewStage(stage.name, work, tuple(_after(stage, names[:number]))))
    return NewRun(spec.name, spec.key, spec.cwd, spec.env, spec.deadline_s, tuple(stages))


def _encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False  # half of a surrogate pair: JSON can hold it, an environment cannot
    return True


def _after(stage: StageSpec, earlier: Sequence[str]) -> Iterator[int]:
    for name in stage.after:
        if name not in earlier:
            raise BadInput(f"stage {stage.name!r}: 'after' names no earlier stage: {name!r}{nearest(name, earlier)}")
        yield earlier.index(name)


def _check_work(stage: StageSpec, settings: Settings, environ: Mapping[str, str], cwd: str) -> None:
    if stage.function is not None:
        if not settings.allows(stage.function):
            raise NotAllowed(f"function {stage.function!r} is not allowed here: allow = {list(settings.allow)}")
        search = [cwd, *filter(None, environ.get("PYTHONPATH", "").split(os.pathsep)), *sys.path]
        check_function(stage.function, search)
    elif stage.command:
        if any("\0" in part for part in stage.command):
            raise BadInput(f"stage {stage.name!r}: a command cannot hold NUL characters")
        word = "/bin/sh" if stage.shell else stage.command[0]
        if not settings.allows(f"cmd:{word}"):
            raise NotAllowed(f"command {word!r} is not allowed here: allow = {list(settings.allow)}")
        if not stage.shell:
            _check_command(word, environ.get("PATH", os.defpath), cwd)


def _check_command(word: str, path: str, cwd: str) -> None:
    if "{item}" in word:
        return  # known only for each task
    if os.sep in word:
        file = os.path.join(cwd, word)
        if not os.path.isfile(file) or not os.access(file, os.X_OK):
            raise BadInput(f"command {word!r} is not an executable file below {cwd}")
    elif shutil.which(word, path=path) is None:
        found = (name for folder in path.split(os.pathsep) for name in _listed(folder))
        raise BadInput(f"command {word!r} is not found on the PATH{nearest(word, found)}")


def check_function(path: str, search: Sequence[str]) -> None:
    """Look for `package.module:name` without running any of it.

    The source is read, not executed: what a module makes only at run time, and what stands in no source file, is taken
    on trust, and fails as the task's own error where it does not exist.

    Raises:
        BadInput: There is no such module, it is no Python, or defines no such name.
    """
    module, _, name = path.partition(":")
    if not module or not name or not all(part.isidentifier() for part in f"{module}.{name}".split(".")):
        raise BadInput(f"function {path!r} is not of the form package.module:name")
    spec = _find(path, module, search)
    _refuse_taken(path, module.partition(".")[0], search)
    if spec.origin is None or not spec.origin.endswith(".py"):
        return
    source = Path(spec.origin)
    try:
        tree = ast.parse(source.read_bytes(), str(source))
    except SyntaxError as error:
        raise BadInput(f"function {path!r}: {source} line {error.lineno} is not Python: {error.msg}") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"function {path!r}: {source} cannot be read: {error}") from error
    names = set(_defined(tree))
    first = name.partition(".")[0]
    if first not in names and "*" not in names and "__getattr__" not in names:
        raise BadInput(f"function {path!r}: module {module!r} has no {first!r}{nearest(first, names)}")


def _refuse_taken(path: str, top: str, search: Sequence[str]) -> None:
    """A worker has some modules before it enters the run's directory; one of the same name there is never imported."""
    if top not in OWN and top not in sys.stdlib_module_names:
        return
    found = PathFinder.find_spec(top, list(search))
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


def _find(path: str, module: str, search: Sequence[str]) -> ModuleSpec:
    places: Sequence[str] = search
    spec: ModuleSpec | None = None
    found = ""
    for part in module.split("."):
        name = f"{found}.{part}" if found else part
        PathFinder.invalidate_caches()
        # By its last part alone: for a dotted name a namespace package asks sys.modules for its parent, and nobody has
        # imported that here.
        spec = PathFinder.find_spec(part, list(places)) or _elsewhere(name, places)
        if spec is None:
            inside = f"in package {found!r}" if found else f"from {search[0]}"
            raise BadInput(f"function {path!r}: no module {part!r} {inside}{nearest(part, _modules(places))}")
        found, places = name, list(spec.submodule_search_locations or [])
    assert spec is not None
    return spec


def _elsewhere(name: str, places: Sequence[str]) -> ModuleSpec | None:
    """Built-in modules, and what editable installations add to sys.meta_path."""
    for finder in sys.meta_path:
        if finder is not PathFinder:
            spec = finder.find_spec(name, list(places) if "." in name else None)
            if spec is not None:
                return spec
    return None


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []  # only a suggestion is lost


def _modules(places: Sequence[str]) -> Iterator[str]:
    """Names of modules below the places, for a suggestion."""
    for place in places:
        for entry in _listed(place):
            stem, suffix = os.path.splitext(entry)
            is_module = suffix == ".py" or os.path.isdir(os.path.join(place, entry))
            if is_module and stem.isidentifier() and not stem.startswith("__"):
                yield stem


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
