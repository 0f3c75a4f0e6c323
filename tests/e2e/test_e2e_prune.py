"""Ended runs go, by rule and by name, and the state directory stays small; nothing else does."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from batt_supervisor.client import Client
from batt_supervisor.core.lifecycle import State
from batt_supervisor.errors import NotFound
from batt_supervisor.testing import Daemon, eventually
from batt_supervisor.wire import Pruned, PruneSpec

SLACK = 1024 * 4096 + 8 * 2**20 + 2**20
"""Bytes that the database's file and its write-ahead log may keep free, and what is always there."""


def taken(daemon: Daemon) -> int:
    """Bytes of the whole state directory."""
    size = 0
    for folder, _, names in os.walk(daemon.state_dir):
        for name in names:
            try:
                size += (Path(folder) / name).stat().st_size
            except FileNotFoundError:
                continue
    return size


def results_of(daemon: Daemon) -> set[str]:
    """Result files; what battd and its workers hand each other is left out."""
    return {path.name for path in (daemon.state_dir / "results").iterdir() if not path.name.startswith("request-")}


def logs_of(daemon: Daemon) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (daemon.state_dir / "logs").iterdir()}


def ended(daemon: Daemon, function: str, items: list[Any], **given: Any) -> str:
    run = daemon.submit(function, items, **given)
    daemon.wait(run)
    return run


def prune(daemon: Daemon, **given: Any) -> Pruned:
    return daemon.client.prune(PruneSpec(**given))


def names(daemon: Daemon) -> list[str]:
    return [run.name for run in daemon.client.runs(1000)]


def test_with_small_limits_the_directory_stays_small_while_tasks_run(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd('keep_runs = 3\nkeep_bytes = "3MB"\nkeep_at_least = "200ms"\nkeep_events = "1s"\n').start()
    runs = 30
    for number in range(runs):
        # 20 values in the row and 2 in files each: 450 kB, some 13 MB in all.
        run = daemon.submit("zoo.calm:big", [14_000] * 20 + [60_000] * 2, name=f"run-{number}")
        assert daemon.wait(run).counts == {State.SUCCEEDED: 22}
    eventually("no more ended runs than may be kept", lambda: len(daemon.client.runs(1000)) <= 3)
    eventually("no more result files than theirs", lambda: len(results_of(daemon)) <= 2 * 3)
    eventually("the store takes what it may", lambda: _held(daemon) <= 3_000_000)
    eventually("the directory is small", lambda: taken(daemon) <= 3_000_000 + SLACK)
    eventually("old events are gone", lambda: daemon.client.events(after=0).items[0].seq > 100)
    kept = daemon.client.runs(1000)
    assert [run.name for run in kept] == [f"run-{n}" for n in range(runs - 1, runs - 1 - len(kept), -1)]
    assert daemon.client.service().counts == ({State.SUCCEEDED: 22 * len(kept)} if kept else {})
    for run in kept:
        assert [len(result.value) for result in daemon.results(run.run)] == [14_000] * 20 + [60_000] * 2
    daemon.stop()
    assert "retention waits" not in daemon.log


def _held(daemon: Daemon) -> int:
    size = daemon.client.store_size()
    return size.database_bytes + size.results_bytes + size.logs_bytes


def test_runs_go_by_the_age_that_their_end_has(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd('keep_succeeded = "1s"\nkeep_failed = 0\nkeep_cancelled = "1s"\n').start()
    ended(daemon, "zoo.calm:nothing", [[]], name="succeeds")
    ended(daemon, "zoo.raises:value_error", ["x"], name="fails")
    cut = daemon.submit("zoo.calm:sleep", [60, 60, 60], name="cut", deadline_s=0.2)
    daemon.wait(cut)
    eventually("only what failed is kept", lambda: names(daemon) == ["fails"])
    assert "succeeded runs are kept for 1 s" in daemon.log
    assert "partial runs are kept for 1 s" in daemon.log
    # Others may be kept for ever by now, without a restart.
    daemon.configure("keep_succeeded = 0\n")
    daemon.kill(signal.SIGHUP)
    eventually("it has read them", lambda: "reloaded" in daemon.log)
    ended(daemon, "zoo.calm:nothing", [[]], name="stays")
    daemon.stop()


def test_a_run_is_removed_by_name_with_its_files_and_nothing_else(
    new_battd: Callable[..., Daemon], battctl: Callable[..., Any]
) -> None:
    daemon = new_battd(slots=1, config="max_tasks = 1\n").start()
    stays = ended(daemon, "zoo.calm:big", [40_000], name="stays")
    goes = ended(daemon, "zoo.calm:big", [40_000, 50_000], name="goes")
    prints = ended(daemon, "zoo.prints:both", ["x"], name="prints")
    task = daemon.task(prints)
    before, logs = results_of(daemon), logs_of(daemon)
    assert len(before) == 3
    done = battctl(daemon, "prune", goes, "prints", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [(run["run"], run["name"], run["tasks"]) for run in told["runs"]] == [
        (goes, "goes", 2),
        (prints, "prints", 1),
    ]
    assert told["before"]["results_bytes"] - told["after"]["results_bytes"] >= 90_000
    left = eventually("its files are gone", lambda: found if len(found := results_of(daemon)) == 1 else None)
    assert left is not None and left < before
    written = {name for name, size in logs.items() if size and name.startswith("worker")}
    eventually("its log is gone, when that has been nobody's for a while", lambda: not written & logs_of(daemon).keys())
    assert daemon.client.service().counts == {State.SUCCEEDED: 1}
    assert len(daemon.results(stays)[0].value) == 40_000
    with pytest.raises(NotFound, match="is gone: it was pruned"):
        daemon.client.run(goes)
    with pytest.raises(NotFound):
        daemon.client.task(task)
    log = daemon.client.events(after=0)
    assert [event.run for event in log.items if event.event == "removed"] == [goes, prints]
    again = battctl(daemon, "prune", "goes")
    assert (again.returncode, "no run 'goes'" in again.stderr) == (6, True)
    daemon.stop()


def test_what_has_not_ended_is_refused_and_then_nothing_is_removed(
    battd: Daemon, battctl: Callable[..., Any], tmp_path: Path
) -> None:
    done = ended(battd, "zoo.calm:nothing", [[]], name="has-ended")
    open_run = battd.submit("zoo.calm:wait_for_file", [str(tmp_path / "go")], name="is-open")
    refused = battctl(battd, "prune", done, "is-open")
    assert refused.returncode == 8
    assert f"run {open_run} (is-open) has not ended, 1 of its tasks are open; cancel it first" in refused.stderr
    assert battd.client.run(done).name == "has-ended"
    (tmp_path / "go").touch()
    battd.wait(open_run)


def test_a_dry_run_changes_nothing(battd: Daemon, battctl: Callable[..., Any]) -> None:
    for number in range(3):
        ended(battd, "zoo.calm:big", [30_000], name=f"dry-{number}")
    before = (names(battd), results_of(battd), battd.client.events(after=0).next)
    for words in (["--older-than", "0"], ["--keep", "1"], ["--max-size", "1"], ["--state", "succeeded"], ["dry-1"], []):
        told = battctl(battd, "prune", *words, "--dry-run")
        assert told.returncode == 0, told.stderr
        assert "would remove" in told.stdout
    assert (names(battd), results_of(battd), battd.client.events(after=0).next) == before
    spared = battctl(battd, "prune", "--keep", "1", "--dry-run", "--json")
    assert battd.client.runs(1)[0].run not in {run["run"] for run in json.loads(spared.stdout)["runs"]}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["r1", "--keep", "3"], 2, "name runs, or say which, not both"),
        (["t1"], 2, "'t1' is a task; only whole runs are removed"),
        (["--older-than", "soon"], 2, "--older-than: 'soon' is not a duration"),
        (["--max-size", "much"], 2, "--max-size: 'much' is not a size"),
        (["--keep", "-1"], 2, "--keep"),
        (["--state", "partial"], 2, "--state"),
        (["nightli"], 6, "did you mean 'nightly'?"),
    ],
)
def test_what_cannot_be_meant_is_told(
    battd: Daemon, battctl: Callable[..., Any], words: list[str], code: int, said: str
) -> None:
    ended(battd, "zoo.calm:nothing", [[]], name="nightly")
    refused = battctl(battd, "prune", *words)
    assert (refused.returncode, said in refused.stderr) == (code, True), refused.stderr


def test_by_size_those_that_ended_first_go_until_the_rest_fits(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    runs = [ended(daemon, "zoo.calm:big", [200_000] * 5, name=f"run-{n}") for n in range(4)]
    size = daemon.client.store_size()
    total = size.database_bytes + size.results_bytes + size.logs_bytes
    would = prune(daemon, max_bytes=total - 1_500_000, dry_run=True)
    assert [run.run for run in would.runs] == runs[:2]
    done = prune(daemon, max_bytes=total - 1_500_000)
    assert [run.run for run in done.runs] == runs[:2]
    assert done.after.results_bytes <= done.before.results_bytes - 2_000_000
    assert [run.run for run in prune(daemon, keep=1).runs] == [runs[2]]
    assert [run.run for run in prune(daemon, state="failed").runs] == []
    assert [run.run for run in prune(daemon, older_than_s=3600).runs] == []
    assert [run.run for run in prune(daemon, state="succeeded").runs] == [runs[3]]
    assert results_of(daemon) == set()
    daemon.stop()


def test_results_that_are_being_paged_through_end_by_a_clear_error(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    ended(daemon, "zoo.calm:echo", [["old"]] * 50, name="twice")
    run = ended(daemon, "zoo.calm:echo", [[n] for n in range(3_000)], name="twice")
    reading = daemon.client.all_results("twice")
    seen = [next(reading).value for _ in range(1_000)]
    assert [one.run for one in prune(daemon, runs=(run,)).runs] == [run]
    with pytest.raises(NotFound, match="is gone: it was pruned"):
        seen += [result.value for result in reading]
    assert seen == list(range(1_000)), "whole pages, and nothing of the earlier run of that name"
    daemon.stop()


def test_a_page_is_whole_or_an_error_while_its_run_is_removed(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    for number in range(3):
        run = ended(daemon, "zoo.calm:echo", [[n] for n in range(1_500)], name=f"many-{number}")
        with Client(daemon.socket) as other:
            removing = Thread(target=other.prune, args=(PruneSpec(runs=(run,)),))
            removing.start()
            with pytest.raises(NotFound, match="is gone: it was pruned"):
                while True:
                    assert len(daemon.client.results(run, limit=1_500).items) == 1_500, "half of a run"
                    assert daemon.client.run(run).counts == {State.SUCCEEDED: 1_500}
            removing.join(60)
            assert not removing.is_alive()
    assert daemon.client.service().counts == {}
    daemon.stop()


def test_a_battd_killed_while_it_removes_goes_on_with_it(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    stays = ended(daemon, "zoo.calm:big", [40_000], name="stays")
    goes = ended(daemon, "zoo.calm:big", [20_000] * 300, name="goes")
    prune(daemon, runs=(goes,), wait_s=0)
    daemon.kill(signal.SIGKILL)
    daemon.start()
    assert names(daemon) == ["stays"]
    eventually("nothing is being removed any more", lambda: not daemon.client.store_size().removing)
    eventually("its files are gone", lambda: len(results_of(daemon)) == 1)
    assert len(daemon.results(stays)[0].value) == 40_000
    daemon.stop()


def test_files_wait_for_a_backup_that_holds_them(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    run = ended(daemon, "zoo.calm:big", [40_000], name="goes")
    with open(daemon.state_dir / "files.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        found = prune(daemon, runs=(run,), wait_s=0.5)
        assert found.after.removing, "the answer does not wait for ever"
        assert len(results_of(daemon)) == 1
        assert names(daemon) == []
    eventually("the file is gone", lambda: results_of(daemon) == set())
    eventually("and that is all", lambda: not daemon.client.store_size().removing)
    daemon.stop()


def test_old_logs_that_nobody_names_are_removed_and_others_are_not(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    run = ended(daemon, "zoo.prints:both", ["kept"], name="prints")
    daemon.stop()
    logs = daemon.state_dir / "logs"
    (logs / "worker-1-1.log").write_text("what a worker said that came to nothing\n")
    (logs / "nursery-1-1.log").write_text("an earlier battd's\n")
    (logs / "worker-2-1.log").write_text("of today\n")
    long_ago = time.time() - 2 * 86_400
    for path in logs.iterdir():
        if path.name != "worker-2-1.log":
            os.utime(path, (long_ago, long_ago))
    daemon.start()
    eventually("they are gone", lambda: not {"worker-1-1.log", "nursery-1-1.log"} & logs_of(daemon).keys())
    assert "worker-2-1.log" in logs_of(daemon)
    assert "out kept" in daemon.client.log(daemon.task(run)).text
    daemon.stop()
