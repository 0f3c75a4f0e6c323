"""The task functions: what they return, what they let out, and what they survive."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from worker.arc import tasks
from worker.arc.catalogue import label, program_names
from worker.arc.grids import NotAGrid, load_task, task_ids
from worker.arc.tasks import inline, score, score_many, speed, time_class
from worker.guard import SoftTimeout, call_with_timeout

HANGS = "def solve(grid): return repeat_until_stable(turn_right, grid)\n"
RAISES = "def solve(grid): return crop(grid, 99, 0, 1, 1)\n"
WRONG = "def solve(grid): return grid\n"
RECURSES = "def solve(grid): return solve(grid)\n"
RIGHT = "rotate_half_turn"
TASK: dict[str, Any] = {"task_id": "f0000001", "sample": "demo[0]", "dataset": "fixture"}


@pytest.mark.parametrize(("program", "solved"), [(RIGHT, True), (WRONG, False)])
def test_a_score_says_whether_the_sample_is_solved(program: str, solved: bool) -> None:
    result = score(program=program, **TASK)
    assert (result["solved"], result["program"]) == (solved, label(program))
    assert result["seconds"] >= 0
    assert json.loads(json.dumps(result)) == result


def test_an_exception_of_the_program_comes_out_of_its_score() -> None:
    with pytest.raises(ValueError, match="not inside"):
        score(program=RAISES, **TASK)


@pytest.mark.parametrize("value", ["None", "5", "how_many(objects_touching(grid))", "'12'", "((11,),)", "turn_half"])
def test_a_program_that_returns_no_grid_is_an_exception(value: str) -> None:
    with pytest.raises(NotAGrid):
        score(program=f"def solve(grid): return {value}\n", **TASK)


def test_many_programs_are_told_apart() -> None:
    result = score_many(programs=[RIGHT, HANGS, WRONG, RAISES, RECURSES, "no_such", RIGHT], budget_s=1.0, **TASK)
    assert (result["candidates"], result["tried"], result["partial"], result["not_tried"]) == (7, 7, False, [])
    assert (result["solved"], result["wrong"], result["timeouts"]) == ([RIGHT, RIGHT], 1, [label(HANGS)])
    assert result["exception_count"] == 3
    assert {text.split(":")[0] for text in result["exceptions"].values()} == {"ValueError", "RecursionError"}


@pytest.mark.parametrize("error", ["MemoryError", "SystemExit", "StopIteration", "Exception"])
def test_whatever_a_candidate_raises_ends_only_that_candidate(error: str) -> None:
    raises = f"def solve(grid): raise {error}('no')\n"
    result = score_many(programs=[raises, RIGHT], **TASK)
    assert result["exceptions"] == {label(raises): f"{error}: no"}
    assert result["solved"] == [RIGHT]


def test_a_keyboard_interrupt_ends_them_all() -> None:
    with pytest.raises(KeyboardInterrupt):
        score_many(programs=["def solve(grid): raise KeyboardInterrupt\n"], **TASK)


def test_the_limit_of_the_whole_attempt_leaves_a_partial_result() -> None:
    result = call_with_timeout(score_many, 0.5, programs=[HANGS, RIGHT], budget_s=600, **TASK)
    assert (result["partial"], result["tried"], result["solved"], result["timeouts"]) == (True, 0, [], [])
    assert result["not_tried"] == [label(HANGS), RIGHT]


def test_what_was_found_before_the_attempts_own_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    load_program = tasks.load_program

    def out_of_time(program: str, *more: Any) -> Any:
        if program == HANGS:
            raise SoftTimeout(5.0)  # as from a call further out: its limit passed while this candidate ran
        return load_program(program, *more)

    monkeypatch.setattr(tasks, "load_program", out_of_time)
    result = score_many(programs=[RIGHT, WRONG, HANGS, RIGHT], **TASK)
    assert (result["partial"], result["tried"], result["solved"], result["wrong"]) == (True, 2, [RIGHT], 1)
    assert (result["not_tried"], result["not_tried_count"]) == ([label(HANGS), RIGHT], 2)


def test_none_stands_for_the_whole_catalogue() -> None:
    for task_id in task_ids("fixture"):
        for sample in load_task(task_id, "fixture").samples:
            result = score_many(task_id, sample, dataset="fixture", budget_s=60)
            counts = result["solved_count"] + result["wrong"] + result["exception_count"] + result["timeout_count"]
            assert counts == result["candidates"] == len(program_names())
            assert result["solved_count"] >= 1, task_id
            assert len(json.dumps(result)) < 8192


def test_a_result_stays_small_however_much_goes_wrong() -> None:
    raises = [f"def solve(grid): raise ValueError('{number}' * 5000)\n" for number in range(200)]
    right = [f"def solve(grid): return turn_half(grid)  # {number}\n" for number in range(200)]
    result = score_many(programs=raises + right, **TASK)
    assert (result["exception_count"], result["solved_count"]) == (200, 200)
    assert len(json.dumps(result)) < 8192


def test_folders_of_programs_and_a_dsl_are_arguments(tmp_path: Path) -> None:
    (tmp_path / "dsl.py").write_text("def back(grid):\n    return tuple(row[::-1] for row in grid[::-1])\n")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "mine.py").write_text("def solve(grid):\n    return back(grid)\n")
    users = {"dsl": str(tmp_path / "dsl.py"), "programs_dir": str(programs)}
    assert score_many(**TASK, **users)["solved"] == ["mine"]
    assert score(program="mine", **TASK, **users)["solved"]
    assert speed("f0000001", "mine", dataset="fixture", **users)["solved"] == 4
    assert inline("mine", programs_dir=str(programs))["inlined"]


def test_speed_times_every_sample() -> None:
    result = speed("f0000001", RIGHT, dataset="fixture")
    assert list(result["seconds"]) == ["demo[0]", "demo[1]", "demo[2]", "test[0]"]
    assert (result["solved"], result["samples"]) == (4, 4)
    assert result["total_s"] >= 0
    assert result["t_log"] <= 24
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize(
    ("seconds", "expected"), [(1.0, 11), (math.e, 10), (20.0, 9), (0.5, 11), (0.1, 13), (0.0, 24), (1e-9, 24)]
)
def test_the_time_class_follows_the_logarithm(seconds: float, expected: int) -> None:
    assert time_class(seconds) == expected


def test_a_program_runs_once_for_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(tasks, "load_program", lambda *_: lambda grid: calls.append(time.monotonic()) or grid)
    score(program=WRONG, **TASK)
    assert len(calls) == 1
