"""A state directory is private, and served by one process at a time."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import batt_supervisor
from batt_supervisor.daemon.statedir import hold
from batt_supervisor.errors import StateDirHeld, StateDirUnusable

SOCKET = Path("/run/some/battd.sock")

HOLDER = """
import sys
from pathlib import Path
from batt_supervisor.daemon.statedir import hold
held = hold(Path(sys.argv[1]), Path("/other/battd.sock"))
print("held", flush=True)
sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    root = str(Path(batt_supervisor.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": root},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=30)


def test_a_directory_is_made_with_all_above_it_and_is_private(tmp_path: Path) -> None:
    state = hold(tmp_path / "a/b/state", SOCKET)
    for folder in (state.path, state.logs, state.results):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert state.database.parent == state.path
    state.close()


def test_a_second_holder_is_refused_with_the_pid_and_socket_of_the_first(tmp_path: Path) -> None:
    other = holder(tmp_path / "state")
    try:
        sentence = f"is served by another battd: pid {other.pid}, socket /other/battd.sock"
        with pytest.raises(StateDirHeld, match=re.escape(sentence)):
            hold(tmp_path / "state", SOCKET)
        # Being refused takes nothing away from the first.
        with pytest.raises(StateDirHeld, match=re.escape(sentence)):
            hold(tmp_path / "state", SOCKET)
    finally:
        end(other)


def test_the_same_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    state = hold(tmp_path, SOCKET)
    with pytest.raises(StateDirHeld, match=f"pid {os.getpid()}"):
        hold(tmp_path, SOCKET)
    state.close()
    hold(tmp_path, SOCKET).close()


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    other = holder(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.communicate(timeout=30)
    state = hold(tmp_path, SOCKET)
    # The name of the dead one is gone from the lock, too.
    with pytest.raises(StateDirHeld, match=f"pid {os.getpid()}, socket {SOCKET}"):
        hold(tmp_path, SOCKET)
    state.close()


def test_a_child_that_outlives_the_holder_does_not_hold_it(tmp_path: Path) -> None:
    state = hold(tmp_path, SOCKET)
    child = subprocess.Popen(["/bin/sleep", "60"])
    state.close()
    try:
        hold(tmp_path, SOCKET).close()
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 3}', "null"])
def test_a_holder_that_has_not_written_its_name_yet_is_still_a_holder(tmp_path: Path, text: str) -> None:
    state = hold(tmp_path, SOCKET)
    (tmp_path / "lock").write_text(text)
    with pytest.raises(StateDirHeld, match=r"is served by another battd$"):
        hold(tmp_path, SOCKET)
    state.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", 65534, 65534)
    with pytest.raises(StateDirUnusable, match=r"state belongs to uid 65534, not to 0"):
        hold(tmp_path / "state", SOCKET)
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.parametrize("make", ["file", "below a file", "lock is a directory"])
def test_a_place_that_cannot_be_used_is_told(tmp_path: Path, make: str) -> None:
    path = tmp_path / "state"
    if make == "lock is a directory":
        (path / "lock").mkdir(parents=True)
    else:
        path.write_text("")
        path = path / "below" if make == "below a file" else path
    with pytest.raises(StateDirUnusable, match=f"the state directory {re.escape(str(path))} cannot be used: "):
        hold(path, SOCKET)


def test_a_directory_keeps_its_name_among_workers_across_restarts(tmp_path: Path) -> None:
    one = hold(tmp_path / "one", SOCKET)
    one.close()
    again, other = hold(tmp_path / "one", SOCKET), hold(tmp_path / "two", SOCKET)
    assert one.token == again.token != other.token
    again.close()
    other.close()


def test_a_directory_that_was_open_to_others_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    try:
        state = hold(tmp_path / "state", SOCKET)
    except StateDirUnusable:
        return  # refusing it is as good
    mode = state.path.stat().st_mode
    state.close()
    assert mode & 0o077 == 0
