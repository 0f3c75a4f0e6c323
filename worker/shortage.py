"""Which limit was behind a thread, a process or memory that could not be had: for the eyes of people.

Nothing here starts anything, and what cannot be read is left out. `room` is address space to tell it with.
"""

from __future__ import annotations

import _thread
import mmap
import os
import re
import resource
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, NamedTuple

Outcome = Literal["out_of_memory", "out_of_threads"]

MIB: Final = 1 << 20

OWN: Final = ("RLIMIT_AS", "RLIMIT_DATA", "vm.max_map_count")
"""Limits that each process has for itself: nobody else's use of the machine is behind one of these."""


class _Limit(NamedTuple):
    """A limit as it stands.

    Attributes:
        left: How many more of what was refused fit below it: threads, or sixteenths of a limit of memory.
        said: It, in figures.
        why: What that means for a thread.
        near: Whether to name it also when it is not short now, as it is not the whole machine's.
    """

    left: float
    said: str
    why: str = ""
    near: bool = False


NEAR: Final = 256
"""A limit that leaves more threads than this is not worth naming."""


def told(outcome: Outcome | None = None) -> str:
    """The limit that is short now, in figures; `nearest limit: ` and one that has room again; "" where none is known.

    An attempt's threads are often gone when its exception arrives here, and its memory partly. So what the kernel
    remembers is asked, too: the peak of address space, and how often a group has refused a fork. Starts nothing, and
    never raises.

    Args:
        outcome: What was short; None: either.
    """
    try:
        limits = sorted(_limits(outcome), key=_left)
        short = [limit for limit in limits if limit.left < 1]
        if short:
            return "; ".join(limit.said + limit.why for limit in short[:2])
        past = next(_past(outcome), "")
        if past:
            return past
        return next((f"nearest limit: {limit.said}" for limit in limits if limit.near and limit.left < NEAR), "")
    except Exception:  # no memory, no descriptor, a /proc of another kind
        return ""


def is_own(said: str) -> bool:
    """Whether what was told is about a limit that the process has for itself."""
    return said.startswith(OWN)


def _left(limit: _Limit) -> float:
    return limit.left


def is_short(outcome: Outcome) -> bool:
    """Whether any limit of it is short now."""
    return any(limit.left < 1 for limit in _limits(outcome))


def _limits(outcome: Outcome | None) -> Iterator[_Limit]:
    """All limits that there are; one that cannot be read is left out."""
    status = fields("/proc/self/status")
    readers: list[Callable[[], Iterable[_Limit]]] = [
        lambda: _of_address_space(status, outcome),
        lambda: _of_data(status, outcome),
        _of_mappings,
        _of_memory,
    ]
    if outcome != "out_of_memory":
        readers += [lambda: _of_user(status), _of_pids, _of_kernel]
    for reader in readers:
        try:
            yield from reader()
        except (OSError, ValueError, LookupError, MemoryError):
            continue


def _of_address_space(status: dict[str, int], outcome: Outcome | None) -> Iterator[_Limit]:
    limit = soft_limit(resource.RLIMIT_AS)
    if limit is not None:
        used = status["VmSize"] * 1024 + _room.given
        said = f"RLIMIT_AS: {_mib(used, limit)} of address space used by this process"
        need, why = _needed(limit, outcome)
        yield _Limit((limit - used) / need, said, why, near=True)


def _of_data(status: dict[str, int], outcome: Outcome | None) -> Iterator[_Limit]:
    limit = soft_limit(resource.RLIMIT_DATA)
    if limit is not None:
        used = status["VmData"] * 1024 + _room.given
        need = limit // 16 if outcome == "out_of_memory" else _stack_bytes()
        yield _Limit((limit - used) / need, f"RLIMIT_DATA: {_mib(used, limit)} used by this process", near=True)


def _needed(limit: int, outcome: Outcome | None) -> tuple[int, str]:
    """Address space below which something may be refused, and what that is."""
    if outcome == "out_of_memory":
        return limit // 16, ""
    stack = _stack_bytes()
    if os.environ.get("MALLOC_ARENA_MAX"):
        return stack + 4096, f", so a thread's {stack / MIB:.3g} MiB stack does not fit"
    # glibc does without an arena of its own for a thread; but it takes one as long as there is room, which is how a
    # limit of 1 GiB comes to hold twelve threads.
    return stack + 64 * MIB, f", so a thread's {stack / MIB:.3g} MiB stack and 64 MiB arena do not fit"


def _stack_bytes() -> int:
    """Of a new thread: what Python was told, else RLIMIT_STACK, else 2 MiB."""
    return _thread.stack_size() or soft_limit(resource.RLIMIT_STACK) or 2 * MIB


def _of_mappings() -> Iterator[_Limit]:
    most = _number("/proc/sys/vm/max_map_count")
    if most is not None:
        used = 0
        fd = os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)
        try:
            while piece := os.read(fd, 65536):
                used += piece.count(b"\n")
        finally:
            os.close(fd)
        yield _Limit((most - used) / 4, f"vm.max_map_count: {used} of {most} mappings of this process")


def _of_memory() -> Iterator[_Limit]:
    """Of the host and of each group; file cache that is not in use is free."""
    host = fields("/proc/meminfo")
    total, free = host["MemTotal"] * 1024, host["MemAvailable"] * 1024
    yield _Limit(free * 16 / total, f"memory of the host: {_mib(total - free, total)} used")
    if _number("/proc/sys/vm/overcommit_memory") == 2:
        most, used = host["CommitLimit"] * 1024, host["Committed_AS"] * 1024
        yield _Limit((most - used) * 16 / most, f"vm.overcommit_memory is 2: {_mib(used, most)} committed")
    for version, top, used_file, cache in (
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ("", "memory.max", "memory.current", "inactive_file"),
    ):
        for folder, name in _groups(version):
            most_, used_ = _number(f"{folder}/{top}"), _number(f"{folder}/{used_file}")
            if most_ and used_ is not None and most_ < 1 << 60:  # v1 writes a number for none
                held = used_ - fields(f"{folder}/memory.stat").get(cache, 0)
                yield _Limit((most_ - held) * 16 / most_, f"{top} of {name}: {_mib(held, most_)} used")


def _of_user(status: dict[str, int]) -> Iterator[_Limit]:
    """RLIMIT_NPROC, which holds for all processes of the user together, but not for the privileged."""
    limit = soft_limit(resource.RLIMIT_NPROC)
    uid = os.getuid()
    caps = int(fields("/proc/self/status", base=16).get("CapEff", 0))
    initial = _read("/proc/self/uid_map").split() == [b"0", b"0", b"4294967295"]
    if limit is None or (initial and (uid == 0 or caps & (1 << 24 | 1 << 21))):  # CAP_SYS_RESOURCE, CAP_SYS_ADMIN
        return
    used = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                other = status if int(name) == os.getpid() else fields(f"/proc/{name}/status")
                used += other["Threads"] if other["Uid"] == uid else 0
            except (OSError, LookupError):
                continue  # it has ended
    yield _Limit(limit - used, f"RLIMIT_NPROC: {used} of {limit} processes and threads of user {uid}", near=True)


def _of_pids() -> Iterator[_Limit]:
    for folder, name in (*_groups("pids"), *_groups("")):
        most, used = _number(f"{folder}/pids.max"), _number(f"{folder}/pids.current")
        if most is not None and used is not None:
            yield _Limit(most - used, f"pids.max of {name}: {used} of {most} processes and threads", near=True)


def _of_kernel() -> Iterator[_Limit]:
    used = int(_read("/proc/loadavg").split()[3].partition(b"/")[2])
    for name in ("threads-max", "pid_max"):
        most = _number(f"/proc/sys/kernel/{name}")
        if most is not None:
            yield _Limit(most - used, f"kernel.{name}: {used} of {most} processes and threads")


def _past(outcome: Outcome | None) -> Iterator[str]:
    """Limits that were reached before now, perhaps by this attempt."""
    limit = soft_limit(resource.RLIMIT_AS)
    if limit is not None:
        peak = fields("/proc/self/status")["VmPeak"] * 1024
        if limit - peak < _needed(limit, outcome)[0]:
            yield f"RLIMIT_AS: {_mib(peak, limit)} of address space used by this process at its peak"
    if outcome == "out_of_memory":
        return
    for version in ("pids", ""):
        refused = max((fields(f"{folder}/pids.events").get("max", 0) for folder, _ in _groups(version)), default=0)
        if refused:
            # Some kernels count in the group that forked, whichever limit around it was reached.
            nearest = min((limit for limit in _of_pids()), key=_left, default=None)
            if nearest is not None:
                yield f"{nearest.said} now; such a limit has refused {refused}"


def _groups(controller: str) -> list[tuple[str, str]]:
    """Folder and path of our own group of a controller ("" for v2) and of each group around it; none if not mounted."""
    path = None
    for line in _read("/proc/self/cgroup").decode(errors="surrogateescape").splitlines():
        _, controllers, place = line.split(":", 2)
        if controller in controllers.split(","):
            path = place
    for line in _read("/proc/self/mountinfo").decode(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        kind, *_, options = after.split(" ")
        if path is None or kind != ("cgroup" if controller else "cgroup2"):
            continue
        top, point = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), word) for word in before.split()[3:5])
        top = top.rstrip("/")
        if (controller and controller not in options.split(",")) or not f"{path}/".startswith(f"{top}/"):
            continue
        inside = path.removeprefix(top).rstrip("/")
        found = [(point + inside, path)]
        while inside:
            inside = inside.rpartition("/")[0]
            found.append((point + inside, f"{top}{inside}" or "/"))
        return found
    return []


def soft_limit(number: int) -> int | None:
    soft = resource.getrlimit(number)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _mib(used: int, most: int) -> str:
    return f"{used >> 20} of {most >> 20} MiB"


def _number(path: str) -> int | None:
    """The number in a file; None where there is none (`max`), or no such file."""
    try:
        return int(_read(path))
    except (OSError, ValueError):
        return None


def fields(path: str, base: int = 10) -> dict[str, int]:
    """Names and first numbers of a file of such lines (KiB in /proc); empty where it cannot be read."""
    found = {}
    try:
        lines = _read(path).splitlines()
    except OSError:
        return {}
    for line in lines:
        words = line.replace(b":", b" ", 1).split(None, 2)
        try:
            found[words[0].decode()] = int(words[1], base)
        except (LookupError, ValueError):
            continue
    return found


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(fd, 65536):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


# Room to tell it


class Room:
    """Address space that is kept for telling what happened when there is no more.

    It is never written to, so it costs none of the machine's memory.

    Attributes:
        given: How much of it is given free now, in bytes.
    """

    BYTES: Final = 4 * MIB

    def __init__(self) -> None:
        self.given = 0
        self._kept: mmap.mmap | None = None
        self.take()

    def give(self) -> None:
        """Let it be used."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None
            self.given = self.BYTES

    def take(self) -> None:
        """Keep it again, if it can be had; else the next time."""
        if self._kept is None:
            try:
                self._kept = mmap.mmap(-1, self.BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                self.given = 0
            except (OSError, MemoryError):
                return


_room: Final = Room()
give_room: Final = _room.give
take_room: Final = _room.take
