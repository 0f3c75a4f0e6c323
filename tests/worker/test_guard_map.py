"""map_safely: each item once at most, whatever is refused; what is done is kept, and no thread is left."""

from __future__ import annotations

import _thread
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from worker import alarm, guard, mapping
from worker.guard import Mapped, SoftTimeout, call_with_timeout, map_safely

# An exception that comes at any moment may come in somebody's finalizer, or in a callback of the garbage collector,
# where it can go nowhere. That is told as a warning, and is nobody's failure: it is raised again a little later.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ROOT = Path(alarm.__file__).parents[1]

SHORT_S, LONG_S = 0.1, 60.0
SOON_S = 20.0


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    threads, handler = _thread._count(), signal.getsignal(signal.SIGALRM)
    yield
    until = time.monotonic() + SOON_S  # what a test has left stuck on purpose ends by itself
    while _thread._count() > threads and time.monotonic() < until:
        time.sleep(0.01)
    assert _thread._count() <= threads
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert alarm._alarm.owners == {}
    assert mapping._mapping_threads == set()
    gc.collect()  # or an exception may strike in a finalizer under the next test's limit, which pytest reports


def spin(*_: object) -> None:
    while True:
        pass


def states(mapped: Mapped[Any]) -> list[str]:
    return [done.state for done in mapped]


def spin_if_odd(number: int) -> int:
    if number % 2:
        spin()
    return number


# What comes back


@pytest.mark.parametrize("workers", [None, 1, 2, 7, 100])
def test_every_item_is_run_once_and_told_in_order(workers: int | None) -> None:
    ran: list[int] = []
    mapped = map_safely(lambda number: (ran.append(number), number * 2)[1], range(50), workers=workers)
    assert sorted(ran) == list(range(50))
    assert mapped.values() == [number * 2 for number in range(50)]
    assert [done.index for done in mapped] == list(range(50))
    assert mapped.complete
    assert (mapped.stuck, mapped.refused, mapped.errors(), mapped.left()) == (0, 0, {}, [])


def test_an_items_exception_is_its_own() -> None:
    mapped = map_safely(lambda number: 6 // number, [1, 0, 2, 3])
    assert states(mapped) == ["ok", "error", "ok", "ok"]
    assert mapped.values() == [6, 3, 2]
    assert mapped.values_or(None) == [6, None, 3, 2]
    assert [type(error) for error in mapped.errors().values()] == [ZeroDivisionError]
    assert mapped.complete


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), MemoryError(), SoftTimeout(1)])
def test_whatever_an_item_raises_ends_only_itself(error: BaseException) -> None:
    def fail(number: int) -> int:
        if number == 3:
            raise error
        return number

    for workers in (1, 3):
        mapped = map_safely(fail, range(6), workers=workers)
        assert mapped.errors() == {3: error}
        assert len(mapped.values()) == 5


def test_a_key_press_ends_the_map() -> None:
    def press(_: int) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        map_safely(press, range(3), workers=1)


def test_no_items_are_no_work() -> None:
    mapped: Mapped[int] = map_safely(int, [])
    assert (list(mapped), mapped.complete) == ([], True)


def test_the_outcome_is_a_sequence() -> None:
    mapped = map_safely(str, (number for number in range(3)))
    assert len(mapped) == 3
    assert mapped[1].value == "1"
    assert [done.value for done in mapped[1:]] == ["1", "2"]
    assert mapped[0] in mapped
    assert repr(mapped) == "<Mapped: 3 of 3 ok, stuck 0, refused 0>"


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"timeout": 0}, "timeout must be above 0 s"),
        ({"each_timeout": float("nan")}, "each_timeout must be above 0 s"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_limits_are_checked(limits: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        map_safely(int, [1], **limits)


# Bounded


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_never_more_items_are_begun_than_there_are_workers(workers: int) -> None:
    running: set[int] = set()
    most = []

    def one(number: int) -> None:
        running.add(number)
        most.append(len(running))
        time.sleep(0.002)
        running.discard(number)

    map_safely(one, range(60), workers=workers)
    assert max(most) <= workers


def test_the_calling_thread_works_too_and_helpers_share() -> None:
    meet = threading.Barrier(3)
    idents = map_safely(lambda _: (meet.wait(LONG_S), threading.get_ident())[1], range(3), workers=3).values()
    assert threading.get_ident() in idents
    assert len(set(idents)) == 3


def test_a_map_in_a_map_starts_no_threads_of_its_own() -> None:
    def inner(_: int) -> set[int]:
        return set(map_safely(lambda _: threading.get_ident(), range(20)).values())

    for idents in map_safely(inner, range(8), workers=3).values():
        assert len(idents) == 1


def test_threads_of_the_map_leave_no_trace_in_threading() -> None:
    before, count = threading.enumerate(), _thread._count()
    for _ in range(20):
        map_safely(lambda _: threading.current_thread().name, range(8), workers=4)
        assert threading.enumerate() == before
        assert _thread._count() == count


def test_what_a_map_held_goes_with_its_outcome() -> None:
    class Big:
        pass

    item = Big()
    gone = weakref.ref(item)
    gc.disable()
    try:
        mapped = map_safely(lambda number: 1 // 0, [item] * 3, workers=2)
        assert len(mapped.errors()) == 3
        del item, mapped
        until = time.monotonic() + SOON_S
        while gone() is not None and time.monotonic() < until:
            time.sleep(0.001)
        assert gone() is None
    finally:
        gc.enable()


# Limits


@pytest.mark.parametrize("workers", [1, 4])
def test_each_item_has_its_own_limit(workers: int) -> None:
    began = time.monotonic()
    mapped = map_safely(spin_if_odd, range(8), workers=workers, each_timeout=SHORT_S)
    assert states(mapped) == ["ok", "timeout"] * 4
    assert mapped.values() == [0, 2, 4, 6]
    assert {type(error) for error in mapped.errors().values()} == {SoftTimeout}
    assert mapped.stuck == 0
    assert not mapped.complete
    assert time.monotonic() - began < SOON_S


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_whole_maps_limit_gives_what_is_done(workers: int) -> None:
    began = time.monotonic()
    mapped = map_safely(spin_if_odd, range(10), workers=workers, timeout=SHORT_S)
    assert states(mapped).count("given_up") == workers
    assert mapped.values() == [number * 2 for number in range(len(mapped.values()))]
    assert len(mapped.left()) + len(mapped.values()) == 10
    assert mapped.stuck == 0
    assert time.monotonic() - began < SOON_S


@pytest.mark.parametrize("limits", [{"timeout": SHORT_S}, {"each_timeout": SHORT_S}])
def test_a_helper_that_cannot_be_ended_is_told_and_its_late_value_dropped(limits: dict[str, float]) -> None:
    main = threading.get_ident()
    asleep = threading.Event()

    def sleep_in_a_helper(number: int) -> str:
        if threading.get_ident() == main:
            asleep.wait(LONG_S)
            return "main"
        asleep.set()
        time.sleep(mapping.END_S + 2)  # C code, which no exception ends in a helper
        return "late"

    mapped = map_safely(sleep_in_a_helper, range(2), workers=2, **limits)
    assert mapped.stuck == 1
    assert mapped.values() in (["main"], [])  # where the machine is slow, its own limit had passed as well
    time.sleep(0.1)
    assert "late" not in mapped.values()


def test_a_soft_limit_of_the_caller_ends_the_helpers_and_brings_what_is_done() -> None:
    began = time.monotonic()
    with pytest.raises(SoftTimeout) as caught:
        call_with_timeout(map_safely, 0.3, spin_if_odd, range(10), workers=3)
    assert not caught.value.enclosing
    mapped = caught.value.mapped
    assert mapped.values() == [number * 2 for number in range(len(mapped.values()))]
    assert mapped.left()
    assert mapped.stuck == 0
    assert time.monotonic() - began < SOON_S


def test_a_caller_that_catches_its_soft_limit_returns_what_is_done() -> None:
    def task() -> list[int]:
        try:
            return map_safely(spin_if_odd, range(4), workers=2, each_timeout=LONG_S, timeout=LONG_S).values()
        except SoftTimeout as stop:
            assert stop.enclosing
            return stop.mapped.values()

    assert call_with_timeout(task, 0.3) in ([0], [0, 2])


def test_items_that_end_at_their_limit_are_each_told_once() -> None:
    def burn(seconds: float) -> float:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
        return seconds

    ran: list[float] = []
    for _ in range(20):
        mapped = map_safely(lambda s: (ran.append(s), burn(s))[1], [0.002] * 20, workers=4, each_timeout=0.002)
        assert set(states(mapped)) <= {"ok", "timeout"}
    assert len(ran) <= 400
    until = time.monotonic() + alarm.AGAIN_S * 1.5
    while time.monotonic() < until:
        pass


def test_a_function_may_use_call_with_timeout_in_helpers() -> None:
    def one(number: int) -> str:
        try:
            call_with_timeout(spin, 0.02)
        except SoftTimeout as stop:
            assert not stop.enclosing
            return "ended"
        return "never"

    assert map_safely(one, range(6), workers=3).values() == ["ended"] * 6


def test_in_another_thread_it_works_and_with_limits_after_prepare() -> None:
    told: list[Any] = []

    def run(**limits: float) -> None:
        try:
            told.append(states(map_safely(spin_if_odd if limits else abs, range(4), workers=2, **limits)))
        except RuntimeError as error:
            told.append(str(error))

    def in_thread(**limits: float) -> Any:
        thread = threading.Thread(target=run, kwargs=limits, daemon=True)
        thread.start()
        thread.join(LONG_S)
        return told.pop()

    assert in_thread() == ["ok"] * 4
    assert "guard.prepare()" in in_thread(each_timeout=SHORT_S)
    handler = signal.getsignal(signal.SIGALRM)
    guard.prepare()
    try:
        assert in_thread(each_timeout=SHORT_S) == ["ok", "timeout"] * 2
    finally:
        signal.signal(signal.SIGALRM, handler)


# Refused

REFUSAL = """
import ctypes, json, os, resource, sys, threading, time
from worker.guard import map_safely

extra, items = int(sys.argv[1]), int(sys.argv[2])
hold = [threading.Lock()]
if sys.argv[3] == "threads":
    if os.getuid() == 0:
        os.setuid(200_000 + os.getpid())  # root is exempt; nobody else is this user, so the count is exact
    resource.setrlimit(resource.RLIMIT_NPROC, (1 + extra, 1 + extra))
else:
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (6 << 20), size + (6 << 20)))  # less than one stack
ran = []
def one(number):
    ran.append(number)
    time.sleep(0.002)
    return threading.get_ident()
mapped = map_safely(one, range(items), workers=8)
print(json.dumps({"ran": sorted(ran), "threads": len(set(mapped.values())), "complete": mapped.complete,
    "refused": mapped.refused, "stuck": mapped.stuck, "left": threading.active_count()}))
"""


def refused(extra: int, what: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", REFUSAL, str(extra), "200", what],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("what", ["threads", "memory"])
def test_where_no_thread_is_to_be_had_the_caller_does_it_all_once(what: str) -> None:
    assert refused(0, what) == {
        "ran": list(range(200)),
        "threads": 1,
        "complete": True,
        "refused": 7,
        "stuck": 0,
        "left": 1,
    }


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be a user whose threads are countable")
def test_it_goes_on_with_the_threads_that_it_got() -> None:
    told = refused(2, "threads")
    assert told["ran"] == list(range(200))
    assert told["refused"] == 5
    assert 1 < told["threads"] <= 3
    assert told["left"] == 1


def test_a_thread_that_dies_before_its_first_line_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # A thread that finds no memory for its first frame. It is made up, for it cannot be brought about at will.
    def die(self: threading.Thread) -> None:
        threading._limbo.pop(self, None)  # type: ignore[attr-defined]

    monkeypatch.setattr(mapping._Helper, "_bootstrap", die)
    mapped = map_safely(abs, range(20), workers=3)
    assert mapped.values() == list(range(20))
    assert mapped.refused == 2
