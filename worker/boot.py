"""How a process becomes a worker: forked from the nursery, or, where `start_method` is `spawn`, a fresh interpreter.

As a program, `python -P .../worker/boot.py ROOT REQUEST FD...`, it is what the nursery's child becomes in the second
case: REQUEST is a descriptor that holds the settings and the request.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import io
import multiprocessing.process
import os
import pickle
import resource
import signal
import sys
import traceback
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

STACKS = signal.SIGRTMIN + 10
"""Makes a worker write the stacks of all its threads into its log. A real-time signal, for those have no other use."""

_libc = ctypes.CDLL(None, use_errno=True)


def die_with(parent: int | None) -> None:
    """Have the kernel kill this process when its parent ends, if that still is `parent`; None: no more."""
    _libc.prctl(PR_SET_PDEATHSIG, 0 if parent is None else signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """What descendants leave behind becomes this process's child."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def keep_family() -> None:
    """In force again what a task may have switched off: dying with the nursery, and adopting what escapes."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    adopt_orphans()


# In the nursery, once for all its workers


def import_own(settings: dict[str, Any]) -> None:
    """Import all that a worker itself needs, from battd's own folders; what is imported from then on is the run's."""
    own = [settings["root"], *settings["paths"]]
    sys.path[:0] = own
    for name in ("pebble.pool.process", "worker.entry", "worker.fresh", "worker.process"):
        importlib.import_module(name)
    del sys.path[: len(own)]
    if settings["root"] not in sys.path:
        sys.path.append(settings["root"])


def enter_room(settings: dict[str, Any]) -> None:
    """Put the room's import path and Python variables in force."""
    from worker import fresh

    fresh.install()
    os.environ.update(settings["python"])
    sys.path[:0] = [settings["cwd"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        os.chdir(settings["cwd"])
    except OSError:
        return  # each attempt fails with it, and says so


def preload(settings: dict[str, Any]) -> None:
    """Import the modules that all workers are to have."""
    for name in settings["preload"]:
        try:
            importlib.import_module(name)
        except BaseException:  # SystemExit, too: it is an import that failed, not the end of the nursery
            # Said in the log; a task that needs it fails with the same error and tells its own story.
            print(f"preload: {name} cannot be imported", file=sys.stderr)
            traceback.print_exc()


# In each worker


def after_preload() -> None:
    """Put back what imported modules must not decide for the nursery and its workers."""
    for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGPIPE else signal.SIG_DFL)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def begin(settings: dict[str, Any], request: dict[str, Any], fds: list[int], parent: int) -> int:
    """Turn a process that was just forked into a worker, and serve; the exit code.

    Args:
        request: `process` (pickled), `groups` (files of control groups to enter), `number`, `fds` and `nofile`.
        fds: The log, the board, and the pool's pipes.
    """
    os.setsid()
    die_with(parent)
    adopt_orphans()
    log, *own = fds
    for fd in (1, 2):
        os.dup2(log, fd)
    os.close(log)
    for group in request["groups"]:
        _enter(group)
    _give_way_to_battd()
    resource.setrlimit(resource.RLIMIT_NOFILE, request["nofile"])
    if settings["spawn"]:
        _become_fresh(settings, request, own)
    return serve(settings, request, own)


def _enter(group: str) -> None:
    try:
        with open(group, "w") as entrance:
            entrance.write("0")
    except OSError as error:
        # The tree is then ended process by process, as where there are no control groups.
        print(f"worker: {group} cannot be entered: {error.strerror}", file=sys.stderr)


def _give_way_to_battd() -> None:
    """When memory runs out, the kernel is to take a worker before battd or the nursery."""
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("500")
    except OSError:
        return  # a container may forbid it; the kernel then chooses by size alone


def _become_fresh(settings: dict[str, Any], request: dict[str, Any], fds: list[int]) -> None:
    given = os.memfd_create("batt-request", 0)
    with os.fdopen(given, "wb", closefd=False) as out:
        pickle.dump((settings, request), out)
    os.lseek(given, 0, os.SEEK_SET)
    for fd in fds:
        os.set_inheritable(fd, True)
    words = [sys.executable, "-P", os.path.abspath(__file__), settings["root"], str(given), *map(str, fds)]
    os.execv(sys.executable, words)


def serve(settings: dict[str, Any], request: dict[str, Any], fds: list[int]) -> int:
    """Serve the pool until it has no more to do; the exit code."""
    from worker import entry
    from worker.board import Board
    from worker.process import handed

    arm_stacks()
    # What a task printed before it was killed is in the log, not in a lost buffer. Made anew, for a preloaded module
    # may have closed or replaced those of the nursery.
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = io.TextIOWrapper(
            io.FileIO(fd, "w", closefd=False), "utf-8", "backslashreplace", line_buffering=True, write_through=True
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    faulthandler.enable(2)
    board_fd, *pipes = fds
    board = Board(board_fd)
    os.close(board_fd)
    entry.here = entry.Worker(
        board=board,
        cwd=settings["cwd"],
        results=settings["results"],
        logs=settings["logs"],
        log=request["log"],
        value_max=settings["value_max"],
        memory_max=settings["memory_max"],
        number=request["number"],
    )
    try:
        os.chdir(settings["cwd"])
    except OSError as error:
        entry.here.room_error = error
    handed[:] = pipes
    current: Any = multiprocessing.process.current_process()
    current._inheriting = True
    try:
        process: Any = pickle.loads(request["process"])
    finally:
        del current._inheriting
    code: int = process._bootstrap()
    return code


def arm_stacks() -> None:
    """Answer STACKS with the stacks of all threads, even while C code holds the interpreter."""
    faulthandler.register(STACKS, file=2, all_threads=True, chain=False)


def main() -> None:
    with os.fdopen(int(sys.argv[2]), "rb") as given:
        settings, request = pickle.load(given)
    fds = [int(word) for word in sys.argv[3:]]
    for fd in fds:
        os.set_inheritable(fd, False)
    sys.path.remove(sys.argv[1])
    import_own(settings)
    enter_room(settings)
    preload(settings)
    sys.exit(serve(settings, request, fds))


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    main()
