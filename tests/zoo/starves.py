"""Tasks that use up threads, memory and CPU, so that others, or they themselves, find none; all within bounds."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from zoo import records

THREADS_MAX = 500
MEMORY_MAX = 2 * 2**30
STEP = 16 * 2**20
FINE_STEP = 2**20
HOLD_MAX_S = 60.0

_leaked_threads: list[threading.Thread] = []
_leaked_memory: list[bytearray] = []


def nested_pool(workers: int = 8, hold_s: float = 1.0) -> int:
    """Have so many threads at once, and keep them; fails where one of them is refused."""
    workers = min(workers, THREADS_MAX)
    over = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for _ in range(workers):
                pool.submit(over.wait, HOLD_MAX_S)  # none is idle, so each starts one more thread
            over.wait(min(hold_s, HOLD_MAX_S))
        finally:
            over.set()
    return workers


def pool_in_a_pool(outer: int = 4, inner: int = 4, hold_s: float = 1.0) -> int:
    """As the seeds have it: each thread of a pool opens a pool of its own."""
    with ThreadPoolExecutor(min(outer, THREADS_MAX)) as pool:
        return sum(pool.map(nested_pool, [inner] * outer, [hold_s] * outer))


def wrapped_thread_error(workers: int = THREADS_MAX, hold_s: float = 0.0) -> int:
    """As `nested_pool`, with an exception that keeps nothing of the first but its words, twice over."""
    try:
        return _inline(workers, hold_s)
    except ValueError as error:
        text = f"inline_variables_func failed: {error}"
    raise ValueError(text)


def _inline(workers: int, hold_s: float) -> int:
    try:
        return nested_pool(workers, hold_s)
    except RuntimeError as error:
        raise ValueError(f"inline_variables failed: {error}") from None


def burn(seconds: float) -> float:
    """Use so many seconds of CPU, in one thread."""
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass
    return seconds


def hog(size: int = MEMORY_MAX, seconds: float = 1.0) -> int:
    """Take so many bytes in steps, each written at once, and keep them for a while."""
    held = _filled(size)
    time.sleep(min(seconds, HOLD_MAX_S))
    return sum(map(len, held))


def hog_in_interval(folder: str, name: str, size: int = MEMORY_MAX, seconds: float = 1.0) -> str:
    """The same, noting when it began and ended; see `zoo.records`."""
    held = _filled(size)
    try:
        return records.interval(folder, name, min(seconds, HOLD_MAX_S))
    finally:
        held.clear()


def grow(first: int, last: int, seconds: float = 4.0, stay_s: float = 0.0) -> int:
    """Take `first` bytes at once, and grow to `last` little by little."""
    held = _filled(first)
    steps = max(1, (min(last, MEMORY_MAX) - first) // FINE_STEP)
    for _ in range(steps if last > first else 0):
        held.append(bytearray(b"x") * FINE_STEP)
        time.sleep(min(seconds, HOLD_MAX_S) / steps)
    time.sleep(min(stay_s, HOLD_MAX_S))
    return sum(map(len, held))


def leak_memory(size: int) -> int:
    """So many bytes more with every call; how many there are."""
    if sum(map(len, _leaked_memory)) < MEMORY_MAX:
        _leaked_memory.extend(_filled(size))
    return sum(map(len, _leaked_memory))


def leak_threads(count: int) -> int:
    """So many threads more with every call, which never end; how many there are."""
    for _ in range(min(count, THREADS_MAX - len(_leaked_threads))):
        thread = threading.Thread(target=threading.Event().wait, daemon=True)
        thread.start()
        _leaked_threads.append(thread)
    return len(_leaked_threads)


def _filled(size: int) -> list[bytearray]:
    size = min(size, MEMORY_MAX)
    return [bytearray(b"x") * min(STEP, size - place) for place in range(0, size, STEP)]
