"""The stress tests of the seeds: what their pools died of. Here every task ends, and the story told of it is true."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batt_supervisor.core.lifecycle import State
from batt_supervisor.testing import Daemon, eventually

if TYPE_CHECKING:
    from conftest import Fence, Notebook

NewBattd = Callable[..., Daemon]
Battctl = Callable[..., Any]

MIB = 2**20

CONFIG = 'retry_delay = "20ms"\n'

LONG_S = 150.0

ULIMIT_V = "ulimit -v 1048576"
"""As the seeds' own script has it: 1 GiB of address space for each process."""

LONER = 64_917
"""A user that nobody else is, so that no other's threads count."""

SLEEPERS = """
import threading, time
for _ in range(59):
    threading.Thread(target=time.sleep, args=(300,), daemon=True).start()
print("there", flush=True)
time.sleep(300)
"""


def all_succeeded(daemon: Daemon, run: str, count: int) -> None:
    info = daemon.wait(run, within_s=LONG_S)
    assert info.counts == {State.SUCCEEDED: count}, (info, daemon.log[-4000:])


def outcomes(daemon: Daemon, run: str) -> Counter[str]:
    """Of all attempts of a run."""
    names = [task.id for task in daemon.results(run)]
    return Counter(attempt.outcome or "none" for name in names for attempt in daemon.attempts(name))


def test_sixty_sleeping_threads_of_somebody_else(new_battd: NewBattd, fence: Fence, battctl: Battctl) -> None:
    """The seeds counted the threads of their own process, and so never saw these."""
    daemon = new_battd(CONFIG, slots=4, cgroups=fence.groups).start()
    other = fence.start(sys.executable, "-c", SLEEPERS)
    assert other.stdout is not None
    assert other.stdout.readline() == b"there\n"
    fence.limit(pids=fence.threads + 24)
    seen = lambda: "pids.max" in daemon.client.headroom().headroom.threads_limit  # noqa: E731
    eventually("the limit binds", seen)
    used = next(one.used for one in daemon.client.headroom().limits if one.name.startswith("pids.max"))
    assert used >= 60
    run = daemon.submit("zoo.starves:nested_pool", [[8, 0.1]] * 24)
    all_succeeded(daemon, run, 24)
    other.kill()
    other.wait()
    other.stdout.close()
    eventually("they are gone from it", lambda: daemon.client.headroom().headroom.threads_free > 60)
    again = daemon.submit("zoo.starves:nested_pool", [[8, 0.1]] * 12)
    all_succeeded(daemon, again, 12)
    assert set(outcomes(daemon, again)) == {"ok"}
    daemon.stop()


def test_three_runs_of_four_hundred_tiny_tasks_at_once(new_battd: NewBattd, fence: Fence) -> None:
    daemon = new_battd(CONFIG, slots=4, cgroups=fence.groups).start()
    fence.limit(pids=fence.threads + 16)
    runs = [daemon.submit("zoo.calm:echo", range(400), name=f"run {number}") for number in range(3)]
    for run in runs:
        all_succeeded(daemon, run, 400)
        assert [task.value for task in daemon.results(run)] == list(range(400))
        assert {task.attempt for task in daemon.results(run)} == {1}
    daemon.stop()


def test_three_instances_of_four_hundred_tasks_at_once(new_battd: NewBattd, fence: Fence, tmp_path: Path) -> None:
    """Started at the same time, under one limit that is too small for all of their slots."""
    fence.limit(pids=110)
    given: dict[str, Any] = {"slots": 4, "cgroups": fence.groups, "ledger": tmp_path / "ledger"}
    daemons = [new_battd(CONFIG, **given) for _ in range(3)]
    for daemon in daemons:
        daemon.launch()
    for daemon in daemons:
        daemon.ready()
    runs = [daemon.submit("zoo.starves:nested_pool", [[4, 0.0]] * 400) for daemon in daemons]
    for daemon, run in zip(daemons, runs, strict=True):
        all_succeeded(daemon, run, 400)
    for daemon in daemons:
        assert "Traceback" not in daemon.log
        daemon.stop()


# One GiB of address space


def under_ulimit_v(daemon: Daemon) -> None:
    pools = daemon.submit("zoo.starves:nested_pool", [[8, 0.2]] * 24)
    all_succeeded(daemon, pools, 24)
    assert outcomes(daemon, pools) == {"ok": 24}
    assert len(daemon.client.service().slots) == 9
    many = daemon.submit("zoo.starves:nested_pool", args=(400, 0.1), kind="too many")
    assert daemon.wait(many).counts == {State.FAILED: 1}
    for attempt in daemon.attempts(many):
        assert attempt.outcome == "out_of_threads"
        assert "RLIMIT_AS" in (attempt.reason or ""), attempt
    after = daemon.submit("zoo.calm:echo", range(100))
    all_succeeded(daemon, after, 100)
    large = daemon.submit("zoo.starves:hog", args=(1200 * MIB, 0.1))
    assert daemon.wait(large).counts == {State.FAILED: 1}
    assert daemon.look(large).outcome == "out_of_memory"
    assert "RLIMIT_AS" in (daemon.look(large).reason or "")


def test_battd_and_its_tasks_under_one_gib_of_address_space(new_battd: NewBattd, battctl: Battctl) -> None:
    daemon = new_battd(CONFIG, slots=8, before=ULIMIT_V).start()
    under_ulimit_v(daemon)
    assert "RLIMIT_AS" in battctl(daemon, "headroom").stdout
    refused = battctl(daemon, "submit", "zoo.calm:nothing", "--cwd", "/", "--memory", "1GiB")
    assert refused.returncode == 2
    assert "more than this machine has" in refused.stderr
    daemon.stop()


# A limit of the user's threads, which does not bind root


def test_rlimit_nproc_is_named_and_kept_to(notebook: Notebook) -> None:
    if os.geteuid() != 0:
        pytest.skip("others' processes of this user would count, too")
    before = "ulimit -u 60 2>/dev/null || ulimit -p 60"  # as bash and as dash call it
    given = notebook.given | {"user": LONER, "slots": 4, "before": before}
    notebook.folder.chmod(0o711)  # the interpreter is in there
    home = Path(tempfile.mkdtemp(prefix="batt-nproc-", dir="/tmp"))
    try:
        with Daemon(home, config=CONFIG, **given) as daemon:
            daemon.start()
            found = daemon.client.headroom().headroom
            assert f"RLIMIT_NPROC of uid {LONER}" in found.threads_limit
            assert "of 60" in found.threads_limit
            run = daemon.submit("zoo.starves:nested_pool", [[8, 0.2]] * 24)
            all_succeeded(daemon, run, 24)
            too_many = daemon.submit("zoo.starves:nested_pool", args=(80, 0.1), kind="too many")
            assert daemon.wait(too_many).counts == {State.FAILED: 1}
            assert "RLIMIT_NPROC" in (daemon.look(too_many).reason or "")
            daemon.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


# Leaks


def test_tasks_that_leak_threads_and_memory(new_battd: NewBattd) -> None:
    """Each would kill its process after some dozen calls; workers are renewed before."""
    daemon = new_battd(CONFIG + 'max_worker_memory = "200MiB"\n', slots=4, before=ULIMIT_V).start()
    memory = daemon.submit("zoo.starves:leak_memory", [40 * MIB] * 60)
    threads = daemon.submit("zoo.starves:leak_threads", [6] * 60)
    all_succeeded(daemon, memory, 60)
    all_succeeded(daemon, threads, 60)
    assert set(outcomes(daemon, memory)) == {"ok"}
    assert set(outcomes(daemon, threads)) == {"ok"}
    assert {task.value for task in daemon.results(threads)} == {6}  # what a task leaves is gone before the next
    assert max(task.value for task in daemon.results(memory)) < 400 * MIB
    daemon.stop()
    assert daemon.orphans() == []
