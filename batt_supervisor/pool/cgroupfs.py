"""Control groups as the folders and files that they are: read, written, removed, and ended with all that is in them."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Final

from batt_supervisor.pool import proc

__all__ = ["below", "counted", "discard", "end", "inside", "members", "named", "read", "write"]

ROUNDS: Final = 200
"""Looks at groups that are being ended, at most; one takes about `PAUSE_S` when there is nothing to do but wait."""

PAUSE_S: Final = 0.001

QUIET_ROUNDS: Final = 25
"""Looks without a new process, after which those left are only dying: the kernel needs longer to free gigabytes."""

HASTY_ROUNDS: Final = 3
"""Looks that all found new processes, after which this is a fork bomb, and its forks are refused."""

BATCH: Final = 64
"""Processes that are held by a descriptor at a time: far below the usual limit of 1,024 descriptors."""


GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENODEV)
"""How the kernel says that there is no such file, or that its group is gone."""


def read(path: str) -> str:
    """A control file's text; empty where there is none, or its group is gone.

    Raises:
        OSError: It could not be looked at (no descriptor to be had), which is no empty answer.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return os.fsdecode(file.readall())
    except OSError as error:
        if error.errno in GONE:
            return ""
        raise


def write(path: str, text: str) -> None:
    """Write a control file, in one call and unbuffered, so that a refusal is raised here and names the file."""
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def counted(text: str, name: str) -> int:
    """A count out of lines of a name and a number, or, without a name, a text that is a number; 0 where it has none."""
    if not name:
        return int(text or 0)
    for line in text.splitlines():
        word, _, number = line.partition(" ")
        if word == name:
            return int(number)
    return 0


def inside(folder: str) -> list[str]:
    """The groups in a group; none when it is gone."""
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def below(folder: str) -> list[str]:
    """A group and all groups in it, each before the one that it is in."""
    return [*chain.from_iterable(map(below, inside(folder))), folder]


def named(mount: str, name: str) -> Iterator[str]:
    """Every group of this name in a hierarchy, wherever it is."""
    for folder, groups, _ in os.walk(mount):
        if name in groups:
            groups.remove(name)
            yield os.path.join(folder, name)


def discard(folder: str) -> bool:
    """Remove a group and those in it, as far as they hold no process; whether it is gone."""
    try:
        groups = below(folder)
    except OSError:
        return False
    for group in groups:
        with suppress(OSError):
            os.rmdir(group)
    return not os.path.exists(folder)


def members(folders: Iterable[str]) -> list[int]:
    """The processes in some groups and in all groups in those.

    Raises:
        OSError: A list could not be read.
    """
    found: dict[int, None] = {}
    for folder in folders:
        for group in below(folder):
            found.update(dict.fromkeys(map(int, read(f"{group}/cgroup.procs").split())))
    found.pop(0, None)  # one of another pid namespace: as the target of a signal, 0 would be ourselves
    found.pop(os.getpid(), None)  # battd is in one if a task of an earlier battd has started it
    return list(found)


def end(folders: Sequence[str]) -> int:
    """End all processes in these groups with SIGKILL, and wait a moment for them to be gone; how many were found.

    Returns when the groups are empty, or when those left have been killed and no new one comes.
    """
    seen: set[int] = set()
    quiet = 0
    limits: dict[str, str] = {}
    for number in range(ROUNDS):
        try:
            here = members(folders)
            if not here or quiet > QUIET_ROUNDS or (quiet and all(map(_is_dead, here))):
                break
            quiet = 0 if set(here) - seen else quiet + 1
            seen.update(here)
            _strike(folders, here)
            if number >= HASTY_ROUNDS and not quiet and not limits:
                limits = _refuse_forks(folders)
        except OSError:
            quiet = 1  # could not look or strike: waiting may give us a descriptor
        if quiet:
            time.sleep(PAUSE_S)  # not while new ones come: that is a race with what forks
    for file, limit in limits.items():
        with suppress(OSError):
            write(file, limit)
    return len(seen)


def _is_dead(pid: int) -> bool:
    """Whether it is gone, or only waits to be reaped; a leader that ended before its threads is neither."""
    found = proc.stat(pid)
    return found is None or (found.state in "ZX" and found.threads <= 1)


def _strike(folders: Sequence[str], here: Sequence[int]) -> None:
    if all(_kill_whole(folder) for folder in folders):
        return
    for start in range(0, len(here), BATCH):
        _signal(folders, here[start : start + BATCH])


def _kill_whole(folder: str) -> bool:
    """Have the kernel end a v2 group (since Linux 5.14), which no fork escapes; whether it did."""
    file = f"{folder}/cgroup.kill"
    if not os.path.exists(file):
        return False
    own = str(os.getpid())
    if any(own in read(f"{group}/cgroup.procs").split() for group in below(folder)):
        return False
    try:
        write(file, "1")
    except OSError:
        return False
    return True


def _signal(folders: Sequence[str], pids: Sequence[int]) -> None:
    """Kill those that are still members once they are held: a pid that has gone to another process since is none."""
    held: dict[int, int | None] = {}
    try:
        for pid in pids:
            try:
                held[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            except OSError:
                held[pid] = None  # no descriptor to be had: the pid has to do
        still = set(members(folders))
        for pid, fd in held.items():
            if pid in still:
                with suppress(ProcessLookupError, PermissionError):  # the latter is set-uid by now
                    if fd is None:
                        os.kill(pid, signal.SIGKILL)
                    else:
                        signal.pidfd_send_signal(fd, signal.SIGKILL)
    finally:
        for fd in held.values():
            if fd is not None:
                os.close(fd)


def _refuse_forks(folders: Sequence[str]) -> dict[str, str]:
    """Let nothing fork in these groups any more; the files that say so, and what they said before."""
    limits = {}
    for folder in folders:
        file = f"{folder}/pids.max"
        before = read(file).strip()
        if before:
            with suppress(OSError):
                write(file, "0")
                limits[file] = before
    return limits
