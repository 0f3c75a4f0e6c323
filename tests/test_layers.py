"""Who may import whom: layers point inwards, and only the daemon ties the parts together."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

BASE = ("errors", "clock", "paths", "units", "sentences")
"""Small modules without a layer of their own."""

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "clock": (),
    "paths": (),
    "sentences": (),
    "cgroups": (),
    "held": (),
    "jsontext": (),
    "units": ("errors",),
    "core": ("core", "errors", "clock"),
    "store": ("store", "core", "jsontext", "errors", "clock"),
    "headroom": ("headroom", "core", "cgroups", "held", "errors", "clock"),
    "pool": ("pool", "core", "cgroups", "held", "jsontext", "errors", "clock", "worker"),
    "config": ("core", *BASE),
    "wire": ("core.lifecycle", "errors"),
    "api": ("api", "store", "core", "wire", "config", *BASE),
    # What a state is called is the same word everywhere, so the lifecycle's enumerations are part of the wire.
    "chunks": ("wire", "errors"),
    "client": ("chunks", "wire", "core.lifecycle", *BASE),
    # What battctl does to the files of a state directory itself, with or without a battd to be asked.
    "upkeep": ("store", "config", *BASE),
    "cli": ("cli", "client", "upkeep", "wire", "core.lifecycle", *BASE),
    "executor": ("client", "wire", "core.lifecycle", "pool", "worker", *BASE),
}
"""What each part of batt_supervisor may import of ours. `daemon` and `testing` may import everything."""

TIES = {"daemon", "testing"}


def modules(package: str) -> list[Path]:
    """Source files, without the programs of the reference workload: those are data."""
    return [path for path in sorted((ROOT / package).rglob("*.py")) if "programs" not in path.parts]


def imports(path: Path, *, when_imported: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a module imports: `a.b` for both `import a.b` and `from a import b`.

    Args:
        when_imported: Only what is imported with the module itself: not inside functions, not for type checkers.
    """
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if when_imported and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if when_imported and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide the layer"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        todo.extend(ast.iter_child_nodes(node))


def part_of(path: Path) -> str:
    inside = path.relative_to(ROOT / "batt_supervisor").parts
    return inside[0].removesuffix(".py")


def ours(name: str) -> str | None:
    """The part that an import reaches (`core.lifecycle`, `worker`); None if it is nobody's but the libraries'."""
    if name == "worker" or name.startswith("worker."):
        return "worker"
    if name in ("batt_supervisor", "batt_supervisor.__version__"):
        return None
    if name.startswith("batt_supervisor."):
        return name.removeprefix("batt_supervisor.")
    return None


def is_allowed(reached: str, allowed: tuple[str, ...]) -> bool:
    return any(reached == part or reached.startswith(f"{part}.") for part in allowed)


@pytest.mark.parametrize("path", modules("batt_supervisor"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_part_imports_only_what_is_further_inside(path: Path) -> None:
    part = part_of(path)
    if part in TIES or part == "__init__":
        return
    assert part in MAY_IMPORT, f"{part} is a new part: say in {Path(__file__).name} what it may import"
    wrong = [
        f"line {line}: {name}"
        for line, name in imports(path)
        if (reached := ours(name)) is not None and not is_allowed(reached, MAY_IMPORT[part])
    ]
    assert wrong == []


@pytest.mark.parametrize("path", modules("worker"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_inside_of_the_wall_knows_nothing_of_the_outside(path: Path) -> None:
    assert [f"line {line}: {name}" for line, name in imports(path) if name.startswith("batt_supervisor")] == []


@pytest.mark.parametrize("path", modules("worker"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_worker_starts_with_the_standard_library_alone(path: Path) -> None:
    roots = {(line, name.partition(".")[0]) for line, name in imports(path, when_imported=True)}
    assert [f"line {line}: {name}" for line, name in roots if name not in {*sys.stdlib_module_names, "worker"}] == []


def test_decisions_have_no_clock_no_files_and_no_threads() -> None:
    doing = {"time", "os", "threading", "asyncio", "socket", "subprocess", "multiprocessing", "sqlite3", "pathlib"}
    found = {
        f"{path.name}: {name}"
        for path in modules("batt_supervisor/core")
        for _, name in imports(path)
        if name.partition(".")[0] in doing
    }
    assert found == set()


def test_every_rule_is_about_a_part_that_exists_or_is_planned() -> None:
    there = {part_of(path) for path in modules("batt_supervisor")}
    assert set(MAY_IMPORT) - there <= {"executor"}


def test_only_two_commands_reach_the_files_and_only_when_they_run() -> None:
    """What they need takes longer to import than the rest of battctl."""
    lazy = {"backup.py", "check.py"}
    reached = {
        f"{path.name}: {name}"
        for path in modules("batt_supervisor/cli")
        for _, name in imports(path, when_imported=path.name in lazy)
        if ours(name) is not None and is_allowed(ours(name) or "", ("upkeep",))
    }
    assert reached == set()
