"""The wall between one attempt and the next: what a task leaves behind is gone, or its worker is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from batt_supervisor.core.lifecycle import State
from batt_supervisor.testing import Daemon, eventually
from batt_supervisor.wire import StageSpec, TaskSpec

MiB = 2**20


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


def one_after_another(daemon: Daemon, *functions: str | tuple[str, dict[str, object] | list[object]]) -> str:
    """A run whose tasks are made in this order, each after the one before has ended."""
    stages, tasks = [], []
    for number, function in enumerate(functions):
        name, args = function if isinstance(function, tuple) else (function, [])
        after = (f"s{number - 1}",) if number else ()
        stages.append(StageSpec(name=f"s{number}", function=f"zoo.{name}", after=after))
        tasks.append(TaskSpec(stage=number, args=args))
    return daemon.submit_stages(stages, tasks, env={"POLLUTED": "no"})


# One slot and its standby: what comes next is nearly always in the same worker, and the tests see that it was.


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> object:
    tests = Path(__file__).resolve().parent.parent
    with Daemon(tmp_path_factory.mktemp("narrow"), python_path=[tests], slots=1) as daemon:
        yield daemon.start()
        daemon.stop()
        assert daemon.orphans() == []


def test_what_a_task_changed_in_its_process_is_put_back(narrow: Daemon) -> None:
    run = one_after_another(narrow, "pollutes:probe", *(["pollutes:everything", "pollutes:probe"] * 3))
    narrow.wait(run)
    values = [task.value for task in narrow.results(run)]
    first, *others = [value for value in values if isinstance(value, dict)]
    assert first["polluted"] == "no"
    pids = [value.pop("pid") for value in (first, *others)]
    assert others == [first] * 3
    assert len(set(pids)) < len(pids), "no two of them were in the same worker: nothing was shown"


def test_a_replaced_environment_is_put_back(narrow: Daemon) -> None:
    run = one_after_another(narrow, "pollutes:new_environment", ("calm:variable", ["POLLUTED"]))
    narrow.wait(run)
    assert narrow.results(run)[1].value == "no"


def test_a_task_that_closes_its_output_takes_nothing_from_the_next_one(narrow: Daemon) -> None:
    run = one_after_another(narrow, *(["pollutes:close_output", "prints:both"] * 3))
    narrow.wait(run)
    assert [task.state for task in narrow.results(run)] == [State.SUCCEEDED] * 6


def test_random_numbers_differ_between_attempts(narrow: Daemon) -> None:
    run = narrow.submit("zoo.pollutes:numbers", [[]] * 4)
    narrow.wait(run)
    assert len({tuple(task.value) for task in narrow.results(run)}) == 4


def test_memory_that_was_freed_is_not_counted_to_the_next_attempt(narrow: Daemon) -> None:
    run = one_after_another(narrow, "heavy:and_free", "calm:nothing")
    narrow.wait(run)
    heavy, light = narrow.results(run)
    assert heavy.peak_memory_bytes is not None
    assert light.peak_memory_bytes is not None
    assert heavy.peak_memory_bytes > 200 * MiB
    assert light.peak_memory_bytes < 100 * MiB


def test_cpu_seconds_are_those_of_the_attempt(narrow: Daemon) -> None:
    run = one_after_another(narrow, ("heavy:burn", [0.3]), "calm:nothing")
    narrow.wait(run)
    busy, idle = narrow.results(run)
    assert busy.cpu_s is not None
    assert idle.cpu_s is not None
    assert 0.3 <= busy.cpu_s < 1.0
    assert idle.cpu_s < 0.2


@pytest.mark.parametrize("daemonic", [False, True])
def test_a_leaked_thread_costs_the_worker_its_place(narrow: Daemon, daemonic: bool) -> None:
    run = one_after_another(narrow, ("pollutes:leak_a_thread", [daemonic]), "calm:pid")
    info = narrow.wait(run)
    assert info.counts == {State.SUCCEEDED: 2}
    leaker, next_one = (task.value for task in narrow.results(run))
    assert next_one != leaker
    eventually("the leaker is gone", lambda: not alive(leaker))


# Processes


@pytest.mark.parametrize(
    ("way", "outcome"),
    [
        ("and_returns", "ok"),
        ("and_raises", "exception"),
        ("and_dies", "crashed"),
        ("and_exits", "crashed"),
        ("and_hangs", "timeout"),
    ],
)
def test_what_a_task_started_ends_with_it(battd: Daemon, tmp_path: Path, way: str, outcome: str) -> None:
    """A child, one in a session of its own, one with an empty environment, and a double-forked one."""
    pids = tmp_path / "pids"
    run = battd.submit(f"zoo.leaves:{way}", args=(str(pids),), timeout_s=10 if way != "and_hangs" else 1.5)
    battd.wait(run)
    assert battd.look(run).outcome == outcome
    started = [int(line) for line in pids.read_text().split()]
    assert len(started) == 4
    eventually("all four are gone", lambda: not any(map(alive, started)))


def test_battd_keeps_no_zombie_of_what_took_its_time_to_die(battd: Daemon, tmp_path: Path) -> None:
    """Killed with the tree, gone only after its worker: battd itself reaps it, though nothing else happens."""
    pids = tmp_path / "pids"
    run = battd.submit("zoo.leaves:a_heavy_child_and_hangs", args=(str(pids),), timeout_s=6.0)
    battd.wait(run)
    pid = int(pids.read_text())
    eventually("it is reaped", lambda: not Path(f"/proc/{pid}").exists(), within_s=8)


# Output


def log_of(daemon: Daemon, run: str, index: int = 0) -> str:
    return daemon.client.log(daemon.task(run, index)).text


def test_output_is_kept_by_attempt(battd: Daemon) -> None:
    run = battd.submit("zoo.prints:both", [f"number {number}" for number in range(12)])
    battd.wait(run)
    for number in range(12):
        assert sorted(log_of(battd, run, number).splitlines()) == [f"err number {number}", f"out number {number}"]


def test_output_before_a_death_is_kept_up_to_its_last_whole_line(battd: Daemon) -> None:
    run = battd.submit("zoo.prints:without_an_end_then_die")
    battd.wait(run)
    assert log_of(battd, run).startswith("said before death\n")


def test_output_of_a_child_is_kept(battd: Daemon) -> None:
    run = battd.submit("zoo.prints:by_a_child")
    battd.wait(run)
    assert log_of(battd, run) == "a child said this\n"


def test_control_bytes_and_broken_text_can_be_read(battd: Daemon) -> None:
    run = battd.submit("zoo.prints:control_bytes")
    battd.wait(run)
    assert log_of(battd, run) == "\x1b[31mred\x00\ufffd\ufffd\r\n\x07"


def test_half_a_surrogate_pair_can_be_printed(battd: Daemon) -> None:
    run = battd.submit("zoo.prints:surrogates")
    assert battd.wait(run).counts == {State.SUCCEEDED: 1}
    assert log_of(battd, run) == "\\ud800\n"


def test_only_the_end_of_much_output_is_given(battd: Daemon) -> None:
    run = battd.submit("zoo.prints:much", args=(3 * MiB,))
    battd.wait(run)
    log = battd.client.log(battd.task(run), tail_bytes=1000)
    assert log.truncated
    assert log.text == "x" * 1000


# Recycling


def test_a_worker_serves_no_more_than_max_tasks(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd("max_tasks = 4\n").start()
    run = daemon.submit("zoo.calm:pid", [[]] * 30)
    assert daemon.wait(run).counts == {State.SUCCEEDED: 30}
    pids = [task.value for task in daemon.results(run)]
    assert max(pids.count(pid) for pid in pids) <= 4
    assert len(set(pids)) >= 8
    daemon.stop()


def test_max_tasks_of_one_gives_every_task_a_worker_of_its_own(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd("max_tasks = 1\n").start()
    run = daemon.submit("zoo.calm:pid", [[]] * 8)
    assert daemon.wait(run).counts == {State.SUCCEEDED: 8}
    assert len({task.value for task in daemon.results(run)}) == 8
    daemon.stop()


def test_many_modules_imported_by_tiny_tasks_harm_nobody(new_battd: Callable[..., Daemon], tmp_path: Path) -> None:
    """More modules than one report has room for, several new ones in one pack of tiny tasks."""
    modules = tmp_path / "modules"
    modules.mkdir()
    for number in range(600):
        (modules / f"small_{number}.py").write_text(f"NUMBER = {number}\n")
    (modules / "loads.py").write_text(
        "import importlib\ndef one(number):\n    return importlib.import_module(f'small_{number}').NUMBER\n"
    )
    daemon = new_battd("max_tasks = 0\n", slots=1).start()
    run = daemon.submit("loads:one", [0] * 200 + list(range(600)), cwd=modules)
    daemon.wait(run)
    assert daemon.alive()
    results = daemon.results(run)
    assert [task.value for task in results] == [0] * 200 + list(range(600))
    assert {task.attempt for task in results} == {1}
    left = [name for name in os.listdir(daemon.state_dir / "results") if name.startswith("modules-")]
    assert left == []
    daemon.stop()


def test_a_forked_child_that_comes_back_from_its_task_is_not_a_second_worker(battd: Daemon, tmp_path: Path) -> None:
    battd.wait(battd.submit("zoo.leaves:a_fork_that_returns", list(range(50))))
    path = tmp_path / "calls"
    run = battd.submit("zoo.records:count", [[str(path), f"n{number}"] for number in range(200)])
    assert battd.wait(run).counts == {State.SUCCEEDED: 200}
    assert len(path.read_text().splitlines()) == 200


def test_what_a_forking_task_returns_is_reported_once(battd: Daemon) -> None:
    run = battd.submit("zoo.leaves:a_fork_that_returns", list(range(50)))
    assert battd.wait(run).counts == {State.SUCCEEDED: 50}
    assert [task.value for task in battd.results(run)] == list(range(50))
    assert {task.attempt for task in battd.results(run)} == {1}
