"""What one reading of the machine costs, in four levels of control groups with limits, beside psutil's of memory alone.

As root on a machine with cgroup v1 the groups are real; elsewhere they are files in a folder, which cost about as much.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from figures import Findings, quantile, table

from batt_supervisor.headroom.cgroup import Group
from batt_supervisor.headroom.host import Host
from batt_supervisor.headroom.limits import Kernel
from batt_supervisor.headroom.machine import FIND_S, SLOW_S, MachineHeadroom
from batt_supervisor.headroom.user import threads_of
from batt_supervisor.headroom.where import enclosing

LEVELS = 4
APART_S = 0.05
"""How far readings are apart; the time is handed in, so nobody waits for it. battd reads at every plan where room is
scarce, and every 0.25 to 1 s where there is plenty: every second reading is with limits then, or each of them."""

PROC = Path("/proc")
NOBODY = 65_534
"""Whose threads are counted; it makes no difference."""

LIMITS = {"pids": ("pids.max", 10_000), "memory": ("memory.limit_in_bytes", 2**33)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="What a reading of the machine costs, in four levels of control groups."
    )
    parser.add_argument("--rounds", type=int, default=5_000, help="readings (default: %(default)s)")
    parser.add_argument("--inside", type=json.loads, help=argparse.SUPPRESS)  # this very program, in the groups
    given = parser.parse_args()
    if given.rounds < 100:
        parser.error("--rounds must be at least 100")
    if given.inside:
        for file in given.inside["enter"]:
            Path(file).write_text(str(os.getpid()))
        print(json.dumps(measure(given.inside["root"], Path(given.inside["proc"]), given.rounds)))
        return
    with tempfile.TemporaryDirectory() as folder, groups() as entrances:
        if entrances:
            kind = "real groups (cgroup v1)"
            place = {"root": "auto", "proc": str(PROC), "enter": entrances}
        else:
            kind = "groups written into a folder"
            place = {"root": folder, "proc": f"{folder}/proc", "enter": []}
            lay_out(Path(folder))
        command = [sys.executable, __file__, "--rounds", str(given.rounds), "--inside", json.dumps(place)]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    report(found, kind, given.rounds)


# Four levels


@contextmanager
def groups() -> Iterator[list[str]]:
    """Four levels below our own groups in both hierarchies: where the innermost are entered, or nothing."""
    made: list[Path] = []
    entrances = []
    try:
        for controller, (name, limit) in LIMITS.items():
            own = [one for one in enclosing("auto", PROC).found if one.controller == controller]
            group = Path(own[-1].folder) if own else None
            if group is None or not os.access(group, os.W_OK):
                break
            for level in range(LEVELS):
                group /= f"batt-bench-{os.getpid()}-{level}"
                group.mkdir()
                made.append(group)
                (group / name).write_text(str(limit - level))
            entrances.append(f"{group}/cgroup.procs")
        yield entrances if len(entrances) == len(LIMITS) else []
    finally:
        for group in reversed(made):
            with suppress(FileNotFoundError):
                remove(group)


def remove(group: Path) -> None:
    """The kernel lets a group go a moment after its last process."""
    until_s = time.monotonic() + 10
    while True:
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.01)
        else:
            return


def lay_out(root: Path) -> None:
    """The same as files, and a /proc that says that this process is in them."""
    path = "".join(f"/level-{level}" for level in range(LEVELS))
    for controller, (name, limit) in LIMITS.items():
        group = root / controller
        group.mkdir()
        for level in range(LEVELS):
            group /= f"level-{level}"
            group.mkdir()
            files = {name: limit - level, "pids.current": 70, "memory.usage_in_bytes": 2**30}
            for file, number in files.items():
                (group / file).write_text(f"{number}\n")
            # As long as the kernel's.
            (group / "memory.stat").write_text("total_cache 199561216\n" * 40 + "total_inactive_file 83963904\n")
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("".join(f"9:{controller}:{path}\n" for controller in LIMITS))
    for name in ("loadavg", "meminfo", "sys", "pressure", "self/status", "self/uid_map"):
        (root / "proc" / name).symlink_to(PROC / name)


# Measured inside


def measure(root: str, proc: Path, rounds: int) -> dict[str, dict[str, float] | int]:
    """p50 and p99, in µs, by what is read."""
    gc.disable()
    headroom = MachineHeadroom(keep_s=0, proc=proc, cgroup_root=root)
    now_s = 0.0

    def read() -> None:
        nonlocal now_s
        now_s += APART_S
        headroom.read(now_s)

    def read_all() -> None:
        """With everything that is otherwise read now and then, but groups not looked up."""
        nonlocal now_s
        now_s += SLOW_S
        headroom.read(now_s)

    def read_found() -> None:
        nonlocal now_s
        now_s += FIND_S
        headroom.read(now_s)

    host, kernel = Host(proc), Kernel(proc)
    inside = [Group(place) for place in enclosing(root, proc).found]
    for part in (host, kernel, *inside):
        part.refresh()

    def look_at_groups() -> None:
        for group in inside:
            list(group.limits())

    reading = headroom.read(0.0)
    found: dict[str, dict[str, float] | int] = {
        "reading": timed(read, rounds),
        "psutil": timed(psutil.virtual_memory, rounds),
        "host": timed(host.look, rounds),
        "kernel": timed(lambda: list(kernel.limits(100)), rounds),
        "groups": timed(look_at_groups, rounds),
        "all": timed(read_all, rounds // 5),
        "found": timed(read_found, rounds // 20),
        "scan": timed(lambda: threads_of(PROC, NOBODY), 40),
        "descriptors": headroom.descriptors,
        "limits": len(reading.limits),
        "processes": len(psutil.pids()),
    }
    headroom.close()
    return found


def timed(look: Callable[[], object], rounds: int) -> dict[str, float]:
    took = []
    for _ in range(rounds):
        began = time.perf_counter_ns()
        look()
        took.append((time.perf_counter_ns() - began) / 1e3)
    return {"p50": quantile(took, 0.5), "p99": quantile(took, 0.99)}


def report(told: dict[str, dict[str, float] | int], kind: str, rounds: int) -> None:
    found = Findings()

    def add(part: str, what: str, name: str, *, hold: str = "", note: str = "") -> None:
        times = told[name]
        assert isinstance(times, dict)
        psutil_times = told["psutil"]
        assert isinstance(psutil_times, dict)
        for quantile_name in ("p50", "p99"):
            peer = psutil_times[quantile_name] if name == "reading" else None
            wanted = hold if quantile_name == "p50" else ""
            found.add(part, f"{what}, {quantile_name}", times[quantile_name], "µs", peer=peer, hold=wanted, note=note)

    whole = f"One reading in {LEVELS} levels of pids and memory, {told['limits']} limits; peer: psutil.virtual_memory()"
    add(
        whole,
        "everything",
        "reading",
        hold="100 µs",
        note=f"{APART_S * 1e3:g} ms apart; one in {SLOW_S / APART_S:g} with limits",
    )
    parts = "Its parts"
    add(parts, "memory of the host, thread total", "host")
    add(parts, "kernel.threads-max, kernel.pid_max", "kernel")
    add(parts, "what is used in every group", "groups")
    seldom = "Now and then"
    add(seldom, f"a reading with limits, quotas, pressure (every {SLOW_S:g} s)", "all")
    add(seldom, f"a reading that looks up the groups (every {FIND_S:g} s)", "found")
    add(seldom, "a count of the user's threads (not for root)", "scan", note=f"{told['processes']} processes")
    print(f"Python {platform.python_version()}, Linux {platform.release()}, {rounds} readings, {kind}")
    print(f"{told['descriptors']} descriptors held")
    print()
    print(table(found.figures))


if __name__ == "__main__":
    main()
