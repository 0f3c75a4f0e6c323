"""What is left of process trees: after an attempt has ended, and after battd, a nursery or a worker was killed."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import families
from figures import Findings
from services import Services, wait_at_rest
from watching import Watch, family, living

from batt_supervisor.pool import proc
from batt_supervisor.testing import Daemon, eventually

AFTER_S = 1.0
"""When what is left is counted, from the end of the attempt on."""

TREES = 4
GIVE_UP_S = 30.0

NAMES = {
    "child": "a child",
    "own_session": "a child, own session",
    "forked_twice": "forked twice",
    "forked_twice_stripped": "forked twice, no environment",
    "holds_pipe": "holds a pipe",
}


def measure_orphans(services: Services, found: Findings, rounds: int) -> None:
    with services.battd(slots=len(families.KINDS)) as daemon:
        for how, end in (("return", "after the task returned"), ("hang", "after its timeout")):
            left = dict.fromkeys(families.KINDS, 0)
            for number in range(rounds):
                wait_at_rest(daemon)
                for kind, count in _left(daemon, how, services.folder / f"{how}-{number}", found).items():
                    left[kind] += count
            for kind, count in left.items():
                found.add(f"Left {AFTER_S:g} s {end}", NAMES[kind], count, f"of {rounds}", hold="0")
                found.expect(count == 0, f"{count} processes lived {end}: {NAMES[kind]}")


def _left(daemon: Daemon, how: str, folder: Path, found: Findings) -> dict[str, int]:
    """How many processes of each kind live after the attempts that started them have ended in this way."""
    folder.mkdir()
    notes = {kind: folder / kind for kind in families.KINDS}
    run = daemon.submit("families:leave", [[[kind], str(notes[kind]), how] for kind in notes], timeout_s=1.0)
    outcomes = daemon.wait(run).outcomes
    time.sleep(AFTER_S)
    started = {kind: family(path) for kind, path in notes.items()}
    found.expect(all(started.values()), f"not every process was started: {started}")
    wanted = {"return": "ok", "hang": "timeout"}[how]
    found.expect(outcomes == {wanted: len(notes)}, f"tasks that leave processes behind and {how} ended as {outcomes}")
    return {kind: len(living(processes)) for kind, processes in started.items()}


def measure_kills(services: Services, found: Findings, rounds: int) -> None:
    part = f"kill -9 with {TREES} trees running, until none of their processes lives"
    took: dict[str, list[float]] = {}
    for name, kill in (("of battd", _kill_battd), ("of the nursery", _kill_nursery), ("of a worker", _kill_worker)):
        took[name] = [kill(services, services.folder / f"{kill.__name__}-{number}", found) for number in range(rounds)]
    for name, all_ms in took.items():
        size = 1 if name == "of a worker" else TREES
        found.add(
            part, f"{name}, median", statistics.median(all_ms), "ms",
            note=f"worst {max(all_ms):.0f} ms; {size} trees of {1 + len(families.KINDS)} processes",
        )  # fmt: skip


def _grow(daemon: Daemon, folder: Path) -> list[dict[int, int]]:
    """Have every slot start one process of each kind and hang; pids and start times of each tree, its worker's too."""
    folder.mkdir()
    notes = [folder / str(number) for number in range(TREES)]
    daemon.submit("families:leave", [[families.KINDS, str(path), "hang"] for path in notes], timeout_s=60.0)
    eventually("all trees are there", lambda: all(len(family(path)) == len(families.KINDS) for path in notes))
    trees = [family(path) for path in notes]
    for pid in daemon.workers().values():
        below = proc.descendants(pid)
        for tree in trees:
            if not tree.keys().isdisjoint(below):
                tree[pid] = families.started(pid)
    return trees


def _kill_battd(services: Services, folder: Path, found: Findings) -> float:
    with services.battd(slots=TREES) as daemon:
        trees = _grow(daemon, folder)
        others = [*daemon.workers().values(), *_nurseries(daemon)]
        pids = {*_all(trees), *others}
        return _until_gone("battd", pids, lambda: os.kill(daemon.pid, signal.SIGKILL), found)


def _kill_nursery(services: Services, folder: Path, found: Findings) -> float:
    with services.battd(slots=TREES) as daemon:
        trees = _grow(daemon, folder)
        [nursery] = _nurseries(daemon)
        pids = {nursery, *_all(trees), *daemon.workers().values()}
        return _until_gone("the nursery", pids, lambda: os.kill(nursery, signal.SIGKILL), found)


def _kill_worker(services: Services, folder: Path, found: Findings) -> float:
    with services.battd(slots=TREES) as daemon:
        first, *others = _grow(daemon, folder)
        [worker] = set(first) & set(daemon.workers().values())
        took_ms = _until_gone("a worker", set(first), lambda: os.kill(worker, signal.SIGKILL), found)
        time.sleep(0.2)
        for tree in others:
            found.expect(living(tree) == list(tree), "the tree of another worker was not left alone")
        return took_ms


def _nurseries(daemon: Daemon) -> list[int]:
    return [child.pid for child in daemon.process.children() if any("nursery.py" in word for word in child.cmdline())]


def _all(trees: list[dict[int, int]]) -> list[int]:
    return [pid for tree in trees for pid in tree]


def _until_gone(whose: str, pids: set[int], kill: Callable[[], None], found: Findings) -> float:
    """Milliseconds from the kill until all of them have ended."""
    with Watch(pids) as watch:
        found.expect(not watch.ended, f"kill -9 of {whose}: {len(watch.ended)} processes had ended before")
        began = time.monotonic()
        kill()
        gone = watch.wait(pids, GIVE_UP_S)
        left = len(pids - watch.ended.keys())
        found.expect(gone, f"kill -9 of {whose}: {left} of {len(pids)} processes live after {GIVE_UP_S:g} s")
        return ((max(watch.ended.values()) if gone else time.monotonic()) - began) * 1000
