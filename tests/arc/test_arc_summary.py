"""The report on a run: what counts as solved, and that holes are never successes."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from worker.arc import items, summary
from worker.arc.summary import main, summarize
from worker.arc.tasks import score_many


def line(args: dict[str, Any], outcome: str | None = "ok", value: Any = None, **more: Any) -> str:
    return json.dumps({"args": args, "outcome": outcome, "value": value, "cpu_s": 0.5, **more})


def scored() -> list[str]:
    return [line(item, value=score_many(**item, budget_s=60)) for item in items.samples("fixture")]


def test_a_whole_run_solves_all_six_tasks() -> None:
    result = summarize(scored())
    assert result.tasks() == {"solved": 6, "solved_with_demo": 6, "holes": 0, "unsolved": 0, "all": 6}
    assert "by one program: 6 of 6" in result.report()


def test_a_line_may_be_repeated() -> None:
    lines = scored()
    assert summarize(lines + lines[:3]).tasks()["solved"] == 6


@pytest.mark.parametrize("place", [0, 3], ids=["demo", "test"])
@pytest.mark.parametrize("outcome", ["timeout", "crashed", "exception", "cancelled", None])
def test_a_task_with_a_hole_is_not_solved(place: int, outcome: str | None) -> None:
    lines = scored()
    args = json.loads(lines[place])["args"]
    lines[place] = line(args, outcome, state="failed")
    assert summarize(lines).tasks() == {"solved": 5, "solved_with_demo": 5, "holes": 1, "unsolved": 0, "all": 6}


def test_a_task_whose_lines_are_absent_has_a_hole() -> None:
    assert summarize(scored()[4:]).tasks() == {
        "solved": 5,
        "solved_with_demo": 5,
        "holes": 1,
        "unsolved": 0,
        "all": 6,
    }


def test_a_partial_result_is_a_hole() -> None:
    lines = scored()
    first = json.loads(lines[0])
    first["value"]["partial"] = True
    lines[0] = json.dumps(first)
    assert summarize(lines).tasks()["holes"] == 1


def test_test_samples_solved_by_different_programs_are_not_a_solved_task() -> None:
    lines = [json.loads(text) for text in scored()]
    for number, text in enumerate(lines):
        if text["args"]["task_id"] == "f0000002":
            text["value"]["solved"] = [f"program_{number}"]
    assert summarize(map(json.dumps, lines)).tasks()["unsolved"] == 1


def test_soft_timeouts_are_told_from_kills() -> None:
    lines = scored()
    first = json.loads(lines[0])
    first["value"]["timeout_count"] = 3
    lines[0] = json.dumps(first)
    lines[1] = line(json.loads(lines[1])["args"], "timeout")
    report = summarize(lines).report()
    assert "3 soft timeout, 0 not tried" in report
    assert "killed at deadline  1 attempts" in report


def test_mutants_are_counted_by_outcome() -> None:
    args = {"task_id": "f0000001", "sample": "demo[0]", "program": "def solve(grid): return grid"}
    lines = [line(args, value={"solved": True})] + [line(args, value={"solved": False})] * 6
    lines += [line(args, "timeout")] * 2
    lines += [line(args, "exception", error={"type": "ValueError"}), line(args, "exception", error="TypeError: no")]
    result = summarize(lines)
    assert dict(result.mutants) == {"match": 1, "wrong": 6, "timeout": 2, "exception": 2}
    assert dict(result.mutant_errors) == {"ValueError": 1, "TypeError": 1}
    assert result.cpu_s == 5.5


def test_an_empty_run_and_foreign_lines_are_no_error() -> None:
    assert summarize([]).report().startswith("0 results")
    assert summarize(["", line({"x": 1}), json.dumps({"state": "queued"})]).lines == 2


def test_without_the_data_the_tasks_of_the_run_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = scored()

    def missing(*_: object) -> None:
        raise ModuleNotFoundError

    monkeypatch.setattr(summary, "task_ids", missing)
    monkeypatch.setattr(summary, "load_task", missing)
    assert summarize(lines[4:]).tasks()["all"] == 5


def test_a_file_is_summed_up(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text("\n".join(scored()))
    out = io.StringIO()
    assert main([str(file)], out) == 0
    assert "Tasks solved" in out.getvalue()


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text("\n" + text)
    assert main([str(file)]) == 2
    assert "line 2" in capsys.readouterr().err
