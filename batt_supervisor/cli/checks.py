"""What `battctl doctor` judges: each check takes what it needs from a `Host` (doctor.py) and gives its verdict.

`MACHINE` is the table of them. What battd itself says is judged in doctor.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batt_supervisor.units import format_size

if TYPE_CHECKING:
    from batt_supervisor.cli.doctor import Group, Host

MIB: Final = 2**20

THREAD_BYTES: Final = 11 * MIB
"""What a new thread of a worker takes of the address space, as battd starts them (MALLOC_ARENA_MAX=2, stacks of 8 MiB):
92 were started within 1 GiB. battd's own take less."""

LARGE_STACK_BYTES: Final = 64 * MIB

BATTD_FILES, SLOT_FILES = 220, 18
"""Descriptors that battd has for itself, and for each slot and the spare one (daemon/main.py; a test compares)."""

WORKER_SCORE: Final = 500
"""The oom_score_adj that workers give themselves (worker/boot.py)."""

UNLIMITED: Final = 2**62
"""cgroup v1 writes a number near 2**63 where v2 says `max`."""

# SQLite's write-ahead log lives in shared memory, which is not shared between the machines of a network file system.
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "gpfs", "afs", "beegfs"}
)


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Check:
    """A verdict: what was found, and what to do about it."""

    name: str
    level: Level
    found: str
    advice: str = ""


# Processes and how they end


def control_groups(host: Host) -> Iterator[Check]:
    """Where battd may make groups, as far as we are the same user; of another's battd, `battd ends trees` tells."""
    if host.process != "self" and host.uid != os.getuid():
        return
    name = "control groups"
    pids, unified = host.own_group("pids"), host.own_group("")
    of_v1 = [group for group in (pids, host.own_group("memory")) if group is not None and _writable(group.folder)]
    if pids is not None and pids in of_v1:
        places = " and ".join(f"{group.controller} of {group.path}" for group in of_v1)
        if len(of_v1) == 2:
            yield Check(name, Level.OK, f"v1, writable: {places}")
        else:
            advice = "the kernel does not hold tasks' memory limits; have v1 `memory` writable as well"
            yield Check(name, Level.WARN, f"v1, writable: {places}", advice)
        return
    if unified is not None and _writable(unified.folder):
        has = host.text(unified.folder / "cgroup.controllers").split()
        found = f"v2, writable: {unified.path} with {', '.join(has) or 'no controllers'}"
        if {"memory", "pids"} <= set(has):
            yield Check(name, Level.OK, found)
        else:
            yield Check(name, Level.WARN, found, "the kernel limits nothing there; Delegate= must name memory and pids")
        return
    there = [f"v1 {g.controller} of {g.path}" if g.controller else f"v2 {g.path}" for g in (pids, unified) if g]
    found = f"none is writable ({', '.join(there)})" if there else "none can be seen"
    advice = (
        "tasks' memory and threads are measured, and not held by the kernel; run battd as root, or by systemd with "
        "Delegate=cpu memory pids"
    )
    yield Check(name, Level.WARN, found, advice)


def _writable(folder: Path) -> bool:
    return (folder / "cgroup.procs").exists() and os.access(folder, os.W_OK | os.X_OK)


def kill_method(host: Host) -> Iterator[Check]:
    """How battd can find all that an attempt has started, without control groups."""
    children = any(host.at(f"/proc/{host.process}/task").glob("*/children"))
    if not host.subreaper():
        advice = "what leaves its worker's process tree is found only by control groups; allow prctl() in the sandbox"
        yield Check("process trees", Level.WARN, "there are no subreapers", advice)
    elif children:
        yield Check("process trees", Level.OK, "walked below subreapers")
    else:
        advice = "the kernel lacks CONFIG_PROC_CHILDREN; process trees are found by a slower search of /proc"
        yield Check("process trees", Level.WARN, "searched for in /proc, below subreapers", advice)


# Limits of processes


def address_space(host: Host) -> Iterator[Check]:
    """RLIMIT_AS, which counts what threads reserve, not what they use."""
    limit = host.limit("Max address space")
    if limit is None:
        yield Check("address space", Level.OK, "unlimited")
        return
    threads = limit // THREAD_BYTES
    found = f"limited to {format_size(limit)} (ulimit -v): some {threads} threads in a process"
    if threads < 32:
        yield Check("address space", Level.BAD, found, "lift the limit with `ulimit -v unlimited`")
    else:
        yield Check("address space", Level.OK, found)


def stack(host: Host) -> Iterator[Check]:
    """RLIMIT_STACK, which each new thread reserves as address space."""
    limit = host.limit("Max stack size")
    if limit is None:
        if not host.proc("limits"):
            yield Check("thread stacks", Level.WARN, "cannot be read", "is /proc mounted?")
            return
        advice = "a recursion without end in C code takes all memory before it crashes; set `ulimit -s 8192`"
        yield Check("thread stacks", Level.WARN, "unlimited", advice)
    elif limit > LARGE_STACK_BYTES:
        advice = "each new thread reserves so much, which `ulimit -v` and strict overcommit count; set `ulimit -s 8192`"
        yield Check("thread stacks", Level.WARN, format_size(limit), advice)
    else:
        yield Check("thread stacks", Level.OK, format_size(limit))


def open_files(host: Host) -> Iterator[Check]:
    """RLIMIT_NOFILE: battd raises it to the hard limit for itself; tasks have the soft one."""
    soft, hard = host.limit("Max open files"), host.limit("Max open files", hard=True)
    slots = len(os.sched_getaffinity(0)) if host.slots is None else host.slots
    needed = BATTD_FILES + SLOT_FILES * (slots + 1)
    found = f"{_shown(soft)} of {_shown(hard)}; battd needs {needed} for {slots} slots"
    if hard is not None and hard < needed:
        yield Check("open files", Level.BAD, found, "raise `ulimit -Hn`, or give battd fewer slots")
    elif soft is not None and soft < 1024:
        level = Level.BAD if soft < 256 else Level.WARN
        yield Check("open files", level, found, "raise `ulimit -n` to 1024 or more before battd starts: tasks get it")
    else:
        yield Check("open files", Level.OK, found)


def _shown(limit: int | None) -> str:
    return "unlimited" if limit is None else str(limit)


def user_processes(host: Host) -> Iterator[Check]:
    """RLIMIT_NPROC: all threads of this user, in whatever program; it does not bind root."""
    limit = host.limit("Max processes")
    if limit is None or host.uid == 0:
        found = "unlimited" if limit is None else f"{limit}, not binding for root"
        yield Check("user's processes", Level.OK, found)
        return
    used = _threads_of_user(host)
    yield _share("user's processes", used, limit, "raise `ulimit -u`, or end what this user does not need")


def _threads_of_user(host: Host) -> int:
    total = 0
    for status in host.at("/proc").glob("[0-9]*/status"):
        text = host.text(status)
        uid = re.search(r"^Uid:\s+(\d+)", text, re.MULTILINE)
        threads = re.search(r"^Threads:\s+(\d+)", text, re.MULTILINE)
        if uid and threads and int(uid[1]) == host.uid:
            total += int(threads[1])
    return total


# Limits of the machine, and of the control groups around battd


def kernel_threads(host: Host) -> Iterator[Check]:
    """Threads on the whole machine, the number behind the slash in /proc/loadavg, against what the kernel allows."""
    name = "kernel's threads"
    loadavg = re.search(r"/(\d+)", host.text("/proc/loadavg"))
    used = int(loadavg[1]) if loadavg else 0
    limits = [
        (limit, f"kernel.{file}")
        for file in ("pid_max", "threads-max")
        if (limit := host.number(f"/proc/sys/kernel/{file}")) is not None
    ]
    if not limits:
        yield Check(name, Level.WARN, f"{used} in use, limits cannot be read", "is /proc mounted?")
        return
    limit, by = min(limits)
    yield _share(name, used, limit, f"raise {by} with sysctl", f" ({by})", low=4096)


def group_threads(host: Host) -> Iterator[Check]:
    """pids.max of every group around battd."""
    limited = False
    for group in host.groups:
        limit = host.number(group.folder / "pids.max")
        if group.controller != "memory" and limit is not None and limit < UNLIMITED:
            limited = True
            used = host.number(group.folder / "pids.current") or 0
            advice = f"raise pids.max of {group.path} (systemd: TasksMax=; docker: --pids-limit)"
            yield _share("threads by cgroup", used, limit, advice, f" (pids.max of {group.path})")
    if not limited:
        yield Check("threads by cgroup", Level.OK, "no group around battd limits them")


def _share(name: str, used: int, limit: int, advice: str, by: str = "", *, low: int = 0) -> Check:
    found = f"{used} of {limit} in use{by}"
    free = limit - used
    if free < 64:
        return Check(name, Level.BAD, found, advice)
    if free < 512 or used > 0.9 * limit or limit < low:
        return Check(name, Level.WARN, found, advice)
    return Check(name, Level.OK, found)


def memory(host: Host) -> Iterator[Check]:
    total, available = host.memory.get("MemTotal"), host.memory.get("MemAvailable")
    if total is None or available is None:
        yield Check("memory", Level.WARN, "cannot be read", "is /proc mounted?")
        return
    found = f"{format_size(available)} of {format_size(total)} available"
    if available < 256 * MIB:
        yield Check("memory", Level.BAD, found, "battd starts nothing before something else gives memory back")
    elif available < 2**30:
        yield Check("memory", Level.WARN, found, "few tasks will run at once")
    else:
        yield Check("memory", Level.OK, found)


def group_memory(host: Host) -> Iterator[Check]:
    """Limits of the groups around battd that are smaller than the host's memory."""
    host_bytes = host.memory.get("MemTotal", UNLIMITED)
    limited = False
    for group in host.groups:
        files = ("memory.max", "memory.high") if group.controller == "" else ("memory.limit_in_bytes",)
        for file in files:
            limit = host.number(group.folder / file)
            if group.controller == "pids" or limit is None or limit >= host_bytes:
                continue
            limited = True
            free = max(0, limit - _working_set(host, group))
            found = (
                f"{file} of {group.path}: {format_size(limit)}, {format_size(free)} free; the host has "
                f"{format_size(host_bytes)}: tasks are admitted by the smaller"
            )
            if free < 256 * MIB:
                advice = f"few tasks will run at once, if any; raise {file} of {group.path}"
                yield Check("memory by cgroup", Level.WARN, found, advice)
            else:
                yield Check("memory by cgroup", Level.OK, found)
    if not limited:
        yield Check("memory by cgroup", Level.OK, "no group around battd has less than the host")


def _working_set(host: Host, group: Group) -> int:
    """What a group uses and cannot give back at once: file cache that nobody has used lately is as good as free."""
    v1 = group.controller == "memory"
    used = host.number(group.folder / ("memory.usage_in_bytes" if v1 else "memory.current")) or 0
    word = "total_inactive_file" if v1 else "inactive_file"
    idle = re.search(rf"^{word} (\d+)", host.text(group.folder / "memory.stat"), re.MULTILINE)
    return max(0, used - (int(idle[1]) if idle else 0))


def swap(host: Host) -> Iterator[Check]:
    total, free = host.memory.get("SwapTotal", 0), host.memory.get("SwapFree", 0)
    found = f"{format_size(free)} of {format_size(total)} free" if total else "none"
    if total and free < 0.1 * total:
        advice = "memory has been short here: end what takes it, or declare what tasks need (need_memory)"
        yield Check("swap", Level.WARN, found, advice)
    else:
        yield Check("swap", Level.OK, found)


def overcommit(host: Host) -> Iterator[Check]:
    """vm.overcommit_memory: 2 counts what processes reserve, threads' stacks among it, and not what they use."""
    mode = host.number("/proc/sys/vm/overcommit_memory")
    if mode != 2:
        said = {0: "0, by the kernel's judgement", 1: "1, nothing is refused"}
        yield Check("overcommit", Level.OK, said.get(-1 if mode is None else mode, "unknown"))
        return
    limit, committed = host.memory.get("CommitLimit", 0), host.memory.get("Committed_AS", 0)
    left = max(0, limit - committed)
    found = f"2, strict: {format_size(left)} of {format_size(limit)} may still be reserved"
    if left < host.memory.get("MemAvailable", 0):
        advice = "the commit limit binds before memory does; raise vm.overcommit_ratio, or set vm.overcommit_memory=0"
        yield Check("overcommit", Level.BAD if left < 256 * MIB else Level.WARN, found, advice)
    else:
        yield Check("overcommit", Level.OK, found)


# When memory runs out all the same


def oom_score(host: Host) -> Iterator[Check]:
    """Whom the kernel takes first: it must be a worker."""
    try:
        score = int(host.proc("oom_score_adj"))
    except ValueError:
        yield Check("oom score", Level.WARN, "cannot be read", "the kernel may take battd before its workers")
        return
    found = f"battd {score}, workers {WORKER_SCORE}"
    if score > 0:
        advice = "the kernel takes battd early when memory runs out; start it with an oom_score_adj of 0 or less"
        yield Check("oom score", Level.WARN, found, advice)
    else:
        yield Check("oom score", Level.OK, found)


def systemd(host: Host) -> Iterator[Check]:
    """What the unit says, where battd runs in one: by default one task that is out of memory ends the whole unit."""
    if host.environ is not None and "INVOCATION_ID" not in host.environ:
        return
    steps = host.proc("cgroup").replace(":", "/").split()
    units = [step for line in steps for step in line.split("/") if step.endswith(".service")]
    if not units or units[-1].startswith("user@"):
        return
    user = any(unit.startswith("user@") for unit in units)
    asked = ["--user"] if user else []
    answer = host.systemctl([*asked, "show", "-p", "OOMPolicy", "-p", "Delegate", units[-1]])
    said = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
    policy, delegate = said.get("OOMPolicy", "unknown"), said.get("Delegate", "unknown")
    found = f"{units[-1]}: OOMPolicy={policy}, Delegate={delegate}"
    wrong = []
    if policy != "continue":
        wrong.append("OOMPolicy=continue, or one task that is out of memory ends all")
    if delegate != "yes":
        wrong.append("Delegate=cpu memory pids, for control groups of its own")
    advice = f"the unit needs {'; and '.join(wrong)}" if wrong else ""
    yield Check("systemd", Level.WARN if wrong else Level.OK, found, advice)


# Folders


def shared_memory(host: Host) -> Iterator[Check]:
    """/dev/shm: supervisors of one user meet there, and tasks' own multiprocessing needs it."""
    name, place = "/dev/shm", host.at("/dev/shm")
    if not place.is_dir():
        advice = "tasks that use multiprocessing's locks or shared memory fail; mount a tmpfs there"
        yield Check(name, Level.WARN, "is not there", advice)
        return
    kind = host.file_system(place) or "unknown file system"
    if not os.access(place, os.W_OK | os.X_OK):
        advice = "tasks that use multiprocessing's locks or shared memory fail; `chmod 1777 /dev/shm` as root"
        yield Check(name, Level.WARN, f"is not writable ({kind})", advice)
    elif is_remote(kind):
        yield Check(name, Level.WARN, f"is on a network file system ({kind})", "mount a tmpfs there")
    else:
        yield Check(name, Level.OK, f"writable ({kind})")


def is_remote(kind: str) -> bool:
    return kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse.ssh")


def state_dir(host: Host, path: str, *, mine: bool) -> Check:
    """The state directory, or the nearest folder above it that is there.

    Args:
        mine: It is this user who would have to write to it; with another user's battd it need not be.
    """
    wanted = place = host.at(path)
    while not _exists(place) and place not in (host.root, place.parent):
        place = place.parent
    exists = place == wanted
    writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    kind = host.file_system(place) or "unknown file system"
    if is_remote(kind):
        advice = "SQLite's log is not safe on a network file system; give battd a --state-dir on a local disk"
        return Check("state directory", Level.BAD, f"{path} ({kind})", advice)
    if not writable and mine:
        state = "is not writable" if exists else "cannot be made"
        advice = "give battd a --state-dir that this user can write to"
        return Check("state directory", Level.BAD, f"{path} {state}", advice)
    if kind in ("tmpfs", "ramfs"):
        advice = "results are lost when the machine restarts; choose a --state-dir on a disk if they matter"
        return Check("state directory", Level.WARN, f"{path} ({kind}, in memory)", advice)
    return Check("state directory", Level.OK, f"{path} ({kind}){'' if exists else ', not made yet'}")


def _exists(path: Path) -> bool:
    with suppress(OSError):
        return path.exists()
    return False


# Programs


def python(version: tuple[int, int, int]) -> Check:
    found = ".".join(map(str, version))
    if version < (3, 11, 0):
        return Check("python", Level.BAD, found, "batt-supervisor needs Python 3.11 or later")
    return Check("python", Level.OK, found)


def versions(ours: str, theirs: str) -> Check:
    if ours == theirs:
        return Check("versions", Level.OK, f"battctl and battd are both {ours}")
    advice = "restart battd after an upgrade, or use the battctl that came with it"
    return Check("versions", Level.WARN, f"battctl is {ours}, battd is {theirs}", advice)


MACHINE: Final[tuple[Callable[[Host], Iterator[Check]], ...]] = (
    control_groups,
    kill_method,
    address_space,
    stack,
    user_processes,
    kernel_threads,
    group_threads,
    open_files,
    memory,
    group_memory,
    swap,
    overcommit,
    oom_score,
    systemd,
    shared_memory,
)
"""Every check of the machine, in the order in which they are shown."""
