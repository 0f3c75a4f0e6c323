"""Kills battd, its nursery and its workers, as the plan says, and writes down whom and when."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass

from chaos_plan import Plan, Strike, Victim
from chaos_service import Service, strike, wait_for

LOOK_S = 0.03

EARLY = 2.5
"""Pauses are so many times as long where the second kill is to come somewhere in battd's start."""


@dataclass(frozen=True)
class Kill:
    """One process that was sent a signal. `at_ms` is the wall time just before."""

    what: str
    pid: int
    at_ms: int


class Killer:
    """Strikes when as much of the work has ended as the plan says.

    Attributes:
        kills: All until now.
        complaints: What should not have been.
    """

    def __init__(self, service: Service, plan: Plan) -> None:
        self._service, self._plan = service, plan
        self.kills: list[Kill] = []
        self.complaints: list[str] = []

    def run(self, stop: threading.Event) -> None:
        """All strikes, in order; returns early when told to stop."""
        try:
            for one in self._plan.strikes:
                lives = len(self._service.lives())
                while self._service.settled() < one.at * self._plan.tasks:
                    if stop.wait(LOOK_S):
                        return
                self._strike(one, lives)
        except Exception as error:
            self.complaints.append(f"the killer ended by {type(error).__name__}: {error}")

    def last(self) -> None:
        """Kill battd once more; the next one is left in peace, and makes good all that is still to be made good."""
        self._service.spare()
        wait_for("battd serves", self._service.serves)
        lives = len(self._service.lives())
        self._kill("battd", self._service.battd())
        wait_for("battd is started again", lambda: len(self._service.lives()) > lives)
        wait_for("battd serves", self._service.serves)

    def _strike(self, one: Strike, lives: int) -> None:
        match one.victim:
            case Victim.BATTD | Victim.EVERYTHING if len(self._service.lives()) > lives:
                pass  # a fault point was quicker
            case Victim.TWICE:
                self._twice(one)
            case Victim.BATTD:
                self._kill("battd", self._serving(one))
            case Victim.EVERYTHING:
                pid = self._serving(one)
                workers, nurseries = self._service.workers(), self._service.nurseries()
                # Stopped first, so that it does not put others in the place of those that are killed.
                strike(pid, signal.SIGSTOP)
                for victim in workers:
                    self._kill("worker", victim)
                for victim in nurseries:
                    self._kill("nursery", victim)
                self._kill("battd", pid)
            case Victim.DRAIN:
                self._kill("drain", self._serving(one), signal.SIGTERM)
            case Victim.NURSERY:
                self._serving(one)
                self._one_of("nursery", self._service.nurseries(), one.dice)
            case Victim.WORKER:
                self._serving(one)
                self._one_of("worker", self._service.workers(), one.dice)

    def _serving(self, one: Strike) -> int:
        """battd's pid, some time after it has begun to serve."""
        wait_for("battd serves", self._service.serves)
        time.sleep(one.pause_s)
        return self._service.battd()

    def _twice(self, one: Strike) -> None:
        """Kill it, and then the next one in the middle of its start."""
        lives = len(self._service.lives())
        self._kill("battd", self._serving(one))
        wait_for("battd is started again", lambda: len(self._service.lives()) > lives)
        time.sleep(one.pause_s * EARLY)
        self._kill("battd", self._service.battd())

    def _one_of(self, what: str, pids: list[int], dice: float) -> None:
        if pids:
            self._kill(what, sorted(pids)[int(dice * len(pids))])

    def _kill(self, what: str, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        at_ms = time.time_ns() // 1_000_000
        if pid and strike(pid, number):
            self.kills.append(Kill(what, pid, at_ms))
            with (self._service.folder / "kills").open("a", encoding="utf-8") as told:
                told.write(f"{at_ms} {what} {pid}\n")  # for whoever looks into a run that went wrong
