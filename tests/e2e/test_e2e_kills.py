"""SIGKILL for every part of a battd at work, and no room for new processes: nothing is lost, and nobody survives."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from outside import alive, at_rest, noted, nurseries, rows, stat, told

from batt_supervisor.core.lifecycle import State
from batt_supervisor.testing import Daemon, eventually

TESTS = Path(__file__).resolve().parent.parent

SOON_S = 30.0
"""Within this nothing is left. How long it takes is measured by a benchmark."""

CONFIG = 'retry_delay = "20ms"\n'


def below(daemon: Daemon) -> list[tuple[int, int]]:
    """Everything below battd, with its start time."""
    pids = [child.pid for child in daemon.process.children(recursive=True)]
    return [(pid, started) for pid, (state, started) in zip(pids, map(stat, pids), strict=True) if state != "gone"]


def see_gone(processes: list[tuple[int, int]]) -> None:
    """They are gone soon; what is not is ended here."""
    try:
        eventually("gone", lambda: not any(alive(*one) for one in processes), within_s=SOON_S)
    except AssertionError:
        left = [pid for pid, started in processes if alive(pid, started)]
        told_of = [told(pid) for pid in left[:6]]
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"{len(left)} of {len(processes)} live: {told_of}") from None


# Workers, again and again


def test_thousands_of_tasks_outlive_the_death_of_thirty_workers(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    """Idle or at work, of small tasks or in the middle of writing 50 MB."""
    daemon = new_battd(CONFIG).start()
    dice = random.Random(7)
    names = [f"n{number}" for number in range(3000)]
    items = [[str(tmp_path), name, 0.0] for name in names]
    large = kill_while_it_writes(daemon)  # the others of these are at work, too
    run = daemon.submit("zoo.records:interval", items, max_attempts=5)
    kills = 0
    while kills < 29:
        settled = daemon.client.run(run).counts.get(State.SUCCEEDED, 0)
        if settled < 3000 * kills / 30 and kills < 25:  # the last ones find idle workers
            time.sleep(0.002)
            continue
        workers = list(daemon.workers().values())
        if workers:
            with suppress(ProcessLookupError):
                os.kill(dice.choice(workers), signal.SIGKILL)
                kills += 1
    info = daemon.wait(run, within_s=120)
    assert info.counts == {State.SUCCEEDED: 3000}
    assert [task.value for task in daemon.results(run)] == names
    for one in large:
        assert daemon.wait(one, within_s=120).counts == {State.SUCCEEDED: 2}
        assert all(task.value == "x" * 50_000_000 for task in daemon.results(one))
    calls = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [call for call in calls if call[1] == "overlap"] == []
    begun = Counter(name for name, what, *_ in calls if what == "start")
    assert set(begun) == set(names)
    ends = sorted(at for (at,) in rows(daemon, "SELECT ended_at_ms FROM attempts WHERE ended_at_ms IS NOT NULL"))
    gap = max(later - earlier for earlier, later in pairwise(ends))
    print(f"kills: {kills} and one in {len(large)} in the middle of writing; longest gap between two results: {gap} ms")
    print(f"executed more than once: {sum(times > 1 for times in begun.values())}")
    eventually("every slot is idle", lambda: at_rest(daemon))
    assert sorted(os.listdir(daemon.state_dir / "results")) == sorted(
        f"{task.id[1:]}-{task.attempt}.json" for one in large for task in daemon.results(one)
    )
    assert "Traceback" not in daemon.log
    daemon.stop()
    assert daemon.orphans() == []


def kill_while_it_writes(daemon: Daemon) -> list[str]:
    """Kill a worker whose result is half on disk; the runs that it took, until one was caught."""
    folder = daemon.state_dir / "results"
    runs: list[str] = []
    for _ in range(10):
        seen = sizes(folder)
        runs.append(daemon.submit("zoo.calm:big", [50_000_000] * 2, max_attempts=40))

        def growing(seen: dict[str, int] = seen) -> str | None:
            return next((name for name, size in sizes(folder).items() if name not in seen and size), None)

        name = eventually("a result is being written", growing)
        assert name is not None
        task = f"t{name.partition('-')[0]}"
        worker = worker_at(daemon, task)
        if worker:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
            if outcome_of_first(daemon, task) == "crashed":
                return runs
    raise AssertionError("no worker was caught in the middle of writing")


def outcome_of_first(daemon: Daemon, task: str) -> str | None:
    """How the first attempt of a task has ended, once it has."""
    eventually("its first attempt has ended", lambda: daemon.attempts(task)[0].ended_at_ms is not None)
    return daemon.attempts(task)[0].outcome


def sizes(folder: Path) -> dict[str, int]:
    found = {}
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):
            found[entry.name] = entry.stat().st_size
    return found


# Everybody's trees


@pytest.fixture(params=["cgroups", "notebook"])
def busy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    """A battd whose three slots are at tasks that have started every kind of process there is."""
    groups: list[Path] = []
    if request.param == "cgroups":
        groups = request.getfixturevalue("own_groups")
        home, given = tmp_path, {"python_path": [TESTS], "cgroups": groups}
    else:
        notebook = request.getfixturevalue("notebook")
        home, given = notebook.home(tmp_path.name), notebook.given
    with Daemon(home, slots=3, config=CONFIG, **given) as daemon:
        folder = home / "tasks"
        folder.mkdir()
        if daemon.user is not None:
            os.chown(folder, daemon.user, daemon.user)
        daemon.start()
        for name, processes in TREES.items():
            daemon.submit(f"zoo.leaves:{name}", args=(str(folder / name), "hang"), timeout_s=300)
            eventually(f"{name} has begun", lambda: len(noted(folder / name)) >= processes)  # noqa: B023 - called at once
        yield daemon


TREES = {"one_of_a_kind_each": 15, "a_daemon_that_was_untied": 2, "a_child_of_a_thread": 1}
"""Tasks, and how many processes each of them notes at least."""


def begotten(daemon: Daemon) -> list[tuple[int, int]]:
    """What the tasks have started, as far as it lives; as they have written it down, wherever it is."""
    found = [process for name in TREES for process in noted(daemon.home / "tasks" / name)]
    return [process for process in found if alive(*process)]


def test_nothing_outlives_kill_dash_nine_of_battd(busy: Daemon) -> None:
    """Nobody starts it again."""
    processes = [*begotten(busy), *below(busy)]
    assert len(processes) > 15
    busy.kill(signal.SIGKILL)
    see_gone(processes)
    see_gone(begotten(busy))  # what one of them has started since
    assert busy.orphans() == []


def test_nothing_outlives_kill_dash_nine_of_the_nursery(busy: Daemon) -> None:
    processes = begotten(busy)
    found = nurseries(busy)
    assert found, "there is no nursery"
    workers = [(pid, stat(pid)[1]) for pid in busy.workers().values()]
    for nursery in found:
        nursery.kill()
    see_gone([*processes, *workers])
    for run in busy.client.runs():
        busy.client.cancel(run.run)
    after_all_is_well(busy)


def test_nothing_outlives_kill_dash_nine_of_the_workers(busy: Daemon) -> None:
    processes = begotten(busy)
    runs = [run.run for run in busy.client.runs()]
    at_work = [eventually("its worker is known", lambda run=run: worker_at(busy, busy.task(run))) for run in runs]
    assert len(at_work) == 3
    for pid in at_work:
        os.kill(pid, signal.SIGKILL)
    see_gone(processes)
    for run in runs:
        busy.wait(run)
        assert [attempt.outcome for attempt in busy.attempts(run)] == ["crashed"]
    after_all_is_well(busy)


def test_the_next_battd_ends_what_outlived_all_the_parts_of_the_last_one(
    busy: Daemon, request: pytest.FixtureRequest
) -> None:
    if busy.user is not None:
        pytest.skip("without control groups nothing names what has emptied its environment")
    processes = begotten(busy)
    parts = [*(nursery.pid for nursery in nurseries(busy)), *busy.workers().values()]
    busy.kill(signal.SIGSTOP)
    for pid in parts:
        os.kill(pid, signal.SIGKILL)
    busy.kill(signal.SIGKILL)
    busy.configure("reserve_threads = 10000000\n")  # it starts nothing
    busy.start()
    see_gone(processes)
    see_gone(begotten(busy))
    busy.kill(signal.SIGTERM)
    assert busy.ended() == 0


def after_all_is_well(daemon: Daemon) -> None:
    """Its width is back, it works, and it leaves nothing behind."""
    eventually("every slot is idle", lambda: at_rest(daemon))
    run = daemon.submit("zoo.calm:add", [[number, number] for number in range(20)])
    assert daemon.wait(run).counts == {State.SUCCEEDED: 20}
    assert [task.value for task in daemon.results(run)] == [2 * number for number in range(20)]
    daemon.stop()
    assert daemon.orphans() == []


# No room for another process


def worker_at(daemon: Daemon, task: str) -> int:
    """Pid of the worker that is at a task; 0 where battd names none yet."""
    return next((slot.worker_pid or 0 for slot in daemon.client.service().slots if slot.task == task), 0)


def test_what_runs_goes_on_where_no_process_can_be_started(own_groups: list[Path], tmp_path: Path) -> None:
    """The limit falls below what battd uses, and a worker dies meanwhile; then there is room again."""
    group = next((group for group in own_groups if (group / "pids.max").exists()), None)
    if group is None:
        pytest.skip("processes are not limited by control groups of the first version here")
    with Daemon(tmp_path, slots=3, config=CONFIG, python_path=[TESTS], cgroups=own_groups) as daemon:
        daemon.start()
        release = tmp_path / "release"
        items = [[str(tmp_path / f"told-{number}"), str(release)] for number in range(3)]
        run = daemon.submit("zoo.calm:tell_and_wait", items, max_attempts=3)
        eventually("all three run", lambda: all((tmp_path / f"told-{number}").exists() for number in range(3)))
        pid = daemon.pid
        victim = eventually("its worker is known", lambda: worker_at(daemon, daemon.task(run, 2)))
        (group / "pids.max").write_text("1")
        try:
            os.kill(victim, signal.SIGKILL)
            eventually("its death is known", lambda: daemon.attempts(daemon.task(run, 2))[0].ended_at_ms is not None)
            waiting = daemon.submit("zoo.calm:add", [[1, 2]] * 30)
            release.touch()
            for index in range(2):
                assert daemon.wait_for(daemon.task(run, index), State.SUCCEEDED).attempt == 1
            assert daemon.alive()
            assert daemon.client.service().pid == pid
        finally:
            (group / "pids.max").write_text("max")
        assert daemon.wait(run).counts == {State.SUCCEEDED: 3}
        assert daemon.wait(waiting).counts == {State.SUCCEEDED: 30}
        assert [attempt.outcome for attempt in daemon.attempts(daemon.task(run, 2))] == ["crashed", "ok"]
        assert {task.attempt for task in daemon.results(waiting)} == {1}
        eventually("its width is back", lambda: at_rest(daemon))
        assert daemon.pid == pid
        daemon.stop()
        assert daemon.orphans() == []
