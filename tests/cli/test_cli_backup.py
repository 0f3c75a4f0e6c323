"""battctl backup, restore and check: what they say, what they exit with, and what they leave."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.testing import eventually

ROOT = Path(__file__).resolve().parent.parent.parent

KEPT = ROOT / "tests" / "data" / "schema-3"

Battctl = Callable[..., Any]


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT, tmp_path / "state"))


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of its own, for root."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# backup and restore


def test_a_store_goes_into_a_file_and_comes_back(battctl: Battctl, state_dir: Path, tmp_path: Path) -> None:
    ended = battctl("backup", "made.tar.gz", "--state-dir", str(state_dir))
    assert (ended.code, ended.err) == (0, "")
    first, second = ended.out.splitlines()
    assert first.startswith("made.tar.gz: ")
    assert first.endswith("9 runs: 4 cancelled, 2 failed, 2 queued, 1 running, 7 succeeded, 1 waiting")
    assert second == "1 result file (19.5 KiB), 2 logs (25 B)"
    ended = battctl("restore", "made.tar.gz", "--state-dir", "new")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[1] == "what was running when the backup was made goes again when battd serves it"
    assert names(tmp_path / "new") == ["lock", "logs", "queue.db", "results"]
    assert battctl("check", "--store", "--state-dir", "new").code == 0


def test_for_programs_both_say_what_the_manifest_says(battctl: Battctl, state_dir: Path, tmp_path: Path) -> None:
    said = battctl("backup", "made.tar", "--state-dir", str(state_dir), "--json").json
    assert said["bytes"] == (tmp_path / "made.tar").stat().st_size
    assert (said["file"], said["runs"], said["tasks"]["succeeded"], said["missing"]) == ("made.tar", 9, 7, [])
    again = battctl("restore", "made.tar", "--state-dir", "new", "--json").json
    assert (again["state_dir"], again["faults"]) == (str(tmp_path / "new"), [])
    assert {key: value for key, value in again.items() if key in said} == {
        key: value for key, value in said.items() if key in again
    }


def test_a_file_that_is_there_is_replaced_only_by_force(battctl: Battctl, state_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "made.tar").write_text("mine")
    ended = battctl("backup", "made.tar", "--state-dir", str(state_dir))
    assert ended.code == 2
    assert ended.err == "battctl: made.tar exists; give --force to have it replaced\n"
    assert (tmp_path / "made.tar").read_text() == "mine"
    assert battctl("backup", "made.tar", "--state-dir", str(state_dir), "--force").code == 0
    assert battctl("restore", "made.tar", "--state-dir", "new").code == 0


def test_what_is_missing_is_told_by_a_code_and_a_sentence(battctl: Battctl, state_dir: Path) -> None:
    (state_dir / "results" / "4-1.json").unlink()
    ended = battctl("backup", "made.tar", "--state-dir", str(state_dir))
    assert ended.code == 1
    assert ended.err == ("battctl: results/4-1.json, which the database names, is missing, and so it is in made.tar\n")
    ended = battctl("restore", "made.tar", "--state-dir", "new")
    assert (ended.code, ended.err) == (1, "battctl: results/4-1.json, the result of t4, is missing\n")
    assert battctl("check", "--store", "--state-dir", "new").code == 1


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("backup", "made.zip"), 2, "made.zip: a backup's name ends in .tar, .tar.gz or .tgz"),
        (("backup", "made.tar", "--state-dir", "nowhere"), 2, "has no queue.db"),
        (("backup", "nowhere/made.tar"), 73, "nowhere/made.tar cannot be written: No such file or directory"),
        (("restore", "made.tar"), 2, "not empty"),
        (("restore", "nowhere.tar", "--state-dir", "new"), 2, "nowhere.tar cannot be read as a backup: No such file"),
        (("restore", "text.tar", "--state-dir", "new"), 2, "text.tar cannot be read as a backup"),
    ],
)
def test_what_cannot_be_done_is_told_and_leaves_nothing(
    battctl: Battctl, state_dir: Path, tmp_path: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    (tmp_path / "text.tar").write_text("a text")
    before, inside = names(tmp_path), names(state_dir)
    ended = battctl("--state-dir", str(state_dir), *words, "--json")
    assert ended.code == code
    assert told in ended.err and ended.out == ""
    assert json.loads(ended.err.splitlines()[1])["error"] in ("bad_input", "backup_failed")
    assert names(tmp_path) == before
    assert names(state_dir) == inside


def test_where_to_restore_must_be_said(battctl: Battctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not into a directory that some variable happens to name."""
    monkeypatch.setenv("BATT_STATE_DIR", str(tmp_path / "served"))
    ended = battctl("restore", "made.tar")
    assert (ended.code, ended.err) == (2, "battctl: name the directory to restore into with --state-dir\n")
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_a_full_disk_leaves_nothing_of_a_backup_and_the_old_one_as_it_was(
    battctl: Battctl, state_dir: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "size=96k") as disk:
        (disk / "made.tar").write_text("the old one")
        (disk / "fill").write_bytes(b"x" * 16_384)
        ended = battctl("backup", "disk/made.tar", "--state-dir", str(state_dir), "--force")
        assert ended.code == 73
        assert "cannot be written" in ended.err and ("full" in ended.err or "No space left" in ended.err)
        assert names(disk) == ["fill", "made.tar"]
        assert (disk / "made.tar").read_text() == "the old one"
        (disk / "fill").unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
@pytest.mark.parametrize("size", ["96k", "200k"], ids=["while the database is copied", "while the file is written"])
def test_wherever_the_disk_gets_full_it_is_told_as_that(
    battctl: Battctl, state_dir: Path, tmp_path: Path, size: str
) -> None:
    with mounted(tmp_path / "disk", f"size={size}") as disk:
        (disk / "fill").write_bytes(b"x" * 16_384)
        ended = battctl("backup", "disk/made.tar", "--state-dir", str(state_dir))
        assert (ended.code, names(disk)) == (73, ["fill"])
        assert "full" in ended.err or "No space left" in ended.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_a_full_disk_leaves_nothing_of_what_was_being_restored(
    battctl: Battctl, state_dir: Path, tmp_path: Path
) -> None:
    assert battctl("backup", "made.tar", "--state-dir", str(state_dir)).code == 0
    with mounted(tmp_path / "disk", "size=96k") as disk:
        ended = battctl("restore", "made.tar", "--state-dir", "disk")
        assert ended.code == 73
        assert "No space left on device" in ended.err
        assert names(disk) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_a_store_on_a_file_system_that_cannot_be_written_is_checked_and_backed_up(
    battctl: Battctl, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        shutil.copytree(KEPT, disk / "state")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (disk / "state" / "probe").touch()
        assert battctl("check", "--store", "--state-dir", "disk/state").code == 0
        assert battctl("backup", "made.tar", "--state-dir", "disk/state").code == 0
    assert battctl("restore", "made.tar", "--state-dir", "new").code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_backup_that_is_told_to_stop_leaves_nothing(state_dir: Path, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "out").mkdir()
    with (state_dir / "files.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as battd holds it while it removes files; the backup waits
        words = [sys.executable, "-m", "batt_supervisor.cli.main", "backup", "out/made.tar", "--state-dir", "state"]
        with subprocess.Popen(
            words,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
        ) as battctl:
            try:
                eventually("it has begun", lambda: names(tmp_path / "out"))
                eventually("it waits for the lock", lambda: f" {battctl.pid} " in Path("/proc/locks").read_text())
                battctl.send_signal(number)
                assert battctl.wait(60) == 130
                assert battctl.stderr is not None and battctl.stderr.read() == b""
            finally:
                battctl.kill()
    assert names(tmp_path / "out") == []


# check


def test_a_check_of_the_store_says_what_is_there(battctl: Battctl, state_dir: Path) -> None:
    ended = battctl("check", "--store", "--state-dir", str(state_dir))
    assert ended.code == 0
    assert ended.out == (
        f"database  {state_dir}/queue.db: schema 3, 88.0 KiB\n"
        "tasks     9 runs: 4 cancelled, 2 failed, 2 queued, 1 running, 7 succeeded, 1 waiting\n"
        "results   1 file, 19.5 KiB\n"
        "logs      2 files, 25 B\n"
        "sound\n"
    )
    said = battctl("check", "--store", "--state-dir", str(state_dir), "--json").json
    assert (said["ok"], said["schema"], said["runs"], said["tasks"]["succeeded"]) == (True, 3, 9, 7)
    assert (said["results_bytes"], said["logs"], said["faults"], said["left_over"]) == (20_002, 2, [], 0)


def test_a_fault_of_the_store_is_named_and_exits_with_1(battctl: Battctl, state_dir: Path) -> None:
    (state_dir / "results" / "4-1.json").rename(state_dir / "results" / "5-1.json")
    ended = battctl("check", "--store", "--state-dir", str(state_dir))
    assert ended.code == 1
    assert ended.out.splitlines()[4:] == [
        "left over results/5-1.json, 19.5 KiB",
        "          1 file, 19.5 KiB, named by no row; battd removes it",
        "wrong     results: results/4-1.json, the result of t4, is missing",
    ]
    said = battctl("check", "--store", "--state-dir", str(state_dir), "--json").json
    assert said["ok"] is False
    assert said["faults"] == [{"part": "results", "told": "results/4-1.json, the result of t4, is missing"}]
    assert said["left_over_files"] == {"results/5-1.json": 20_002}


def test_a_sound_configuration_is_told_with_what_it_says(battctl: Battctl, tmp_path: Path) -> None:
    (tmp_path / "battd.toml").write_text('slots = 3\nstate_dir = "kept"\n')
    ended = battctl("check", "--config", "battd.toml")
    assert (ended.code, ended.out) == (
        0,
        f"the configuration is sound: battd.toml, state directory {tmp_path / 'kept'}\n",
    )
    said = battctl("check", "--config", "battd.toml", "--json").json
    assert (said["ok"], said["settings"]["slots"]) == (True, 3)
    assert names(tmp_path) == ["battd.toml"], "nothing is made"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("slotz = 3", "did you mean 'slots'?"),
        ("slots = 0", "slots"),
        ("slots =", "is not TOML"),
        ('socket_group = "nobody-has-it"', "there is no group 'nobody-has-it'"),
    ],
)
def test_what_is_wrong_in_a_configuration_is_named_as_battd_names_it(
    battctl: Battctl, tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "battd.toml").write_text(text)
    ended = battctl("check", "--config", "battd.toml")
    assert ended.code == 2
    assert told in ended.err
    words = [sys.executable, "-m", "batt_supervisor.daemon.main", "--config", "battd.toml", "--state-dir", "state"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    battd = subprocess.run(words, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert battd.returncode == 2
    assert battd.stderr.replace("battd: ", "") == ended.err.replace("battctl: ", "")


def test_a_variable_that_battd_would_not_start_with_is_named(battctl: Battctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATT_SLOTZ", "3")
    ended = battctl("check")
    assert (ended.code, "did you mean 'BATT_SLOTS'?" in ended.err) == (2, True)
