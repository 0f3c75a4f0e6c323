"""Slots and nurseries, really broken, in this process: each event costs one attempt at most, and nothing is left."""

from __future__ import annotations

import os
import resource
import select
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest

from batt_supervisor.core.model import Room
from batt_supervisor.core.world import SlotPhase
from batt_supervisor.pool.crew import Crew, Settings
from batt_supervisor.pool.group import Groups
from batt_supervisor.pool.nursery import Places
from batt_supervisor.pool.nursery import Settings as NurserySettings
from batt_supervisor.pool.protocol import Exit, Request
from batt_supervisor.testing import PATIENCE_S

TESTS = Path(__file__).resolve().parent.parent
HOME = Room("/")


class Hands:
    """A crew with its two threads, and this thread as its loop."""

    def __init__(
        self, folder: Path, width: int = 2, environ: Mapping[str, str] = MappingProxyType({}), **given: Any
    ) -> None:
        for name in ("logs", "results"):
            (folder / name).mkdir()
        self.folder = folder
        places = Places(folder / "logs", folder / "results", f"test-{os.getpid()}", "/nowhere", 2**26)
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS), **environ}
        nursery = NurserySettings(environ=environ, **{"preload": (), **given})
        settings = Settings(20.0, resource.getrlimit(resource.RLIMIT_NOFILE), nursery)
        self.crew = Crew(places, settings, Groups.find("off", "x"), width, HOME, time.monotonic())
        self._threads = [threading.Thread(target=one.run) for one in (self.crew.builder, self.crew.reaper)]
        for thread in self._threads:
            thread.start()
        self.exits: list[Exit] = []
        self._serial = 0

    def round(self) -> None:
        waiter = select.poll()
        for fd in self.crew.descriptors():
            waiter.register(fd, select.POLLIN)
        ready = {fd for fd, _ in waiter.poll(20)}
        self.exits += self.crew.poll(time.monotonic(), ready)

    def until(self, what: str, seen: Any) -> Any:
        until_s = time.monotonic() + PATIENCE_S
        while not (found := seen()):
            assert time.monotonic() < until_s, f"not seen: {what}; {self.crew.status()}"
            self.round()
        return found

    def idle(self) -> list[int]:
        return [slot.id for slot in self.crew.slots() if slot.phase is SlotPhase.IDLE]

    def all_idle(self) -> None:
        self.until("all slots are idle", lambda: len(self.idle()) == 3)

    def send(self, slot_id: int, function: str, *args: Any) -> int:
        self._serial += 1
        body = {"op": "call", "function": function, "args": args, "task": self._serial, "attempt": 1}
        self.crew.send(slot_id, [Request(self._serial, body)])
        return self._serial

    def end_of(self, serial: int) -> Exit:
        self.until(f"{serial} has ended", lambda: any(one.serial == serial for one in self.exits))
        [found] = [one for one in self.exits if one.serial == serial]
        return found

    def call(self, function: str, *args: Any) -> Any:
        """What it gives, in any idle slot."""
        found = None
        while found is None or found.requeue or found.together:  # its worker was dying, though the slot seemed idle
            self.until("a slot is idle", self.idle)
            found = self.end_of(self.send(self.idle()[0], function, *args))
        report = found.report
        assert report is not None
        assert report["outcome"] == "ok"
        return report["value"]

    def inside(self, slot_id: int) -> Any:
        return self.crew._slots[slot_id]

    def nursery(self) -> Any:
        return self.until("there is a nursery", lambda: self.crew.nurseries.get(HOME))

    def close(self) -> None:
        self.crew.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in self._threads)
        assert self.crew.wait(PATIENCE_S)


@pytest.fixture
def hands(tmp_path: Path) -> Iterator[Hands]:
    found = Hands(tmp_path)
    yield found
    found.close()


def break_pool(hands: Hands, slot_id: int) -> None:
    """Its manager thread ends by an error."""

    def fail() -> None:
        raise RuntimeError("told to fail by a test")

    pool = hands.inside(slot_id).pool
    pool.manager.worker_manager.inspect_workers = fail
    pool.look()


def tear_message(hands: Hands, slot_id: int) -> None:
    """The beginning of a message that never ends lies in the pipe that the pool reads."""
    os.write(hands.inside(slot_id).pool.manager.worker_manager.workers_channel.writer.fileno(), b"\0\0\x20")


def kill_worker(hands: Hands, slot_id: int) -> None:
    os.kill(hands.crew.worker(slot_id).pid, signal.SIGKILL)  # type: ignore[union-attr]


def kill_nursery(hands: Hands, slot_id: int) -> None:
    os.kill(hands.nursery().pid, signal.SIGKILL)


def stop_nursery(hands: Hands, slot_id: int) -> None:
    os.kill(hands.nursery().pid, signal.SIGSTOP)


EVENTS = [kill_worker, kill_nursery, stop_nursery, break_pool, tear_message]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_whatever_goes_wrong_in_a_slot_costs_one_attempt_at_most(hands: Hands, event: Any, busy: bool) -> None:
    hands.all_idle()
    serial = hands.send(0, "zoo.calm:sleep", 0.3) if busy else 0
    if busy:
        hands.until("it is called", lambda: hands.crew.called(0, serial))
    event(hands, 0)
    if busy:
        found = hands.end_of(serial)
        assert found.report is not None or found.exit_code is not None or found.broken
    for number in range(6):
        assert hands.call("zoo.calm:echo", number) == str(number)
    hands.all_idle()
    assert [one.serial for one in hands.exits] == sorted({one.serial for one in hands.exits})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nothing_is_left_of_slots_that_were_thrown_away(hands: Hands) -> None:
    """The long form of this is BATT_TEST_ROUNDS=1000."""
    me = psutil.Process()

    def held() -> tuple[int, int, int]:
        return me.num_threads(), me.num_fds(), len(me.children(recursive=True))

    def settle() -> None:
        hands.all_idle()
        hands.until("the reaper has seen all of them off", lambda: hands.crew.reaper.waiting == 0)

    settle()
    before = held()
    for number in range(int(os.environ.get("BATT_TEST_ROUNDS", "12"))):
        hands.until("a slot is idle", hands.idle)
        slot_id = hands.idle()[number % len(hands.idle())]
        EVENTS[number % 4](hands, slot_id)
        for _ in range(3):
            hands.round()
    settle()
    hands.until("it holds no more than before", lambda: held() <= before)
    assert hands.call("zoo.calm:echo", 1) == "1"


def test_a_worker_whose_nursery_died_while_it_was_forked_takes_nothing_up(tmp_path: Path) -> None:
    """It would read from the pipe of the one that takes its place."""
    flag = tmp_path / "flag"
    hands = Hands(tmp_path, environ={"ZOO_FORKS": str(flag)}, preload=("zoo.forks",))
    try:
        hands.all_idle()
        flag.touch()
        kill_worker(hands, 0)
        born = tmp_path / "flag.pid"
        hands.until("its nursery has died", born.exists)
        hands.until("it has gone, too", lambda: not psutil.pid_exists(int(born.read_text())))
        for number in range(6):
            assert hands.call("zoo.calm:echo", number) == str(number)
        hands.all_idle()
    finally:
        hands.close()


def test_a_request_that_a_dead_worker_left_is_not_made_by_the_next(hands: Hands, tmp_path: Path) -> None:
    hands.all_idle()
    mark = tmp_path / "made"
    worker = hands.crew.worker(0)
    assert worker is not None
    os.kill(worker.pid, signal.SIGSTOP)  # it takes nothing up
    serial = hands.send(0, "zoo.records:count", str(mark), "x")
    hands.round()
    os.kill(worker.pid, signal.SIGKILL)
    found = hands.end_of(serial)
    assert found.requeue
    hands.all_idle()
    hands.call("zoo.calm:sleep", 0.05)
    assert not mark.exists()


def test_a_worker_that_is_refused_is_waited_for_in_the_same_pool(hands: Hands) -> None:
    """Here for want of descriptors in the nursery; what a full control group does is tested with a whole battd."""
    hands.all_idle()
    pools = {slot_id: hands.inside(slot_id).pool for slot_id in (0, 1, 2)}
    nursery = hands.nursery()
    before = resource.prlimit(nursery.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(nursery.pid, resource.RLIMIT_NOFILE, (4, before[1]))
    kill_worker(hands, 0)
    hands.until("it is told why", lambda: "Too many open files" in hands.crew.trouble())
    assert hands.call("zoo.calm:echo", 7) == "7"
    resource.prlimit(nursery.pid, resource.RLIMIT_NOFILE, before)
    hands.all_idle()
    assert {slot_id: hands.inside(slot_id).pool for slot_id in (0, 1, 2)} == pools
    assert hands.crew.trouble() == ""


def test_what_was_not_begun_of_a_pack_can_be_taken_back(hands: Hands, tmp_path: Path) -> None:
    hands.all_idle()
    body = {
        "op": "call",
        "function": "zoo.records:count",
        "args": (str(tmp_path / "made"), "x"),
        "task": 1,
        "attempt": 1,
    }
    slow = {"op": "call", "function": "zoo.calm:sleep", "args": (0.5,), "task": 2, "attempt": 1}
    hands.crew.send(0, [Request(1, slow), Request(2, body), Request(3, body)])
    hands.until("the first is called", lambda: hands.crew.called(0, 1))
    hands.crew.take_back(0)
    assert [hands.end_of(serial).requeue for serial in (2, 3)] == [True, True]
    first = hands.end_of(1)
    assert first.report is not None
    assert first.report["outcome"] == "ok"
    hands.all_idle()
    assert not (tmp_path / "made").exists()
    # The next pack is made as usual.
    hands.crew.send(0, [Request(4, body), Request(5, body)])
    assert [(hands.end_of(serial).report or {}).get("outcome") for serial in (4, 5)] == ["ok", "ok"]


@pytest.mark.parametrize("round_", range(30))
def test_what_is_taken_back_in_any_moment_is_made_or_given_back_and_never_both(
    hands: Hands, tmp_path: Path, round_: int
) -> None:
    hands.all_idle()
    path = tmp_path / "made"
    warm = {"op": "call", "function": "zoo.records:count", "args": (str(tmp_path / "w"), "x"), "task": 99, "attempt": 1}
    hands.crew.send(0, [Request(99, warm)])
    hands.end_of(99)
    hands.all_idle()
    requests = []
    for serial in range(1, 17):
        args = (str(path), str(serial))
        body = {"op": "call", "function": "zoo.records:count", "args": args, "task": serial, "attempt": 1}
        requests.append(Request(serial, body))
    hands.crew.send(0, requests)
    time.sleep(round_ * 0.0001)
    hands.crew.take_back(0)
    back = {serial for serial in range(1, 17) if hands.end_of(serial).requeue}
    hands.all_idle()
    made = [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []
    assert sorted([*made, *back]) == list(range(1, 17))
