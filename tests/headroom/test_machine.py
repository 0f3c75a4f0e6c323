"""The host's part of a reading, what a reading is made of, and what happens where little can be read."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from batt_supervisor.core.headroom import Pressure, Resource
from batt_supervisor.headroom.machine import MachineHeadroom

if TYPE_CHECKING:
    from conftest import Written

kB = 1024


def test_the_host_by_its_files(written: Written) -> None:
    reading = written.reading()
    assert [(one.resource, one.name, one.limit, one.used) for one in reading.limits] == [
        (Resource.MEMORY, "memory of the host", 1_000_000 * kB, 400_000 * kB),
        (Resource.THREADS, "kernel.threads-max", 60_000, 345),
        (Resource.THREADS, "kernel.pid_max", 32_768, 345),
    ]
    assert [one.source for one in reading.limits] == [
        str(written.proc / name) for name in ("meminfo", "sys/kernel/threads-max", "sys/kernel/pid_max")
    ]
    assert reading.pressure == Pressure(
        memory_full=1.0,
        memory_some=2.5,
        cpu_some=30.0,
        load=1.25,
        cpus=float(len(os.sched_getaffinity(0))),
        swap_total_bytes=50_000 * kB,
        swap_free_bytes=40_000 * kB,
    )
    assert list(reading.missing) == []


@pytest.mark.parametrize(
    ("pid_max", "threads_max", "free", "name"),
    [
        (32768, 60000, 32768 - 345, "kernel.pid_max: 345 of 32768"),
        (4194304, 3000, 3000 - 345, "kernel.threads-max: 345 of 3000"),
        (300, 3000, 0, "kernel.pid_max: 345 of 300"),
    ],
)
def test_the_lower_limit_binds_and_is_named(
    written: Written, pid_max: int, threads_max: int, free: int, name: str
) -> None:
    for file, number in (("pid_max", pid_max), ("threads-max", threads_max)):
        (written.proc / "sys/kernel" / file).write_text(f"{number}\n")
    found = written.reading().free()
    assert (found.space.threads, found.threads_limit) == (free, name)
    assert found.total.threads == min(pid_max, threads_max)


def test_a_reading_serves_for_a_moment_and_no_longer(written: Written) -> None:
    headroom = MachineHeadroom(keep_s=0.05, proc=written.proc, cgroup_root="off")

    def threads(now_s: float) -> int:
        return headroom.read(now_s).binding(Resource.THREADS).used

    first = headroom.read(10.0)
    written.threads(200)
    assert headroom.read(10.049) is first
    assert threads(10.05) == 200
    written.threads(300)
    # A clock that goes back makes no reading last for ever.
    assert threads(3.0) == 300
    headroom.close()


@pytest.mark.parametrize(("name", "number"), [("RLIMIT_AS", resource.RLIMIT_AS), ("RLIMIT_DATA", resource.RLIMIT_DATA)])
def test_a_limit_of_each_process_binds_no_two_but_no_task_can_have_more(
    written: Written, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    monkeypatch.setattr(
        resource, "getrlimit", lambda which: (2**29, 2**30) if which == number else (resource.RLIM_INFINITY,) * 2
    )
    reading = written.reading()
    limit = reading.limits[-1]
    assert (limit.name, limit.source, limit.limit, limit.used, limit.each) == (name, "getrlimit", 2**29, 0, True)
    assert reading.binding(Resource.MEMORY).name == "memory of the host"
    assert reading.free().total.memory_bytes == 2**29


# What cannot be read


def test_a_kernel_that_does_not_measure_pressure(written: Written) -> None:
    (written.proc / "pressure/cpu").unlink()
    (written.proc / "pressure/memory").write_text("")
    reading = written.reading()
    pressure = reading.pressure
    assert (pressure.memory_full, pressure.memory_some, pressure.cpu_some) == (None, None, None)
    assert list(reading.missing) == [f"{written.proc}/pressure/cpu: the kernel does not measure it"]


def test_a_proc_without_anything_but_processes(tmp_path: Path) -> None:
    """As with `subset=pid`. There is a limit of each resource all the same, and the rest is told."""
    headroom = MachineHeadroom(proc=tmp_path)
    reading = headroom.read(0.0)
    headroom.close()
    memory, threads = reading.binding(Resource.MEMORY), reading.binding(Resource.THREADS)
    assert (memory.name, memory.source, threads.source) == ("memory of the host", "sysinfo", "assumed")
    assert memory.limit == pytest.approx(psutil.virtual_memory().total, rel=0.01)
    for name in ("loadavg", "meminfo", "sys/kernel/pid_max", "self/cgroup", "self/status", "pressure/memory"):
        assert [word for word in reading.missing if f"{tmp_path / name}: " in word]
    assert reading.pressure.load is None


def test_before_linux_3_14_psutil_says_what_is_available(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 7 * kB

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    written.put(meminfo="MemTotal: 100 kB\nMemFree: 50 kB\n")
    assert written.reading().binding(Resource.MEMORY).free == 7 * kB


def test_what_was_read_last_serves_where_no_file_can_be_read_any_more(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    headroom = written.headroom()
    first = headroom.read(0.0)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", refuse)
    assert headroom.read(0.1) == first  # what is held needs no descriptor
    monkeypatch.setattr(os, "pread", refuse)
    failed = headroom.read(20.0)
    assert failed.limits == first.limits
    assert failed.pressure.memory_full is None  # old pressure would be acted upon
    assert f"{written.proc}/meminfo: Too many open files" in failed.missing
    monkeypatch.undo()
    assert headroom.read(40.0) == first
    headroom.close()


# This machine


def test_the_reading_of_this_machine_is_plausible() -> None:
    headroom = MachineHeadroom()
    reading = headroom.read(0.0)
    assert reading.limits[0].limit == psutil.virtual_memory().total
    for one in Resource:
        assert 0 < reading.binding(one).free <= reading.binding(one).limit
    assert 0 < (reading.pressure.cpus or 0) <= (os.cpu_count() or 1)
    assert reading.pressure.swap_total_bytes == psutil.swap_memory().total
    assert all(Path(one.source).exists() for one in reading.limits if one.source != "getrlimit")
    assert headroom.descriptors > 0
    headroom.close()
    assert headroom.descriptors == 0


def test_no_descriptor_to_be_had_at_all() -> None:
    """The soft limit is what is open: not even the first file can be."""
    headroom = MachineHeadroom()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        starved = headroom.read(0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert starved.binding(Resource.MEMORY).source == "sysinfo"
    assert any(word.startswith("control groups cannot be looked up: ") for word in starved.missing)
    headroom.find_anew()
    assert headroom.read(0.1).binding(Resource.MEMORY).source != "sysinfo"
    headroom.close()
