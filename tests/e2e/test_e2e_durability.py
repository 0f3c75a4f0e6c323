"""What was acknowledged is kept, whatever happens to battd: kills, restarts, drains, reloads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from outside import rows

from batt_supervisor.core.lifecycle import RunState, State
from batt_supervisor.errors import NotAllowed, Refused, Unreachable
from batt_supervisor.testing import Daemon, DaemonEnded, eventually
from batt_supervisor.wire import RunSpec, StageSpec, TaskSpec

HELD = "reserve_threads = 10000000\n"
"""Nothing starts: no machine has so many threads."""


LONG_POLL = """
import sys
from pathlib import Path
from batt_supervisor.client import Client
from batt_supervisor.errors import BattError
try:
    Client(Path(sys.argv[1])).run(sys.argv[2], wait_s=30, since=0)
except BattError:
    pass
"""


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def check_attempts(folder: Path) -> Counter[str]:
    """No attempt of a task began while another of it lived; how often each was begun."""
    calls = lines(folder / "log")
    assert [call for call in calls if call[1] == "overlap"] == []
    return Counter(name for name, what, *_ in calls if what == "start")


# kill -9


def test_every_acknowledged_task_ends_though_battd_is_killed_again_and_again(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_battd().start()
    names = [f"n{number}" for number in range(60)]
    run = daemon.submit("zoo.records:interval", [[str(tmp_path), name, 0.05] for name in names], max_attempts=1)
    for settled in (5, 20, 40):
        eventually(
            f"{settled} have ended", lambda want=settled: daemon.client.run(run).counts.get(State.SUCCEEDED, 0) >= want
        )
        lives = daemon.workers().values()
        daemon.kill(signal.SIGKILL)
        daemon.start()
        assert not [pid for pid in lives if Path(f"/proc/{pid}/cwd").exists() and "zombie" not in _status(pid)]
        assert daemon.orphans() == []
    info = daemon.wait(run)
    assert info.counts == {State.SUCCEEDED: 60}
    assert [task.value for task in daemon.results(run)] == names
    begun = check_attempts(tmp_path)
    assert set(begun) == set(names)
    assert sum(begun.values()) <= 60 + 3 * 2  # two slots were at work whenever it was killed
    assert rows(daemon, "SELECT count(*), count(DISTINCT task_id) FROM results") == [(60, 60)]
    daemon.stop()


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "zombie"


def test_tiny_tasks_in_packs_are_neither_lost_nor_stored_twice_when_battd_is_killed(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_battd().start()
    path = tmp_path / "calls"
    run = daemon.submit("zoo.records:count", [[str(path), f"n{number}"] for number in range(4000)])
    for _ in range(3):
        before = daemon.client.run(run).counts.get(State.SUCCEEDED, 0)
        eventually("it has gone on", lambda was=before: daemon.client.run(run).counts.get(State.SUCCEEDED, 0) > was)
        acknowledged = {task.id: task.value for task in daemon.results(run) if task.state is State.SUCCEEDED}
        daemon.kill(signal.SIGKILL)
        daemon.start()
        now = {task.id: task.value for task in daemon.results(run) if task.state is State.SUCCEEDED}
        assert acknowledged.items() <= now.items()
    assert daemon.wait(run).counts == {State.SUCCEEDED: 4000}
    assert [task.value for task in daemon.results(run)] == [f"n{number}" for number in range(4000)]
    assert len({name for name, _ in lines(path)}) == 4000
    daemon.stop()


def test_a_task_outlives_kill_dash_nine_of_battd(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    run = daemon.submit("zoo.calm:sleep_a_second")
    daemon.wait_for(run, State.RUNNING)
    daemon.kill(signal.SIGKILL)
    daemon.start()
    assert daemon.wait_for(run, State.SUCCEEDED).attempt == 2
    assert [attempt.outcome for attempt in daemon.attempts(run)] == ["lost", "ok"]
    assert daemon.orphans() == []
    daemon.stop()


def test_what_the_killed_battds_tasks_had_started_is_ended_too(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    """But for a process that detached itself *and* emptied its environment: nothing names it."""
    script = (
        "sleep 3600 & echo $! >> pids; setsid sleep 3600 & echo $! >> pids; (setsid setsid sleep 3600 & ); sleep 3600"
    )
    daemon = new_battd().start()
    daemon.submit(command=["sh", "-c", script], cwd=tmp_path)
    eventually("its children are there", lambda: len(lines(tmp_path / "pids")) == 2)
    pids = [int(line[0]) for line in lines(tmp_path / "pids")]
    assert all(psutil.pid_exists(pid) for pid in pids)
    daemon.kill(signal.SIGKILL)
    daemon.configure(HELD)
    daemon.start()  # the nursery may have been faster; test_e2e_kills takes that away, too
    assert daemon.orphans() == []
    eventually("they are gone", lambda: all("State:\tZ" in _status(pid) or _status(pid) == "zombie" for pid in pids))
    daemon.stop()


def test_a_large_result_is_whole_after_kill_dash_nine(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    run = daemon.submit("zoo.calm:big", [200_000] * 30)
    eventually("some are stored", lambda: daemon.client.run(run).counts.get(State.SUCCEEDED, 0) >= 5)
    daemon.kill(signal.SIGKILL)
    daemon.start()
    assert daemon.wait(run).counts == {State.SUCCEEDED: 30}
    assert all(task.value == "x" * 200_000 for task in daemon.results(run))
    known = {name for (name,) in rows(daemon, "SELECT file FROM results WHERE file IS NOT NULL")}
    assert {name for name in os.listdir(daemon.state_dir / "results") if not name.startswith("request-")} == known
    daemon.stop()


def test_scheduled_and_waiting_tasks_outlive_battd(new_battd: Callable[..., Daemon], tmp_path: Path) -> None:
    stages = [
        StageSpec(name="fails", function="zoo.raises:fail_until", max_attempts=2, retry_delay_s=2.0),
        StageSpec(name="late", function="zoo.calm:echo", after=("fails",)),
    ]
    daemon = new_battd().start()
    tasks = [TaskSpec(args=[str(tmp_path / "tries"), 1]), *[TaskSpec(stage=1, args=[n]) for n in range(5)]]
    run = daemon.submit_stages(stages, tasks)
    daemon.wait_for(run, State.SCHEDULED)
    daemon.kill(signal.SIGKILL)
    daemon.start()
    assert daemon.client.run(run).counts[State.WAITING] == 5
    assert daemon.wait(run).state is RunState.SUCCEEDED
    first, second = daemon.attempts(run)
    assert first.ended_at_ms is not None
    assert second.claimed_at_ms - first.ended_at_ms >= 1000  # half the delay: the jitter's lower end
    daemon.stop()


def test_a_deadline_that_passed_while_battd_was_away_holds(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    run = daemon.submit("zoo.calm:sleep", [3600] * 4, deadline_s=1.0)
    daemon.wait_for(run, State.RUNNING)
    daemon.kill(signal.SIGKILL)
    deadline_at_ms = rows(daemon, "SELECT deadline_at_ms FROM runs")[0][0]
    eventually("the deadline has passed", lambda: time.time() * 1000 > deadline_at_ms)
    daemon.start()
    assert daemon.wait(run).state is RunState.PARTIAL
    daemon.stop()


def test_a_cancel_that_was_acknowledged_outlives_battd(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    run = daemon.submit("zoo.hangs:spin", [[]] * 3000, max_attempts=5)
    daemon.wait_for(run, State.RUNNING)
    daemon.client.cancel(run)
    daemon.kill(signal.SIGKILL)
    daemon.start()
    assert daemon.wait(run).counts == {State.CANCELLED: 3000}
    daemon.stop()


# Submissions cut in two


def test_nothing_of_an_unsealed_run_starts_and_the_same_key_completes_it(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_battd().start()
    path = tmp_path / "calls"
    tasks = [TaskSpec(args=[str(path), f"n{number}"]) for number in range(12_000)]
    spec = RunSpec(name="cut", key="the key", cwd="/", stages=(StageSpec(name="s", function="zoo.records:count"),))

    def cut() -> Any:
        for number, task in enumerate(tasks):
            if number == 7000:  # the first chunk has been sent
                daemon.kill(signal.SIGKILL)
                raise Unreachable("as if the line had been cut")
            yield task

    with pytest.raises(Unreachable, match="'the key'"):
        daemon.client.submit(spec, cut())
    daemon.start()
    assert daemon.client.run("cut").state is RunState.RECEIVING
    other = daemon.submit("zoo.calm:nothing")
    daemon.wait(other)
    assert not path.exists()
    created = daemon.client.submit(spec, iter(tasks))
    assert created.existing
    assert created.tasks == 12_000
    daemon.client.cancel("cut")
    daemon.wait("cut")
    assert rows(daemon, "SELECT count(*), count(DISTINCT idx) FROM tasks WHERE run_id = 1") == [(12_000, 12_000)]
    assert daemon.client.submit(spec, iter(tasks)).existing
    with pytest.raises(Refused, match="12000 tasks, and 11999 were submitted now"):
        daemon.client.submit(spec, iter(tasks[:-1]))
    with pytest.raises(Refused, match="with 12000 tasks, and takes no more"):
        daemon.client.submit(spec, iter([*tasks, tasks[0]]))
    assert daemon.client.run("cut").tasks == 12_000
    daemon.stop()


def test_a_submission_goes_on_when_battd_is_restarted_in_its_middle(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd(HELD).start()

    def tasks() -> Any:
        for number in range(12_000):
            if number == 7000:
                daemon.kill(signal.SIGKILL)
                daemon.start()
            yield TaskSpec(args=[number])

    spec = RunSpec(name="whole", cwd="/", stages=(StageSpec(name="s", function="zoo.calm:echo"),))
    created = daemon.client.submit(spec, tasks())
    assert (created.tasks, created.existing) == (12_000, False)
    assert rows(daemon, "SELECT count(*), count(DISTINCT idx), max(idx) FROM tasks") == [(12_000, 12_000, 11_999)]
    daemon.stop()


# One battd for one state directory


def test_a_second_battd_on_the_same_state_directory_is_refused_and_names_the_first(
    new_battd: Callable[..., Daemon],
) -> None:
    daemon = new_battd().start()
    second = subprocess.run(
        [*daemon.arguments(), "--socket", f"{daemon.socket}2"],
        env=daemon.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert second.returncode == 75
    assert f"pid {daemon.pid}" in second.stderr
    assert str(daemon.socket) in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert daemon.client.service().pid == daemon.pid
    daemon.stop()


def test_a_socket_that_is_served_is_not_taken_away(new_battd: Callable[..., Daemon]) -> None:
    daemon, other = new_battd().start(), new_battd()
    other.socket = daemon.socket
    with pytest.raises(DaemonEnded, match="already listens") as ended:
        other.start()
    assert ended.value.code == 73
    assert daemon.client.service().pid == daemon.pid
    daemon.stop()


# Drains


def test_sigterm_waits_for_what_runs_and_starts_nothing_more(new_battd: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = new_battd().start()
    go = tmp_path / "go"
    told = [tmp_path / f"told-{number}" for number in range(2)]
    run = daemon.submit("zoo.calm:tell_and_wait", [[str(path), str(go)] for path in told] + [[str(go), str(go)]] * 20)
    eventually("two run", lambda: all(path.exists() for path in told))
    daemon.kill(signal.SIGTERM)
    eventually("it drains", lambda: daemon.client.service().draining)
    with pytest.raises(Refused, match="going down"):
        daemon.submit("zoo.calm:nothing")
    go.touch()
    assert daemon.ended() == 0
    assert rows(daemon, "SELECT state, count(*) FROM tasks GROUP BY 1 ORDER BY 2") == [("succeeded", 2), ("queued", 20)]
    assert rows(daemon, "SELECT sum(charged) FROM tasks") == [(0,)]
    assert not daemon.socket.exists()
    assert daemon.orphans() == []
    daemon.start()
    assert daemon.wait(run).counts == {State.SUCCEEDED: 22}
    daemon.stop()


def test_what_still_runs_after_drain_timeout_goes_again_uncharged(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd('drain_timeout = "500ms"\n').start()
    run = daemon.submit("zoo.hangs:ignore_every_signal", max_attempts=1)
    daemon.wait_for(run, State.RUNNING)
    daemon.stop()
    assert rows(daemon, "SELECT state, attempt, charged FROM tasks") == [("queued", 1, 0)]
    assert daemon.orphans() == []
    daemon.start()
    daemon.wait_for(run, State.RUNNING)
    first, _second = daemon.attempts(run)
    assert first.outcome == "lost"
    daemon.client.cancel(run)
    daemon.wait(run)
    daemon.stop()


def test_a_second_sigterm_ends_at_once(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd('drain_timeout = "1h"\n').start()
    run = daemon.submit("zoo.hangs:spin")
    daemon.wait_for(run, State.RUNNING)
    daemon.kill(signal.SIGTERM)
    eventually("it drains", lambda: daemon.client.service().draining)
    daemon.stop()
    assert rows(daemon, "SELECT state, charged FROM tasks") == [("queued", 0)]


def test_a_client_that_waits_for_a_run_does_not_hold_up_a_drain(new_battd: Callable[..., Daemon], battctl: Any) -> None:
    daemon = new_battd().start()
    run = daemon.submit("zoo.raises:value_error", max_attempts=2, retry_delay_s=3600)
    daemon.wait_for(run, State.SCHEDULED)
    words = [*daemon.arguments()[:1], "-m", "batt_supervisor.cli.main", "wait", run]
    with subprocess.Popen(words, env=daemon.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as waiter:
        assert waiter.stdout is not None
        waiter.stdout.readline()
        daemon.stop()
        daemon.start()
        daemon.client.cancel(run)
        waiter.stdout.read()
    assert waiter.returncode == 4
    daemon.stop()


def test_a_drain_is_not_taken_for_a_hang(new_battd: Callable[..., Daemon]) -> None:
    """A client that waits for a run keeps the API's thread for longer than the watchdog waits for the loop's."""
    daemon = new_battd('watchdog = "2s"\n').start()
    run = daemon.submit("zoo.raises:value_error", max_attempts=2, retry_delay_s=3600)
    daemon.wait_for(run, State.SCHEDULED)
    with subprocess.Popen([sys.executable, "-c", LONG_POLL, str(daemon.socket), run], env=daemon.environment()) as poll:
        eventually("it waits", lambda: daemon.process.net_connections("unix")[1:])
        daemon.stop()
    assert poll.returncode is not None


# Reloads


def reload(daemon: Daemon, config: str, said: str = "reloaded") -> None:
    before = daemon.log.count(said)
    daemon.configure(config)
    daemon.kill(signal.SIGHUP)
    eventually(f"the log says {said!r}", lambda: daemon.log.count(said) > before)


def test_sighup_puts_slots_timeout_and_allow_into_force(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd("slots = 1\n", slots=None).start()
    assert daemon.client.service().width == 1
    reload(daemon, 'slots = 3\ntimeout = "700ms"\nallow = ["zoo.*"]\n')
    eventually("there are three slots and a spare", lambda: len(daemon.client.service().slots) == 4)
    assert daemon.client.service().width == 3
    with pytest.raises(NotAllowed, match="zoo"):
        daemon.submit("math:sqrt", args=(4,))
    with pytest.raises(NotAllowed):
        daemon.submit(command=["true"])
    run = daemon.submit("zoo.hangs:spin")
    daemon.wait(run)
    assert daemon.look(run).outcome == "timeout"
    daemon.stop()


def test_fewer_slots_end_workers_that_are_too_many(new_battd: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = new_battd("slots = 4\n", slots=None).start()
    go = tmp_path / "go"
    run = daemon.submit("zoo.calm:wait_for_file", [str(go)] * 4)
    eventually("four run", lambda: daemon.client.run(run).counts.get(State.RUNNING) == 4)
    reload(daemon, "slots = 1\n")
    go.touch()
    assert daemon.wait(run).counts == {State.SUCCEEDED: 4}
    eventually("one slot and a spare are left", lambda: len(daemon.client.service().slots) == 2, within_s=10)
    daemon.stop()


def test_sighup_with_more_max_tasks_lets_nothing_run_twice(new_battd: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = new_battd("max_tasks = 1\n").start()
    daemon.wait(daemon.submit("zoo.calm:nothing", [[]] * 4))
    reload(daemon, "max_tasks = 1000\n")
    path = tmp_path / "calls"
    names = [f"n{number}" for number in range(300)]
    run = daemon.submit("zoo.records:count", [[str(path), name] for name in names])
    assert daemon.wait(run).counts == {State.SUCCEEDED: 300}
    assert Counter(name for name, _ in lines(path)) == Counter(names)
    assert {task.attempt for task in daemon.results(run)} == {1}
    daemon.stop()


def test_sighup_with_fewer_max_tasks_holds_for_the_workers_there_are(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd("max_tasks = 0\n").start()
    daemon.wait(daemon.submit("zoo.calm:pid", [[]] * 20))
    reload(daemon, "max_tasks = 2\n")
    run = daemon.submit("zoo.calm:pid", [[]] * 20)
    daemon.wait(run)
    pids = Counter(task.value for task in daemon.results(run))
    assert max(pids.values()) <= 2
    daemon.stop()


@pytest.mark.parametrize("broken", ["max_tasks = 'many'\n", "slotz = 3\n", "slots = [\n", 'timeout = "0s"\n'])
def test_a_broken_configuration_on_sighup_changes_nothing(battd: Daemon, broken: str) -> None:
    before = battd.client.service()
    reload(battd, broken, said="not reloaded")
    assert battd.client.service().width == before.width
    run = battd.submit("zoo.calm:echo", [1])
    assert battd.wait(run).counts == {State.SUCCEEDED: 1}


def test_sighup_names_what_needs_a_restart(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    reload(daemon, 'synchronous = "normal"\nwatchdog = "99s"\n', said="needs a restart")
    assert "synchronous" in daemon.log
    daemon.stop()


def test_the_lock_file_says_who_serves(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    said = json.loads((daemon.state_dir / "lock").read_text())
    assert said["pid"] == daemon.pid
    daemon.stop()
