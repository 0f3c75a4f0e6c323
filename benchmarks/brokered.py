"""celery with redis as its broker and its result backend, both of this benchmark's own: the durable peer."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent

SOCKET = "BENCH_REDIS"
"""Variable that names redis' unix socket, for celery's worker."""


def missing() -> str:
    """What has to be installed before this can be measured, as a sentence; nothing where all is there."""
    if shutil.which("redis-server") is None:
        return "redis-server is not installed (Debian's package redis-server)"
    if importlib.util.find_spec("celery") is None or importlib.util.find_spec("redis") is None:
        return "celery[redis] is not installed (the extra `bench` of pyproject.toml)"
    return ""


@contextmanager
def celery(workers: int, folder: Path) -> Iterator[Callable[[int], float]]:
    """Seconds from the first submission of so many no-ops to the last result; ends redis and the worker afterwards.

    redis appends to its file and syncs it every second; celery is as it is unless told otherwise, with prefork workers.

    Args:
        folder: For redis' file: on the disk that battd's is on.
    """
    with tempfile.TemporaryDirectory(dir=folder) as data, tempfile.TemporaryDirectory() as short:
        socket = Path(short) / "redis"
        os.environ[SOCKET] = str(socket)
        keep = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        redis = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", data, *keep]
        worker = [sys.executable, "-m", "celery", "-A", "noop_celery", "worker", "--loglevel", "ERROR"]
        prefork = ["--pool", "prefork", "--concurrency", str(workers)]
        with _running(redis, socket.exists), _running([*worker, *prefork], lambda: True):
            import noop_celery

            def measure(tasks: int) -> float:
                began = time.perf_counter()
                results = [noop_celery.noop.delay(number) for number in range(tasks)]
                answers = [result.get(timeout=300) for result in results]
                took_s = time.perf_counter() - began
                assert answers == list(range(tasks)), "celery gave other results"
                return took_s

            measure(workers)  # its worker is there
            yield measure
            noop_celery.app.close()


@contextmanager
def _running(program: list[str], ready: Callable[[], bool]) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(program, cwd=HERE, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            until_s = time.monotonic() + 60
            while not ready():
                assert process.poll() is None, f"{program[0]} ended with {process.returncode}"
                assert time.monotonic() < until_s, f"{program[0]} does not come up"
                time.sleep(0.01)
            yield
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
