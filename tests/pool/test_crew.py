"""Slots and nurseries, really broken, in this process: each event costs one attempt at most, and nothing is left."""

from __future__ import annotations

import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hands import HERE, HOME, Hands

from batt_supervisor.core.model import Room
from batt_supervisor.pool.inbox import Launched
from batt_supervisor.pool.protocol import Request
from batt_supervisor.testing import eventually


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


def test_a_module_that_has_changed_wears_its_worker_out_though_modules_are_many(tmp_path: Path) -> None:
    """A long list of them goes through a file, which is removed."""
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    for number in range(40):
        (rooms / f"one_of_many_{number}.py").write_text("")
    (rooms / "many.py").write_text("".join(f"import one_of_many_{n}\n" for n in range(40)) + "def load(): return 1\n")
    hands = Hands(tmp_path, environ={"PYTHONPATH": str(rooms)})
    try:
        hands.all_idle()
        hands.end_of(hands.send(0, "many:load"))
        hands.all_idle()
        assert not list((tmp_path / "results").iterdir())
        assert not hands.view(0).spent
        (rooms / "one_of_many_39.py").write_text("changed = True\n")
        hands.until("its worker is worn out", lambda: "one_of_many_39.py has changed" in hands.view(0).spent)
    finally:
        hands.close()


def fork_unheard(hands: Hands, slot_id: int) -> Any:
    """Its worker dies, the pool's threads start the next one, and the loop has not heard of either; the dead one."""
    dead = hands.inside(slot_id).process
    kill_worker(hands, slot_id)
    hands.inside(slot_id).pool.look()
    eventually("the next one is on its way", lambda: any(isinstance(event, Launched) for event in hands.crew._inbox))
    return dead


def test_new_settings_are_every_workers_even_of_one_that_was_on_its_way(hands: Hands) -> None:
    hands.all_idle()
    dead = fork_unheard(hands, 0)
    before = hands.crew.settings
    hands.crew.settings = replace(before, nursery=replace(before.nursery, memory_max=2**40))
    hands.crew.renew_all()
    hands.until("the loop has heard of it", lambda: hands.inside(0).process is not dead)
    hands.all_idle()
    assert [hands.view(slot_id).spent for slot_id in (0, 1, 2)] == ["the settings have changed"] * 3
    for slot_id in (0, 1, 2):
        hands.crew.renew(slot_id, HOME)
    hands.all_idle()
    assert [hands.view(slot_id).spent for slot_id in (0, 1, 2)] == [""] * 3
    for slot_id in (0, 1, 2):
        report = hands.end_of(hands.send(slot_id, "spoiler:memory_max")).report
        assert report is not None
        assert report["value"] == str(2**40)


def test_a_worker_that_was_on_its_way_when_its_slot_moved_serves_nothing_there(hands: Hands, tmp_path: Path) -> None:
    hands.all_idle()
    fork_unheard(hands, 0)
    room = Room(str(tmp_path))
    hands.crew.renew(0, room)
    hands.until("the slot is idle there", lambda: 0 in hands.idle() and hands.view(0).room == room)
    report = hands.end_of(hands.send(0, "os:getcwd")).report
    assert report is not None
    assert report["value"] == f'"{tmp_path}"'
    assert not hands.inside(0).trouble


# Whose output is it?


def output_of(hands: Hands, serial: int) -> str:
    found = hands.end_of(serial)
    assert found.worker is not None
    return (hands.folder / "logs" / found.worker.log).read_text()[found.log_from : found.log_to]


def test_what_a_task_printed_before_it_died_at_once_is_told(hands: Hands) -> None:
    hands.all_idle()
    first = hands.send(0, "spoiler:say", "before")
    hands.end_of(first)
    hands.all_idle()
    second = hands.send(0, "spoiler:say_and_leave", "last words")
    assert hands.end_of(second).exit_code == 3
    assert [output_of(hands, serial) for serial in (first, second)] == ["before\n", "last words\n"]


def test_what_each_of_a_pack_printed_is_its_own_until_one_dies(hands: Hands) -> None:
    hands.all_idle()
    calls = [("say", "one"), ("say", "two"), ("say_and_leave", "three")]
    requests = [hands.request(f"spoiler:{name}", word) for name, word in calls]
    hands.crew.send(0, requests)
    assert [output_of(hands, request.serial) for request in requests] == ["one\n", "two\n", "three\n"]


def test_the_next_ones_log_is_not_taken_for_that_of_the_one_before(tmp_path: Path) -> None:
    """The worker has gone over to it, and battd has seen that before it has read the report of the one before."""
    flag = tmp_path / "flag"
    (tmp_path / "slow.py").write_text(
        f"import os, time\nwhile not os.path.exists({str(flag)!r}):\n    time.sleep(0.005)\n"
        "from spoiler import say_and_leave\n"
    )
    hands = Hands(tmp_path, environ={"PYTHONPATH": f"{tmp_path}:{HERE}"})
    try:
        hands.all_idle()
        requests = [hands.request("spoiler:say", "a long line"), hands.request("slow:say_and_leave", "short")]
        hands.crew.send(0, requests)
        eventually("the second is begun", lambda: hands.inside(0).process.board.read_log() == 1)
        assert hands.crew.sample(0, requests[0].serial, None)
        flag.touch()
        assert [output_of(hands, request.serial) for request in requests] == ["a long line\n", "short\n"]
    finally:
        hands.close()
