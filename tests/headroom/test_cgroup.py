"""Limits of groups as they are read from their files; the same tables for v1 and v2."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from batt_supervisor.core.headroom import Limit, Resource

if TYPE_CHECKING:
    from conftest import Written

MiB = 2**20
HUGE = {"4 KiB pages": "9223372036854771712", "64 KiB pages": "9223372036854710272"}


def shown(limits: list[Limit]) -> list[tuple[str, int, int]]:
    return [(one.name, one.limit, one.used) for one in limits]


def v2(written: Written, path: str, files: dict[str, str]) -> None:
    """Our own group on a machine with v2 alone, and the root, which has no limits."""
    written.group("/", {"cgroup.controllers": "cpu memory pids"})
    written.put(self__cgroup=f"0::{path}\n")
    written.group(path, files)


def test_limits_of_v2(written: Written) -> None:
    v2(
        written,
        "/batt.slice/x",
        {
            "pids.max": "50",
            "pids.current": "7",
            "memory.max": str(512 * MiB),
            "memory.high": str(400 * MiB),
            "memory.current": str(300 * MiB),
            "memory.stat": f"anon 1\nworkingset_inactive_file 3\ninactive_file {100 * MiB}\nactive_file {9 * MiB}",
        },
    )
    limits = written.of_groups()
    assert shown(limits) == [
        ("pids.max of /batt.slice/x", 50, 7),
        ("memory.max of /batt.slice/x", 512 * MiB, 200 * MiB),
        ("memory.high of /batt.slice/x", 400 * MiB, 200 * MiB),
    ]
    assert [one.source for one in limits] == [
        f"{written.root}/batt.slice/x/{name}" for name in ("pids.max", "memory.max", "memory.high")
    ]


V1 = {
    "memory.limit_in_bytes": str(512 * MiB),
    "memory.usage_in_bytes": str(300 * MiB),
    "memory.stat": f"inactive_file 5\nhierarchical_memory_limit {512 * MiB}\ntotal_inactive_file {100 * MiB}",
}


def v1(written: Written, path: str, controller: str, files: dict[str, str]) -> None:
    written.put(self__cgroup=f"5:pids:{path}\n4:memory:{path}\n3:cpu:{path}\n0::/\n")
    written.group(f"{controller}{path}", files)


def test_limits_of_v1(written: Written) -> None:
    v1(written, "/x", "pids", {"pids.max": "50", "pids.current": "7"})
    v1(written, "/x", "memory", V1)
    assert shown(written.of_groups()) == [
        ("pids.max of /x", 50, 7),
        ("memory.limit_in_bytes of /x", 512 * MiB, 200 * MiB),
    ]


def test_memory_and_swap_together_are_a_limit_of_v1(written: Written) -> None:
    """100 of 512 MiB are in swap: no more can be had than the two leave."""
    together = {"memory.memsw.limit_in_bytes": str(512 * MiB), "memory.memsw.usage_in_bytes": str(400 * MiB)}
    v1(written, "/x", "memory", V1 | together)
    assert shown(written.of_groups()) == [
        ("memory.limit_in_bytes of /x", 512 * MiB, 200 * MiB),
        ("memory.memsw.limit_in_bytes of /x", 512 * MiB, 300 * MiB),
    ]


@pytest.mark.parametrize("huge", HUGE.values(), ids=HUGE)
def test_the_highest_number_of_v1_is_no_limit(written: Written, huge: str) -> None:
    v1(written, "/x", "memory", V1 | dict.fromkeys(["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"], huge))
    v1(written, "/", "memory", {"memory.limit_in_bytes": huge, "memory.stat": f"hierarchical_memory_limit {huge}"})
    assert written.of_groups() == []


@pytest.mark.parametrize("name", ["pids.max", "memory.max", "memory.high"])
def test_max_is_no_limit_in_v2(written: Written, name: str) -> None:
    v2(written, "/x", {name: "max", "pids.current": "7", "memory.current": "7"})
    reading = written.reading()
    assert (written.of_groups(), list(reading.missing)) == ([], [])


def test_a_limit_around_what_a_container_sees_is_known_by_its_amount(written: Written) -> None:
    own = {"memory.limit_in_bytes": HUGE["4 KiB pages"], "memory.usage_in_bytes": "70", "memory.stat": ""}
    written.put(self__cgroup="4:memory:/\n")
    written.group("memory", own | {"memory.stat": "cache 3\nhierarchical_memory_limit 1000\ntotal_inactive_file 20"})
    assert shown(written.of_groups()) == [("hierarchical_memory_limit of /", 1000, 50)]
    written.group("memory", {"memory.limit_in_bytes": "1000"})
    assert shown(written.of_groups()) == [("memory.limit_in_bytes of /", 1000, 50)]


def test_every_enclosing_group_counts_and_the_one_that_leaves_least_binds(written: Written) -> None:
    numbers = {"memory.current": "0", "memory.stat": "inactive_file 0"}
    v2(written, "/a/b/c", {"pids.max": "100", "pids.current": "10", "memory.max": "5000", **numbers})
    written.group("/a/b", {"pids.max": "100", "pids.current": "60", "memory.max": "4000", **numbers})
    written.group("/a", {"pids.max": "max", "pids.current": "90", "memory.max": "6000", **numbers})
    reading = written.reading()
    assert reading.binding(Resource.THREADS).name == "pids.max of /a/b"
    assert reading.binding(Resource.MEMORY).name == "memory.max of /a/b"
    names = [limit.name for limit in reading.limits]
    assert names == [
        "memory of the host",
        "kernel.threads-max",
        "kernel.pid_max",
        "memory.max of /a",
        "pids.max of /a/b",
        "memory.max of /a/b",
        "pids.max of /a/b/c",
        "memory.max of /a/b/c",
    ]
    free = reading.free()
    assert (free.space.threads, free.space.memory_bytes) == (40, 4000)
    assert (free.total.threads, free.total.memory_bytes) == (100, 4000)


def test_both_versions_at_once(written: Written) -> None:
    """Hybrid: each controller is in one of the two; the other's groups have no such files."""
    written.put(self__cgroup="5:pids:/p\n4:memory:/m\n0::/u\n")
    written.group("unified", {"cgroup.controllers": "pids"})
    written.group("unified/u", {"pids.max": "20", "pids.current": "3"})
    written.group("pids/p", {"cgroup.procs": ""})
    written.group("memory/m", V1)
    assert [one.name for one in written.of_groups()] == ["pids.max of /u", "memory.limit_in_bytes of /m"]
    assert list(written.reading().missing) == []


@pytest.mark.parametrize(
    ("files", "told", "kept"),
    [
        ({"pids.max": "x", "pids.current": "7"}, "pids.max: invalid literal for int() with base 10: b'x'", []),
        ({"pids.max": "9", "pids.current": ""}, "pids.current: invalid literal for int() with base 10: b'\\n'", []),
        ({"pids.max": "9"}, "pids.current: it is not there, but its limit is", []),
        (
            {"pids.max": "9", "pids.current": "7", "memory.max": "5"},
            "memory.current: it is not there",
            ["pids.max of /x"],
        ),
    ],
)
def test_what_cannot_be_understood_is_told_and_is_no_limit(
    written: Written, files: dict[str, str], told: str, kept: list[str]
) -> None:
    v2(written, "/x", files)
    reading = written.reading()
    (missing,) = reading.missing
    assert missing.startswith(f"{written.root}/x/{told}")
    assert [one.name for one in written.of_groups()] == kept


@pytest.mark.parametrize("name", ["pids.max", "pids.current"])
def test_what_cannot_be_read_is_told_and_is_no_limit(written: Written, name: str) -> None:
    """A folder in a file's place is refused to root as well."""
    v2(written, "/x", {"pids.max": "9", "pids.current": "7"})
    (written.root / "x" / name).unlink()
    (written.root / "x" / name).mkdir()
    assert list(written.reading().missing) == [f"{written.root}/x/{name}: Is a directory"]
    assert written.of_groups() == []


def test_without_a_cache_to_give_back_all_that_is_used_counts(written: Written) -> None:
    v2(written, "/x", {"memory.max": "100", "memory.current": "70"})
    assert shown(written.of_groups()) == [("memory.max of /x", 100, 70)]
    written.group("/x", {"memory.stat": "inactive_file 80"})  # read after what is used, and more by then
    assert shown(written.of_groups()) == [("memory.max of /x", 100, 0)]


# What changes


def test_used_is_read_each_time_and_a_limit_after_a_moment(written: Written) -> None:
    v2(written, "/x", {"pids.max": "50", "pids.current": "7"})
    headroom = written.headroom()
    headroom.read(0.0)
    written.group("/x", {"pids.max": "40", "pids.current": "8"})
    assert shown([*headroom.read(0.1).limits][3:]) == [("pids.max of /x", 50, 8)]
    assert shown([*headroom.read(0.5).limits][3:]) == [("pids.max of /x", 40, 8)]
    written.group("/x", {"pids.max": "max"})
    assert shown([*headroom.read(1.0).limits][3:]) == []
    headroom.close()
    assert headroom.descriptors == 0


def test_a_move_to_another_group_is_seen(written: Written) -> None:
    """As battd does when it starts: into `supervisor`, below where it was."""
    v2(written, "/x", {"pids.max": "50", "pids.current": "7"})
    headroom = written.headroom()
    headroom.read(0.0)
    v2(written, "/x/supervisor", {"pids.max": "9", "pids.current": "1"})
    assert len(headroom.read(0.1).limits) == 4
    assert shown([*headroom.read(0.5).limits][3:]) == [("pids.max of /x", 50, 7), ("pids.max of /x/supervisor", 9, 1)]
    shutil.rmtree(written.root / "x/supervisor")
    v2(written, "/x", {})
    headroom.find_anew()
    held = headroom.descriptors
    assert shown([*headroom.read(0.6).limits][3:]) == [("pids.max of /x", 50, 7)]
    assert headroom.descriptors == held - 2
    headroom.close()


def test_a_controller_that_is_switched_on_later_is_seen(written: Written) -> None:
    v2(written, "/x", {})
    headroom = written.headroom()
    assert len(headroom.read(0.0).limits) == 3
    written.group("/x", {"pids.max": "9", "pids.current": "1"})
    assert len(headroom.read(9.9).limits) == 3
    assert shown([*headroom.read(10.4).limits][3:]) == [("pids.max of /x", 9, 1)]
    headroom.close()


def test_what_was_read_last_serves_while_a_file_fails(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    v2(written, "/x", {"pids.max": "50", "pids.current": "7"})
    headroom = written.headroom()
    first = headroom.read(0.0)

    def refuse(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr("os.pread", refuse)
        second = headroom.read(0.5)
    assert second.limits == first.limits
    for name in ("x/pids.max", "x/pids.current"):
        assert f"{written.root}/{name}: Input/output error" in second.missing
    assert headroom.read(1.0) == first
    headroom.close()


# CPU, pressure


@pytest.mark.parametrize(
    ("quotas", "cpus"),
    [
        (["50000 100000"], 0.5),
        (["max 100000"], None),
        (["max"], None),
        (["80000 100000", "max 100000", "5000 10000"], 0.5),
        ([], None),
    ],
)
def test_the_least_quota_of_v2(
    written: Written, monkeypatch: pytest.MonkeyPatch, quotas: list[str], cpus: float
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    v2(written, "/a/b/c", {})
    for path, quota in zip(["/a", "/a/b", "/a/b/c"], quotas, strict=False):
        written.group(path, {"cpu.max": quota})
    assert written.reading().pressure.cpus == (cpus or 3.0)


@pytest.mark.parametrize(("quota", "cpus"), [("150000", 1.5), ("-1", 3.0), ("900000", 3.0)])
def test_the_quota_of_v1(written: Written, monkeypatch: pytest.MonkeyPatch, quota: str, cpus: float) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    v1(written, "/x", "cpu", {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": "100000"})
    assert written.reading().pressure.cpus == cpus


def test_the_worst_pressure_of_the_host_and_all_groups(written: Written) -> None:
    """The host has 2.5 % some, 1 % full of memory and 30 % of CPU."""
    line = "{} avg10={} avg60=0.00 avg300=0.00 total=5"
    v2(written, "/x", {"memory.pressure": line.format("some", 2.4) + "\n" + line.format("full", 2.25)})
    written.group("/x", {"cpu.pressure": line.format("some", "99.00")})
    pressure = written.reading().pressure
    assert (pressure.memory_some, pressure.memory_full, pressure.cpu_some) == (2.5, 2.25, 99.0)
