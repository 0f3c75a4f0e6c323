"""A battd seen from outside: its processes and those of its tasks, its slots, its database."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from batt_supervisor.testing import Daemon


def noted(pids: Path) -> list[tuple[int, int]]:
    """Pid and start time of what a task of the zoo has started; see `zoo.kin`."""
    lines = pids.read_text().splitlines() if pids.exists() else []
    return [(int(pid), int(started)) for pid, started in (line.split() for line in lines)]


def stat(pid: int) -> tuple[str, int]:
    """State and start time; `gone` for a process that is not there."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "gone", 0
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def alive(pid: int, started: int) -> bool:
    state, since = stat(pid)
    return state not in ("gone", "Z", "X") and since == started != 0


def told(pid: int) -> str:
    """A process in words."""
    with suppress(psutil.Error, OSError):
        found = psutil.Process(pid)
        return f"{pid} ({found.status()}, child of {found.ppid()}: {' '.join(found.cmdline())[-80:]})"
    return f"{pid} (gone)"


def nurseries(daemon: Daemon) -> list[psutil.Process]:
    """What workers are forked from: one for each room in use."""
    found = []
    for child in daemon.process.children():
        with suppress(psutil.NoSuchProcess):  # or a zombie
            if any("nursery.py" in word for word in child.cmdline()):
                found.append(child)
    return found


def at_rest(daemon: Daemon) -> bool:
    """Whether every slot, the standby too, has an idle worker."""
    assert daemon.slots is not None
    slots = daemon.client.service().slots
    return len(slots) == daemon.slots + 1 and all(slot.phase == "idle" for slot in slots)


def rows(daemon: Daemon, sql: str) -> list[tuple[Any, ...]]:
    """What the database says, read beside battd."""
    db = sqlite3.connect(f"file:{daemon.state_dir / 'queue.db'}?mode=ro", uri=True)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()
