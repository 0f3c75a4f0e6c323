"""The program of a worker process: enters its room, then serves the pool that started it.

Run by path as `python -P .../worker/boot.py ROOT FD PARENT`, so that neither the run's directory nor its environment
decides which `worker` package and which pebble are used.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import multiprocessing.process
import os
import pickle
import signal
import sys
import traceback
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    root, fd, parent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sys.path.insert(0, root)
    _tie_to_parent(parent)
    with os.fdopen(fd, "rb") as given:
        settings: dict[str, Any] = pickle.load(given)
        current: Any = multiprocessing.process.current_process()
        current._inheriting = True
        try:
            process: Any = pickle.load(given)
        finally:
            del current._inheriting
    # All that the worker itself needs is imported by now; what comes from here on is the run's.
    from worker import entry, fresh
    from worker.board import Board

    sys.path.remove(root)
    if root not in sys.path:
        sys.path.append(root)
    _keep_from_programs()
    fresh.install()
    board = Board(settings["board"])
    os.close(settings["board"])
    entry.here = entry.Worker(board, settings["cwd"], settings["results"], settings["value_max"])
    try:
        os.chdir(settings["cwd"])
    except OSError as error:
        entry.here.room_error = error
    os.environ.update(settings["python"])
    sys.path[:0] = [settings["cwd"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    for name in settings["preload"]:
        try:
            importlib.import_module(name)
        except Exception:
            # Said in the worker's log; a task that needs it fails with the same error and tells its own story.
            print(f"preload: {name} cannot be imported", file=sys.stderr)
            traceback.print_exc()
    sys.exit(process._bootstrap())


def _tie_to_parent(parent: int) -> None:
    """Die with the supervisor, adopt what descendants leave behind, and be killed before the supervisor is."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("500")
    except OSError:
        pass  # a container may forbid it; the kernel then chooses by size alone
    faulthandler.enable()
    # What a task printed before it was killed is in the log, not in a lost buffer.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]


def _keep_from_programs() -> None:
    """Programs that a task starts get none of the pool's pipes: one held open by a survivor keeps a reader waiting."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # the descriptor that listed the folder


if __name__ == "__main__":
    main()
