"""The write operations as methods of one transaction: what the daemon and the API may do to the queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from batt_supervisor.core.clockwatch import Jump
from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Claim
from batt_supervisor.core.needs import Learned
from batt_supervisor.core.world import Closing
from batt_supervisor.store import age, kinds, moves, prune, shift, submit
from batt_supervisor.store.transaction import Transaction
from batt_supervisor.store.values import Claimed, Created, NewRun, NewTask, Removed, Settlement, Wanted


class Operations(Transaction):
    """`protocol.Writes` on SQLite. What each does is said there, and at the function it calls."""

    def create_run(self, run: NewRun) -> Created:
        return submit.create_run(self, run)

    def add_tasks(self, run_id: int, offset: int, tasks: Sequence[NewTask]) -> Created:
        return submit.add_tasks(self, run_id, offset, tasks)

    def seal(self, run_id: int, tasks: int | None = None) -> Created:
        return submit.seal(self, run_id, tasks)

    def discard(self, run_id: int) -> bool:
        return submit.discard(self, run_id)

    def expire_unsealed(self, older_than_ms: int) -> bool:
        return submit.expire_unsealed(self, older_than_ms)

    def claim(self, wanted: Sequence[Wanted]) -> dict[int, Claimed]:
        return moves.claim(self, wanted)

    def settle(self, settlements: Sequence[Settlement]) -> dict[Claim, State]:
        return moves.settle(self, settlements)

    def promote(self) -> set[int]:
        return moves.promote(self)

    def release(self, run_id: int, stage: int) -> int:
        return moves.release(self, run_id, stage)

    def ask_close(self, run_id: int, why: Closing) -> int:
        return moves.ask_close(self, run_id, why)

    def close_some(self, run_id: int, why: Closing) -> int:
        return moves.close_some(self, run_id, why)

    def stop_task(self, task_id: int) -> State:
        return moves.stop_task(self, task_id)

    def retry_some(self, run_id: int, task_id: int | None, states: Iterable[State]) -> int:
        return moves.retry_some(self, run_id, task_id, states)

    def remove_run(self, run_id: int, reason: str) -> bool:
        return prune.remove_run(self, run_id, reason)

    def remove_some(self, run_id: int) -> Removed:
        return prune.remove_some(self, run_id)

    def forget_events(self, up_to: int) -> int:
        return prune.forget_events(self, up_to)

    def shrink(self) -> bool:
        return prune.shrink(self)

    def pass_time(self, passed_ms: int | None, grain_ms: int, longest_ms: int) -> int:
        return age.pass_time(self, passed_ms, grain_ms, longest_ms)

    def shift_runs(self, jump: Jump | None) -> None:
        shift.shift_runs(self, jump)

    def shift_some(self, jump: Jump | None, after: tuple[int, int] | None) -> tuple[int, int] | None:
        return shift.shift_some(self, jump, after)

    def save_kinds(self, learned: Sequence[Learned]) -> None:
        kinds.save(self, learned)

    def note(self, event: str, reason: str) -> None:
        """Write an event of the service itself into the log."""
        self.journal.add(None, None, None, event, reason=reason)
