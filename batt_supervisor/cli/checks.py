"""What `battctl doctor` judges: each check is a reading in and a verdict out. The reading itself is in doctor.py."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from batt_supervisor.units import format_size

# What a new thread takes of the address space: 8 MiB of stack and a malloc arena of 64 MiB.
THREAD_ADDRESS_SPACE_BYTES: Final = 72 * 2**20

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


def state_dir(path: str, *, exists: bool, writable: bool, mine: bool, file_system: str | None) -> Check:
    """The state directory.

    Args:
        mine: It is this user who would have to write to it; with another user's battd it need not be.
    """
    kind = file_system or "unknown file system"
    if file_system in NETWORK_FILE_SYSTEMS or (file_system or "").startswith("fuse.ssh"):
        advice = "SQLite's log is not safe on a network file system; give battd a --state-dir on a local disk"
        return Check("state directory", Level.BAD, f"{path} ({kind})", advice)
    if not writable and mine:
        state = "is not writable" if exists else "cannot be made"
        advice = "give battd a --state-dir that this user can write to"
        return Check("state directory", Level.BAD, f"{path} {state}", advice)
    if file_system in ("tmpfs", "ramfs"):
        advice = "results are lost when the machine restarts; choose a --state-dir on a disk if they matter"
        return Check("state directory", Level.WARN, f"{path} ({kind}, in memory)", advice)
    return Check("state directory", Level.OK, f"{path} ({kind}){'' if exists else ', not made yet'}")


def address_space(limit_bytes: int | None, arena_max: str | None) -> Check:
    """RLIMIT_AS, which counts what threads reserve, not what they use."""
    if limit_bytes is None:
        return Check("address space", Level.OK, "unlimited")
    threads = limit_bytes // THREAD_ADDRESS_SPACE_BYTES
    found = f"limited to {format_size(limit_bytes)} (ulimit -v)"
    if arena_max:
        return Check("address space", Level.OK, f"{found}, MALLOC_ARENA_MAX={arena_max}")
    advice = (
        f"each thread takes up to 72 MiB of it, so a process may start only some {threads}; lift the limit, "
        "or set MALLOC_ARENA_MAX=2"
    )
    return Check("address space", Level.BAD if threads < 32 else Level.WARN, found, advice)


def processes(limit: int | None, used: int, *, root: bool) -> Check:
    """RLIMIT_NPROC: all threads of this user, in whatever program; it does not bind root."""
    if root or limit is None:
        return Check("user's processes", Level.OK, "unlimited" if limit is None else f"{limit}, not binding for root")
    return _share("user's processes", used, limit, "raise `ulimit -u`, or end what this user does not need")


def kernel_threads(used: int, threads_max: int | None, pid_max: int | None) -> Check:
    known = {"kernel.threads-max": threads_max, "kernel.pid_max": pid_max}
    limits = {name: limit for name, limit in known.items() if limit is not None}
    if not limits:
        return Check("kernel's threads", Level.WARN, f"{used} in use, limits cannot be read", "is /proc mounted?")
    name, limit = min(limits.items(), key=lambda pair: pair[1])
    return _share("kernel's threads", used, limit, f"raise {name} with sysctl", f" ({name})")


def open_files(soft: int | None, hard: int | None) -> Check:
    if soft is None or soft >= 1024:
        return Check("open files", Level.OK, "unlimited" if soft is None else str(soft))
    level = Level.BAD if soft < 256 else Level.WARN
    of = "unlimited" if hard is None else hard
    return Check("open files", level, f"{soft} of {of}", "raise `ulimit -n` to 1024 or more before battd starts")


def memory(available_bytes: int, total_bytes: int) -> Check:
    found = f"{format_size(available_bytes)} of {format_size(total_bytes)} available"
    if available_bytes < 256 * 2**20:
        return Check("memory", Level.BAD, found, "battd starts nothing before something else gives memory back")
    if available_bytes < 2**30:
        return Check("memory", Level.WARN, found, "few tasks will run at once")
    return Check("memory", Level.OK, found)


def kill_method(*, children_file: bool, cgroup: str | None) -> Check:
    """How battd can find all that an attempt has started.

    Args:
        children_file: /proc/PID/task/TID/children is there.
        cgroup: A cgroup in which groups can be made; None where there is none.
    """
    by_cgroup = f"cgroup {cgroup} is writable" if cgroup else "no cgroup is writable"
    if children_file:
        return Check("kill method", Level.OK, f"walks the process tree below subreapers ({by_cgroup})")
    advice = "the kernel lacks CONFIG_PROC_CHILDREN; process trees are found by a slower search of /proc"
    return Check("kill method", Level.WARN, f"searches /proc ({by_cgroup})", advice)


def _share(name: str, used: int, limit: int, advice: str, by: str = "") -> Check:
    found = f"{used} of {limit} in use{by}"
    free = limit - used
    if free < 64:
        return Check(name, Level.BAD, found, advice)
    if free < 512 or used > 0.9 * limit:
        return Check(name, Level.WARN, found, advice)
    return Check(name, Level.OK, found)
