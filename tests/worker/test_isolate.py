"""A worker is put back in order after each attempt: tried in a process of its own, that adopts what is left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from worker import isolate

ROOT = Path(isolate.__file__).parents[1]

FRAME = """
import ctypes, decimal, gc, json, locale, logging, os, signal, socket, sys, threading, time, warnings
subreaper = ctypes.c_int()
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # adopts what its descendants leave behind, as a worker does
from worker import isolate
def state():
    return {{
        "cwd": os.getcwd(), "env": dict(os.environ), "umask": (lambda u: (os.umask(u), u)[1])(os.umask(0o77)),
        "path": list(sys.path), "recursion": sys.getrecursionlimit(),
        "streams": [sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__],
        "handlers": [str(signal.getsignal(n)) for n in range(1, 32)], "timer": signal.getitimer(signal.ITIMER_REAL)[0],
        "mask": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
        "limits": [__import__("resource").getrlimit(n) for n in range(8)],
        "interpreter": [
            sys.getswitchinterval(), sys.gettrace() is None, sys.getprofile() is None, gc.isenabled(),
            gc.get_threshold(),
            sys.excepthook is sys.__excepthook__, threading.excepthook is threading.__excepthook__, list(sys.argv),
            len(sys.meta_path), len(sys.path_hooks), threading.stack_size(), socket.getdefaulttimeout(),
            logging.root.manager.disable, decimal.getcontext().prec, decimal.getcontext().rounding,
            list(map(str, warnings.filters)), locale.setlocale(locale.LC_ALL), time.tzname,
            os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0)),
            ctypes.CDLL(None).prctl(37, ctypes.byref(subreaper), 0, 0, 0), subreaper.value,
        ],
    }}
before = state()
baseline = isolate.Baseline(os.getcwd())
{attempt}
told = baseline.restore()
ended = isolate.end_children()
after = state()
with open(sys.argv[1], "w") as answer:
    json.dump({{"told": told, "ended": ended, "changed": [k for k in before if before[k] != after[k]]}}, answer)
os._exit(0)
"""


def after(attempt: str, folder: Path) -> dict[str, Any]:
    """What a process is like after an attempt and its restoration: what it was told, and what is still changed."""
    script = folder / "attempt.py"
    script.write_text(FRAME.format(attempt=attempt))
    answer = folder / "answer.json"
    done = subprocess.run(
        [sys.executable, str(script), str(answer)],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "KEPT": "ä"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert answer.exists(), done.stderr.decode()
    text = answer.read_text()
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize(
    "attempt",
    [
        "pass",
        "os.chdir('/')",
        "os.environ['NEW'] = 'x'; del os.environ['KEPT']; os.environ['PYTHONPATH'] = 'ä'",
        "os.environ.clear()",
        "os.environb[b'\\xff'] = b'\\xff'",
        "os.umask(0)",
        "sys.setrecursionlimit(50000)",
        "sys.path.append('/x'); sys.path.remove(sys.path[0])",
        "sys.path = ['/x']",
        "sys.stdout = sys.stderr = sys.stdin = open('/dev/null')",
        "sys.stdout = None",
        "sys.stdout = object()",
        "os.environ = {}",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, lambda *a: None)",
        "signal.signal(signal.SIGALRM, lambda *a: None); signal.alarm(100)",
        "signal.setitimer(signal.ITIMER_REAL, 100, 1)",
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
        "signal.signal(signal.SIGXCPU, signal.SIG_IGN); signal.signal(signal.SIGPROF, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGTERM])",
        "from resource import *; setrlimit(RLIMIT_CPU, (1000, getrlimit(RLIMIT_CPU)[1]))",
    ],
)
def test_what_an_attempt_changed_is_as_before(tmp_path: Path, attempt: str) -> None:
    assert after(attempt, tmp_path) == {"told": None, "ended": None, "changed": []}


@pytest.mark.parametrize(
    "attempt",
    [
        "sys.stdout.close()",
        "os.close(1)",
        "class Out(list):\n    def flush(self): pass\nsys.stdout = Out()",
        "class Out:\n    def flush(self): raise RuntimeError('no')\nsys.stdout = Out()",
    ],
)
def test_a_stream_that_cannot_be_flushed_stops_nothing(tmp_path: Path, attempt: str) -> None:
    assert after(attempt + "\nos.chdir('/')", tmp_path)["changed"] == []


@pytest.mark.parametrize(
    "attempt",
    [
        "sys.setswitchinterval(0.5); sys.setprofile(lambda *a: None); gc.disable(); gc.set_threshold(1)",
        "sys.settrace(lambda *a: None); threading.settrace(lambda *a: None)",
        "sys.excepthook = threading.excepthook = lambda *a: None; sys.argv = ['x']",
        "sys.meta_path.clear(); sys.path_hooks.append(print); sys.path = ('/x',)",
        "threading.stack_size(2**20); socket.setdefaulttimeout(1); logging.disable(50)",
        "decimal.getcontext().prec = 3; decimal.getcontext().rounding = decimal.ROUND_UP",
        "decimal.setcontext(decimal.Context(prec=5))",
        "warnings.simplefilter('error')",
        "warnings.filters = []",
        "locale.setlocale(locale.LC_ALL, 'C.UTF-8')",
        "os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
        "os.nice(3); os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])",
        "ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)",
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may put its priority back")
def test_what_an_attempt_set_in_the_interpreter_is_as_before(tmp_path: Path, attempt: str) -> None:
    assert after(attempt, tmp_path) == {"told": None, "ended": None, "changed": []}


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        ("time.monotonic = lambda: 0.0", "time.monotonic was replaced"),
        ("json.dumps = print", "json.dumps was replaced"),
        ("sys.stdout.close()", "its standard output was closed"),
        ("os.dup(0); [os.dup(0) for _ in range(20)]", "left 21 descriptors open"),
    ],
)
def test_what_is_not_put_back_is_a_reason_to_recycle(tmp_path: Path, attempt: str, words: str) -> None:
    assert after(attempt, tmp_path)["told"] == words


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_worker_that_is_somebody_else_by_now_is_recycled(tmp_path: Path) -> None:
    told = after("os.setresuid(0, 0, 65534)", tmp_path)["told"]
    assert told == "it is another user, or has another root directory, by now"


def test_what_a_module_sets_when_it_is_imported_stays(tmp_path: Path) -> None:
    attempt = "sys.setrecursionlimit(4321); os.environ['SET'] = 'x'\nbaseline = baseline.renewed()\n"
    attempt += "sys.setrecursionlimit(999); del os.environ['SET']"
    found = after(attempt, tmp_path)
    assert found["told"] is None
    assert found["changed"] == ["env", "recursion"]


def test_a_directory_that_is_gone_is_a_reason_to_recycle(tmp_path: Path) -> None:
    attempt = "os.mkdir('room'); baseline = isolate.Baseline(os.path.abspath('room')); os.rmdir('room')"
    assert after(attempt, tmp_path)["told"].startswith("its directory cannot be entered again: ")


def test_a_worker_whose_directory_is_gone_before_its_first_attempt_can_still_tell_so(tmp_path: Path) -> None:
    attempt = "os.mkdir('gone'); gone = os.path.abspath('gone'); os.chdir('gone'); os.rmdir(gone)\n"
    attempt += "baseline = isolate.Baseline(gone); os.chdir('..')"
    assert after(attempt, tmp_path)["told"].startswith("its directory cannot be entered again: ")


@pytest.mark.parametrize("daemon", [True, False])
def test_a_thread_that_was_left_running_is_a_reason_to_recycle(tmp_path: Path, daemon: bool) -> None:
    attempt = f"threading.Thread(target=time.sleep, args=(999,), name='lost', daemon={daemon}).start()"
    assert after(attempt, tmp_path)["told"] == "left 1 threads running: lost"


def test_many_threads_are_counted_and_three_named(tmp_path: Path) -> None:
    attempt = "for n in range(5): threading.Thread(target=time.sleep, args=(999,), name=f'n{n}', daemon=True).start()"
    told = after(attempt, tmp_path)["told"]
    assert told.startswith("left 5 threads running: ")
    assert told.count("n") >= 3


def test_a_thread_that_has_ended_is_none(tmp_path: Path) -> None:
    attempt = "t = threading.Thread(target=print); t.start(); t.join()"
    assert after(attempt, tmp_path)["told"] is None


def test_a_thread_that_threading_does_not_know_is_seen(tmp_path: Path) -> None:
    attempt = "import _thread; _thread.start_new_thread(time.sleep, (999,)); time.sleep(0.05)"
    assert after(attempt, tmp_path)["told"] is not None


CHILD = """
def sleeper(notes):
    def child():
        {before}
        os.write(notes, b'%d ' % os.getpid())
        os.close(notes)
        time.sleep(999)
    return child
def fork(act):
    pid = os.fork()
    if pid == 0:
        act()
        os._exit(0)
    return pid
r, w = os.pipe()
"""

WAIT = """
os.close(w)
told_of = b""
while told_of.count(b" ") < {number}:
    told_of += os.read(r, 100)
pids = [int(one) for one in told_of.split()]
"""

GONE = """
old = isolate.end_children
isolate.end_children = lambda: (old(), [pid for pid in pids if os.path.exists(f'/proc/{pid}')])[1]
"""


@pytest.mark.parametrize(
    ("start", "number", "before"),
    [
        ("fork(sleeper(w))", 1, ""),
        ("fork(lambda: (os.setsid(), fork(sleeper(w))))", 1, ""),
        ("fork(lambda: (os.setsid(), fork(lambda: (os.setsid(), fork(sleeper(w))))))", 1, ""),
        ("[fork(sleeper(w)) for _ in range(20)]", 20, ""),
        ("fork(sleeper(w))", 1, "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]"),
        ("fork(lambda: (fork(sleeper(w)), sleeper(w)()))", 2, "os.setsid()"),
        ("os.kill(fork(sleeper(w)), signal.SIGSTOP)", 0, ""),
    ],
    ids=["child", "double fork", "triple fork", "twenty", "ignores signals", "tree of sessions", "stopped"],
)
def test_no_process_of_an_attempt_survives_it(tmp_path: Path, start: str, number: int, before: str) -> None:
    attempt = CHILD.format(before=before or "pass") + start + WAIT.format(number=number) + GONE
    assert after(attempt, tmp_path)["ended"] == []


def test_zombies_are_reaped(tmp_path: Path) -> None:
    attempt = "pids = [os.posix_spawn('/bin/true', ['true'], {}) for _ in range(5)]" + GONE
    assert after(attempt, tmp_path)["ended"] == []


def test_without_children_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert after("pass", tmp_path)["ended"] is None
