"""Rooms: every run executes its own code, in its own directory, with its own environment."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from batt_supervisor.core.lifecycle import State
from batt_supervisor.errors import BadInput
from batt_supervisor.testing import Daemon, eventually


def module(folder: Path, text: str, name: str = "same") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    return folder


def returning(value: str) -> str:
    return f"def work(number=0):\n    return {value!r}\n"


def values(daemon: Daemon, run: str) -> list[object]:
    assert set(daemon.wait(run).counts) == {State.SUCCEEDED}, daemon.results(run)
    return [task.value for task in daemon.results(run)]


def test_two_runs_with_a_module_of_the_same_name_each_run_their_own(battd: Daemon, tmp_path: Path) -> None:
    rooms = [module(tmp_path / name, returning(name)) for name in ("one", "two", "three")]
    runs = [battd.submit("same:work", list(range(20)), cwd=room) for room in rooms]
    for room, run in zip(rooms, runs, strict=True):
        assert values(battd, run) == [room.name] * 20


def test_a_module_edited_between_two_runs_runs_its_new_code(battd: Daemon, tmp_path: Path) -> None:
    """Within one second, with the same size: what Python's own cache cannot tell apart."""
    for letter in "abcdefgh":
        module(tmp_path / "room", returning(letter))
        assert values(battd, battd.submit("same:work", cwd=tmp_path / "room")) == [letter]


def test_a_module_edited_with_its_time_put_back_runs_its_new_code(battd: Daemon, tmp_path: Path) -> None:
    room = module(tmp_path / "room", returning("a"))
    before = (room / "same.py").stat()
    assert values(battd, battd.submit("same:work", cwd=room)) == ["a"]
    module(room, returning("b"))
    os.utime(room / "same.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert values(battd, battd.submit("same:work", cwd=room)) == ["b"]


def test_an_edited_module_that_the_tasks_module_imports_is_noticed_too(battd: Daemon, tmp_path: Path) -> None:
    room = module(tmp_path / "room", "import part.inner\ndef work():\n    return part.inner.NAME\n")
    (room / "part").mkdir()
    (room / "part" / "__init__.py").touch()
    for letter in "abcd":
        (room / "part" / "inner.py").write_text(f"NAME = {letter!r}\n")
        assert values(battd, battd.submit("same:work", cwd=room)) == [letter]


def test_a_module_imported_only_by_a_later_task_is_noticed_too(battd: Daemon, tmp_path: Path) -> None:
    room = module(
        tmp_path / "room", "def work(late):\n    if late:\n        import late_part\n        return late_part.NAME\n"
    )
    for letter in "abcd":
        (room / "late_part.py").write_text(f"NAME = {letter!r}\n")
        run = battd.submit("same:work", [False] * 4 + [True] * 4, cwd=room)
        assert values(battd, run) == [None] * 4 + [letter] * 4


def test_a_task_that_edits_its_own_module_affects_the_next_run(battd: Daemon, tmp_path: Path) -> None:
    """The users' programs write the next round's modules themselves."""
    text = (
        "from pathlib import Path\nROUND = 0\ndef work():\n    path = Path(__file__)\n"
        "    path.write_text(path.read_text().replace(f'ROUND = {ROUND}', f'ROUND = {ROUND + 1}'))\n    return ROUND\n"
    )
    room = module(tmp_path / "room", text)
    assert [values(battd, battd.submit("same:work", cwd=room)) for _ in range(4)] == [[0], [1], [2], [3]]


def test_a_deleted_module_is_not_run_from_memory(battd: Daemon, tmp_path: Path) -> None:
    room = module(tmp_path / "room", returning("a"))
    assert values(battd, battd.submit("same:work", cwd=room)) == ["a"]
    (room / "same.py").unlink()
    with pytest.raises(BadInput, match="no module 'same'"):
        battd.submit("same:work", cwd=room)


def test_environments_of_two_runs_differ(battd: Daemon) -> None:
    runs = [battd.submit("zoo.calm:variable", ["WORD"] * 5, env={"WORD": word}) for word in ("one", "two")]
    runs.append(battd.submit("zoo.calm:variable", ["WORD"] * 5))
    assert [values(battd, run) for run in runs] == [["one"] * 5, ["two"] * 5, [None] * 5]


def test_battds_own_python_path_is_searched_behind_the_runs_directory(battd: Daemon, tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "__init__.py").touch()
    module(tmp_path / "zoo", "def echo(value):\n    return 'the other zoo'\n", name="calm")
    assert values(battd, battd.submit("zoo.calm:echo", [1], cwd=tmp_path)) == ["the other zoo"]
    assert values(battd, battd.submit("zoo.calm:echo", [1], cwd=tmp_path / "zoo")) == [1]


def test_the_runs_own_python_path_is_searched(battd: Daemon, tmp_path: Path) -> None:
    elsewhere = module(tmp_path / "elsewhere", returning("elsewhere"))
    run = battd.submit("same:work", cwd=tmp_path, env={"PYTHONPATH": str(elsewhere)})
    assert values(battd, run) == ["elsewhere"]


def test_a_run_whose_directory_is_gone_fails_task_by_task_and_says_so(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    room = module(tmp_path / "room", returning("a"))
    daemon = new_battd("reserve_threads = 10000000\n").start()
    run = daemon.submit("same:work", [1, 2, 3], cwd=room)
    shutil.rmtree(room)
    daemon.stop()
    daemon.configure("")
    daemon.start()
    assert daemon.wait(run).counts == {State.FAILED: 3}
    for task in daemon.results(run):
        assert task.outcome == "exception"
        assert task.error is not None
        assert task.error.type == "FileNotFoundError"
        assert str(room) in task.error.message
    assert values(daemon, daemon.submit("zoo.calm:echo", [1])) == [1]
    daemon.stop()


def test_a_broken_module_is_refused_before_anything_is_written(battd: Daemon, tmp_path: Path) -> None:
    room = module(tmp_path / "room", "def work():\n    return ('a'\n")
    with pytest.raises(BadInput, match=r"line 2 is not Python"):
        battd.submit("same:work", cwd=room)


def test_a_module_broken_after_its_submission_is_the_tasks_own_error(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    room = module(tmp_path / "room", returning("a"))
    daemon = new_battd("reserve_threads = 10000000\n").start()
    run = daemon.submit("same:work", cwd=room)
    module(room, "def work(:\n")
    daemon.configure("")
    daemon.kill(signal.SIGHUP)
    daemon.wait(run)
    error = daemon.results(run)[0].error
    assert error is not None
    assert error.type == "SyntaxError"
    daemon.stop()


def test_a_room_whose_workers_cannot_start_leaves_the_others_alone(new_battd: Callable[..., Daemon]) -> None:
    """A variable that no interpreter starts with."""
    daemon = new_battd().start()
    poisoned = daemon.submit("zoo.calm:echo", [1, 2, 3, 4, 5, 6], env={"PYTHONHASHSEED": "none"}, name="poisoned")
    eventually("its workers do not start", lambda: "workers do not start in a room" in daemon.log)
    for _ in range(3):
        run = daemon.submit("zoo.calm:echo", list(range(20)), name="healthy")
        assert daemon.wait(run).counts == {State.SUCCEEDED: 20}
    eventually("it is told what holds it", lambda: daemon.client.run(poisoned).hold)
    daemon.client.cancel(poisoned)
    daemon.wait(poisoned)
    daemon.stop()


def test_a_module_of_the_run_that_is_named_like_a_standard_one_does_not_keep_workers_from_starting(
    battd: Daemon, tmp_path: Path
) -> None:
    for name in ("json", "signal", "pickle", "struct", "random", "types", "worker", "pebble", "resource"):
        module(tmp_path / "room", "raise RuntimeError('not the standard one')\n", name=name)
    room = module(tmp_path / "room", returning("a"))
    assert values(battd, battd.submit("same:work", cwd=room)) == ["a"]


def test_a_python_path_with_modules_named_like_standard_ones_does_not_keep_workers_from_starting(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    for name in ("pickle", "signal", "struct"):
        module(tmp_path / "shadow", "raise RuntimeError('not the standard one')\n", name=name)
    room = module(tmp_path / "room", returning("a"))
    daemon = new_battd().start()
    run = daemon.submit("same:work", cwd=room, env={"PYTHONPATH": str(tmp_path / "shadow")})
    assert daemon.wait(run, within_s=10).counts == {State.SUCCEEDED: 1}
    daemon.stop()
