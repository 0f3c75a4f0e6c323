"""The battds of the wall benchmark: each on the disk that the clone is on, with the benchmark's tasks to import."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batt_supervisor.testing import Daemon, eventually

HERE = Path(__file__).parent

PRELOAD = ("numpy",) if importlib.util.find_spec("numpy") else ("json", "decimal", "asyncio")
"""What workers have imported before they start, where that matters."""


class Services:
    """Makes battds.

    Attributes:
        folder: For files of the part that is being measured.
        kill_by: How the last of them said that it ends process trees.
    """

    def __init__(self, folder: Path, cgroup_root: str) -> None:
        self._root, self._cgroup_root = folder, cgroup_root
        self._number = 0
        self.folder = folder
        self.kill_by = ""

    def begin_part(self, name: str) -> None:
        self.folder = self._root / name
        self.folder.mkdir()

    @contextmanager
    def battd(self, *, slots: int, max_tasks: int = 0, preload: tuple[str, ...] = ()) -> Iterator[Daemon]:
        """One that runs and has all its workers; whatever happens, nothing of it is left."""
        self._number += 1
        home = self._root / f"battd-{self._number}"
        home.mkdir()
        config = [
            f'cgroup_root = "{self._cgroup_root}"', f"max_tasks = {max_tasks}", f"preload = {json.dumps(preload)}",
            'retry_delay = "20ms"', 'reserve_memory = "64M"', 'log_level = "warning"',
        ]  # fmt: skip
        own = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        with Daemon(home, config="\n".join(config) + "\n", python_path=[HERE, *own], slots=slots) as daemon:
            daemon.start()
            wait_at_rest(daemon)
            self.kill_by = daemon.client.service().kill_by
            yield daemon


def at_rest(daemon: Daemon) -> bool:
    """Whether every slot, the standby too, has an idle worker."""
    slots = daemon.client.service().slots
    return len(slots) == (daemon.slots or 0) + 1 and all(slot.phase == "idle" for slot in slots)


def wait_at_rest(daemon: Daemon) -> None:
    eventually("all slots are idle", lambda: at_rest(daemon))
