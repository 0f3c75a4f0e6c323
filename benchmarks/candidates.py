"""One instance of a peer in the exhaustion benchmark, as a program: its pool in its own process, used as documented.

Every result and every failure of a single task goes to a file at once, as a line of JSON; what is raised by the pool
itself ends the program with its traceback. A failure of a task is caught for each of them, also where that is not the
peer's habit: joblib would end at the first one.
"""

from __future__ import annotations

import concurrent.futures
import importlib.util
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import chores

WORKERS = 4

Task = Callable[[int], chores.Value]
Ending = tuple[int, chores.Value | None, str]
"""Number of the task, its value, and what was raised instead."""


class Attempt:
    """A call of a task in which failing is a value, too."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __call__(self, number: int) -> Ending:
        return ending(number, lambda: self._task(number))


def ending(number: int, get: Callable[[], chores.Value]) -> Ending:
    try:
        return number, get(), ""
    except Exception as error:
        return number, None, f"{type(error).__name__}: {error}"


def collected(futures: dict[Any, int]) -> Iterator[Ending]:
    for future in concurrent.futures.as_completed(futures):
        yield ending(futures[future], future.result)


def serial(task: Task, numbers: Sequence[int]) -> Iterable[Ending]:
    return map(Attempt(task), numbers)


def threads(task: Task, numbers: Sequence[int]) -> Iterator[Ending]:
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        yield from collected({pool.submit(task, number): number for number in numbers})


def processes(task: Task, numbers: Sequence[int]) -> Iterator[Ending]:
    with concurrent.futures.ProcessPoolExecutor(WORKERS) as pool:
        yield from collected({pool.submit(task, number): number for number in numbers})


def multiprocessing_pool(task: Task, numbers: Sequence[int]) -> Iterator[Ending]:
    with multiprocessing.Pool(WORKERS) as pool:
        yield from pool.imap_unordered(Attempt(task), numbers)


def loky(task: Task, numbers: Sequence[int]) -> Iterator[Ending]:
    from loky import get_reusable_executor

    pool = get_reusable_executor(max_workers=WORKERS)
    yield from collected({pool.submit(task, number): number for number in numbers})


def joblib(task: Task, numbers: Sequence[int]) -> Iterator[Ending]:
    from joblib import Parallel, delayed

    attempt = Attempt(task)
    yield from Parallel(n_jobs=WORKERS, return_as="generator_unordered")(delayed(attempt)(number) for number in numbers)


def pebble(task: Task, numbers: Sequence[int], workers: int = WORKERS) -> Iterator[Ending]:
    from pebble import ProcessPool

    with ProcessPool(max_workers=workers) as pool:
        yield from collected({pool.schedule(task, args=(number,)): number for number in numbers})


def pebble_1(task: Task, numbers: Sequence[int]) -> Iterator[Ending]:
    return pebble(task, numbers, workers=1)


PEERS: dict[str, tuple[str, Callable[[Task, Sequence[int]], Iterable[Ending]]]] = {
    "threads": ("concurrent", threads),
    "concurrent.futures": ("concurrent", processes),
    "loky": ("loky", loky),
    "pebble": ("pebble", pebble),
    "multiprocessing.Pool": ("multiprocessing", multiprocessing_pool),
    "joblib": ("joblib", joblib),
    "pebble-1": ("pebble", pebble_1),
    "serial": ("sys", serial),
}
"""By name: the module that it needs, and how it runs some tasks."""


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(PEERS[name][0]) is not None


def run(name: str, function: str, first: str, count: str, path: str) -> None:
    numbers = range(int(first), int(first) + int(count))
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for number, value, error in PEERS[name][1](getattr(chores, function), numbers):
        os.write(fd, json.dumps({"number": number, "value": value, "error": error}).encode() + b"\n")


if __name__ == "__main__":
    run(*sys.argv[1:])
