"""battd never lingers half-dead: tried in processes that really end."""

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import batt_supervisor
from batt_supervisor.daemon import threads

ROOT = str(Path(batt_supervisor.__file__).parents[1])

START = """
import sys, threading, time
from batt_supervisor.daemon import faults, threads
from batt_supervisor.daemon.threads import Crewmen, Watchdog, Watched, give_up
now = time.monotonic
told = lambda text: faults.read({'BATT_FAULTS': text}).point
"""


def run(code: str, **given: Any) -> subprocess.CompletedProcess[str]:
    facts: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.run(
        [sys.executable, "-c", START + code],
        env={"PYTHONPATH": ROOT},
        text=True,
        timeout=60,
        check=False,
        **facts | given,
    )


LIVE_ON = "\ntime.sleep(50)\nsys.exit(3)"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("give_up('the reason')", "battd: the reason; leaving with exit code 70"),
        ("threading.Thread(target=lambda: give_up('from a thread')).start()", "battd: from a thread;"),
        ("try:\n    give_up('x')\nfinally:\n    print('orderly')", "battd: x;"),
        ("import atexit; atexit.register(time.sleep, 50); give_up('x')", "battd: x;"),
        ("threading.Thread(target=time.sleep, args=(50,)).start(); give_up('x')", "battd: x;"),
        ("Crewmen().start('writer', lambda: None)", "battd: thread 'writer' ended unexpectedly;"),
        ("Crewmen().start('writer', lambda: 1 / 0)", "thread 'writer' ended by an error; leaving"),
        ("Crewmen().start('writer', lambda: sys.exit(0))", "thread 'writer' ended by an error; leaving"),
        ("Crewmen(told('api=die')).start('api', lambda: time.sleep(50))", "thread 'api' ended by an error; leaving"),
        (
            "Watchdog([Watched('a', now), Watched('b', lambda: now() - 11)], now()).look(10)",
            "battd: 'b' has not gone round for 11.0 s (watchdog: 10 s);",
        ),
    ],
)  # fmt: skip
def test_the_end_of_a_part_is_the_end_of_the_process(code: str, sentence: str) -> None:
    done = run(code + LIVE_ON)
    assert done.returncode == threads.EXIT_HALF_DEAD == 70
    assert sentence in done.stderr
    assert done.stdout == ""


def test_an_error_is_told_with_its_traceback() -> None:
    assert "ZeroDivisionError" in run("Crewmen().start('writer', lambda: 1 / 0)" + LIVE_ON).stderr


def test_a_thread_may_end_when_battd_is_leaving() -> None:
    code = "crew = Crewmen(); crew.leaving = True; crew.start('w', lambda: None); print(crew.join(30)); sys.exit(5)"
    done = run(code)
    assert (done.returncode, done.stdout) == (5, "[]\n")


def test_threads_that_do_not_end_are_named() -> None:
    code = "crew = Crewmen(); crew.leaving = True; crew.start('stuck', lambda: time.sleep(50)); print(crew.join(0.01))"
    done = run(code)
    assert (done.returncode, done.stdout) == (0, "['stuck']\n")


@pytest.mark.parametrize("silent_s", [0, 9.5])
def test_what_goes_round_is_left_alone(silent_s: float) -> None:
    done = run(f"Watchdog([Watched('a', lambda: now() - {silent_s})], now()).look(10); sys.exit(5)")
    assert done.returncode == 5


@pytest.mark.parametrize("code", ["give_up('x')", "Crewmen().start('w', lambda: 1 / 0); time.sleep(0.2)"])
def test_a_log_that_nobody_reads_any_more_stops_nothing(code: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run("import signal; signal.signal(signal.SIGPIPE, signal.SIG_IGN)\n" + code + "\nsys.exit(3)", stderr=write)
    os.close(write)
    assert done.returncode == 70


def test_a_log_that_is_full_stops_nothing() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(write, True)
    process = subprocess.Popen([sys.executable, "-c", START + "give_up('x')"], env={"PYTHONPATH": ROOT}, stderr=write)
    pidfd = os.pidfd_open(process.pid)
    ended, _, _ = select.select([pidfd], [], [], 3.0)
    process.kill()
    code = process.wait()
    for fd in (read, write, pidfd):
        os.close(fd)
    assert ended
    assert code == 70
