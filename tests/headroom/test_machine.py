"""The machine's reading: the real one, and a written /proc for what binds."""

from pathlib import Path

import psutil
import pytest

from batt_supervisor.headroom.machine import MachineHeadroom


def written(folder: Path, *, used: int = 345, pid_max: int = 32768, threads_max: int = 60000) -> Path:
    (folder / "sys/kernel").mkdir(parents=True, exist_ok=True)
    (folder / "loadavg").write_text(f"0.10 0.20 0.30 2/{used} 6789\n")
    (folder / "sys/kernel/pid_max").write_text(f"{pid_max}\n")
    (folder / "sys/kernel/threads-max").write_text(f"{threads_max}\n")
    return folder


@pytest.mark.parametrize(
    ("pid_max", "threads_max", "free", "name"),
    [
        (32768, 60000, 32768 - 345, "kernel.pid_max (345 of 32768)"),
        (4194304, 3000, 3000 - 345, "kernel.threads-max (345 of 3000)"),
        (300, 3000, -45, "kernel.pid_max (345 of 300)"),
    ],
)
def test_the_lower_limit_binds_and_is_named(
    tmp_path: Path, pid_max: int, threads_max: int, free: int, name: str
) -> None:
    headroom = MachineHeadroom(proc=written(tmp_path, pid_max=pid_max, threads_max=threads_max))
    found = headroom.read(0.0)
    headroom.close()
    assert (found.space.threads, found.threads_limit) == (free, name)
    assert found.total.threads == min(pid_max, threads_max)


def test_a_reading_serves_for_a_moment_and_no_longer(tmp_path: Path) -> None:
    headroom = MachineHeadroom(keep_s=0.05, proc=written(tmp_path, used=100))
    first = headroom.read(10.0)
    (tmp_path / "loadavg").write_text("0.10 0.20 0.30 2/200 6789\n")
    assert headroom.read(10.049) is first
    assert headroom.read(10.05).space.threads == first.space.threads - 100
    (tmp_path / "loadavg").write_text("0.10 0.20 0.30 2/300 6789\n")
    # A clock that goes back makes no reading last for ever.
    assert headroom.read(3.0).space.threads == first.space.threads - 200
    headroom.close()


def test_the_reading_of_this_machine_is_plausible() -> None:
    headroom = MachineHeadroom()
    found = headroom.read(0.0)
    headroom.close()
    assert 0 < found.space.memory_bytes <= found.total.memory_bytes == psutil.virtual_memory().total
    assert 0 < found.space.threads < found.total.threads
