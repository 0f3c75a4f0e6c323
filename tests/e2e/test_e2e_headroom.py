"""Headroom end to end: real limits around a real battd, which starts what fits, says what binds, ends every task."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outside import nurseries

from batt_supervisor.core.lifecycle import State
from batt_supervisor.testing import Daemon, eventually
from batt_supervisor.wire import HeadroomInfo, RunInfo

if TYPE_CHECKING:
    from conftest import Fence

Battctl = Callable[..., Any]
NewBattd = Callable[..., Daemon]

MIB = 2**20

CONFIG = 'retry_delay = "20ms"\n'

LONG_S = 150.0
"""For runs that take a while even on a quiet machine."""


def room(daemon: Daemon) -> HeadroomInfo:
    return daemon.client.headroom().headroom


def fenced(new_battd: NewBattd, fence: Fence, config: str = "", slots: int = 4, **given: Any) -> Daemon:
    """A battd that goes by the limits of these groups."""
    return new_battd(CONFIG + config, slots=slots, cgroups=fence.groups, **given)


def bound_by(daemon: Daemon, fence: Fence, *, pids: int | None = None, memory: int | None = None) -> HeadroomInfo:
    """Set limits around a battd that runs, and wait until it goes by them."""
    fence.limit(pids=pids, memory=memory)
    limits = {limit for limit in (pids, memory) if limit is not None}

    def seen() -> bool:
        return limits <= {one.limit for one in daemon.client.headroom().limits}

    eventually("the limits are read", seen)
    return room(daemon)


def outcomes(daemon: Daemon, run: str) -> Counter[str]:
    """Of all attempts of a run."""
    names = [task.id for task in daemon.results(run)]
    return Counter(attempt.outcome or "none" for name in names for attempt in daemon.attempts(name))


def all_succeeded(info: RunInfo, count: int) -> None:
    assert info.counts == {State.SUCCEEDED: count}, info


def at_once(folder: Path) -> int:
    """How many calls of `zoo.records:interval` there were at once, at most. One that was killed ends with the next."""
    events: list[tuple[float, int, str]] = []
    open_names: set[str] = set()
    most = 0
    for line in (folder / "log").read_text().splitlines():
        name, what, at, _pid = line.split()
        assert what != "overlap", line
        events.append((float(at), 0 if what == "end" else 1, name))
    for _, began, name in sorted(events):
        (open_names.add if began else open_names.discard)(name)
        most = max(most, len(open_names))
    return most


def whys(daemon: Daemon, run: str) -> Iterator[str]:
    """What its queued tasks say, again and again until it has ended."""
    last = daemon.task(run, daemon.client.run(run).tasks - 1)
    while daemon.client.run(run).ended_at_ms is None:
        said = daemon.client.why(last)
        if said.state is State.QUEUED:
            yield said.reason


# Threads


def test_tasks_with_pools_all_succeed_under_a_small_pids_max_and_say_what_binds(
    new_battd: NewBattd, fence: Fence, battctl: Battctl
) -> None:
    daemon = fenced(new_battd, fence).start()
    limit = fence.threads + 20  # room for two or three tasks of the four that there are slots for
    bound_by(daemon, fence, pids=limit)
    name = f"pids.max of {'/' + str(fence.pids).split('/pids/', 1)[1]}"
    run = daemon.submit("zoo.starves:nested_pool", [[4, 0.3]] * 40)
    told = next(reason for reason in whys(daemon, run) if name in reason)
    assert f"of {limit}" in told
    assert "threads short" in told
    limits = battctl(daemon, "headroom")
    assert limits.returncode == 0
    assert name in limits.stdout
    why = json.loads(battctl(daemon, "why", daemon.task(run, 39), "--json").stdout)
    assert why["state"] != "queued" or "headroom" not in why or name in why["headroom"]["limit"]
    all_succeeded(daemon.wait(run, within_s=LONG_S), 40)
    assert [task.value for task in daemon.results(run)] == [4] * 40
    assert set(outcomes(daemon, run)) == {"ok"}  # never more than there was room for
    daemon.stop()


def test_kinds_are_learned_and_told(new_battd: NewBattd, battctl: Battctl) -> None:
    daemon = new_battd(CONFIG).start()
    run = daemon.submit("zoo.starves:nested_pool", [[20, 0.4]] * 8, kind="pools of twenty")
    daemon.wait(run)

    def told() -> Any:
        kinds = {kind.kind: kind for kind in daemon.client.kinds()}
        return kinds.get("pools of twenty")

    eventually("all of it is learned and stored", lambda: (one := told()) is not None and one.attempts == 8)
    found = told()
    assert found.threads_peak >= 21
    assert found.threads_need >= found.threads_peak
    assert "pools of twenty" in battctl(daemon, "status", "--kinds").stdout
    daemon.stop()
    daemon.start()
    assert told().threads_need == found.threads_need  # it outlives battd
    daemon.stop()


def test_failures_for_want_of_threads_make_it_narrow_and_it_opens_again(new_battd: NewBattd, fence: Fence) -> None:
    """They are declared to need next to nothing, so that too many start."""
    daemon = fenced(new_battd, fence, slots=3).start()
    bound_by(daemon, fence, pids=fence.threads + 24)
    run = daemon.submit("zoo.starves:nested_pool", [[12, 0.5]] * 6, need_threads=1)
    all_succeeded(daemon.wait(run, within_s=LONG_S), 6)
    found = outcomes(daemon, run)
    assert found["out_of_threads"] > 0, found
    assert set(found) <= {"ok", "out_of_threads", "evicted"}

    def opened() -> bool:
        return room(daemon).level == "open"

    eventually("it is open again", opened)
    changes = daemon.client.headroom().recent_changes
    assert any(change.level in ("reduced", "single") for change in changes), changes
    assert any("ended out_of_threads" in change.reason for change in changes), changes
    assert changes[-1].level == "open"
    assert "now=reduced" in daemon.log or "now=single" in daemon.log
    daemon.stop()


# Memory


def test_declared_memory_is_never_overrun(new_battd: NewBattd, fence: Fence, tmp_path: Path) -> None:
    daemon = fenced(new_battd, fence).start()
    bound_by(daemon, fence, memory=700 * MIB)
    nursery = [process.pid for process in nurseries(daemon)]
    items = [[str(tmp_path), f"n{number}", 200 * MIB, 0.2] for number in range(12)]
    run = daemon.submit("zoo.starves:hog_in_interval", items, need_memory_bytes=200 * MIB)
    all_succeeded(daemon.wait(run, within_s=LONG_S), 12)
    assert outcomes(daemon, run) == {"ok": 12}
    assert at_once(tmp_path) <= 2
    assert fence.oom_kills() == 0
    assert set(nursery) <= {process.pid for process in nurseries(daemon)} or not nursery
    assert daemon.client.headroom().evictions == 0
    daemon.stop()


def test_what_nobody_declared_is_learned_and_all_succeed_in_the_end(new_battd: NewBattd, fence: Fence) -> None:
    daemon = fenced(new_battd, fence).start()
    pid = daemon.pid
    bound_by(daemon, fence, memory=700 * MIB)
    run = daemon.submit("zoo.starves:hog", [[200 * MIB, 0.3]] * 12)
    all_succeeded(daemon.wait(run, within_s=LONG_S), 12)
    found = outcomes(daemon, run)
    assert set(found) <= {"ok", "out_of_memory", "evicted"}, found
    assert found["out_of_memory"] <= 8, found
    assert found["ok"] == 12
    again = daemon.submit("zoo.starves:hog", [[200 * MIB, 0.1]] * 6)
    all_succeeded(daemon.wait(again, within_s=LONG_S), 6)
    assert outcomes(daemon, again) == {"ok": 6}  # now it is known
    assert daemon.alive()
    assert daemon.pid == pid
    assert "Traceback" not in daemon.log
    daemon.stop()


def test_a_need_beyond_the_machine_is_refused_in_figures(new_battd: NewBattd, fence: Fence, battctl: Battctl) -> None:
    daemon = fenced(new_battd, fence).start()
    bound_by(daemon, fence, memory=800 * MIB, pids=200)
    for words, said in (
        (("--memory", "750MiB"), ("750.0 MiB", "700.0 MiB (800.0 MiB, less 100.0 MiB in reserve)")),
        (("--memory", "100TiB"), ("100.0 TiB", "700.0 MiB (")),
        (("--threads", "180"), ("180", "175 (200, less 25 in reserve)")),
    ):
        refused = battctl(daemon, "submit", "zoo.calm:nothing", "--cwd", "/", *words)
        assert refused.returncode == 2, refused
        assert all(word in refused.stderr for word in said), refused.stderr
    assert daemon.client.runs() == []
    daemon.stop()


def test_one_that_needs_the_reserve_runs_alone(new_battd: NewBattd, fence: Fence, tmp_path: Path) -> None:
    daemon = fenced(new_battd, fence).start()
    found = bound_by(daemon, fence, memory=800 * MIB)
    need = found.memory_free_bytes - found.memory_reserve_bytes // 2
    items = [[str(tmp_path), f"n{number}", 10 * MIB, 0.2] for number in range(3)]
    run = daemon.submit("zoo.starves:hog_in_interval", items, need_memory_bytes=need)
    all_succeeded(daemon.wait(run), 3)
    assert at_once(tmp_path) == 1
    daemon.stop()


# Relief


def test_what_grows_past_its_need_is_evicted_and_goes_again(new_battd: NewBattd, fence: Fence) -> None:
    daemon = fenced(new_battd, fence, slots=3).start()
    free = bound_by(daemon, fence, memory=800 * MIB).memory_free_bytes
    small = daemon.submit("zoo.starves:grow", [[MIB, MIB, 0.0, 0.2]] * 9, kind="grows")
    all_succeeded(daemon.wait(small), 9)
    first, last = free * 27 // 100, free * 40 // 100  # three are too many, two are not
    run = daemon.submit("zoo.starves:grow", [[first, last, 4.0]] * 4, kind="grows", timeout_s=120)
    all_succeeded(daemon.wait(run, within_s=LONG_S), 4)
    found = outcomes(daemon, run)
    assert found["evicted"] >= 1, (found, daemon.log)
    assert set(found) <= {"ok", "evicted", "out_of_memory"}
    assert daemon.client.headroom().evictions == found["evicted"]
    assert "stopped to save the rest: memory is short" in daemon.log
    assert {task.attempt for task in daemon.results(run)} != {1}
    daemon.stop()


def test_the_only_one_is_never_stopped(new_battd: NewBattd, fence: Fence) -> None:
    daemon = fenced(new_battd, fence).start()
    found = bound_by(daemon, fence, memory=1200 * MIB)
    most = found.memory_free_bytes - found.memory_reserve_bytes // 8
    run = daemon.submit("zoo.starves:grow", args=(most // 2, most, 1.5, 2.0))
    short = found.memory_reserve_bytes // 4
    eventually("memory is short", lambda: room(daemon).memory_free_bytes < short)
    all_succeeded(daemon.wait(run), 1)
    assert outcomes(daemon, run) == {"ok": 1}
    assert daemon.client.headroom().evictions == 0
    daemon.stop()


# Several supervisors


def test_supervisors_of_one_user_never_start_more_than_fits(
    new_battd: NewBattd, fence: Fence, tmp_path: Path, battctl: Battctl
) -> None:
    ledger = tmp_path / "ledger"
    daemons = [fenced(new_battd, fence, slots=2, ledger=ledger).start() for _ in range(3)]
    need = 300 * MIB
    limit = (fence.memory_bytes + need * 5 // 2) * 8 // 7 // MIB * MIB  # two and a half of them beside the reserve
    for daemon in daemons:
        bound_by(daemon, fence, memory=limit)
    runs = []
    for number, daemon in enumerate(daemons):
        items = [[str(tmp_path), f"d{number}n{task}", need, 0.3] for task in range(4)]
        runs.append(daemon.submit("zoo.starves:hog_in_interval", items, need_memory_bytes=need))
    eventually("each sees the two others", lambda: all(len(d.client.headroom().holders) == 3 for d in daemons))
    assert str(ledger) in battctl(daemons[0], "headroom").stdout
    for daemon, run in zip(daemons, runs, strict=True):
        all_succeeded(daemon.wait(run, within_s=LONG_S), 4)
        assert outcomes(daemon, run) == {"ok": 4}
    assert at_once(tmp_path) <= 2
    assert fence.oom_kills() == 0
    for daemon in daemons:
        daemon.stop()
    assert list(ledger.glob("ledger.*.*")) == []


def test_a_supervisor_that_was_killed_leaves_no_promise(new_battd: NewBattd, fence: Fence, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    first, second = [fenced(new_battd, fence, ledger=ledger).start() for _ in range(2)]
    for daemon in (first, second):
        bound_by(daemon, fence, memory=fence.memory_bytes // MIB * MIB + 600 * MIB)
    first.submit("zoo.calm:wait_for_file", args=(str(tmp_path / "never"),), need_memory_bytes=350 * MIB)
    first.wait_for("r1", State.RUNNING)
    run = second.submit("zoo.calm:echo", [1], need_memory_bytes=350 * MIB)
    eventually("it is held", lambda: "other supervisors" in (second.client.run(run).hold or ""))
    first.kill(signal.SIGKILL)
    all_succeeded(second.wait(run), 1)
    second.stop()


# At start


def waits_for_room(daemon: Daemon) -> None:
    eventually("it waits for room", lambda: "no room to start yet" in daemon.log or not daemon.alive())
    assert daemon.alive(), daemon.log


def test_battd_waits_for_room_for_its_own_threads(new_battd: NewBattd, fence: Fence) -> None:
    fence.limit(pids=12)
    daemon = fenced(new_battd, fence)
    daemon.launch()
    waits_for_room(daemon)
    assert f"pids.max of {'/' + str(fence.pids).split('/pids/', 1)[1]}: " in daemon.log
    assert "of 12)" in daemon.log
    assert len(daemon.process.threads()) == 1
    fence.limit(pids=200)
    daemon.ready()
    run = daemon.submit("zoo.calm:echo", [1, 2, 3])
    all_succeeded(daemon.wait(run), 3)
    assert daemon.log.count("no room to start yet") <= 20  # now and then, not all the time
    daemon.stop()


def test_battd_that_waits_for_room_ends_when_it_is_asked_to(new_battd: NewBattd, fence: Fence) -> None:
    fence.limit(pids=12)
    daemon = fenced(new_battd, fence)
    daemon.launch()
    waits_for_room(daemon)
    daemon.kill(signal.SIGTERM)
    assert daemon.ended() in (0, -signal.SIGTERM)
    fence.limit(pids=200)
    daemon.start()
    daemon.stop()


def test_with_room_for_fewer_slots_it_starts_narrow_and_widens(new_battd: NewBattd, fence: Fence) -> None:
    fence.limit(pids=32)
    daemon = fenced(new_battd, fence, slots=8).start()
    assert len(daemon.client.service().slots) < 9
    run = daemon.submit("zoo.starves:nested_pool", [[4, 0.1]] * 12)
    all_succeeded(daemon.wait(run), 12)
    fence.limit(pids=400)
    eventually("it has all its slots", lambda: len(daemon.client.service().slots) == 9)
    daemon.stop()


# Turns


def test_a_large_need_that_is_held_blocks_no_small_one(new_battd: NewBattd, fence: Fence, tmp_path: Path) -> None:
    daemon = fenced(new_battd, fence).start()
    free = bound_by(daemon, fence, memory=1000 * MIB).memory_free_bytes
    go = tmp_path / "go"
    first = daemon.submit("zoo.calm:wait_for_file", args=(str(go),), need_memory_bytes=free // 2)
    daemon.wait_for(first, State.RUNNING)
    large = daemon.submit("zoo.calm:echo", ["large"] * 5, need_memory_bytes=free * 6 // 10, kind="large")
    eventually("the large one is held", lambda: "memory short" in (daemon.client.run(large).hold or ""))
    small = daemon.submit("zoo.calm:echo", range(300), need_memory_bytes=50 * MIB)
    all_succeeded(daemon.wait(small), 300)
    assert daemon.client.run(large).counts == {State.QUEUED: 5}
    go.touch()
    all_succeeded(daemon.wait(large), 5)
    daemon.stop()


def test_a_large_one_that_has_failed_blocks_no_other_of_its_run(new_battd: NewBattd, fence: Fence) -> None:
    """Once its need has doubled it waits in a line of its own."""
    daemon = fenced(new_battd, fence, slots=2).start()
    bound_by(daemon, fence, pids=fence.threads + 40)
    sizes: Sequence[int] = [60] + [2] * 30
    run = daemon.submit("zoo.starves:nested_pool", [[size, 0.05] for size in sizes])
    info = daemon.wait(run, within_s=LONG_S)
    assert info.counts == {State.SUCCEEDED: 30, State.FAILED: 1}
    failed = daemon.look(run)
    assert failed.outcome == "out_of_threads"
    assert "pids.max" in (failed.reason or "")
    daemon.stop()


# No hold for ever


def test_what_idle_workers_have_gathered_holds_nobody(new_battd: NewBattd, fence: Fence) -> None:
    """They may keep up to `max_worker_memory` each; a task that needs more than they leave has them renewed."""
    daemon = fenced(new_battd, fence).start()
    free = bound_by(daemon, fence, memory=1000 * MIB).memory_free_bytes
    each = free // 8
    leaks = daemon.submit("zoo.starves:leak_memory", [each] * 12, need_memory_bytes=each)
    all_succeeded(daemon.wait(leaks), 12)
    run = daemon.submit("zoo.calm:echo", [1], need_memory_bytes=free * 7 // 8)
    all_succeeded(daemon.wait(run), 1)
    daemon.stop()


def test_battds_own_slots_leave_room_for_the_one_task_that_needs_it(new_battd: NewBattd, fence: Fence) -> None:
    """Idle slots take four threads each: they are given up for a task that fits once they are gone."""
    daemon = fenced(new_battd, fence, slots=6).start()
    eventually("all slots are there", lambda: all(s.phase == "idle" for s in daemon.client.service().slots))
    bound_by(daemon, fence, pids=fence.threads + 10)
    run = daemon.submit("zoo.starves:nested_pool", args=(15, 0.1), need_threads=16)
    all_succeeded(daemon.wait(run), 1)
    after = daemon.submit("zoo.starves:nested_pool", [[2, 0.05]] * 20, kind="small")
    all_succeeded(daemon.wait(after), 20)
    daemon.stop()


def test_supervisors_finish_where_only_one_attempt_fits_at_a_time(
    new_battd: NewBattd, fence: Fence, tmp_path: Path
) -> None:
    """Each of theirs needs the reserve, so it runs only while nothing else does."""
    ledger = tmp_path / "ledger"
    daemons = [fenced(new_battd, fence, slots=2, ledger=ledger).start() for _ in range(2)]
    for daemon in daemons:
        free = bound_by(daemon, fence, memory=1000 * MIB).memory_free_bytes
    need = free - 60 * MIB
    runs = [
        daemon.submit(
            "zoo.records:interval",
            [[str(tmp_path), f"d{number}n{task}", 0.15] for task in range(20)],
            need_memory_bytes=need,
            kind="large",
        )
        for number, daemon in enumerate(daemons)
    ]
    for daemon, run in zip(daemons, runs, strict=True):
        all_succeeded(daemon.wait(run, within_s=LONG_S), 20)
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    order = "".join(name[1] for name, what, *_ in lines if what == "start")
    assert {"0", "1"} <= set(order[:10]), order
    assert at_once(tmp_path) == 1
    for daemon in daemons:
        daemon.stop()


def test_a_mere_guess_of_memory_holds_nobody_for_ever(new_battd: NewBattd, fence: Fence) -> None:
    """A container that is smaller than the need that is assumed where nothing is known."""
    daemon = fenced(new_battd, fence, slots=2).start()
    bound_by(daemon, fence, memory=(fence.memory_bytes // MIB + 90) * MIB)
    assert room(daemon).memory_free_bytes < 128 * MIB
    run = daemon.submit("zoo.calm:echo", range(50))
    all_succeeded(daemon.wait(run), 50)
    daemon.stop()
