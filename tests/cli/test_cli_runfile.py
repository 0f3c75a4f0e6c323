from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest

from batt_supervisor.cli import batch, runfile
from batt_supervisor.cli import interpreter as interpreters
from batt_supervisor.cli.choose import Choice
from batt_supervisor.cli.interpreter import interpreter
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
        ("max_attempts = 2", "memory_limit = 'much'", "'limits.memory_limit': 'much' is not a size"),
        ("max_attempts = 2", "memory_limt = 1", "unknown key 'limits.memory_limt'; did you mean 'memory_limit'"),
        ("max_attempts = 2", "memory = 'much'", "'limits.memory': 'much' is not a size"),
        ("max_attempts = 2", "memry = 1", "unknown key 'limits.memry'; did you mean 'memory'"),
        ("max_attempts = 2", "treads = 1", "unknown key 'limits.treads'; did you mean 'threads'"),
        ("max_attempts = 2", "threads = -1", "'limits.threads'"),
        ("max_attempts = 2", "kind = ''", "'limits.kind'"),
        ('timeout = "5s"', 'knd = "x"', "stage 'two': unknown key 'knd'; did you mean 'kind'"),
        ("max_attempts = 2", "cpu_limit = -1", "'limits.cpu_limit': -1 is not a duration"),
        ("max_attempts = 2", "thread_limit = -1", "'limits.thread_limit'"),
        ("max_attempts = 2", "thread_limit = true", "'limits.thread_limit': must be a number, not true or false"),
        ("max_attempts = 2", "allow_children = 'no way'", "'limits.allow_children': must be true or false"),
        ("max_attempts = 2", "seed = 1", "unknown key 'limits.seed'"),
        ('cwd = "."', "pyton = 'x'", "unknown key 'pyton'; did you mean 'python'"),
        ('cwd = "."', "seed = -1", "'seed'"),
        ('timeout = "5s"', 'soft_timeout = "1s"', "stage 'two': 'soft_timeout' is for functions"),
    ],
)  # fmt: skip
def test_a_wrong_run_file_is_refused_in_one_sentence(file: Path, old: str, new: str, said: str) -> None:
    file.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(BadInput) as caught:
        made(file)
    assert said in str(caught.value)


def test_limits_that_contradict_each_other_are_refused(file: Path) -> None:
    with pytest.raises(BadInput, match=r"stage 'one': 'soft_timeout' \(30 s\) must be shorter than 'timeout' \(20 s\)"):
        made(file, batch.Flags(soft_timeout_s=30))


def test_a_soft_timeout_for_all_stages_is_for_their_functions(file: Path) -> None:
    file.write_text(GOOD.replace("[limits]", '[limits]\nsoft_timeout = "15s"'))
    assert [stage.soft_timeout_s for stage in made(file).spec.stages] == [15, None, 15]
    assert [stage.soft_timeout_s for stage in made(file, batch.Flags(soft_timeout_s=3)).spec.stages] == [3, None, 3]


def test_a_soft_timeout_where_there_are_only_commands_is_refused(file: Path) -> None:
    file.write_text('[[stage]]\nname = "a"\ncommand = ["ls"]\n')
    with pytest.raises(BadInput, match="--soft-timeout is for functions"):
        made(file, batch.Flags(soft_timeout_s=3))


def test_limits_seed_and_children_of_the_file_and_of_a_stage(file: Path) -> None:
    file.write_text(
        "seed = 7\n"
        + GOOD.replace(
            "[limits]", '[limits]\ncpu_limit = "1m"\nmemory_limit = "1GiB"\nthread_limit = 9\nallow_children = true'
        ).replace(
            'timeout = "5s"',
            'timeout = "5s"\ncpu_limit = 0\nmemory_limit = "64MiB"\noutput_limit = 0\nallow_children = false\n'
            'stall_timeout = "2s"',
        )
    )
    found = made(file, batch.Flags(thread_limit=0)).spec
    fields = ("cpu_limit_s", "stall_timeout_s", "memory_limit_bytes", "thread_limit", "output_limit_bytes")
    assert [tuple(getattr(stage, name) for name in (*fields, "allow_children")) for stage in found.stages] == [
        (60, None, 1 << 30, 0, None, True),
        (0, 2, 64 << 20, 0, 0, False),
        (60, None, 1 << 30, 0, None, True),
    ]
    assert found.seed == 7
    assert made(file, batch.Flags(seed=0)).spec.seed == 0


def test_needs_and_kinds_of_the_file_and_of_a_stage(file: Path) -> None:
    file.write_text(
        GOOD.replace("[limits]", '[limits]\nmemory = "1GiB"\nthreads = 9\nkind = "all"').replace(
            'timeout = "5s"', 'timeout = "5s"\nmemory = 0\nthreads = 2\nkind = "two"'
        )
    )

    def needs(flags: batch.Flags) -> list[tuple[int | None, int | None, str | None]]:
        return [(one.need_memory_bytes, one.need_threads, one.kind) for one in made(file, flags).spec.stages]

    assert needs(batch.Flags()) == [(1 << 30, 9, "all"), (0, 2, "two"), (1 << 30, 9, "all")]
    flags = batch.Flags(need_memory_bytes=5, need_threads=6, kind="flag")
    assert needs(flags) == [(5, 6, "flag")] * 3


# Interpreters


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An environment's interpreter: a link."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    link = tmp_path / "venv" / "bin" / "python"
    link.symlink_to(sys.executable)
    return link


def test_the_interpreter_of_a_run_file_is_relative_to_it_and_its_link_is_kept(file: Path, python: Path) -> None:
    file.write_text(f'python = "venv/bin/../bin/python"\n{GOOD}')
    assert made(file).spec.python == str(python)


def test_an_interpreter_of_the_command_line_is_relative_to_the_caller(file: Path, python: Path, tmp_path: Path) -> None:
    found = batch.from_file(file, runfile.load(file), batch.Flags(python="bin/python"), tmp_path / "venv", None)
    assert found.spec.python == str(python)


def test_a_bare_name_is_looked_for_on_the_path(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(python.parent))
    assert interpreter("python", Path("/"), "--python") == str(python)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("venv/bin/pyton", "{place}/venv/bin/pyton is not an executable file"),
        ("venv/bin", "{place}/venv/bin is not an executable file"),
        ("no-such-python", "'no-such-python' is not found on the PATH"),
        ("./data", "{place}/data is not an executable file"),
        ("./older", "{place}/older is Python 3.9, and battd's tasks need Python"),
        ("./true", "{place}/true does not answer as a Python does (exit code 0)"),
        ("./false", "{place}/false does not answer as a Python does (exit code 3)"),
        ("./no-program", "{place}/no-program cannot be run: Exec format error"),
    ],
)
def test_an_interpreter_that_cannot_be_meant_is_refused(python: Path, tmp_path: Path, given: str, said: str) -> None:
    for name, text in (
        ("older", "#!/bin/sh\necho 3.9\n"),
        ("true", "#!/bin/sh\necho hello\n"),
        ("false", "#!/bin/sh\nexit 3\n"),
        ("no-program", "\0\0\0"),
        ("data", ""),
    ):
        (tmp_path / name).write_text(text)
        if name != "data":
            (tmp_path / name).chmod(0o755)
    with pytest.raises(BadInput) as caught:
        interpreter(given, tmp_path, "--python")
    assert str(caught.value).startswith(f"--python: {said.format(place=tmp_path)}")


def test_an_interpreter_that_hangs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreters, "ANSWER_S", 0.2)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    with pytest.raises(BadInput, match=r"slow does not say its version within 0\.2 s"):
        interpreter(str(slow), tmp_path, "python")


def test_an_interpreter_is_for_functions(file: Path, python: Path) -> None:
    file.write_text(f'python = "{python}"\n[[stage]]\nname = "a"\ncommand = ["ls"]\n')
    with pytest.raises(BadInput, match="python is for functions; a command names its own interpreter"):
        made(file)


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


KEYS = {*runfile.RunFile.model_fields, *runfile.Stage.model_fields}


@pytest.mark.parametrize("key", sorted(KEYS))
def test_every_key_is_documented(key: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "run-files.md").read_text()
    assert f"\n{key} = " in page or f"`{key}" in page or f"[{key}]" in page or f"# {key} = " in page
