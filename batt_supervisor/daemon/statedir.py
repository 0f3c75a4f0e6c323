"""The state directory: private, and served by one battd at a time."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from batt_supervisor.errors import StateDirHeld, StateDirUnusable
from batt_supervisor.paths import RESTORING

ROOM_BYTES: Final = 256 * 2**20
"""Free space below which a disk may be too full to start."""


@dataclass
class StateDir:
    """A state directory that this process holds.

    Attributes:
        token: Names this directory in the environment of its workers, across restarts.
    """

    path: Path
    token: str
    _lock: IO[str]

    @property
    def database(self) -> Path:
        return self.path / "queue.db"

    @property
    def damaged(self) -> Path:
        """A note of a battd's that it has found the database damaged."""
        return self.path / "damaged"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def results(self) -> Path:
        return self.path / "results"

    def close(self) -> None:
        """Let another battd have it. The lock goes with the process in any case."""
        self._lock.close()


def hold(path: Path, socket: Path) -> StateDir:
    """Make the directory where it is missing, and take it for this process.

    Raises:
        StateDirHeld: Another battd has it; says which.
        StateDirUnusable: It cannot be made or written, or belongs to somebody else; or a restore into it has not come
            to its end.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = path.stat().st_uid
        if owner != os.geteuid():
            raise StateDirUnusable(f"the state directory {path} belongs to uid {owner}, not to {os.geteuid()}")
        path.chmod(0o700)  # also one that was there before: it holds what tasks were given, and what they wrote
        for name in ("logs", "results"):
            (path / name).mkdir(mode=0o700, exist_ok=True)
        lock = open(path / "lock", "a+", encoding="utf-8")  # noqa: SIM115 - held for the life of the process
    except OSError as error:
        raise StateDirUnusable(f"the state directory {path} cannot be used: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        text = lock.read()
        lock.close()
        raise StateDirHeld(f"the state directory {path} is served by another battd{_holder(text)}") from error
    if any(any(folder.iterdir()) for folder in path.glob(f"{RESTORING}*")):
        lock.close()
        raise StateDirUnusable(
            f"the restore into {path} was interrupted, so that something may be missing there: remove the directory "
            "and restore again"
        )
    try:
        # Before anything is written: a result that did not fit on the disk is what may have filled it. Where there is
        # room nobody waits for a look at what may be a million files; `daemon.orphans` comes to them.
        if shutil.disk_usage(path).free < ROOM_BYTES:
            for unfinished in (path / "results").glob("*.tmp"):
                unfinished.unlink(missing_ok=True)
        lock.seek(0)
        lock.truncate()
        json.dump({"pid": os.getpid(), "socket": str(socket), "since_ms": time.time_ns() // 1_000_000}, lock)
        lock.flush()
        found = path.stat()
    except OSError as error:
        lock.close()
        raise StateDirUnusable(f"the state directory {path} cannot be written: {error.strerror or error}") from error
    return StateDir(path, f"{found.st_dev:x}-{found.st_ino:x}", lock)


def _holder(text: str) -> str:
    try:
        found = json.loads(text)
        return f": pid {found['pid']}, socket {found['socket']}"
    except (ValueError, KeyError, TypeError):
        return ""  # it has not written its name yet
