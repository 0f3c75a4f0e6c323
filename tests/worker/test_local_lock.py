"""Locks without semaphores: what pebble is given in place of multiprocessing's."""

import pickle
import threading
from multiprocessing import resource_tracker

from worker.process import LocalRLock, WorkerProcess


def elsewhere(lock: LocalRLock) -> bool:
    """Whether another thread can have it."""
    found: list[bool] = []

    def take() -> None:
        found.append(lock.acquire(block=False))
        if found[0]:
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return found[0]


def test_it_is_a_reentrant_lock() -> None:
    lock = LocalRLock()
    assert lock.acquire()
    assert lock.acquire(timeout=0.01)
    with lock:
        assert not elsewhere(lock)
    lock.release()
    assert not elsewhere(lock)
    lock.release()
    assert elsewhere(lock)


def test_its_copy_is_another_lock_and_free() -> None:
    lock = LocalRLock()
    lock.acquire()
    copy = pickle.loads(pickle.dumps(lock))
    assert elsewhere(copy)
    with copy:
        assert not elsewhere(copy)
    lock.release()


def test_a_wait_ends_when_its_time_is_up() -> None:
    lock = LocalRLock()
    lock.acquire()
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(lock.acquire(timeout=0.01)))
    thread.start()
    thread.join()
    assert found == [False]


def test_it_needs_no_resource_tracker() -> None:
    before = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]
    LocalRLock()
    assert resource_tracker._resource_tracker._pid == before  # type: ignore[attr-defined]


def test_a_worker_process_leaves_its_starter_behind() -> None:
    process = WorkerProcess(lambda process: None, target=print, args=(1,), name="w")
    assert not {"_starter", "_popen"} & set(process.__getstate__())
    process._Popen(process)
