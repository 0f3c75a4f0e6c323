"""What a user's supervisors on one host have promised to their tasks, so that they do not all start into the same gap.

Each holder has a small file in a folder that all of them find (`headroom.place`), keeps it locked for as long as it
lives, and overwrites its one record there. The others take a holder for dead once they get that lock: the kernel lets
go of it when the process ends, however it ends and in whatever pid namespace. There is no daemon and nothing to repair.

Whoever reads, decides and notes does it in his *turn*, so that no two decide from the same figures. A turn lasts well
under a millisecond; nobody waits long for one who was stopped in his: then the reserve has to cover what it may miss.

Locks belong to the open file description (flock), so a copy of the descriptor in another process keeps a dead holder
alive. An exec closes it, and so does a fork by Python, below; what is left is a fork in C code without an exec.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import re
import stat
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Self

from batt_supervisor.core.headroom import NOBODY, Entry, Holder, Others
from batt_supervisor.core.model import Space
from batt_supervisor.headroom.place import Place, enter, folders

_MAGIC: Final = b"battledg"
_VERSION: Final = 1
_NAME_BYTES: Final = 184  # 256 bytes in all
_HEAD: Final = struct.Struct("<8sHI")  # magic, version, CRC of the body
_BODY: Final = struct.Struct(f"<qqqqqqdH{_NAME_BYTES}s")  # pid, promised, appetite, running, oldest, name
_SIZE: Final = _HEAD.size + _BODY.size
_MOST: Final = 2**63 - 1

_HOLDERS_FILE: Final = re.compile(r"ledger\.\d+\.[0-9a-f]{16}")
_KEPT: Final = 64  # files of others that stay open; further ones are opened for each reading
_REREADS: Final = 10
_NEW_S: Final = 1.0  # within so long, whoever has made a file writes his entry into it, on the slowest machine
_TORN_S: Final = 0.0005  # between two readings of an entry that was torn
_RETRY_S: Final = 1.0  # between two tries to enter a place, while there is none
_PAUSE_S: Final = (0.00005, 0.001)  # between two tries to get the turn: at first, at most


class Ledger:
    """This process's own entry, and a view of everybody else's. For one thread; close it, it does not close itself.

    It works without a place too: then there are no others, every turn is granted, and a place is looked for once a
    second. A folder that is removed while it is used (logind does so to /dev/shm when a user's last session ends) is
    made anew.

    Attributes:
        where: The folder in use; empty for none.
        why: Why there is none.
        refused: Why folders that come before `where` are not used.
    """

    def __init__(self, places: Sequence[str], name: str, why: str = "") -> None:
        self.where = ""
        self.why = why
        self.refused = ""
        self._places = places
        self._name = _capped(name)
        self._place: Place | None = None
        self._retry_s = -math.inf
        self._entry = Entry()
        self._record = _packed(self._entry, self._name)
        self._kept: dict[str, _Other] = {}
        self._missed = False
        self._unwritten = ""
        self._unread = ""
        _OPEN.add(self)

    @classmethod
    def open(cls, where: str, name: str) -> Self:
        """Enter the ledger, with nothing promised. Never raises: where there is no place for it, `why` says so.

        Args:
            where: "auto" for the user's own, "off", or an absolute folder whose parent exists.
            name: What the others call this holder: its state directory.
        """
        places = folders(where)
        if isinstance(places, str):
            return cls((), name, places)
        ledger = cls(places, name)
        ledger._here()
        return ledger

    @property
    def trouble(self) -> str:
        """What does not work at the moment although there is a place; empty for nothing."""
        return "; ".join(filter(None, (self._unwritten, self._unread)))

    def note(self, entry: Entry) -> None:
        """Let the others know. Where that fails (a full disk), `trouble` says so and the next call tries again."""
        if entry != self._entry:
            self._entry, self._record = entry, _packed(entry, self._name)
        elif not self._unwritten:
            return
        if self._place is not None:
            self._publish(self._place)

    def others(self) -> Others:
        """What the other living holders have. Files of dead ones are removed."""
        place, names = self._names()
        if place is None:
            return NOBODY
        for gone in self._kept.keys() - names:
            self._kept.pop(gone).close()
        found: list[Holder] = []
        for name in names:
            if name != place.name and _HOLDERS_FILE.fullmatch(name) and (holder := self._look(place, name)):
                found.append(holder)
        return Others(found)

    @contextmanager
    def turn(self, patience_s: float = 0.02) -> Iterator[bool]:
        """Read, decide and note while no other holder does; true if it was had, and where there is no place.

        Args:
            patience_s: How long it is waited for. While one is stopped in his turn, and the last turn was missed
                already, a tenth of it.
        """
        had = self._wait(patience_s / 10 if self._missed else patience_s)
        self._missed = not had
        place = self._place
        try:
            yield had
        finally:
            # Not the lock of a place that was left meanwhile: its descriptor's number may be another file's by now.
            if had and place is not None and place is self._place:
                with suppress(OSError):
                    fcntl.flock(place.turn, fcntl.LOCK_UN)

    def close(self) -> None:
        """Leave, for good."""
        self._leave()
        self._places, self.why = (), self.why or "the ledger was closed"
        _OPEN.discard(self)

    def drop(self) -> None:
        """In a forked child: let go of what is the parent's, so that nothing of it lives on when the parent dies."""
        if self._place is not None:
            self._place.drop()
        self._place = None
        self.where = ""
        self.close()
        self.why = "this process was forked from the one that is in the ledger"

    def _here(self) -> Place | None:
        """The place, newly entered if there is none and it is time to try."""
        if self._place is None and self._places and time.monotonic() >= self._retry_s:
            refused: list[str] = []
            for folder in self._places:
                found = enter(folder)
                if isinstance(found, Place):
                    self._place, self.where, self.why, self.refused = found, folder, "", "; ".join(refused)
                    self._publish(found)
                    return found
                refused.append(found)
            self.why = "; ".join(refused)
            self._retry_s = time.monotonic() + _RETRY_S
        return self._place

    def _leave(self) -> None:
        if self._place is not None:
            self._place.leave()
        self._place = None
        self.where = ""
        for other in self._kept.values():
            other.close()
        self._kept.clear()
        self._unwritten = self._unread = ""

    def _publish(self, place: Place) -> None:
        try:
            if os.pwrite(place.own, self._record, 0) != _SIZE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._unwritten = f"the ledger in {self.where} cannot be written: {error.strerror or error}"
        else:
            self._unwritten = ""

    def _names(self) -> tuple[Place | None, Sequence[str]]:
        """The place, and what is in its folder: by its path, which is where a new holder would look."""
        for _ in range(2):
            place = self._here()
            if place is None:
                break
            self._unread = ""
            try:
                names = os.listdir(place.folder)  # noqa: PTH208 - called every tick
            except (FileNotFoundError, NotADirectoryError):
                names = []
            except OSError as error:  # no descriptor left, say: those that are known can still be read
                self._unread = f"the ledger in {self.where} cannot be listed: {error.strerror or error}"
                return place, list(self._kept)
            if place.name in names:
                return place, names
            # The folder was removed, moved or replaced, or our file was: nobody can find us there.
            self._leave()
        return None, ()

    def _look(self, place: Place, name: str) -> Holder | None:
        """What the holder of a file has; None, and the file is removed, if he is dead."""
        other = self._kept.pop(name, None)
        try:
            if other is None and (other := _opened(place, name)) is None:
                return None
            if other.is_dead():
                # Before the lock is let go of: nobody can make this file his own while it is held.
                os.unlink(name, dir_fd=place.at)
                return None
            holder, is_new = other.look(), other.is_new
            if len(self._kept) < _KEPT:
                self._kept[name], other = other, None
        except FileNotFoundError:  # he left, or another removed it, since the folder was listed
            return None
        except OSError as error:
            self._unread = f"a file of the ledger in {self.where} cannot be read: {error.strerror or error}"
            return None
        finally:
            if other is not None:
                other.close()
        if holder is None and not is_new:
            self._unread = f"an entry in the ledger in {self.where} is not understood: another version of battd?"
        return holder

    def _wait(self, patience_s: float) -> bool:
        until_s = time.monotonic() + patience_s
        pause_s, longest_s = _PAUSE_S
        while (place := self._here()) is not None:
            try:
                fcntl.flock(place.turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if place.is_there():
                    return True
                self._leave()
            except BlockingIOError:
                pass
            except OSError:
                return False
            if time.monotonic() >= until_s:
                return False
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, longest_s)
        return True


class _Other:
    """Another holder's file, open."""

    __slots__ = ("_descriptor", "_holder", "_raw", "is_new")

    def __init__(self, descriptor: int) -> None:
        self.is_new = False  # when it was looked at: its holder has just come, and has promised nothing
        self._descriptor = descriptor
        self._raw = b""
        self._holder: Holder | None = None

    def is_dead(self) -> bool:
        """Whether its lock could be had. It is shared, so that two who look at once do not take each other for it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def look(self) -> Holder | None:
        """What it says now; the last that was whole, if it is torn every time; None if none ever was."""
        for _ in range(_REREADS):
            raw = os.pread(self._descriptor, _SIZE + 1, 0)
            self.is_new = not raw and time.time() - os.fstat(self._descriptor).st_mtime < _NEW_S
            if raw == self._raw and raw:
                break
            if (holder := _unpacked(raw)) is not None:
                self._raw, self._holder = raw, holder
                break
            time.sleep(_TORN_S)  # whoever writes it has lost the processor in the middle
        return self._holder

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._descriptor)


_OPEN: Final[set[Ledger]] = set()


def _drop_all() -> None:
    for ledger in tuple(_OPEN):
        ledger.drop()


os.register_at_fork(after_in_child=_drop_all)


def _opened(place: Place, name: str) -> _Other | None:
    """None if it is no file. Nothing that bears such a name can make this wait or lead elsewhere."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place.at)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a symlink, a socket
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return _Other(descriptor)
    os.close(descriptor)
    return None


def _capped(name: str) -> bytes:
    """State directories differ at their ends, so that is what is kept of a long one."""
    whole = name.encode("utf-8", "replace")
    if len(whole) <= _NAME_BYTES:
        return whole
    return ("…" + whole[-(_NAME_BYTES - 3) :].decode("utf-8", "ignore")).encode()


def _packed(entry: Entry, name: bytes) -> bytes:
    amounts = (*_amounts(entry.promised), *_amounts(entry.appetite), entry.running)
    # A negative promise, or one beyond what is counted in, would have others start into room that is not there.
    body = _BODY.pack(os.getpid(), *(min(max(0, one), _MOST) for one in amounts), entry.oldest_s, len(name), name)
    return _HEAD.pack(_MAGIC, _VERSION, zlib.crc32(body)) + body


def _unpacked(raw: bytes) -> Holder | None:
    """What a record says; None if it is not whole, or not one of this version."""
    if len(raw) != _SIZE:
        return None
    magic, version, crc = _HEAD.unpack_from(raw)
    if magic != _MAGIC or version != _VERSION or zlib.crc32(raw[_HEAD.size :]) != crc:
        return None
    pid, *amounts, oldest_s, length, name = _BODY.unpack_from(raw, _HEAD.size)
    if min(pid, *amounts) < 0 or math.isnan(oldest_s) or length > _NAME_BYTES:
        return None
    memory, threads, most_memory, most_threads, running = amounts
    entry = Entry(Space(memory, threads), Space(most_memory, most_threads), running, oldest_s)
    return Holder(pid, name[:length].decode("utf-8", "replace"), entry)


def _amounts(space: Space) -> tuple[int, int]:
    return space.memory_bytes, space.threads
