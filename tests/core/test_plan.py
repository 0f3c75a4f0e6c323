"""One plan: what starts where, what is stopped, what is held and why."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batt_supervisor.clock import Now
from batt_supervisor.core.admission import PATIENCE_S, Free, Hold
from batt_supervisor.core.limits import Sample
from batt_supervisor.core.model import Claim, Head, Limits, Outcome, Room, Space, Tries, Work
from batt_supervisor.core.plan import plan, wake_at
from batt_supervisor.core.retry import RESOURCE_TRIES
from batt_supervisor.core.start import TENURE_S
from batt_supervisor.core.world import (
    Begin,
    CloseRun,
    Closing,
    Command,
    Held,
    Policy,
    Renew,
    Running,
    RunView,
    SlotPhase,
    SlotView,
    Stop,
    World,
)

NOW = Now(mono_s=1000.0, wall_ms=1_700_000_000_000)
MIB = 2**20
HERE, THERE, ELSEWHERE = Room("/here"), Room("/there"), Room("/elsewhere")
POLICY = Policy(width=4, max_tasks=100, reserve=Space(256 * MIB, 64), need=Space(128 * MIB, 4))
ALONE = Tries(resource=RESOURCE_TRIES)

_ids = count(1)


def policy(width: int = 4, max_tasks: int = 100) -> Policy:
    return Policy(width=width, max_tasks=max_tasks, reserve=POLICY.reserve, need=POLICY.need)


def free(memory_mib: int = 8192, threads: int = 30000) -> Free:
    return Free(Space(memory_mib * MIB, threads), "memory of the host", "kernel.pid_max", Space(8192 * MIB, 32768))


def head(run_id: int, *, tries: Tries = Tries(), waited_s: float = 0.0, stage: int = 0) -> Head:  # noqa: B008 - frozen
    return Head(next(_ids), run_id, stage, 0, tries, NOW.wall_ms - round(waited_s * 1000))


def heads(run_id: int, number: int) -> list[Head]:
    return [head(run_id) for _ in range(number)]


def slot(
    slot_id: int,
    room: Room = HERE,
    phase: SlotPhase = SlotPhase.IDLE,
    *,
    served: int = 0,
    here_s: float = 100.0,
    spent: str = "",
) -> SlotView:
    return SlotView(slot_id, phase, room, served, NOW.mono_s - here_s, spent)


def running(run_id: int, slot_id: int | None, **given: Any) -> Running:
    """`timeout_s` and the other fields of Limits are taken as such."""
    limits = {name: given.pop(name) for name in list(given) if name in Limits.__dataclass_fields__}
    facts: dict[str, Any] = {
        "claim": Claim(next(_ids), 1),
        "run_id": run_id,
        "slot_id": slot_id,
        "limits": Limits(**{"timeout_s": 60.0} | limits),
        "sent_s": NOW.mono_s - 10,
        "boot_timeout_s": 30.0,
        "called_s": NOW.mono_s - 9.9,
    }
    return Running(**facts | {"asked": True} | given)


def world(
    queues: Mapping[int, Sequence[Head]],
    *,
    slots: Sequence[SlotView] = (),
    rooms: Mapping[int, Room] | None = None,
    runs: Sequence[RunView] | None = None,
    **given: Any,
) -> World:
    """A world with a run for each queue; all of them in HERE unless `rooms` says otherwise."""
    rooms = rooms or {}
    works = {
        (run_id, stage): Work(rooms.get(run_id, HERE), Limits(60.0), function=f"run{run_id}:work")
        for run_id in {*queues, *(run.id for run in runs or ())}
        for stage in range(3)
    }
    facts: dict[str, Any] = {
        "now": NOW,
        "accepting": True,
        "runs": runs if runs is not None else [RunView(run_id) for run_id in queues],
        "heads": queues,
        "works": works,
        "running": (),
        "slots": slots,
        "free": free(),
    }
    return World(**facts | given)


def of(kind: type[Any], commands: Iterable[Command]) -> list[Any]:
    return [command for command in commands if isinstance(command, kind)]


def begun(commands: Iterable[Command]) -> list[int]:
    """Runs of what starts, in order."""
    return [command.head.run_id for command in of(Begin, commands)]


def held(commands: Iterable[Command], run_id: int) -> str:
    """What holds a run."""
    return next(str(command.hold.short) for command in of(Held, commands) if command.run_id == run_id)


# Starting


def test_queued_tasks_start_in_order_in_idle_slots() -> None:
    queue = heads(1, 3)
    begins = of(Begin, plan(world({1: queue}, slots=[slot(1), slot(2)]), POLICY))
    assert [begin.head for begin in begins] == queue[:2]
    assert {begin.slot_id for begin in begins} == {1, 2}


def test_a_slot_is_given_one_task_and_a_task_one_slot() -> None:
    queues = {run_id: heads(run_id, 5) for run_id in range(1, 6)}
    begins = of(Begin, plan(world(queues, slots=[slot(number) for number in range(8)]), policy(width=8)))
    assert len({begin.slot_id for begin in begins}) == len(begins) == 8
    assert len({begin.head.task_id for begin in begins}) == 8


def test_no_more_run_than_the_width_allows() -> None:
    busy = [running(1, 1), running(1, 2)]
    slots = [slot(1, phase=SlotPhase.BUSY), slot(2, phase=SlotPhase.BUSY), slot(3), slot(4)]
    commands = plan(world({1: heads(1, 9)}, slots=slots, running=busy), policy(width=3))
    assert len(begun(commands)) == 1
    assert of(Held, commands)[0].hold.reason == "waits for a slot: all 3 run"


def test_what_is_being_stopped_still_fills_its_slot() -> None:
    busy = [running(1, 1, ending=True)]
    commands = plan(world({1: heads(1, 1)}, slots=[slot(1, phase=SlotPhase.BUSY), slot(2)], running=busy), policy(1))
    assert not begun(commands)


def test_runs_take_turns() -> None:
    queues = {1: heads(1, 9), 2: heads(2, 9), 3: heads(3, 9)}
    slots = [slot(number) for number in range(6)]
    assert begun(plan(world(queues, slots=slots), policy(width=6))) == [1, 2, 3, 1, 2, 3]


def test_the_run_with_fewest_running_comes_first() -> None:
    busy = [running(1, 10), running(1, 11), running(2, 12)]
    queues = {1: heads(1, 9), 2: heads(2, 9), 3: heads(3, 9)}
    slots = [slot(number) for number in range(3)]
    commands = plan(world(queues, slots=slots, running=busy), policy(width=6))
    assert begun(commands) == [3, 2, 3]


def test_among_equals_the_run_that_waited_longest_comes_first() -> None:
    queues = {1: heads(1, 1), 2: heads(2, 1), 3: heads(3, 1)}
    starts = {1: NOW.mono_s - 1, 2: NOW.mono_s - 5, 3: NOW.mono_s - 3}
    slots = [slot(number) for number in range(3)]
    assert begun(plan(world(queues, slots=slots, last_start_s=starts), POLICY)) == [2, 3, 1]


def test_with_one_slot_no_run_waits_for_more_than_one_task_of_each_other() -> None:
    queues = {run_id: heads(run_id, 20) for run_id in (1, 2, 3)}
    last: dict[int, float] = {}
    order = []
    for tick in range(30):
        (run_id,) = begun(plan(world(queues, slots=[slot(1)], last_start_s=last), policy(width=1)))
        last[run_id] = NOW.mono_s + tick
        queues[run_id].pop(0)
        order.append(run_id)
    for start in range(0, 30, 3):
        assert sorted(order[start : start + 3]) == [1, 2, 3]


def ahead_of(run_ids: Sequence[int], **given: Any) -> World:
    """One slot, busy with run 2, whose tasks are so short that four may be claimed before it is free."""
    return world(
        {run_id: heads(run_id, 9) for run_id in run_ids},
        slots=[slot(1, phase=SlotPhase.BUSY), slot(2)],
        **{"running": [running(2, 1)], "ahead": {"run2:work": 4}} | given,
    )


def test_tasks_of_a_short_kind_are_claimed_before_a_slot_is_free_for_them() -> None:
    begins = of(Begin, plan(ahead_of([2]), policy(width=1)))
    assert [begin.slot_id for begin in begins] == [None] * 4


def test_what_was_claimed_ahead_before_counts() -> None:
    waiting = [running(2, 1), *(running(2, None, called_s=None) for _ in range(3))]
    assert len(begun(plan(ahead_of([2], running=waiting), policy(width=1)))) == 1


def test_what_was_claimed_ahead_is_stopped_but_has_no_deadline_yet() -> None:
    waiting = running(2, None, called_s=None, sent_s=NOW.mono_s - 9999)
    given = ahead_of([2], running=[running(2, 1), waiting])
    assert not of(Stop, plan(given, policy(width=1)))
    assert wake_at(given) == pytest.approx(NOW.mono_s + 50.1)
    closing = ahead_of([2], running=[waiting], runs=[RunView(2, closing=Closing.CANCEL)])
    assert of(Stop, plan(closing, policy(width=1))) == [Stop(waiting.claim, None, Outcome.CANCELLED, "cancelled")]


def test_tasks_are_not_claimed_ahead_of_another_run_whose_turn_it_is() -> None:
    commands = plan(ahead_of([1, 2]), policy(width=1))
    assert held(commands, 1) == "slots"
    assert not begun(commands)


def test_nothing_is_claimed_ahead_of_a_task_that_has_waited_long_to_run_alone() -> None:
    given = ahead_of([2])
    queues = {1: [head(1, tries=ALONE, waited_s=PATIENCE_S + 1)], 2: heads(2, 9)}
    given = world(queues, slots=given.slots, running=given.running, ahead=given.ahead)
    assert not begun(plan(given, policy(width=1)))


# Admission


def test_nothing_starts_without_headroom_and_the_hold_says_what_is_short() -> None:
    given = world({1: heads(1, 3)}, slots=[slot(1)], running=[running(2, 9)], free=free(threads=67))
    commands = plan(given, POLICY)
    assert [type(command) for command in commands] == [Held]
    assert held(commands, 1) == "threads"


def test_one_attempt_may_use_the_reserve_of_memory_and_a_second_may_not() -> None:
    commands = plan(world({1: heads(1, 3)}, slots=[slot(1), slot(2)], free=free(memory_mib=300)), POLICY)
    assert len(begun(commands)) == 1
    assert held(commands, 1) == "memory"


def test_what_was_started_in_this_plan_counts_as_promised() -> None:
    # Room for the reserve and two needs.
    commands = plan(world({1: heads(1, 9)}, slots=[slot(n) for n in range(4)], free=free(memory_mib=256 + 300)), POLICY)
    assert len(begun(commands)) == 2


@pytest.mark.parametrize(("used_mib", "starts"), [(None, 0), (20, 0), (100, 1), (500, 1)])
def test_what_an_attempt_has_not_taken_of_its_need_is_promised_to_it(used_mib: int | None, starts: int) -> None:
    seen = None if used_mib is None else Sample(1.0, used_mib * MIB, 4, 0, 0)
    other = running(1, 9, need=Space(200 * MIB, 4), sample=seen)
    free_mib = free(memory_mib=256 + 128 + 100)
    commands = plan(world({1: heads(1, 1)}, slots=[slot(1)], running=[other], free=free_mib), POLICY)
    assert len(begun(commands)) == starts


def test_a_task_that_ran_out_needs_twice_as_much_each_time() -> None:
    queue = [head(1, tries=Tries(resource=1))]
    (begin,) = of(Begin, plan(world({1: queue}, slots=[slot(1)]), POLICY))
    assert begin.need == Space(256 * MIB, 8)


def test_a_held_run_never_blocks_another() -> None:
    big = head(1, tries=Tries(resource=2))  # needs 512 MiB
    commands = plan(
        world({1: [big], 2: heads(2, 1)}, slots=[slot(1), slot(2)], running=[running(3, 9)], free=free(600)), POLICY
    )
    assert begun(commands) == [2]
    assert held(commands, 1) == "memory"


def test_a_run_whose_worker_never_comes_up_does_not_keep_another_from_its_idle_slot() -> None:
    slots = [slot(1, THERE, SlotPhase.BOOTING), slot(2, HERE)]
    commands = plan(world({1: heads(1, 1), 2: heads(2, 1)}, slots=slots, rooms={1: THERE}), policy(width=1))
    assert begun(commands) == [2]


def test_a_task_with_the_machine_to_itself_starts_on_an_idle_machine() -> None:
    large = Policy(width=4, max_tasks=100, reserve=POLICY.reserve, need=Space(2048 * MIB, 4))
    idle = free(memory_mib=8192 - 500)  # of 8192: the host itself takes some
    commands = plan(world({1: [head(1, tries=ALONE, waited_s=3600)]}, slots=[slot(1)], free=idle), large)
    assert begun(commands) == [1]


# Rooms


def test_a_task_starts_only_in_its_own_room() -> None:
    slots = [slot(1, THERE), slot(2, HERE)]
    (begin,) = of(Begin, plan(world({1: heads(1, 1)}, slots=slots), POLICY))
    assert begin.slot_id == 2


def test_the_same_directory_with_another_environment_is_another_room() -> None:
    other = Room("/here", (("SEED", "1"),))
    commands = plan(world({1: heads(1, 1)}, slots=[slot(1, other)]), POLICY)
    assert not begun(commands)
    assert of(Renew, commands) == [Renew(1, HERE, "another run's turn")]


def test_an_idle_slot_that_nobody_wants_moves_at_once() -> None:
    commands = plan(world({1: heads(1, 1)}, slots=[slot(1, THERE, here_s=0.0)]), POLICY)
    assert of(Renew, commands) == [Renew(1, HERE, "another run's turn")]
    assert held(commands, 1) == "worker"


@pytest.mark.parametrize(("here_s", "moves"), [(TENURE_S - 0.1, False), (TENURE_S, True)])
def test_a_slot_whose_room_has_work_stays_in_it_for_its_tenure(here_s: float, moves: bool) -> None:
    queues = {1: heads(1, 1), 2: heads(2, 5)}
    given = world(queues, slots=[slot(1, THERE, here_s=here_s)], rooms={2: THERE}, last_start_s={2: NOW.mono_s - 1})
    commands = plan(given, policy(width=1))
    assert bool(of(Renew, commands)) is moves
    assert (2 in begun(commands)) is not moves


def test_one_head_moves_one_slot() -> None:
    slots = [slot(number, THERE) for number in range(4)]
    commands = plan(world({1: heads(1, 1)}, slots=slots), POLICY)
    assert len(of(Renew, commands)) == 1


def test_a_worker_on_its_way_is_not_ordered_twice() -> None:
    slots = [slot(1, HERE, SlotPhase.BOOTING), slot(2, THERE)]
    commands = plan(world({1: heads(1, 1)}, slots=slots), POLICY)
    assert not of(Renew, commands)
    assert held(commands, 1) == "worker"


def test_a_second_head_gets_a_second_worker() -> None:
    slots = [slot(1, HERE, SlotPhase.BOOTING), slot(2, THERE)]
    commands = plan(world({1: heads(1, 2)}, slots=slots), POLICY)
    assert of(Renew, commands) == [Renew(2, HERE, "another run's turn")]


def test_no_more_workers_are_ordered_than_may_run() -> None:
    slots = [slot(number, THERE) for number in range(5)]
    commands = plan(world({1: heads(1, 9)}, slots=slots, running=[running(2, 9)]), policy(width=3))
    assert len(of(Renew, commands)) == 2


def test_a_slot_is_renewed_at_most_once_and_never_started_in_as_well() -> None:
    slots = [slot(1, THERE), slot(2, HERE, served=100), slot(3, HERE), slot(4, THERE, spent="changed")]
    queues = {1: heads(1, 4), 2: heads(2, 4)}
    commands = plan(world(queues, slots=slots, rooms={2: ELSEWHERE}), policy(width=8))
    touched = [command.slot_id for command in of(Renew, commands) + of(Begin, commands)]
    assert len(touched) == len(set(touched))


def test_without_any_slot_the_hold_says_what_the_trouble_is() -> None:
    commands = plan(world({1: heads(1, 1)}, trouble="BlockingIOError: fork"), POLICY)
    assert of(Held, commands)[0].hold.reason == "no worker can be started: BlockingIOError: fork"


# Renewals


@pytest.mark.parametrize(
    ("served", "max_tasks", "spent", "reason"),
    [
        (99, 100, "", None),
        (100, 100, "", "max_tasks (100) reached"),
        (5000, 0, "", None),
        (1, 100, "/a.py has changed", "/a.py has changed"),
        (100, 100, "left 2 threads", "left 2 threads"),
    ],
)
def test_a_worker_is_renewed_when_it_has_served_its_time(
    served: int, max_tasks: int, spent: str, reason: str | None
) -> None:
    given = world({1: heads(1, 1)}, slots=[slot(1, served=served, spent=spent)])
    commands = plan(given, policy(max_tasks=max_tasks))
    assert of(Renew, commands) == ([Renew(1, HERE, reason)] if reason else [])
    assert begun(commands) == ([] if reason else [1])


def test_a_worker_is_renewed_though_nothing_is_queued() -> None:
    assert of(Renew, plan(world({}, slots=[slot(1, spent="left 1 threads")]), POLICY))


@pytest.mark.parametrize("phase", [SlotPhase.BUSY, SlotPhase.BOOTING])
def test_only_an_idle_slot_is_renewed(phase: SlotPhase) -> None:
    given = world({}, slots=[slot(1, phase=phase, served=100, spent="changed")], running=[running(1, 1)])
    assert not of(Renew, plan(given, POLICY))


def test_a_renewed_worker_is_the_one_its_run_waits_for() -> None:
    commands = plan(world({1: heads(1, 1)}, slots=[slot(1, served=100), slot(2, THERE)]), POLICY)
    assert [command.slot_id for command in of(Renew, commands)] == [1]


# Deadlines of attempts


@pytest.mark.parametrize(
    ("facts", "outcome", "reason"),
    [
        ({"called_s": NOW.mono_s - 59.9}, None, ""),
        ({"called_s": NOW.mono_s - 60.0}, Outcome.TIMEOUT, "wall limit of 60 s reached"),
        # The limit counts from the call, not from when it was sent.
        ({"sent_s": NOW.mono_s - 85, "called_s": NOW.mono_s - 59}, None, ""),
        ({"sent_s": NOW.mono_s - 29, "called_s": None}, None, ""),
        (
            {"sent_s": NOW.mono_s - 30, "called_s": None},
            Outcome.LOST,
            "its worker did not call the function within boot_timeout (30 s)",
        ),
        # A boot that is longer than the task's own limit is still only a boot.
        ({"sent_s": NOW.mono_s - 20, "called_s": None, "timeout_s": 1.0}, None, ""),
        ({"called_s": NOW.mono_s - 600, "ending": True}, None, ""),
        ({"stop_asked": True}, Outcome.CANCELLED, "cancelled"),
        ({"stop_asked": True, "ending": True}, None, ""),
        # Who asked for its end gets that, even when the limit has passed as well.
        ({"called_s": NOW.mono_s - 600, "stop_asked": True}, Outcome.CANCELLED, "cancelled"),
    ],
)
def test_an_attempt_is_ended_at_its_deadline(facts: dict[str, Any], outcome: Outcome | None, reason: str) -> None:
    attempt = running(1, 3, **facts)
    stops = of(Stop, plan(world({}, runs=[RunView(1)], running=[attempt]), POLICY))
    assert stops == ([] if outcome is None else [Stop(attempt.claim, 3, outcome, reason)])


def test_deadlines_are_kept_while_battd_drains() -> None:
    late = running(1, 3, called_s=NOW.mono_s - 61)
    given = world({1: heads(1, 3)}, slots=[slot(1, spent="x")], running=[late], accepting=False)
    commands = plan(given, POLICY)
    assert len(of(Stop, commands)) == 1
    assert not of(Begin, commands) + of(Renew, commands)


def test_draining_starts_nothing_renews_nothing_and_still_closes_runs() -> None:
    runs = [RunView(1, deadline_at_ms=NOW.wall_ms - 1)]
    given = world({1: heads(1, 3)}, runs=runs, slots=[slot(1), slot(2, served=100)], accepting=False)
    commands = plan(given, POLICY)
    assert of(CloseRun, commands) == [CloseRun(1, Closing.DEADLINE)]
    assert not of(Begin, commands) + of(Renew, commands)


def test_a_run_is_told_why_nothing_starts_at_all() -> None:
    given = world({1: heads(1, 3)}, slots=[slot(1)], accepting=False, closed=Hold("service", 1, "battd is going down"))
    assert [command.hold.reason for command in of(Held, plan(given, POLICY))] == ["battd is going down"]


# Deadlines of runs


@pytest.mark.parametrize(("left_ms", "closes"), [(1, False), (0, True), (-5000, True)])
def test_a_run_is_closed_at_its_deadline(left_ms: int, closes: bool) -> None:
    runs = [RunView(1, deadline_at_ms=NOW.wall_ms + left_ms), RunView(2)]
    attempt = running(1, 1)
    given = world({1: heads(1, 3), 2: heads(2, 1)}, runs=runs, slots=[slot(2), slot(3)], running=[attempt])
    commands = plan(given, POLICY)
    assert of(CloseRun, commands) == ([CloseRun(1, Closing.DEADLINE)] if closes else [])
    assert of(Stop, commands) == (
        [Stop(attempt.claim, 1, Outcome.CANCELLED, "the run's deadline passed")] if closes else []
    )
    assert (1 in begun(commands)) is not closes
    assert 2 in begun(commands)


def test_a_closing_run_is_not_closed_again_and_nothing_of_it_starts() -> None:
    runs = [RunView(1, deadline_at_ms=NOW.wall_ms - 1, closing=Closing.CANCEL)]
    attempt = running(1, 1)
    commands = plan(world({1: heads(1, 3)}, runs=runs, slots=[slot(2)], running=[attempt]), POLICY)
    assert commands == [Stop(attempt.claim, 1, Outcome.CANCELLED, "cancelled")]


# Alone


def test_a_task_that_must_run_alone_waits_until_nothing_runs() -> None:
    queue = [head(1, tries=ALONE)]
    commands = plan(world({1: queue}, slots=[slot(1)], running=[running(2, 9)]), POLICY)
    assert not begun(commands)
    assert held(commands, 1) == "machine"


def test_nothing_starts_beside_a_task_that_runs_alone() -> None:
    queues = {1: [head(1, tries=ALONE)], 2: heads(2, 3)}
    commands = plan(world(queues, slots=[slot(1), slot(2)]), POLICY)
    assert begun(commands) == [1]
    assert of(Begin, commands)[0].alone
    assert held(commands, 2) == "machine"
    alone = running(1, 9, alone=True)
    assert not begun(plan(world({2: heads(2, 3)}, slots=[slot(1)], running=[alone]), POLICY))


def test_a_task_that_must_run_alone_lets_others_start_while_it_is_patient() -> None:
    queues = {1: [head(1, tries=ALONE, waited_s=1)], 2: heads(2, 3)}
    commands = plan(world(queues, slots=[slot(1), slot(2)], running=[running(3, 9)]), POLICY)
    assert begun(commands) == [2, 2]


@pytest.mark.parametrize("waited_s", [PATIENCE_S + 1, -86_400.0], ids=["long", "since before the clock was set back"])
def test_a_task_that_has_waited_long_to_run_alone_lets_nothing_of_later_turns_start(waited_s: float) -> None:
    queues = {1: [head(1, tries=ALONE, waited_s=waited_s)], 2: heads(2, 3)}
    commands = plan(world(queues, slots=[slot(1), slot(2)], running=[running(2, 9)]), POLICY)
    assert not begun(commands)


def test_a_task_that_has_waited_long_to_run_alone_is_not_starved_by_new_runs() -> None:
    queues = {1: [head(1, tries=ALONE, waited_s=PATIENCE_S + 1)], 2: heads(2, 1)}
    given = world(queues, slots=[slot(1)], running=[running(3, 9)], last_start_s={1: NOW.mono_s - 90})
    assert not begun(plan(given, POLICY))


def test_nothing_starts_while_the_worker_of_a_task_that_waited_long_to_run_alone_boots() -> None:
    queues = {1: [head(1, tries=ALONE, waited_s=PATIENCE_S + 1)], 2: heads(2, 3)}
    slots = [slot(1, THERE, SlotPhase.BOOTING), slot(2, HERE)]
    assert not begun(plan(world(queues, slots=slots, rooms={1: THERE}), POLICY))


# When to look again


@pytest.mark.parametrize(
    ("facts", "in_s"),
    [
        ({"called_s": NOW.mono_s - 50}, 10.0),
        # It may be called at any moment from now on, and no event would tell.
        ({"called_s": None, "sent_s": NOW.mono_s - 1, "timeout_s": 5.0}, 5.0),
        ({"called_s": None, "sent_s": NOW.mono_s - 29, "timeout_s": 500.0}, 1.0),
        ({"called_s": NOW.mono_s - 50, "ending": True}, float("inf")),
    ],
)
def test_the_plan_is_made_again_when_an_attempt_may_be_due(facts: dict[str, Any], in_s: float) -> None:
    assert wake_at(world({}, running=[running(1, 1, **facts)])) == pytest.approx(NOW.mono_s + in_s)


def test_the_plan_is_made_again_at_the_first_deadline_of_a_run() -> None:
    runs = [
        RunView(1, NOW.wall_ms + 9000),
        RunView(2, NOW.wall_ms + 4000),
        RunView(3),
        RunView(4, NOW.wall_ms + 1000, Closing.CANCEL),
    ]
    assert wake_at(world({}, runs=runs)) == pytest.approx(NOW.mono_s + 4.0)


def test_without_deadlines_nothing_wakes_the_plan() -> None:
    assert wake_at(world({1: heads(1, 5)})) == float("inf")


def test_a_deadline_the_plan_has_dealt_with_wakes_nobody() -> None:
    given = world({}, runs=[RunView(1, NOW.wall_ms - 5000)])
    assert of(CloseRun, plan(given, POLICY))
    assert wake_at(given) > NOW.mono_s


# Whatever the world is like


class Counted(dict[int, float]):
    """Counts how often the plan asks when a run last started: once for each look at its turn."""

    looks = 0

    def get(self, *given: Any) -> Any:
        self.looks += 1
        return super().get(*given)


def test_the_work_of_a_plan_grows_with_the_runs_and_not_with_their_square() -> None:
    last = Counted()
    queues = {run_id: heads(run_id, 1) for run_id in range(500)}
    plan(world(queues, slots=[slot(1, phase=SlotPhase.BUSY)], running=[running(0, 1)], last_start_s=last), policy(1))
    assert last.looks < 500 * 20


rooms = st.sampled_from([HERE, THERE, ELSEWHERE])
all_tries = st.builds(Tries, resource=st.integers(0, RESOURCE_TRIES))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    runs = draw(st.integers(0, 4))
    queues = {
        run_id: [
            head(run_id, tries=draw(all_tries), waited_s=draw(st.sampled_from([0.0, 30.0, 90.0])))
            for _ in range(draw(st.integers(0, 4)))
        ]
        for run_id in range(1, runs + 1)
    }
    slots: list[SlotView] = []
    busy: list[Running] = []
    for number in range(draw(st.integers(0, 6))):
        phase = draw(st.sampled_from(SlotPhase))
        slots.append(
            slot(
                number,
                draw(rooms),
                phase,
                served=draw(st.sampled_from([0, 99, 100])),
                here_s=draw(st.sampled_from([0.0, 5.0])),
                spent=draw(st.sampled_from(["", "", "changed"])),
            )
        )
        if phase is SlotPhase.BUSY:
            called = draw(st.sampled_from([None, NOW.mono_s - 1, NOW.mono_s - 61]))
            busy.append(
                running(
                    draw(st.integers(1, 5)), number, called_s=called, ending=draw(st.booleans()), sent_s=NOW.mono_s - 62
                )
            )
    views = [
        RunView(
            run_id,
            draw(st.sampled_from([None, NOW.wall_ms - 1, NOW.wall_ms + 1000])),
            draw(st.sampled_from([None, None, *Closing])),
        )
        for run_id in queues
    ]
    return world(
        {run_id: queue for run_id, queue in queues.items() if queue},
        slots=slots,
        runs=views,
        rooms={run_id: draw(rooms) for run_id in queues},
        running=busy,
        accepting=draw(st.booleans()),
        free=free(draw(st.sampled_from([0, 200, 500, 8000])), draw(st.sampled_from([0, 70, 30000]))),
        last_start_s={run_id: NOW.mono_s - draw(st.integers(0, 9)) for run_id in list(queues)[::2]},
    )


def _slots_used(commands: Sequence[Command]) -> Iterator[int]:
    for command in commands:
        if isinstance(command, Begin | Renew) and command.slot_id is not None:
            yield command.slot_id


@given(worlds(), st.integers(1, 6))
def test_whatever_the_world_is_like_a_plan_can_be_carried_out(given: World, width: int) -> None:
    commands = plan(given, policy(width=width))
    used = list(_slots_used(commands))
    assert len(used) == len(set(used)), "a slot is used once"
    phases = {one.id: one.phase for one in given.slots}
    assert all(phases[slot_id] is SlotPhase.IDLE for slot_id in used)
    begins = [command for command in of(Begin, commands) if command.slot_id is not None]
    tasks = [begin.head.task_id for begin in of(Begin, commands)]
    assert len(tasks) == len(set(tasks)), "a task starts once"
    assert not begins or len(given.running) + len(begins) <= width
    here = {one.id: one.room for one in given.slots}
    for begin in begins:
        assert given.works[begin.head.run_id, begin.head.stage].room == here[begin.slot_id]
        assert begin.need.memory_bytes <= given.free.space.memory_bytes
        assert begin.need.threads <= given.free.space.threads
    closing = {run.id for run in given.runs if run.closing} | {command.run_id for command in of(CloseRun, commands)}
    assert not closing & set(begun(commands))
    stopped = [command.claim for command in of(Stop, commands)]
    assert len(stopped) == len(set(stopped))
    assert {attempt.claim for attempt in given.running if attempt.run_id in closing and not attempt.ending} <= set(
        stopped
    )
    if any(begin.alone for begin in begins):
        assert len(begins) == 1
        assert not given.running
    if not given.accepting:
        assert not used


@given(worlds(), st.integers(1, 6))
def test_every_open_run_with_a_queue_starts_something_or_says_what_holds_it(given: World, width: int) -> None:
    if not given.accepting:
        return
    commands = plan(given, policy(width=width))
    closing = {run.id for run in given.runs if run.closing} | {command.run_id for command in of(CloseRun, commands)}
    silent = set(given.heads) - closing - set(begun(commands)) - {command.run_id for command in of(Held, commands)}
    assert not silent


@given(worlds())
def test_a_plan_depends_on_its_world_alone(given: World) -> None:
    assert plan(given, POLICY) == plan(given, POLICY)
