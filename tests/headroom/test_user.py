"""RLIMIT_NPROC: whom it binds, and how many threads the user has."""

from __future__ import annotations

import os
import resource
from itertools import count
from typing import TYPE_CHECKING

import pytest

from batt_supervisor.core.headroom import Limit
from batt_supervisor.headroom.user import UserThreads, is_exempt

if TYPE_CHECKING:
    from conftest import Written

SYS_ADMIN, SYS_RESOURCE, NET_ADMIN = 1 << 21, 1 << 24, 1 << 12
INITIAL = "         0          0 4294967295\n"


@pytest.mark.parametrize(
    ("uid", "effective", "uid_map", "exempt"),
    [
        (0, 0, INITIAL, True),
        (1000, 0, INITIAL, False),
        (1000, SYS_ADMIN, INITIAL, True),
        (1000, SYS_RESOURCE, INITIAL, True),
        (1000, NET_ADMIN, INITIAL, False),
        (0, 0, "", True),  # a kernel without user namespaces
        (0, SYS_ADMIN | SYS_RESOURCE, "0 100000 65536\n", False),  # root of a container that is nobody outside
        (0, SYS_ADMIN, "0 1000 1\n", False),
        (0, 0, "0 0 65536\n", True),  # that is root outside too
        (5, 0, "0 100000 5\n5 0 1\n", True),
        (0, 0, "0 100000 5\n5 0 1\n", False),
    ],
)
def test_whom_it_does_not_bind(uid: int, effective: int, uid_map: str, exempt: bool) -> None:
    assert is_exempt(uid, effective, uid_map) is exempt


@pytest.fixture
def limited(written: Written, monkeypatch: pytest.MonkeyPatch) -> Written:
    """uid 1000 may have 1,000 threads, and has 12: 7 and 4 of two processes, and a third that is all but gone."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, resource.RLIM_INFINITY))
    written.put(self__status="Name:\tbattd\nUid:\t1000\t1000\t1000\t1000\nThreads:\t7\nCapEff:\t0\n")
    for pid, uid, threads in ((10, 1000, 7), (11, 1000, 4), (12, 0, 90), (13, 10001, 90)):
        written.process(pid, uid, threads)
    (written.proc / "14").mkdir()
    (written.proc / "14/status").write_text("Uid:\t1000\t0\t0\t0\n")
    (written.proc / "15").mkdir()  # ended since it was listed
    return written


class User:
    """The limit as it is read at a time, with the kernel's total of then; each scan takes half a second."""

    def __init__(self, written: Written) -> None:
        ticks = count(0, 0.5)
        self._user = UserThreads(written.proc, clock=lambda: next(ticks))
        self._user.refresh()

    def limit(self, now_s: float, total: int) -> Limit:
        found = self._user.limit(now_s, total)
        assert found is not None
        return found

    def used(self, now_s: float, total: int) -> int:
        return self.limit(now_s, total).used

    def refresh(self) -> None:
        self._user.refresh()

    @property
    def complaints(self) -> list[str]:
        return self._user.complaints


def test_threads_of_all_its_processes_by_their_real_user(limited: Written) -> None:
    reading = limited.reading()
    found = next(one for one in reading.limits if one.name.startswith("RLIMIT_NPROC"))
    assert (found.name, found.source) == ("RLIMIT_NPROC of uid 1000", "getrlimit")
    assert (found.limit, found.used, found.each) == (1000, 12, False)


@pytest.mark.parametrize("why", ["root", "unlimited"])
def test_no_limit_where_it_does_not_bind(limited: Written, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "root":
        limited.put(self__status="Uid:\t0\t0\t0\t0\nCapEff:\t0\n")
    else:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert not [one for one in limited.reading().limits if "RLIMIT_NPROC" in one.name]


def test_between_scans_it_rises_with_the_kernels_total_and_never_falls_with_it(limited: Written) -> None:
    user = User(limited)
    assert user.used(0.0, 900) == 12
    limited.process(10, 1000, 57)
    assert [user.used(0.1, total) for total in (900, 930, 950, 880)] == [12, 42, 62, 12]
    assert user.used(4.9, 950) == 62
    assert user.used(5.0, 950) == 62  # counted
    assert user.used(5.1, 950) == 62
    limited.process(10, 1000, 1)
    assert user.used(9.9, 900) == 62
    assert user.used(10.0, 900) == 6


def test_near_the_limit_each_reading_scans_but_not_all_the_time(limited: Written) -> None:
    """A scan takes 0.5 s here, so the next comes 5 s later at the earliest; at once, if it took no time."""
    user = User(limited)
    limited.process(10, 1000, 790)
    assert user.used(0.0, 900) == 795
    assert user.limit(0.0, 900).free == 205
    limited.process(10, 1000, 791)
    assert user.used(1.0, 920) == 815  # by the total: the scan of before is too young
    assert user.used(5.0, 920) == 796
    quick = UserThreads(limited.proc, clock=lambda: 0.0)
    quick.refresh()
    for number in (796, 797, 900):
        limited.process(10, 1000, number)
        found = quick.limit(0.0, 920)
        assert found is not None
        assert found.used == number + 5


def test_where_the_whole_kernel_has_fewer_threads_than_the_limit_it_is_seldom_counted(limited: Written) -> None:
    user = User(limited)
    assert user.used(0.0, 345) == 12
    limited.process(10, 1000, 8)
    assert user.used(59.0, 345) == 12
    assert user.used(60.0, 345) == 13
    limited.process(10, 1000, 9)
    assert user.used(1.0, 345) == 14  # a clock that goes back


def test_another_user_is_counted_anew(limited: Written) -> None:
    user = User(limited)
    assert user.used(0.0, 345) == 12
    limited.put(self__status="Uid:\t10001\t0\t0\t0\nCapEff:\t0\n")
    user.refresh()
    assert user.limit(0.1, 345).name == "RLIMIT_NPROC of uid 10001"
    assert user.used(0.1, 345) == 90


def test_a_count_that_fails_is_told_and_the_last_serves(limited: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(24, "Too many open files")

    user = User(limited)
    with monkeypatch.context() as starved:
        starved.setattr(os, "open", refuse)
        assert user.used(0.0, 345) == 345  # never counted: as if all threads were this user's
        assert user.complaints == [f"{limited.proc}: Too many open files"]
        assert user.used(0.0, 350) == 350
    assert user.used(0.1, 345) == 12
    with monkeypatch.context() as starved:
        starved.setattr(os, "open", refuse)
        assert user.used(60.1, 346) == 13
    assert user.used(60.2, 345) == 12
    assert user.complaints == []


def test_a_status_that_cannot_be_read_is_told_and_the_last_serves(limited: Written) -> None:
    user = User(limited)
    limited.put(self__status="")
    user.refresh()
    assert user.complaints == [f"{limited.proc}/self/status: b'Uid'"]
    assert user.limit(0.0, 345).name == "RLIMIT_NPROC of uid 1000"
