"""What programs are written in: our own DSL, or one that the user brings as a file or a folder."""

import os
import sys
import types
from typing import Any

from worker.arc.dsl import FUNCTIONS

_loaded: dict[str, tuple[tuple[tuple[str, int, int], ...], dict[str, Any]]] = {}


def namespace(dsl: str | None = None) -> dict[str, Any]:
    """The names that a program may use, as a new dict; builtins are there besides.

    Args:
        dsl: A .py file, or a folder of which every .py file counts, in the order of their names (those beginning with
            "_" or "test" do not). They may import each other. None: our own DSL. A file that changed is loaded anew.

    Raises:
        FileNotFoundError: There is no such file or folder, or no .py file in it.
        ImportError: A file could not be executed; the cause is attached.
    """
    if dsl is None:
        return dict(FUNCTIONS)
    files = _files(dsl)
    stamp = tuple((file, (stat := os.stat(file)).st_mtime_ns, stat.st_size) for file in files)
    known = _loaded.get(dsl)
    if known is None or known[0] != stamp:
        known = _loaded[dsl] = (stamp, _execute(files))
    return dict(known[1])


def _files(dsl: str) -> list[str]:
    if os.path.isfile(dsl):
        return [os.path.abspath(dsl)]
    if not os.path.isdir(dsl):
        raise FileNotFoundError(f"the DSL {dsl!r} is neither a file nor a folder")
    files = [
        os.path.join(os.path.abspath(dsl), name)
        for name in sorted(os.listdir(dsl))
        if name.endswith(".py") and not name.startswith(("_", "test"))
    ]
    if not files:
        raise FileNotFoundError(f"the DSL folder {dsl!r} has no .py file")
    return files


def _execute(files: list[str]) -> dict[str, Any]:
    """The public names of the files. Modules that they imported from their own folder are forgotten again, so that
    another DSL with a module of the same name gets its own."""
    folder = os.path.dirname(files[0])
    modules_before = set(sys.modules)
    sys.path.insert(0, folder)
    names: dict[str, Any] = {}
    try:
        for file in files:
            module = types.ModuleType(os.path.basename(file)[:-3])
            module.__file__ = file
            try:
                with open(file, encoding="utf-8") as source:
                    exec(compile(source.read(), file, "exec"), module.__dict__)
            except Exception as error:
                raise ImportError(f"the DSL file {file} cannot be used: {type(error).__name__}: {error}") from error
            names.update((name, value) for name, value in vars(module).items() if not name.startswith("_"))
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - modules_before:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(folder + os.sep):
                del sys.modules[name]
    return names
