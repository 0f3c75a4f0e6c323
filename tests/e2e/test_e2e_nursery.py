"""Where workers come from: one nursery for each room, what it preloads, what it survives, and what its end costs."""

from __future__ import annotations

import os
import signal
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from outside import nurseries

from batt_supervisor.core.lifecycle import State
from batt_supervisor.pool.nursery import ROOT
from batt_supervisor.testing import Daemon, eventually


def test_workers_are_children_of_one_nursery_for_each_room(new_battd: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = new_battd().start()
    eventually("all workers are there", lambda: len(daemon.workers()) == 3)
    [home] = nurseries(daemon)
    assert {psutil.Process(pid).ppid() for pid in daemon.workers().values()} == {home.pid}
    run = daemon.submit("zoo.calm:echo", list(range(8)), cwd=tmp_path)
    assert daemon.wait(run).counts == {State.SUCCEEDED: 8}
    assert len(nurseries(daemon)) == 2
    # The other one goes when no slot has been in its room for a while, or stays as long as one is.
    rooms = {slot.cwd for slot in daemon.client.service().slots}
    eventually("there are as many nurseries as rooms", lambda: len(nurseries(daemon)) == len(rooms))
    daemon.stop()


def test_a_nursery_that_is_killed_is_replaced_and_what_it_ran_goes_again(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd(slots=2).start()
    run = daemon.submit("zoo.calm:sleep", [1.0, 1.0])
    tasks = [daemon.task(run, index) for index in (0, 1)]
    for task in tasks:
        daemon.wait_for(task, State.RUNNING)
    eventually(
        "both have been called", lambda: len({slot.task for slot in daemon.client.service().slots} - {None}) == 2
    )
    [nursery] = nurseries(daemon)
    before = set(daemon.workers().values())
    nursery.kill()
    eventually("its workers are gone", lambda: not any(map(psutil.pid_exists, before)))
    assert daemon.wait(run).counts == {State.SUCCEEDED: 2}
    for task in tasks:
        first, second = daemon.attempts(task)
        assert first.outcome == "lost"
        assert "nursery" in (first.reason or "")
        assert second.outcome == "ok"
    assert "another one takes over" in daemon.log
    daemon.stop()


def test_a_task_that_kills_its_nursery_is_found_out_and_its_neighbours_are_not_charged(
    new_battd: Callable[..., Daemon],
) -> None:
    daemon = new_battd(slots=2).start()
    calm = daemon.submit("zoo.calm:sleep", [1.0] * 6, name="calm")
    eventually("one of them runs", lambda: daemon.client.run(calm).counts.get(State.RUNNING))
    bad = daemon.submit("zoo.dies:signal_parent", name="bad")
    assert daemon.wait(bad).counts == {State.FAILED: 1}
    lost, crashed = daemon.attempts(bad)
    assert (lost.outcome, crashed.outcome) == ("lost", "crashed")
    assert "the only one there" in (crashed.reason or "")
    assert daemon.wait(calm).counts == {State.SUCCEEDED: 6}
    assert {attempt.outcome for index in range(6) for attempt in daemon.attempts(daemon.task(calm, index))} <= {
        "ok",
        "lost",
    }
    daemon.stop()


def test_a_nursery_that_somebody_stopped_goes_on(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd(config="max_tasks = 1\n").start()
    eventually("all workers are there", lambda: len(daemon.workers()) == 3)
    [nursery] = nurseries(daemon)
    nursery.send_signal(signal.SIGSTOP)
    run = daemon.submit("zoo.calm:echo", list(range(10)))
    assert daemon.wait(run).counts == {State.SUCCEEDED: 10}
    assert [one.pid for one in nurseries(daemon)] == [nursery.pid]
    daemon.stop()


def test_a_preloaded_module_is_imported_once_and_again_when_its_file_changes(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    library = tmp_path / "lib"
    library.mkdir()
    module = library / "counted.py"
    module.write_text("import os\nIN = os.getpid()\ndef where():\n    return IN, 1\n")
    daemon = new_battd(config='preload = ["counted"]\nmax_tasks = 1\n', env={"PYTHONPATH": f"{library}:{ROOT}"}).start()
    run = daemon.submit("counted:where", [[]] * 4)
    assert daemon.wait(run).counts == {State.SUCCEEDED: 4}
    [nursery] = nurseries(daemon)
    assert {tuple(one.value) for one in daemon.results(run)} == {(nursery.pid, 1)}
    module.write_text("import os\nIN = os.getpid()\ndef where():\n    return IN, 2\n")
    run = daemon.submit("counted:where", [[]] * 4)
    assert daemon.wait(run).counts == {State.SUCCEEDED: 4}
    assert {one.value[1] for one in daemon.results(run)} == {2}
    daemon.stop()


@pytest.mark.parametrize("method", ["nursery", "spawn"])
def test_both_ways_of_starting_workers_give_the_same(new_battd: Callable[..., Daemon], method: str) -> None:
    daemon = new_battd(config=f'start_method = "{method}"\nmax_tasks = 2\n').start()
    run = daemon.submit("zoo.calm:echo", list(range(6)))
    assert daemon.wait(run).counts == {State.SUCCEEDED: 6}
    assert [one.value for one in daemon.results(run)] == list(range(6))
    hung = daemon.submit("zoo.hangs:ignore_every_signal", timeout_s=1.0)
    daemon.wait(hung)
    assert daemon.look(hung).outcome in ("timeout", "starved")
    crashed = daemon.submit("zoo.dies:exit_with", args=(3,))
    daemon.wait(crashed)
    assert daemon.look(crashed).reason == "its process left with exit code 3"
    daemon.stop()


def test_a_run_may_have_an_interpreter_of_its_own(new_battd: Callable[..., Daemon], tmp_path: Path) -> None:
    """Of the same version, with packages that battd's has not."""
    place = tmp_path / "venv"
    venv.create(place, symlinks=True, with_pip=False)
    python = place / "bin" / "python"
    words = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    packages = Path(subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip())
    (packages / "only_there.py").write_text(
        "import sys\ndef where():\n    return sys.prefix, 'psutil' in sys.modules\n"
    )
    daemon = new_battd().start()
    run = daemon.submit("only_there:where", python=str(python))
    assert daemon.wait(run).counts == {State.SUCCEEDED: 1}
    assert daemon.results(run)[0].value == [str(place), False]
    # battd's own has another.
    here = daemon.submit("zoo.calm:echo", [1])
    assert daemon.wait(here).counts == {State.SUCCEEDED: 1}
    daemon.stop()


def test_stacks_of_a_hung_task_are_in_its_log(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    run = daemon.submit("zoo.hangs:sleep_for_ever", timeout_s=1.0)
    daemon.wait(run)
    text = daemon.client.log(daemon.task(run)).text
    assert "stacks of all threads" in text
    assert "in sleep_for_ever" in text
    daemon.stop()


def test_a_task_that_took_its_handler_away_has_no_stacks_and_says_why(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    (tmp_path / "deaf.py").write_text(
        "import signal, time\n"
        "from worker import boot\n"
        "def wait():\n"
        "    signal.signal(boot.STACKS, signal.SIG_IGN)\n"
        "    time.sleep(60)\n"
    )
    daemon = new_battd().start()
    run = daemon.submit("deaf:wait", timeout_s=1.0, cwd=tmp_path)
    daemon.wait(run)
    assert daemon.look(run).outcome == "timeout"
    assert "no stacks: its handler for them is gone" in daemon.client.log(daemon.task(run)).text
    daemon.stop()


def test_random_numbers_differ_between_attempts_and_follow_the_seed(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    (tmp_path / "dice.py").write_text("import random\ndef roll(n):\n    return random.random()\n")

    def rolled(seed: int | None) -> list[object]:
        run = daemon.submit("dice:roll", list(range(6)), cwd=tmp_path, seed=seed)
        daemon.wait(run)
        return [one.value for one in daemon.results(run)]

    daemon = new_battd().start()
    free, other = rolled(None), rolled(None)
    assert len({*free, *other}) == 12
    assert rolled(7) == rolled(7)
    assert len(set(rolled(7))) == 6
    assert rolled(7) != rolled(8)
    daemon.stop()


def test_nothing_of_battd_is_left_when_it_is_killed(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    eventually("all workers are there", lambda: len(daemon.workers()) == 3)
    run = daemon.submit("zoo.hangs:sleep_for_ever")
    daemon.wait_for(run, State.RUNNING)
    below = daemon.process.children(recursive=True)
    assert len(below) >= 4
    daemon.kill(signal.SIGKILL)
    eventually("all below it have ended", lambda: not any(one.is_running() for one in below))


def test_battd_has_as_many_descriptors_after_a_hundred_workers_as_before(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd(config="max_tasks = 1\n").start()
    eventually("all workers are there", lambda: len(daemon.workers()) == 3)

    def held() -> tuple[int, int]:
        return daemon.process.num_fds(), daemon.process.num_threads()

    def every_slot_has_served() -> bool:
        """Some of its files are opened with its first attempt."""
        daemon.wait(daemon.submit("zoo.calm:echo", list(range(5))))
        return all(slot.renewed for slot in daemon.client.service().slots)

    eventually("every slot has served", every_slot_has_served)
    eventually("all workers are there", lambda: all(slot.phase == "idle" for slot in daemon.client.service().slots))
    before = held()
    daemon.wait(daemon.submit("zoo.calm:echo", list(range(100))))
    eventually("battd holds no more than before", lambda: held() <= before)
    assert os.listdir(daemon.state_dir / "results") == []
    daemon.stop()
