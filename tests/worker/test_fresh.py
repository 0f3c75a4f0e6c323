"""A module that was changed runs its new code: in real interpreters, with real byte code caches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker import fresh

ROOT = str(Path(fresh.__file__).parents[1])


def imported(folder: Path, code: str = "import made; print(made.VALUE)", *, fresh_loader: bool = True) -> list[str]:
    """What an interpreter prints that imports from the folder, as a worker does."""
    start = f"import sys; sys.path.insert(0, {ROOT!r}); from worker import fresh; "
    start += "fresh.install(); " if fresh_loader else ""
    start += f"sys.path.insert(0, {str(folder)!r})\n"
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=True, env={})
    return done.stdout.split()


def made(folder: Path, value: int, *, at_s: float | None = None) -> Path:
    path = folder / "made.py"
    path.write_text(f"VALUE = {value}\n")
    if at_s is not None:
        os.utime(path, (at_s, at_s))
    return path


def test_a_module_rewritten_within_the_second_with_the_same_size_runs_its_new_code(tmp_path: Path) -> None:
    # The time is written into the file's stamp, so that it does not matter how fast this machine is.
    now_s = 1_900_000_000
    for value in (1, 2, 3):
        made(tmp_path, value, at_s=now_s + value / 10)
        assert imported(tmp_path) == [str(value)]


def test_python_alone_would_run_the_old_code(tmp_path: Path) -> None:
    made(tmp_path, 1, at_s=1_900_000_000.1)
    assert imported(tmp_path, fresh_loader=False) == ["1"]
    made(tmp_path, 2, at_s=1_900_000_000.2)
    assert imported(tmp_path, fresh_loader=False) == ["1"]


def test_a_module_rewritten_in_one_process_runs_its_new_code_in_the_next(tmp_path: Path) -> None:
    code = "import made; open(made.__file__, 'w').write('VALUE = 2\\n'); print(made.VALUE)"
    made(tmp_path, 1)
    assert imported(tmp_path, code) == ["1"]
    assert imported(tmp_path) == ["2"]


def test_a_module_replaced_by_one_of_the_same_size_and_time_runs_its_new_code(tmp_path: Path) -> None:
    made(tmp_path, 1, at_s=1_600_000_000)
    assert imported(tmp_path) == ["1"]
    made(tmp_path, 2, at_s=1_600_000_000)
    assert imported(tmp_path) == ["2"]


def test_an_old_module_is_read_from_its_cache(tmp_path: Path) -> None:
    made(tmp_path, 1, at_s=1_600_000_000)
    assert imported(tmp_path) == ["1"]
    (cache,) = (tmp_path / "__pycache__").iterdir()
    # As if it had been written long after the source came into its place.
    os.utime(cache, (2_000_000_000, 2_000_000_000))
    assert imported(tmp_path) == ["1"]
    assert cache.stat().st_mtime == 2_000_000_000


def test_modules_of_a_package_and_of_a_namespace_are_found(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text("from .inner import VALUE\n")
    (tmp_path / "pkg/inner.py").write_text("VALUE = 5\n")
    (tmp_path / "space").mkdir()
    (tmp_path / "space/lone.py").write_text("VALUE = 6\n")
    code = "import pkg, space.lone, json, math; print(pkg.VALUE, space.lone.VALUE)\n"
    code += "print(*sorted(path.rpartition('/')[2] for path in fresh.loaded))"
    assert imported(tmp_path, code) == ["5", "6", "__init__.py", "inner.py", "lone.py"]


def test_the_files_that_were_loaded_are_known_with_their_stamps(tmp_path: Path) -> None:
    path = made(tmp_path, 1)
    found = imported(tmp_path, "import made; print(*fresh.loaded, *fresh.loaded[made.__file__])")
    stamp = fresh.stamp(str(path))
    assert stamp is not None
    assert found == [str(path), *map(str, stamp)]


def test_a_module_that_cannot_be_imported_is_known_as_well(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text("1 / 0\n")
    code = "try:\n    import made\nexcept ZeroDivisionError: print(len(fresh.loaded))"
    assert imported(tmp_path, code) == ["1"]


@pytest.mark.parametrize("change", ["rewrite", "replace", "touch", "remove"])
def test_a_stamp_tells_every_change(tmp_path: Path, change: str) -> None:
    path = made(tmp_path, 1, at_s=1_600_000_000)
    before = fresh.stamp(str(path))
    match change:
        case "rewrite":
            made(tmp_path, 2, at_s=1_600_000_000)
        case "replace":
            (tmp_path / "other.py").write_text("VALUE = 2\n")
            os.utime(tmp_path / "other.py", (1_600_000_000, 1_600_000_000))
            os.replace(tmp_path / "other.py", path)
        case "touch":
            os.utime(path)
        case "remove":
            path.unlink()
    assert fresh.stamp(str(path)) != before


def test_each_report_lists_its_modules_in_a_file_of_its_own(tmp_path: Path) -> None:
    code = f"""
from types import SimpleNamespace
from worker import entry
entry.here = SimpleNamespace(results={str(tmp_path)!r})
names = []
for turn in range(2):
    fresh.loaded.update({{f'/m{{turn}}-{{n}}.py': (1, 2, 3, 4) for n in range(50)}})
    names.append(entry._modules(f'7-{{turn}}')['modules_file'])
print(len(set(names)))
"""
    assert imported(tmp_path, code) == ["2"]
