"""Where the ledger is kept: one private folder for each user and host, and a holder's own file in it.

The place depends on the uid alone, never on the environment: systemd, supervisord and a login of one user must come to
the same one. Both parents are writable by everybody, so whatever bears the name already is looked at before it is used.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

AUTO: Final = ("/dev/shm/batt-{uid}", "/tmp/batt-{uid}")
"""Memory first: a full disk cannot touch it. The second may also be the state directory of a user without a home, so
every name of ours there starts with `ledger.`, and no other is touched."""

TURN: Final = "ledger.turn"
_TRIES: Final = 50


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that this process has a file in. Its descriptors end with the process, whatever kills it.

    Attributes:
        folder: Its path.
        at: The folder itself, as it was checked: names are opened below this one, whatever becomes of the path.
        name: Of the own file: pid and a random number, which is never used again, also not in another pid namespace.
        own: The own file, locked for as long as its open file description lives.
        turn: The file whose lock is the exclusive turn.
    """

    folder: str
    at: int
    name: str
    own: int
    turn: int

    def is_there(self) -> bool:
        """Whether both files have a name still. If the turn's has none, the next to come makes another one, and two
        would have their turn at once; if the own has none, nobody sees what is noted."""
        return os.fstat(self.turn).st_nlink > 0 and os.fstat(self.own).st_nlink > 0

    def leave(self) -> None:
        """Remove the own file, and let go of everything."""
        with suppress(OSError):
            os.unlink(self.name, dir_fd=self.at)
        self.drop()

    def drop(self) -> None:
        """Close the descriptors, no more: in a forked child, where the file is the parent's."""
        for descriptor in (self.own, self.turn, self.at):
            with suppress(OSError):
                os.close(descriptor)


def folders(where: str) -> Sequence[str] | str:
    """The folders to try, in this order; a sentence where there is none.

    Args:
        where: "auto", "off" or an absolute folder.
    """
    if where == "auto":
        return [place.format(uid=os.geteuid()) for place in AUTO]
    if where == "off":
        return "the ledger is switched off"
    if not where.startswith("/") or "\0" in where:
        return f'the ledger is told to be in "{where}", which is neither "auto", "off" nor an absolute folder'
    return [where]


def enter(folder: str) -> Place | str:
    """Make the folder where it is missing, and a locked file of our own in it; a sentence where that cannot be."""
    opened: list[int] = []
    try:
        with suppress(FileExistsError):
            Path(folder).mkdir(mode=0o700)
        # Not through a symlink: what bears the name may be anybody's.
        opened.append(at := os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
        if refusal := _refusal(folder, os.fstat(at)):
            os.close(at)
            return refusal
        opened.append(turn := _turn(at))
        name, own = _own(at)
    except OSError as error:
        for descriptor in opened:
            os.close(descriptor)
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            return f"{folder} is not a real directory"
        return f"{folder} cannot be used: {error.strerror or error}"
    return Place(folder, at, name, own, turn)


def _refusal(folder: str, found: os.stat_result) -> str:
    if found.st_uid != os.geteuid():
        return f"{folder} belongs to uid {found.st_uid}, not to {os.geteuid()}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{folder} can be written by others (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


def _turn(at: int) -> int:
    # O_NONBLOCK: nothing that somebody may have put there makes this wait.
    descriptor = os.open(TURN, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=at)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"its {TURN} is not a file")
    return descriptor


def _own(at: int) -> tuple[str, int]:
    """A file that nobody else can take for a dead holder's any more."""
    for _ in range(_TRIES):
        name = f"ledger.{os.getpid()}.{os.urandom(8).hex()}"
        own = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=at)
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(own).st_nlink > 0:
                return name, own
        except BlockingIOError:
            # Somebody looked between the two lines above and found it without a lock, as a dead holder's is. It will
            # be removed, so another one is made; waiting for that lock would be waiting for somebody else's process.
            pass
        except OSError:  # a file system without locks
            os.close(own)
            with suppress(OSError):
                os.unlink(name, dir_fd=at)
            raise
        os.close(own)
    raise OSError(errno.EAGAIN, "others remove every file that is made in it")
