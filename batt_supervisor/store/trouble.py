"""Says in a sentence what SQLite's errors mean for whoever looks after the machine."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

from batt_supervisor.errors import StoreDamaged, StoreMissing, StoreUnavailable

DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

AMPLE_BYTES: Final = 64 * 2**20
"""With so much free it is not the disk that is full: no single write is as large."""

_PRIMARY: Final = 0xFF
"""Of an error's code: the low byte says what went wrong, the others say where."""

_DOING: Final = {
    "SQLITE_IOERR_READ": "reading",
    "SQLITE_IOERR_SHORT_READ": "reading",
    "SQLITE_IOERR_WRITE": "writing",
    "SQLITE_IOERR_FSYNC": "syncing",
    "SQLITE_IOERR_DIR_FSYNC": "syncing",
    "SQLITE_IOERR_TRUNCATE": "truncating",
    "SQLITE_IOERR_SHMSIZE": "writing",
    "SQLITE_IOERR_SHMMAP": "mapping",
    "SQLITE_IOERR_LOCK": "locking",
}


def told(error: sqlite3.Error, path: Path) -> StoreUnavailable:
    """The exception for an error of SQLite's, with what can be found out about its cause at this moment.

    Args:
        path: Of the database.
    """
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    if code in DAMAGED or "decode to UTF-8" in str(error):
        return StoreDamaged(f"the database {path} is damaged: {error}; see docs/operations.md")
    match code:
        case sqlite3.SQLITE_FULL:
            return StoreUnavailable(_full(path))
        case sqlite3.SQLITE_IOERR:
            return StoreUnavailable(_io_error(error, path))
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM if is_read_only(path):
            return StoreUnavailable(f"read-only file system: {path.parent}")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return StoreUnavailable(f"{path} may not be written ({error})")
        case sqlite3.SQLITE_CANTOPEN:
            return StoreUnavailable(f"{path} cannot be opened ({error})")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreUnavailable(f"the database is locked by {_holder(path)}")
    return StoreUnavailable(f"{path}: {error}")


def may_pass(error: StoreUnavailable) -> bool:
    """Whether it is worth waiting for what is wrong to be over: nobody need do anything to battd for that."""
    if isinstance(error, StoreMissing):
        return True
    code = getattr(error.__cause__, "sqlite_errorcode", 0) & _PRIMARY
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def path_of(db: sqlite3.Connection) -> Path:
    """The file that a connection is to."""
    with suppress(sqlite3.Error):  # it is in a worse state than can be asked
        return Path(db.execute("PRAGMA database_list").fetchone()[2])
    return Path("queue.db")


def is_read_only(path: Path) -> bool:
    """Whether the file system takes no writes."""
    try:
        return bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _full(path: Path) -> str:
    room = _room(path)
    if room is None:
        return f"disk full: {path.parent}"
    if room > AMPLE_BYTES:
        return f"no room for the database, though {_amount(room)} are free on {path.parent}: a quota, perhaps"
    return f"disk full, {_amount(room)} free on {path.parent}"


def _io_error(error: sqlite3.Error, path: Path) -> str:
    """SQLite keeps the number of the system's error to itself, so the same is tried beside the database."""
    found = _refusal(path.parent)
    if found is not None and found.errno == errno.EROFS:
        return f"read-only file system: {path.parent}"
    doing = _DOING.get(getattr(error, "sqlite_errorname", ""), "using")
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if doing == "writing" and limit != resource.RLIM_INFINITY:
        return f"I/O error while writing {path}: a file may have {_amount(limit)} at most (RLIMIT_FSIZE, ulimit -f)"
    if found is not None and found.errno in (errno.ENOSPC, errno.EDQUOT):
        return _full(path)
    said = found.strerror if found is not None else getattr(error, "sqlite_errorname", "SQLITE_IOERR")
    return f"I/O error while {doing} {path} ({said}); the kernel's log may say more"


def _refusal(folder: Path) -> OSError | None:
    """Why nothing can be written into a folder, by trying it, with a file that has no name.

    Not with the database's own files: closing one lets go of all locks that this process has on it.
    """
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # What it says of a file system that has no such files is none of its trouble.
        return None if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT) else error
    try:
        os.write(fd, b"\0")
    except OSError as error:
        return error
    finally:
        os.close(fd)
    return None


def _room(path: Path) -> int | None:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _amount(size_bytes: int) -> str:
    """In powers of 1000, as disks are sold: `12 kB`, `1.5 GB`."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    size = float(size_bytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "kB" else f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def _holder(path: Path) -> str:
    """Who has a lock on the database that keeps others from writing, by the kernel's table of locks."""
    files = set()
    for end in ("", "-shm"):
        with suppress(OSError):
            found = Path(f"{path}{end}").stat()
            files.add((os.major(found.st_dev), os.minor(found.st_dev), found.st_ino))
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            # "7: POSIX  ADVISORY  WRITE 4711 fe:00:1835017 120 120"; one that waits for it has "->" in second place.
            _, kind, *_, way, pid, where, _first, _last = line.split()
            major, minor, inode = where.split(":")
            if kind != "->" and way == "WRITE" and (int(major, 16), int(minor, 16), int(inode)) in files:
                return _called(int(pid))
    return "another process"


def _called(pid: int) -> str:
    if pid == os.getpid():
        return "battd itself, for too long"
    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return f"another process: pid {pid}"  # of another namespace, or gone by now
    return f"another process: pid {pid} ({name})"
