"""Commands as tasks: their exit code, output, words and process tree."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.core.lifecycle import State
from batt_supervisor.pool import proc
from batt_supervisor.testing import Daemon, eventually

Battctl = Callable[..., Any]

ODD = [
    "plain",
    "two words",
    "a'b",
    'a"b',
    "$HOME",
    "`id`",
    "$(id)",
    "a;b",
    "*",
    "-n",
    "\\",
    "ä\u2028ö",
    "{item}",
    "a\nb",
]


def alive(pid: int) -> bool:
    found = proc.stat(pid)
    return found is not None and found.state != "Z"


def text_of(daemon: Daemon, run: str, index: int = 0) -> str:
    return daemon.client.log(daemon.task(run, index)).text


@pytest.mark.parametrize(
    ("script", "outcome", "reason"),
    [
        ("exit 0", "ok", None),
        ("exit 3", "crashed", "exit code 3"),
        ("kill -9 $$", "crashed", "killed by SIGKILL"),
        ("kill -15 $$", "crashed", "killed by SIGTERM"),
        ("kill -2 $$", "crashed", "killed by SIGINT"),
        ("exit 255", "crashed", "exit code 255"),
    ],
)
def test_a_commands_end_is_its_tasks(battd: Daemon, script: str, outcome: str, reason: str | None) -> None:
    run = battd.submit(command=["sh", "-c", script])
    battd.wait(run)
    task = battd.look(run)
    assert (task.outcome, task.reason) == (outcome, reason)
    assert (task.value == {"exit_code": 0}) == (outcome == "ok")


def test_a_commands_output_is_its_tasks_log(battd: Daemon) -> None:
    run = battd.submit(command=["sh", "-c", "echo out; echo err >&2; printf 'no end'"])
    battd.wait(run)
    assert text_of(battd, run) == "out\nerr\nno end"


def test_a_commands_input_is_empty(battd: Daemon) -> None:
    run = battd.submit(command=["cat"], timeout_s=20)
    assert battd.wait(run).counts == {State.SUCCEEDED: 1}
    assert text_of(battd, run) == ""


def test_a_command_runs_in_the_runs_directory_and_environment(battd: Daemon, tmp_path: Path) -> None:
    run = battd.submit(command=["sh", "-c", "pwd; echo $WORD"], cwd=tmp_path, env={"WORD": "given"})
    battd.wait(run)
    assert text_of(battd, run) == f"{tmp_path}\ngiven\n"


def test_an_item_is_one_word_whatever_is_in_it(battd: Daemon) -> None:
    script = "import sys; sys.stdout.buffer.write(repr(sys.argv[1:]).encode())"
    run = battd.submit(command=[sys.executable, "-c", script, "{item}", "x={item}"], items=ODD)
    assert battd.wait(run).counts == {State.SUCCEEDED: len(ODD)}
    for number, item in enumerate(ODD):
        assert text_of(battd, run, number) == repr([item, f"x={item}"])


def test_an_item_is_one_word_for_a_shell_too(battd: Daemon) -> None:
    run = battd.submit(command=["printf '%s|' {item} x={item}"], shell=True, items=ODD)
    assert battd.wait(run).counts == {State.SUCCEEDED: len(ODD)}
    for number, item in enumerate(ODD):
        assert text_of(battd, run, number) == f"{item}|x={item}|"


def test_a_shell_command_is_the_shells_to_read(battd: Daemon) -> None:
    run = battd.submit(command=["echo $WORD | tr a-z A-Z; exit 4"], shell=True, env={"WORD": "loud"})
    battd.wait(run)
    assert text_of(battd, run) == "LOUD\n"
    assert battd.look(run).reason == "exit code 4"


def test_a_commands_whole_tree_ends_at_its_timeout(battd: Daemon, tmp_path: Path) -> None:
    script = "setsid sleep 3600 & echo $! > pids; (sleep 3600 & echo $! >> pids); trap '' TERM; sleep 3600"
    run = battd.submit(command=["sh", "-c", script], cwd=tmp_path, timeout_s=1.0)
    battd.wait(run)
    assert battd.look(run).outcome == "timeout"
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    eventually("its children are gone", lambda: not any(map(alive, pids)))


def test_what_a_command_leaves_behind_ends_with_it(battd: Daemon, tmp_path: Path) -> None:
    run = battd.submit(command=["sh", "-c", "setsid sleep 3600 & echo $! > pid"], cwd=tmp_path)
    assert battd.wait(run).counts == {State.SUCCEEDED: 1}
    pid = int((tmp_path / "pid").read_text())
    eventually("it is gone", lambda: not alive(pid))


def test_a_command_that_is_only_known_with_its_item_fails_by_itself(battd: Daemon) -> None:
    run = battd.submit(command=["{item}"], items=["true", "/no/such/program"])
    assert battd.wait(run).counts == {State.SUCCEEDED: 1, State.FAILED: 1}
    error = battd.results(run)[1].error
    assert error is not None
    assert error.type == "FileNotFoundError"


def test_a_command_gets_none_of_the_workers_descriptors(battd: Daemon) -> None:
    run = battd.submit(command=["sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"])
    battd.wait(run)
    assert text_of(battd, run) == "0 1 2 3 "  # the last is the one that lists them


def test_battctl_submits_a_command_for_each_line(battd: Daemon, battctl: Battctl, tmp_path: Path) -> None:
    items = tmp_path / "items"
    items.write_text('one\ntwo words\n"quoted"\n')
    words = ["submit", "--timeout", "10m", "--items", str(items), "--wait", "--name", "words", "--", "echo", "<{item}>"]
    done = battctl(battd, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [text_of(battd, "words", n) for n in range(3)] == ["<one>\n", "<two words>\n", "<quoted>\n"]
