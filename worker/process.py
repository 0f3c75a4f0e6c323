"""What multiprocessing carries from the supervisor into a new worker: the process object, locks without semaphores."""

from __future__ import annotations

import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

handed: list[int] = []
"""Descriptors that came with the request this worker was started by, in its order."""


class Handed:
    """One of them, as a pickled connection refers to it."""

    def __init__(self, place: int) -> None:
        self._place = place

    def detach(self) -> int:
        """The descriptor, which is the caller's from now on."""
        return handed[self._place]


class LocalRLock:
    """A re-entrant lock of this process only; its copy in another process is another lock.

    A pool of one worker needs no lock across processes: both ends of its pipe have one user each. Named semaphores
    would bring multiprocessing's resource tracker, and a lock that a killed worker never gives back.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._lock = threading.RLock()

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """As multiprocessing's: a timeout of None waits for ever."""
        if not block:
            return self._lock.acquire(blocking=False)
        return self._lock.acquire(timeout=-1 if timeout is None else timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


class WorkerProcess(BaseProcess):
    """A worker as pebble sees it; `starter` is what starts it, and stays on the supervisor's side."""

    _start_method = None  # none of multiprocessing's own

    def __init__(self, starter: Callable[[BaseProcess], Any], **given: Any) -> None:
        super().__init__(**given)
        self._starter = starter

    def _Popen(self, process: BaseProcess) -> Any:
        return self._starter(process)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_starter", "_popen")}
