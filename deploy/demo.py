"""The demo: supervisord starts battd, battctl sends it runs/arc.toml, and in the end everything is taken down.

`make demo` runs it; `.venv/bin/python deploy/demo.py --help` tells what can be varied. Everything is kept in one
folder, afterwards too: the results, the state directory of battd, the logs of both.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NoReturn

import psutil

from batt_supervisor.daemon import statedir
from batt_supervisor.errors import BattError
from worker.arc.summary import Summary, summarize

CLONE: Final = Path(__file__).resolve().parent.parent
BIN: Final = Path(sys.prefix) / "bin"

SOLVED_AT_LEAST: Final = 40
START_LONGEST_S: Final = 60.0
STOP_PATIENCE_S: Final = 5.0
STOP_LONGEST_S: Final = 90.0
"""supervisord gives battd 60 s (stopwaitsecs) before it kills it."""

SOCKET_PATH_MAX: Final = 107
LONGEST_SOCKET_NAME: Final = "supervisord.sock.4194304"
"""supervisord binds its socket under a name that ends in its pid, and renames it."""

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36


class DemoFailed(Exception):
    """The run did not end as it should; says why."""


def main() -> int:
    options = _options()
    began_s = time.monotonic()
    # Ended from outside, it still takes everything down.
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _leave)
    # Whatever outlives its parent becomes a child of this process, which ends it.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        with ExitStack() as stack:
            home = stack.enter_context(prepared(options.home.absolute()))
            short = stack.enter_context(short_name(home))
            stack.enter_context(supervised(short))
            results = carry_out(short, home, options.run_file, options.count)
        report(results, whole=options.count is None, least=options.at_least)
    except DemoFailed as error:
        print(f"\ndemo: {error}\nThe logs are in {_shown(options.home)}.", file=sys.stderr)
        return 128 + _told_to_leave[0] if _told_to_leave else 1
    except KeyboardInterrupt:
        print("\ndemo: stopped; everything is shut down", file=sys.stderr)
        return 130
    print(f"\nEverything is shut down; {time.monotonic() - began_s:.0f} s in all. Results: {_shown(results)}")
    return 0


@contextmanager
def prepared(home: Path) -> Iterator[Path]:
    """The demo's folder, ours alone and without the state of an earlier demo.

    It is what supervisor.conf expects of any folder: the file itself, beside a virtual environment.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(home / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DemoFailed(f"another demo is running in {_shown(home)}") from None
        state = home / "state"
        try:
            statedir.hold(state, state / "battd.sock").close()
        except BattError as error:  # somebody killed an earlier demo with all its helpers
            raise DemoFailed(str(error)) from None
        shutil.rmtree(state)
        for name in ("results.jsonl", "battd.log", "supervisord.log", "supervisord.sock"):
            (home / name).unlink(missing_ok=True)
        for name, target in (("supervisor.conf", CLONE / "supervisor.conf"), (".venv", Path(sys.prefix))):
            (home / name).unlink(missing_ok=True)
            (home / name).symlink_to(target)
        yield home


@contextmanager
def short_name(home: Path) -> Iterator[Path]:
    """The folder by a name that leaves room for sockets: its own, or that of a link in /tmp for as long as it lasts."""
    if len(os.fsencode(home / LONGEST_SOCKET_NAME)) <= SOCKET_PATH_MAX:
        yield home
        return
    for base in ("/tmp", None):
        with suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="batt-", dir=base))
            break
    else:
        raise DemoFailed(f"{home} is too deep for a unix socket, and no temporary folder can be made")
    link = folder / "demo"
    try:
        link.symlink_to(home)
        if len(os.fsencode(link / LONGEST_SOCKET_NAME)) > SOCKET_PATH_MAX:
            raise DemoFailed(f"{home} is too deep for a unix socket, and so is {folder}")
        yield link
    finally:
        link.unlink(missing_ok=True)
        folder.rmdir()


@contextmanager
def supervised(home: Path) -> Iterator[None]:
    """A supervisord that runs battd, until the end of the block; none of its processes is left afterwards."""
    _say("supervisord starts battd")
    with ExitStack() as stack:
        with _stopping_waits(), open(home / "supervisord.out", "wb") as out:
            child = subprocess.Popen(
                [BIN / "supervisord", "--nodaemon", "--silent", "-c", home / "supervisor.conf"],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, who then stop it
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - there are no threads here
            )
            stack.callback(_take_down, child)
        _wait_until_served(home, child)
        yield


def carry_out(short: Path, home: Path, run_file: Path, count: str | None) -> Path:
    """Submit the run, wait for its end, fetch its results; their file."""
    chosen = () if count is None else ("-c", count)
    said = " ".join((_shown(run_file), *chosen))
    _say(f"battctl submit {said}")
    run = json.loads(_battctl(short, "submit", str(run_file), *chosen, "--json").stdout)
    print(f"run {run['run']} with {run['tasks']} tasks", flush=True)
    _say(f"battctl wait {run['run']}")
    code = _battctl(short, "wait", run["run"], shown=True, good=(0, 1, 3, 4)).returncode
    results = home / "results.jsonl"
    with open(results, "wb") as file:
        _battctl(short, "results", run["run"], "--jsonl", to=file)
    # 1: some tasks failed, as mutants do.
    if code not in (0, 1):
        raise DemoFailed(f"the run did not end: battctl wait gave {code} (docs/exit-codes.md)")
    with open(results, encoding="utf-8") as file:
        lines = sum(1 for _ in file)
    if lines != run["tasks"]:
        raise DemoFailed(f"{run['tasks']} tasks were submitted, but there are {lines} results")
    return results


def report(results: Path, *, whole: bool, least: int) -> None:
    """Print what the run found.

    Raises:
        DemoFailed: It found too little, or a task had an end that it should not have.
    """
    with open(results, encoding="utf-8") as file:
        summary = summarize(file)
    _say("summary")
    print(summary.report())
    killed = summary.mutants["timeout"] + summary.catalogue_runs["timeout"]
    budgets = sum(number for name, number in summary.candidates.items() if name.startswith("soft timeout"))
    print(
        f"\nPrograms that did not end: {killed} killed by battd at their deadline, {budgets} stopped inside their task"
        " by its own budget"
    )
    for problem in _problems(results, summary, killed, whole=whole, least=least):
        raise DemoFailed(problem)


def _problems(results: Path, summary: Summary, killed: int, *, whole: bool, least: int) -> Iterator[str]:
    ends: Counter[tuple[str, str]] = Counter()
    with open(results, encoding="utf-8") as file:
        for text in file:
            line = json.loads(text)
            ends[(line["stage"], line["outcome"])] += 1
    # What a program does is its own business; everything else would be battd's or the machine's.
    expected = {("shipped", "ok"), ("mutants", "ok"), ("mutants", "exception"), ("mutants", "timeout")}
    for (stage, outcome), number in ends.items():
        if (stage, outcome) not in expected:
            yield f"{number} tasks of stage {stage!r} ended as {outcome!r}"
    solved = summary.tasks()["solved"]
    if solved < least:
        yield f"{solved} tasks were solved on their test samples, fewer than {least}"
    if whole and not killed:
        yield "no mutated program hung, so nothing was shown of deadlines"


def _wait_until_served(home: Path, child: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + START_LONGEST_S
    while _battctl(home, "status", "--json", good=None).returncode != 0:
        if child.poll() is not None:
            said = (home / "supervisord.out").read_text(errors="replace").strip()
            raise DemoFailed(f"supervisord ended with {child.returncode}: {said}")
        if time.monotonic() > until_s:
            raise DemoFailed(f"battd did not answer within {START_LONGEST_S:.0f} s")
        time.sleep(0.2)


def _take_down(supervisord: subprocess.Popen[bytes]) -> None:
    """Stop supervisord, which stops battd; then make sure."""
    # From here on impatience does not help: what is left would stay.
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    supervisord.terminate()
    try:
        supervisord.wait(STOP_PATIENCE_S)
    except subprocess.TimeoutExpired:
        # A battd that drains ends at once when it is told again; and a signal that supervisord sends just after it has
        # started battd is lost.
        with suppress(psutil.NoSuchProcess):
            for battd in psutil.Process(supervisord.pid).children():
                battd.terminate()
        with suppress(subprocess.TimeoutExpired):
            supervisord.wait(STOP_LONGEST_S)
    left = _descendants(patience_s=2.0)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    if left:
        stubborn = _descendants(patience_s=10.0)
        raise DemoFailed(f"{len(left)} processes were still there and were killed, {len(stubborn)} of them in vain")


def _descendants(patience_s: float) -> list[psutil.Process]:
    """Whatever still lives below this process, after some time to end by itself."""
    until_s = time.monotonic() + patience_s
    while True:
        with suppress(ChildProcessError):  # reap what has ended, or it would count
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        left = psutil.Process().children(recursive=True)
        if not left or time.monotonic() > until_s:
            return left
        time.sleep(0.05)


def _battctl(
    home: Path, *words: str, shown: bool = False, to: Any = None, good: tuple[int, ...] | None = (0,)
) -> subprocess.CompletedProcess[bytes]:
    """Run battctl against the demo's battd; `good` are the exit codes that are no failure, None for all."""
    quiet = good is None
    with ExitStack() as stack:
        with _stopping_waits():
            child = stack.enter_context(
                subprocess.Popen(
                    [BIN / "battctl", "--socket", str(home / "state" / "battd.sock"), *words],
                    env=_environment(),
                    stdout=None if shown else to or subprocess.PIPE,
                    stderr=subprocess.PIPE if quiet else None,
                    preexec_fn=_end_with_parent,  # noqa: PLW1509 - as above
                )
            )
            stack.callback(child.kill)  # does nothing if it has ended
        out, err = child.communicate()
    if good is not None and child.returncode not in good:
        if child.returncode in (130, -signal.SIGINT):  # Ctrl-C reaches it as well, and sometimes first
            raise KeyboardInterrupt
        raise DemoFailed(f"battctl {words[0]} ended with {child.returncode}")
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)


def _environment() -> dict[str, str]:
    """Ours, without what would lead to another battd."""
    misleading = ("BATTD", "BATT_SOCKET", "BATT_STATE_DIR", "BATT_CONFIG")
    return {name: value for name, value in os.environ.items() if name not in misleading}


@contextmanager
def _stopping_waits() -> Iterator[None]:
    """What stops the demo is heard at the end of the block: between a fork and the moment its child is known, an
    exception would leave a child behind that nobody waits for."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Runs in the new process, which has the blocked signals of its parent (`_stopping_waits`)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


_told_to_leave: Final[list[int]] = []
"""The signal that did, whatever else goes wrong on the way out."""


def _leave(number: int, frame: object) -> NoReturn:
    _told_to_leave.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _shown(path: Path) -> str:
    """As short as it can be said from here."""
    with suppress(ValueError):
        return str(path.absolute().relative_to(Path.cwd()))
    return str(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run a batch of real tasks through supervisord, battd and battctl.")
    parser.add_argument("-c", "--count", metavar="N", help="only so many ARC tasks, as `battctl submit -c N`")
    parser.add_argument("--home", type=Path, default=CLONE / ".demo", help="where everything is kept [.demo]")
    parser.add_argument("--run-file", type=Path, default=CLONE / "runs" / "arc.toml", help="[runs/arc.toml]")
    parser.add_argument(
        "--at-least",
        type=int,
        default=SOLVED_AT_LEAST,
        metavar="N",
        help=f"fail if fewer ARC tasks are solved [{SOLVED_AT_LEAST}]",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
