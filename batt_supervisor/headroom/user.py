"""How many threads a user may have, and how many it has."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from batt_supervisor.core.headroom import Limit, Resource
from batt_supervisor.headroom.files import Reader, told
from batt_supervisor.held import Held

__all__ = ["UserThreads", "is_exempt", "threads_of"]

SCAN_S: Final = 5.0
"""Seconds that a count of the user's threads serves: a scan of /proc takes 3.2 ms for 74 processes."""

FAR_S: Final = 60.0
"""The same where the whole kernel's threads, and so the user's, leave room enough: then it only informs."""

SHARE: Final = 10
"""When near the limit every reading scans, but for this many times the length of a scan no other is made."""

NEAR_THREADS: Final = 200
NEAR_SHARE: Final = 0.2
"""So many threads, or such a part of the limit, are near it: whichever is more."""

CAPABILITIES: Final = 1 << 21 | 1 << 24
"""CAP_SYS_ADMIN and CAP_SYS_RESOURCE: either of them lifts RLIMIT_NPROC (kernel/fork.c, copy_process)."""

EVERYBODY: Final = ["0", "0", "4294967295"]
"""The map of the initial user namespace; only capabilities in that one count."""

FIELD: Final = re.compile(rb"^(Uid|CapEff|Threads):\s*(\S+)", re.MULTILINE)
"""Of /proc/PID/status: the real user, which is whose threads the limit counts, capabilities, threads."""


def is_exempt(uid: int, effective: int, uid_map: str) -> bool:
    """Whether RLIMIT_NPROC does not bind a process: it is root's, as seen from outside all namespaces, or privileged.

    Args:
        uid: Its real user, as it sees it.
        effective: `CapEff` of its status.
        uid_map: Its uid_map: what users inside are outside.
    """
    rows = [line.split() for line in uid_map.splitlines()]
    if rows in ([EVERYBODY], []):
        return uid == 0 or bool(effective & CAPABILITIES)
    # In a namespace inside another one the second column is as that one sees it, which is as far as can be seen.
    return any(int(outside) == 0 and uid == int(inside) for inside, outside, _ in rows)


class UserThreads(Reader):
    """`RLIMIT_NPROC` less the user's threads, which only a scan of all processes counts.

    Between scans the count rises with the kernel's total: as if all that were started since were this user's. It does
    not fall with it, for those that ended may be another's. What this misses are threads started while as many of
    others ended; near the limit, each reading scans.

    Processes of other pid namespaces are counted by the kernel where they share the user namespace, but cannot be seen.
    """

    def __init__(self, proc: Path, *, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self._proc, self._clock = proc, clock
        self._held = {name: Held(proc / "self" / name) for name in ("status", "uid_map")}
        self._uid = 0
        self._limit: int | None = None
        self._counted = 0
        self._total_then = 0
        self._scanned_s: float | None = None
        self._took_s = 0.0

    def refresh(self) -> None:
        """Whether there is such a limit, and of whom."""
        self._slow = []
        limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        try:
            status = _fields(self._held["status"].read())
            uid = int(status[b"Uid"])
            exempt = is_exempt(uid, int(status[b"CapEff"], 16), self._uid_map())
        except (OSError, ValueError, KeyError) as error:
            self._slow.append(told(self._held["status"].path, error))
            return
        if uid != self._uid:
            self._uid, self._scanned_s = uid, None
        self._limit = None if exempt or limit == resource.RLIM_INFINITY else limit

    def limit(self, now_s: float, total: int) -> Limit | None:
        """The limit, if there is one; scans when it is time to.

        Args:
            total: Threads of the whole kernel.
        """
        self._quick = []
        if self._limit is None:
            return None
        if self._is_due(now_s, self._limit, total):
            try:
                started = self._clock()
                self._counted, self._total_then = threads_of(self._proc, self._uid), total
                self._took_s = self._clock() - started
                self._scanned_s = now_s
            except OSError as error:
                self._quick.append(told(str(self._proc), error))  # the last count serves
        used = self._used(total)
        return Limit(Resource.THREADS, f"RLIMIT_NPROC of uid {self._uid}", "getrlimit", self._limit, used)

    def _used(self, total: int) -> int:
        return self._counted + max(0, total - self._total_then)

    def _is_due(self, now_s: float, limit: int, total: int) -> bool:
        if self._scanned_s is None or now_s < self._scanned_s:
            return True
        near = max(NEAR_THREADS, limit * NEAR_SHARE)
        if limit - self._used(total) <= near:
            wait_s = SHARE * self._took_s
        else:
            wait_s = FAR_S if limit - total > near else SCAN_S
        return now_s - self._scanned_s >= wait_s

    def _uid_map(self) -> str:
        """Empty in a kernel without user namespaces."""
        try:
            return self._held["uid_map"].read().decode()
        except FileNotFoundError:
            return ""


def _fields(status: bytes) -> Mapping[bytes, bytes]:
    return {match[1]: match[2] for match in FIELD.finditer(status)}


def threads_of(proc: Path, uid: int) -> int:
    """Threads of all processes that are this user's, of those that can be seen.

    Raises:
        OSError: One could not be looked at (no descriptor to be had).
    """
    with os.scandir(proc) as entries:
        pids = [entry.name for entry in entries if entry.name.isdigit()]
    own = str(uid).encode()
    return sum(_threads(f"{proc}/{pid}/status", own) for pid in pids)


def _threads(status: str, uid: bytes) -> int:
    """Threads of a process, if it is that user's; none if it has ended, or is hidden from us, as others' may be."""
    try:
        fd = os.open(status, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return 0
    try:
        fields = _fields(os.read(fd, 4096))
    except ProcessLookupError:
        return 0
    finally:
        os.close(fd)
    return int(fields.get(b"Threads", 1)) if fields.get(b"Uid") == uid else 0
