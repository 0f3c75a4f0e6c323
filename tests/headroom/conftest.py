"""A machine that is written into a folder: /proc, and hierarchies of control groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from batt_supervisor.core.headroom import Limit, Reading
from batt_supervisor.headroom.machine import MachineHeadroom

MEMINFO = """MemTotal:       1000000 kB
MemFree:         100000 kB
MemAvailable:    600000 kB
Cached:          500000 kB
SwapTotal:        50000 kB
SwapFree:         40000 kB
"""
PRESSURE = """some avg10={some} avg60=0.00 avg300=0.00 total=72843
full avg10={full} avg60=0.00 avg300=0.00 total=53276
"""


@dataclass
class Written:
    """A machine as files say that it is: 1,000,000 kB, 600,000 of them available, 345 threads of 32,768, run by root.

    Attributes:
        proc: What /proc is.
        root: Where hierarchies are laid out.
    """

    proc: Path
    root: Path

    def put(self, **files: str) -> None:
        """Write files of /proc; `__` in a name stands for a folder."""
        for name, text in files.items():
            file = self.proc / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def threads(self, total: int) -> None:
        self.put(loadavg=f"1.25 0.20 0.30 2/{total} 6789\n")

    def process(self, pid: int, uid: int, threads: int) -> None:
        folder = self.proc / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "status").write_text(f"Name:\tx\nUid:\t{uid}\t0\t0\t0\nThreads:\t{threads}\nCapEff:\t0\n")

    def group(self, path: str, files: dict[str, str]) -> Path:
        """Write a control group's files."""
        folder = self.root / path.strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(f"{text}\n")
        return folder

    def headroom(self, root: str | None = None) -> MachineHeadroom:
        """What reads it; each reading is a new look."""
        return MachineHeadroom(keep_s=0, proc=self.proc, cgroup_root=root or str(self.root))

    def reading(self, root: str | None = None) -> Reading:
        headroom = self.headroom(root)
        try:
            return headroom.read(0.0)
        finally:
            headroom.close()

    def of_groups(self) -> list[Limit]:
        """The limits of control groups."""
        return [limit for limit in self.reading().limits if limit.source.startswith(str(self.root))]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    machine = Written(tmp_path / "proc", tmp_path / "cgroup")
    machine.root.mkdir()
    machine.threads(345)
    machine.put(
        meminfo=MEMINFO,
        sys__kernel__pid_max="32768\n",
        sys__kernel__threads_max="60000\n",
        pressure__memory=PRESSURE.format(some="2.50", full="1.00"),
        pressure__cpu=PRESSURE.format(some="30.00", full="0.00"),
        self__status="Name:\tbattd\nUid:\t0\t0\t0\t0\nThreads:\t7\nCapEff:\t000001fffeffffff\n",
        self__uid_map="         0          0 4294967295\n",
        self__cgroup="0::/\n",
        self__mountinfo="22 1 0:20 / /proc rw - proc proc rw\n",
    )
    (machine.proc / "sys/kernel/threads_max").rename(machine.proc / "sys/kernel/threads-max")
    return machine
