"""What a chaos run is to do, drawn from a seed: tasks, runs, who submits them, what is killed and where battd dies."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

CLIENTS: Final = 4

RUN_TASKS: Final = 125
"""About how many tasks a run has: small enough that submissions go on until near the end."""

PATIENT: Final = 30
"""Charged attempts of a task that would succeed: its worker may be killed under it, which is charged."""


@dataclass(frozen=True)
class Kind:
    """Tasks that end alike.

    Attributes:
        share: Of all tasks.
        outcome: How an attempt ends that nobody interferes with.
    """

    name: str
    function: str
    share: float
    outcome: Literal["ok", "exception", "crashed", "timeout"] = "ok"
    max_attempts: int = PATIENT
    timeout_s: float = 300.0

    @property
    def succeeds(self) -> bool:
        return self.outcome == "ok"


KINDS: Final = (
    Kind("nothing", "nothing", 0.34),
    Kind("nap", "nap", 0.18),
    Kind("text", "large", 0.12),
    Kind("file", "large", 0.07),
    Kind("prints", "prints", 0.08),
    Kind("escapes", "escapes", 0.03),
    Kind("raises", "raises", 0.08, "exception", max_attempts=2),
    Kind("dies", "dies", 0.04, "crashed", max_attempts=2),
    Kind("leaves", "leaves", 0.04, "crashed", max_attempts=1),
    Kind("hangs", "hangs", 0.02, "timeout", max_attempts=1, timeout_s=0.5),
)


@dataclass(frozen=True)
class Task:
    """One task: `args` follow the folder and the task's own name."""

    name: str
    kind: Kind
    args: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Run:
    """One submission.

    Attributes:
        client: Who submits it.
        again: It is submitted once more after it was acknowledged.
        cancel_at: Fraction of it that has ended when it is cancelled; None for never.
        retry: What has failed of it is retried once it has ended.
    """

    name: str
    client: int
    tasks: tuple[Task, ...]
    again: bool
    cancel_at: float | None
    retry: bool


class Victim(StrEnum):
    """What is killed."""

    BATTD = "battd"
    TWICE = "battd twice"  # the second time somewhere in its start
    EVERYTHING = "everything"  # battd, its nursery and all workers
    NURSERY = "nursery"
    WORKER = "worker"
    DRAIN = "drain"  # no kill but a SIGTERM, which may meet a fault point


OF_BATTD: Final = (Victim.BATTD, Victim.TWICE, Victim.EVERYTHING, Victim.BATTD)
"""How battd is killed, in turn."""


@dataclass(frozen=True)
class Strike:
    """One kill.

    Attributes:
        at: Fraction of all tasks that has ended by then.
        pause_s: From when it is due, or battd is there, to the kill.
        dice: Chooses among several processes.
    """

    at: float
    victim: Victim
    pause_s: float
    dice: float


@dataclass(frozen=True)
class Plan:
    """A whole chaos run.

    Attributes:
        kills: Of battd; at least so many.
        faults: BATT_FAULTS of each life of battd; later lives have none.
    """

    seed: int
    kills: int
    runs: tuple[Run, ...]
    strikes: tuple[Strike, ...]
    faults: tuple[str, ...]

    @property
    def tasks(self) -> int:
        return sum(len(run.tasks) for run in self.runs)

    def of_client(self, client: int) -> list[Run]:
        return [run for run in self.runs if run.client == client]


def draw(seed: int, tasks: int, kills: int) -> Plan:
    """The plan of a seed."""
    dice = random.Random(seed)
    count = max(CLIENTS, round(tasks / RUN_TASKS))
    sizes = [tasks // count + (number < tasks % count) for number in range(count)]
    cancelled = set(dice.sample(range(count), max(1, count // 8)))
    runs = tuple(
        Run(
            name=f"chaos-{number}",
            client=number % CLIENTS,
            tasks=tuple(_tasks(dice, f"n{number}", size)),
            again=dice.random() < 0.5,
            cancel_at=dice.uniform(0.1, 0.6) if number in cancelled else None,
            retry=number not in cancelled and dice.random() < 0.4,
        )
        for number, size in enumerate(sizes)
    )
    return Plan(seed, kills, runs, tuple(_strikes(dice, kills)), tuple(_faults(dice, 3 * kills // 2)))


def _tasks(dice: random.Random, prefix: str, count: int) -> Iterator[Task]:
    """Every kind in its share, well mixed; those that are left over are of the first kind."""
    kinds = [kind for kind in KINDS for _ in range(round(kind.share * count))][:count]
    kinds += [KINDS[0]] * (count - len(kinds))
    dice.shuffle(kinds)
    for number, kind in enumerate(kinds):
        yield Task(f"{prefix}-{number}", kind, _args(dice, kind))


def _args(dice: random.Random, kind: Kind) -> tuple[Any, ...]:
    match kind.name:
        case "nap":
            return (round(dice.uniform(0.01, 0.1), 3),)
        case "text":
            return (50_000,)
        case "file":
            return (dice.randrange(200_000, 500_000),)
        case "dies":
            # Not SIGKILL: that is ours, and what it hits is told apart by that.
            return (int(dice.choice((signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGFPE))),)
        case "leaves":
            return (dice.choice((0, 1, 3, 77)),)
    return ()


def _strikes(dice: random.Random, kills: int) -> list[Strike]:
    """So many kills of battd, and others between them; some of several at once."""
    victims = [OF_BATTD[number % len(OF_BATTD)] for number in range(kills)]
    victims += [Victim.NURSERY] * (1 + kills // 4) + [Victim.WORKER] * (2 + kills) + [Victim.DRAIN] * (1 + kills // 10)
    return sorted(
        (Strike(dice.uniform(0.01, 0.97), victim, dice.uniform(0.0, 0.6), dice.random()) for victim in victims),
        key=lambda strike: strike.at,
    )


ONCE: Final = ("boot", "recover")
SELDOM: Final = ("submit", "submitted")
OFTEN: Final = ("claim", "claimed", "settle", "settled", "send", "exit")


def _faults(dice: random.Random, lives: int) -> list[str]:
    """A fault for each life of battd, in rounds that have every point in them, and some lives without any."""
    found: list[str] = []
    while len(found) < lives:  # some more do no harm
        points = [*ONCE, *SELDOM * 2, *OFTEN * 2, *[""] * 4]
        dice.shuffle(points)
        found += [_fault(dice, point) for point in points]
    # Whatever else it has: it may be told to end before it comes to that.
    return [
        ",".join(filter(None, (fault, f"drain=kill@{dice.randint(1, 3)}" * (dice.random() < 0.5)))) for fault in found
    ]


def _fault(dice: random.Random, point: str) -> str:
    if not point:
        return ""
    if point in ONCE:
        return f"{point}=kill"
    if point in SELDOM:
        return f"{point}=kill@{dice.randint(1, 2)}"
    return f"{point}=kill@{round(2 ** dice.uniform(0, 6))}"  # as often early as late
