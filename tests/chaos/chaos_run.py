"""A chaos run: thousands of tasks while battd, its nursery and its workers are killed again and again. `make chaos`.

    python tests/chaos/chaos_run.py --seed 7 --tasks 5000 --kills 50

Exit code 0 when everything acknowledged was kept and ended once, 1 with a list of what was not; the folder stays then.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import chaos_evidence
import chaos_plan
import chaos_story
from chaos_clients import Clients
from chaos_evidence import Evidence
from chaos_follower import Follower
from chaos_killer import Killer
from chaos_service import PATIENCE_S, Service, wait_for


class Chaos:
    """One run in a folder of its own. Use it as a context manager: nothing is left running.

    Args:
        limit_s: How long clients may take for all of it.

    Attributes:
        folder: Everything there is of it; it stays when something was wrong.
        complaints: What does not hold, once it has run.
        seen: What they were found in; None when it did not come so far.
    """

    def __init__(self, plan: chaos_plan.Plan, limit_s: float) -> None:
        self.plan = plan
        # Not in a folder of pytest's: its names are too long for sockets.
        self.folder = Path(tempfile.mkdtemp(prefix="batt-chaos-", dir="/tmp"))
        self.complaints: list[str] = []
        self.seen: Evidence | None = None
        self._service = Service(self.folder, plan.faults)
        self._limit_s = limit_s

    def __enter__(self) -> Chaos:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._service.end()
        interrupted = kind is not None and not issubclass(kind, Exception)
        if interrupted or (kind is None and not self.complaints):
            shutil.rmtree(self.folder)

    def run(self) -> None:
        """All of it; what was wrong is in `complaints` then."""
        began_s = time.monotonic()
        service = self._service
        service.start()
        clients = Clients(self.plan, service.socket, self.folder / "tasks", self._limit_s)
        killer = Killer(service, self.plan)
        over = threading.Event()
        follower, deaf = Follower(service.socket), threading.Event()
        following = threading.Thread(target=follower.run, args=(deaf,), name="follower", daemon=True)
        killing = threading.Thread(target=killer.run, args=(over,), name="killer", daemon=True)
        wait_for("battd serves", service.serves)
        clients.start()
        killing.start()
        following.start()
        clients.join()
        if clients.complaints:
            over.set()
        killing.join()
        self.complaints = [*clients.complaints, *killer.complaints]
        killer.last()
        deaf.set()
        following.join(PATIENCE_S)
        self.complaints += follower.complaints
        if any(not promise.id for promise in clients.promises.values()):
            return  # a client has told why
        answers = chaos_evidence.ask(service.socket, clients.promises)
        stopped = service.stop()
        with suppress(AssertionError):
            # What is dying is gone in a moment; what is not is named.
            wait_for("nothing is left", lambda: not (service.left() or service.groups_left()), within_s=10)
        self.seen = Evidence(
            plan=self.plan,
            promises=clients.promises,
            answers=answers,
            disk=chaos_evidence.read(service.state_dir),
            noted={run.name: chaos_evidence.noted(clients.folder_of(run)) for run in self.plan.runs},
            events=follower.events,
            missed=follower.missed,
            kills=killer.kills,
            lives=service.lives(),
            log=service.log(),
            stopped=stopped,
            left=service.left(),
            groups_left=service.groups_left(),
            wall_s=time.monotonic() - began_s,
        )
        self.complaints += chaos_story.complaints(self.seen)


def told(seen: Evidence) -> str:
    """What has happened, in figures."""
    rows = [row for rows in seen.disk.tasks.values() for row in rows]
    attempts = [attempt for row in rows for attempt in row.attempts]
    ours = Counter(kill.what for kill in seen.kills)
    # Those of an idle battd show less.
    last_ms = max((attempt.ended_at_ms or 0 for attempt in attempts), default=0)
    working = sum(kill.at_ms <= last_ms for kill in seen.kills if kill.what == "battd")
    points = Counter(point for point, _ in chaos_story.KILLED_AT.findall(seen.log))
    begun = [sum(note.what == "start" for note in notes) for run in seen.noted.values() for notes in run.values()]
    lines = {
        "seed": seen.plan.seed,
        "tasks": f"{len(rows)} in {len(seen.plan.runs)} runs: {_listed(Counter(str(row.state) for row in rows))}",
        "attempts": f"{len(attempts)}: {_listed(Counter(str(attempt.outcome) for attempt in attempts))}",
        "begun": f"{sum(begun)} times; {sum(one > 1 for one in begun)} tasks more than once, one {max(begun)} times",
        "battd killed": f"{chaos_story.battd_deaths(seen)} times in {len(seen.lives)} lives",
        "by a signal": f"{ours['battd']}, {working} of them while there was work",
        "at fault points": f"{sum(points.values())}: {_listed(points)}",
        "others struck": _listed(Counter({what: count for what, count in ours.items() if what != "battd"})),
        "events": len(seen.events),
        "answers lost": sum(promise.lost for promise in seen.promises.values()),
        "retried": sum(promise.retry_acknowledged or 0 for promise in seen.promises.values()),
        "given up": sum(row.reason.startswith("gave up") or "poison" in row.reason for row in rows),
        "wall": f"{seen.wall_s:.0f} s",
    }
    return "\n".join(f"{name + ':':<18}{text}" for name, text in lines.items())


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs tasks while battd and its processes are killed.")
    parser.add_argument("--seed", type=int, help="everything is drawn from it; default: another one each time")
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=50, help="of battd, at least")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which it has failed")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # leaves nothing running
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    with Chaos(chaos_plan.draw(seed, given.tasks, given.kills), given.limit) as chaos:
        print(f"seed {seed}, {given.tasks} tasks, at least {given.kills} kills of battd, in {chaos.folder}", flush=True)
        chaos.run()
        if chaos.seen is not None:
            print(told(chaos.seen))
        if chaos.complaints:
            print(f"\n{len(chaos.complaints)} things do not hold (everything is in {chaos.folder}):")
            for complaint in chaos.complaints[:100]:
                print(f"- {complaint}")
            return 1
    print("everything acknowledged was kept, and ended once")
    return 0


if __name__ == "__main__":
    sys.exit(main())
