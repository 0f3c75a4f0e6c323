from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from batt_supervisor.cli import batch, runfile
from batt_supervisor.cli.choose import Choice
from batt_supervisor.errors import BadInput

GOOD = """
deadline = "10m"
cwd = "."
[env]
A = "1"
[limits]
timeout = "20s"
max_attempts = 2
[[stage]]
name = "one"
function = "m:f"
items = "one.jsonl"
group_by = "k"
[[stage]]
name = "two"
command = ["echo", "{item}"]
items = "two.txt"
after = ["one"]
timeout = "5s"
[[stage]]
name = "three"
function = "m:g"
args = { x = 1 }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "day.toml"
    path.write_text(GOOD)
    (tmp_path / "one.jsonl").write_text('{"k": 1}\n{"k": 2}\n{"k": 1}\n')
    (tmp_path / "two.txt").write_text("a\nb\n")
    return path


def made(file: Path, flags: batch.Flags | None = None, choice: Choice | None = None) -> batch.Batch:
    return batch.from_file(file, runfile.load(file), flags or batch.Flags(), Path("/"), choice)


def test_a_run_file_becomes_a_run(file: Path) -> None:
    run = made(file)
    assert (run.spec.name, run.spec.deadline_s, run.spec.cwd, run.spec.env) == (
        "day",
        600,
        str(file.parent),
        {"A": "1"},
    )
    assert [(s.name, s.timeout_s, s.max_attempts, s.after) for s in run.spec.stages] == [
        ("one", 20, 2, ()), ("two", 5, 2, ("one",)), ("three", 20, 2, ()),
    ]  # fmt: skip
    assert [(t.stage, t.args) for t in run.tasks()] == [
        (0, {"k": 1}), (0, {"k": 2}), (0, {"k": 1}), (1, {"item": "a"}), (1, {"item": "b"}), (2, {"x": 1}),
    ]  # fmt: skip


def test_flags_win_over_the_file(file: Path, tmp_path: Path) -> None:
    flags = batch.Flags(name="n", deadline_s=5, timeout_s=1, env={"A": "2", "B": "3"}, cwd=str(tmp_path.parent))
    run = made(file, flags)
    assert (run.spec.name, run.spec.deadline_s, run.spec.env) == ("n", 5, {"A": "2", "B": "3"})
    assert run.spec.cwd == str(tmp_path.parent)
    assert [s.timeout_s for s in run.spec.stages] == [1, 1, 1]


def test_a_choice_counts_groups_where_there_are_any(file: Path) -> None:
    tasks = [(t.stage, t.args) for t in made(file, choice=Choice(1)).tasks()]
    assert tasks == [(0, {"k": 1}), (0, {"k": 1}), (1, {"item": "a"}), (2, {"x": 1})]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("deadline =", "dedline =", "unknown key 'dedline'; did you mean 'deadline'"),
        ("max_attempts = 2", "max_atempts = 2", "unknown key 'limits.max_atempts'; did you mean 'max_attempts'"),
        ('group_by = "k"', 'groupby = "k"', "stage 'one': unknown key 'groupby'; did you mean 'group_by'"),
        ('items = "one.jsonl"', 'items = {function = "m:i", arg = 1}', "'items.arg'; did you mean 'args'"),
        ('items = "one.jsonl"', "items = {args = {}}", "'items.function' is missing"),
        ('name = "one"\n', "", "stage 1: 'name' is missing"),
        ('timeout = "5s"', 'timeout = "5x"', "stage 'two': 'timeout': '5x' is not a duration"),
        ('timeout = "5s"', "timeout = 0", "stage 'two': 'timeout': must be longer than 0"),
        ('function = "m:f"', 'function = "m.f"', "stage 'one': 'function': 'm.f' is not an import path"),
        ('function = "m:f"', "", "stage 'one': give exactly one of 'function' and 'command'"),
        ('after = ["one"]', 'after = ["oen"]', "'oen', which is no earlier stage; did you mean 'one'"),
        ('name = "two"', 'name = "one"', "two stages are named 'one'"),
        ("args = { x = 1 }", 'args = 1\nitems = "x"', "'args' is the one task"),
        ("[[stage]]", "[[stage", "is not TOML"),
        ('args = { x = 1 }', 'group_by = "k"', "'group_by' names a field"),
        ("max_attempts = 2", "max_attempts = 0", "'limits.max_attempts'"),
    ],
)  # fmt: skip
def test_a_wrong_run_file_is_refused_in_one_sentence(file: Path, old: str, new: str, said: str) -> None:
    file.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(BadInput) as caught:
        made(file)
    assert said in str(caught.value)


def test_limits_that_contradict_each_other_are_refused(file: Path) -> None:
    with pytest.raises(BadInput, match=r"stage 'two': 'soft_timeout' \(10 s\) must be shorter than 'timeout' \(5 s\)"):
        made(file, batch.Flags(soft_timeout_s=10))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [('"{item}"', '"x"', "has no {item}"), ('items = "two.txt"', "", "there are no 'items'")],
)
def test_a_command_and_its_items_go_together(file: Path, old: str, new: str, said: str) -> None:
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(BadInput, match=said):
        made(file)


def test_a_missing_directory_is_refused(file: Path) -> None:
    file.write_text(GOOD.replace('cwd = "."', 'cwd = "gone"'))
    with pytest.raises(BadInput, match=r"cwd: .*gone is not there"):
        made(file)


@pytest.mark.parametrize("name", ["r7", "7", "t12", "a/b", " ", "a\nb"])
def test_a_name_that_could_not_be_found_again_is_refused(file: Path, name: str) -> None:
    file.write_text(f"name = {json.dumps(name)}\n{GOOD}")
    with pytest.raises(BadInput, match="the name"):
        made(file)


def test_nothing_to_submit_is_an_error(file: Path, tmp_path: Path) -> None:
    file.write_text('[[stage]]\nname = "a"\nfunction = "m:f"\nitems = "none.jsonl"\n')
    (tmp_path / "none.jsonl").write_text("\n\n")
    with pytest.raises(BadInput, match="there are no items"):
        list(made(file).tasks())


def test_the_example_in_the_documentation_is_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "run-files.md").read_text()
    run = runfile.RunFile.model_validate(tomllib.loads(page.split("```toml")[1].split("```")[0]))
    assert [stage.name for stage in run.stage] == ["shipped", "report"]
