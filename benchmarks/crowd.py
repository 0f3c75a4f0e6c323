"""Where the exhaustion benchmark's processes live: one limit around all of them, and an end to all of them.

A control group where one can be had; otherwise, for a limit of processes and threads, a user with RLIMIT_NPROC.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from batt_supervisor.pool import cgroupfs, hierarchy

Controller = Literal["pids", "memory"]

USER = 64_813
"""A user that nobody is."""

PATIENCE_S = 10.0


class NoLimit(Exception):
    """No such limit can be set here; says why."""


class Crowd:
    """Some processes under one limit; a context manager: nothing of them is left after it.

    Args:
        controller: What is limited: processes and threads, or memory.
        limit: Their number, or bytes.
        home: A folder that the processes may write to.

    Attributes:
        peak_pids: Processes and threads that were there at once, at most.
        oom_kills: Processes that the kernel has killed for want of memory, in groups inside this one, too.
        refused: Times the limit of processes was hit, where the kernel counts that.
    """

    def __init__(self, controller: Controller, limit: int, home: Path) -> None:
        self.peak_pids = self.oom_kills = self.refused = 0
        self._controller, self._limit = controller, limit
        self._killed: dict[int, int] = {}
        self._started: list[subprocess.Popen[bytes]] = []
        self._undo: list[tuple[str, str]] = []
        self._groups = self._make()
        self._user: int | None = None
        if not self._groups:
            if controller == "memory" or os.geteuid() != 0:
                raise NoLimit(f"{controller}: no control group can be had here")
            self._user = USER
            os.chown(home, USER, USER)
            home.parent.chmod(0o711)

    def __enter__(self) -> Self:
        try:
            self._set_limit()
        except OSError as error:
            self._end()
            raise NoLimit(f"{self._controller}: {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    @property
    def way(self) -> str:
        return " and ".join(self._groups.values()) if self._groups else f"RLIMIT_NPROC of user {self._user}"

    def start(self, words: Sequence[str], *, log: Path, cwd: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a program that is under the limit before anything of it runs."""
        script = 'until [ "$1" = -- ]; do echo $$ > "$1/cgroup.procs" || exit 126; shift; done; shift; exec "$@"'
        with log.open("ab") as file:
            self._started.append(
                subprocess.Popen(
                    ["/bin/sh", "-c", script, "sh", *dict.fromkeys(self._groups.values()), "--", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    cwd=cwd,
                    env=env,
                    start_new_session=True,
                    preexec_fn=None if self._user is None else self._become_user,  # noqa: PLW1509 (no threads here)
                )
            )
        return self._started[-1]

    def look(self) -> None:
        """Note what is to be seen now and may be gone later."""
        if self._user is not None:
            self.peak_pids = max(self.peak_pids, sum(map(_threads, self._members())))
            return
        pids = self._groups["pids"]
        now = cgroupfs.read(f"{pids}/pids.peak") or cgroupfs.read(f"{pids}/pids.current") or "0"
        self.peak_pids = max(self.peak_pids, int(now))
        self.refused = max(self.refused, _count(f"{pids}/pids.events", "max"))
        if memory := self._groups.get("memory"):
            for group in cgroupfs.below(memory):
                self._look_for_kills(group, own=group == memory)
            self.oom_kills = sum(self._killed.values())

    def _look_for_kills(self, group: str, *, own: bool) -> None:
        """v1 counts for each group alone; v2 for all groups inside, too."""
        with suppress(OSError):
            number = Path(group).stat().st_ino
            found = _count(f"{group}/memory.oom_control", "oom_kill")
            if own:
                found += _count(f"{group}/memory.events", "oom_kill")
            self._killed[number] = max(self._killed.get(number, 0), found)

    # The limit

    def _make(self) -> dict[Controller, str]:
        """Make the groups below our own: in v1 one a controller, so that threads are always counted."""
        own = hierarchy.own_places("auto")
        name = f"batt-crowd-{os.getpid()}-{time.monotonic_ns()}"
        found: dict[Controller, str] = {}
        try:
            if "pids" in own:
                wanted: tuple[Controller, ...] = ("pids", "memory")
                found = {controller: f"{own[controller].folder}/{name}" for controller in wanted if controller in own}
            elif "" in own:
                folder = f"{self._parent(own[''])}/{name}"
                found = {"pids": folder, "memory": folder}
            if self._controller not in found:
                return {}
            for folder in dict.fromkeys(found.values()):
                Path(folder).mkdir()
        except OSError:
            for folder in found.values():
                cgroupfs.discard(folder)
            return {}
        return found

    def _parent(self, own: hierarchy.Place) -> str:
        """The nearest v2 group around us that hands on both controllers, or can be told to."""
        folder = own.folder
        while True:
            file = f"{folder}/cgroup.subtree_control"
            missing = [name for name in ("pids", "memory") if name not in cgroupfs.read(file).split()]
            try:
                if missing:
                    cgroupfs.write(file, " ".join(f"+{name}" for name in missing))
                    self._undo.append((file, " ".join(f"-{name}" for name in missing)))
                return folder
            except OSError:
                if folder == own.mount:
                    raise
            folder = str(Path(folder).parent)

    def _set_limit(self) -> None:
        if not self._groups:
            return
        folder = self._groups[self._controller]
        if self._controller == "pids":
            cgroupfs.write(f"{folder}/pids.max", str(self._limit))
        elif Path(folder, "memory.max").exists():
            cgroupfs.write(f"{folder}/memory.max", str(self._limit))
            with suppress(OSError):  # there is no swap
                cgroupfs.write(f"{folder}/memory.swap.max", "0")
        else:
            cgroupfs.write(f"{folder}/memory.limit_in_bytes", str(self._limit))
            cgroupfs.write(f"{folder}/memory.swappiness", "0")

    def _become_user(self) -> None:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        resource.setrlimit(resource.RLIMIT_NPROC, (self._limit, self._limit))  # set earlier, it could refuse the exec

    # The end

    def _members(self) -> list[int]:
        if self._user is None:
            return cgroupfs.members(self._groups.values())
        return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit() and _owner(entry) == USER]

    def _end(self) -> None:
        """End all there is, whatever state it is in."""
        for process in self._started:  # one of them may not have come to its group yet
            if process.poll() is None:
                process.kill()
        folders = list(dict.fromkeys(self._groups.values()))
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if self._user is None:
                cgroupfs.end(folders)
            for pid in self._members() if self._user is not None else ():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in self._started:
                process.wait()
            gone = [cgroupfs.discard(folder) for folder in folders]
            if all(gone) and not self._members():
                break
            time.sleep(0.02)
        else:
            print(f"LEFT: {self._members()} in {self.way}", file=sys.stderr, flush=True)
        for file, text in self._undo:
            with suppress(OSError):
                cgroupfs.write(file, text)


def _count(file: str, name: str) -> int:
    """A count out of lines of a name and a number; 0 where there is none."""
    found = [line.split()[1] for line in cgroupfs.read(file).splitlines() if line.startswith(f"{name} ")]
    return int(found[0]) if found else 0


def _owner(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_uid
    except OSError:
        return -1


def _threads(pid: int) -> int:
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0
