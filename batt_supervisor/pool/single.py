"""A pebble pool of one worker that outlives that worker, and a time in which none can be started.

pebble gives a whole pool up when an idle worker dies or a fork is refused, which is right for a pool whose workers
share a channel. Here nothing is shared: the next worker takes the place, as soon as there can be one. And pebble looks
at its workers ten times a second; this pool is told when there is something to see.
"""

from __future__ import annotations

import threading
from concurrent.futures.process import BrokenProcessPool
from pickle import loads
from typing import Any, Final

from pebble import ProcessExpired, ProcessPool
from pebble.common.types import Result, ResultStatus
from pebble.pool.process import NoMessage, PoolManager, WorkerManager, dictionary_keys

LOOK_S: Final = 0.25
"""How often the worker is looked at without being told to."""

MESSAGE_MAX: Final = 65_536
"""Bytes of a message from a worker: what is reported lies on its board, so these are far smaller."""

AGAIN_S: Final = 0.1
"""After how long a worker is tried again that could not be started."""


class SinglePool(ProcessPool):
    """See the module.

    Args:
        context: The multiprocessing context that workers are started with.
    """

    def __init__(self, context: Any) -> None:
        # No limit of pebble's own behind `max_tasks`: it cannot be changed while the pool lives, and a worker that left
        # by it under a request would have that request made twice.
        super().__init__(max_workers=1, context=context)
        self._pool_manager = self.manager = _Manager(self._context, context)

    def look(self) -> None:
        """Any thread: the worker has ended, or one may be started now."""
        self.manager.wake.set()

    def spoiled(self) -> str:
        """What its worker has written into the pipe, if that was no message; empty otherwise."""
        return self.manager.worker_manager.spoiled

    def threads(self) -> list[threading.Thread]:
        """Its threads; fewer than three when it could start only some of them."""
        loops = (self._task_scheduler_loop, self._pool_manager_loop, self._message_manager_loop)
        return [loop for loop in loops if loop is not None]

    def stop(self) -> None:
        """End the pool without waiting: its threads go as soon as they see it."""
        super().stop()  # type: ignore[no-untyped-call]
        self._context.task_queue.put(None)
        self.look()

    def gone(self) -> bool:
        """After `stop`: whether all threads have ended."""
        alive = [thread for thread in self.threads() if thread.is_alive()]
        channel = self.manager.worker_manager.workers_channel
        if alive and channel is not None and self._pool_manager_loop not in alive:
            # Nobody starts a worker with it any more. A thread that reads what somebody began to write, and never
            # ended, sees the end of the pipe now.
            channel.close()  # type: ignore[no-untyped-call]
        return not alive

    def late(self) -> list[int]:
        """Workers that live though the pool's threads have ended."""
        workers = list(self.manager.worker_manager.workers.values())
        return [worker.pid for worker in workers if worker.is_alive() and worker.pid is not None]

    def shut(self) -> None:
        """Close the pipes, when all threads and workers have ended."""
        if self.manager.worker_manager.pool_channel is not None:
            self.manager.stop()  # type: ignore[no-untyped-call]
            self.manager.worker_manager.pool_channel = None


class _Workers(WorkerManager):
    spoiled = ""

    def receive(self, timeout: float) -> Any:
        # A task can write into the pipe. What is no message of pebble's breaks this pool, and nothing more.
        channel: Any = self.pool_channel
        try:
            return loads(channel.reader.recv_bytes(MESSAGE_MAX)) if channel.poll(timeout) else NoMessage()
        except EOFError:
            return NoMessage()
        except Exception as error:
            self.spoiled = f"what came from its worker is no message: {error}"
            raise BrokenProcessPool(self.spoiled) from error


class _Manager(PoolManager):
    def __init__(self, context: Any, mp_context: Any) -> None:
        super().__init__(context, mp_context)
        self.wake = threading.Event()
        self.worker_manager: _Workers = _Workers(context.workers, context.worker_parameters, mp_context)

    def start(self) -> None:
        self.worker_manager.create_channels()  # type: ignore[no-untyped-call]
        self._fill()

    def update_status(self) -> None:
        # pebble's loop calls this, and sleeps in between; staying in here is what makes `wake` heard at once.
        while self.context.alive:
            self.wake.clear()
            for worker_id, code in self.worker_manager.inspect_workers():
                self.handle_worker_expiration((worker_id, code))
            self.wake.wait(LOOK_S if self._fill() else AGAIN_S)

    def _fill(self) -> bool:
        """Start a worker if there is none; False: not now."""
        try:
            self.worker_manager.create_workers()  # type: ignore[no-untyped-call]
        except BrokenProcessPool as error:
            if not isinstance(error.__cause__, OSError):
                raise
            return False
        return True

    def handle_worker_expiration(self, expiration: tuple[int, int]) -> None:
        # Whatever the only worker was given has ended with it; with nothing in hand there is nothing to tell.
        worker_id, code = expiration
        for task_id in dictionary_keys(self.task_manager.tasks):
            error = ProcessExpired("the worker ended", code=code, pid=worker_id)  # type: ignore[no-untyped-call]
            self.task_manager.task_done(task_id, Result(ResultStatus.ERROR, error))
