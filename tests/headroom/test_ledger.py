"""The ledger: holders that are real processes, die in every way, and meet whatever else is in their folder."""

from __future__ import annotations

import ast
import errno
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.core.headroom import Entry, Others
from batt_supervisor.core.model import NOTHING, Space
from batt_supervisor.headroom import ledger as ledger_module
from batt_supervisor.headroom import place as place_module
from batt_supervisor.headroom.ledger import Ledger
from batt_supervisor.testing import PATIENCE_S, eventually

ROOT = Path(__file__).resolve().parents[2]
NOBODYS_UID = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user, or mounts")

PEER = """
import fcntl, os, random, resource, signal, subprocess, sys, time
from batt_supervisor.core.headroom import Entry
from batt_supervisor.core.model import Space
from batt_supervisor.headroom import place
from batt_supervisor.headroom.ledger import Ledger

where, name, uid = sys.argv[1:]
if where.startswith("auto:"):
    where, place.AUTO = "auto", tuple(where.removeprefix("auto:").split(","))
if int(uid):
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
ledger = Ledger.open(where, name)
turns = []

def note(threads):
    ledger.note(Entry(Space(threads << 20, threads), running=threads))
def promised():
    return sorted(one.entry.promised.threads for one in ledger.others().holders)
def begin():
    turns.append(ledger.turn())
    return turns[-1].__enter__()
def end():
    turns.pop().__exit__(None, None, None)
def fork():
    child = os.fork()
    while child == 0:
        time.sleep(3600)
    return child
def in_child(expression):
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writable, repr(eval(expression)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return eval(os.read(readable, 4096))
def start():
    return subprocess.Popen(["sleep", "3600"]).pid
def without_descriptors(call):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        return call()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

print("'ready'", flush=True)
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""


class Peer:
    """Another process with a ledger. Its program evaluates what it is sent."""

    def __init__(self, where: Path | str, name: str = "peer", *, uid: int = 0, before: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", PEER, str(where), name, str(uid)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def do(self, expression: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return self._answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        eventually("it stands still", lambda: _state(self.process.pid) == "T")

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return ast.literal_eval(self.process.stdout.readline())


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for a ledger, not made yet; pytest's own would be closed to other users."""
    with tempfile.TemporaryDirectory(prefix="batt-ledger-") as base:
        yield Path(base) / "ledger"


@pytest.fixture
def ends(folder: Path) -> Iterator[ExitStack]:
    """Ended before the folder is removed."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def peer(ends: ExitStack) -> Callable[..., Peer]:
    def made(*args: Any, **kwargs: Any) -> Peer:
        one = Peer(*args, **kwargs)
        ends.callback(one.kill)
        return one

    return made


@pytest.fixture
def opened(ends: ExitStack) -> Callable[..., Ledger]:
    def made(where: Path | str, name: str = "me") -> Ledger:
        one = Ledger.open(str(where), name)
        ends.callback(one.close)
        return one

    return made


def entry(threads: int) -> Entry:
    return Entry(Space(threads << 20, threads), running=threads)


def promised(others: Others) -> list[int]:
    return sorted(one.entry.promised.threads for one in others.holders)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {place_module.TURN}


# --- What is written is what others read


def test_others_have_what_a_holder_noted(folder: Path, opened: Callable[..., Ledger]) -> None:
    one, two = opened(folder, "/var/lib/one"), opened(folder, "/home/zoë/two")
    assert (one.where, one.why, one.refused, one.trouble) == (str(folder), "", "", "")
    noted = Entry(Space(3 << 40, 7), Space(5 << 40, 11), running=2, oldest_s=12345.678)
    one.note(noted)
    (seen,) = two.others().holders
    assert (seen.pid, seen.name, seen.entry) == (os.getpid(), "/var/lib/one", noted)
    (seen,) = one.others().holders
    assert (seen.name, seen.entry) == ("/home/zoë/two", Entry())
    one.note(Entry())
    assert two.others().promised == NOTHING


def test_who_leaves_is_gone_and_leaves_nothing(folder: Path, opened: Callable[..., Ledger]) -> None:
    one, two = opened(folder), opened(folder)
    one.note(entry(3))
    assert promised(two.others()) == [3]
    one.close()
    assert two.others().holders == []
    assert len(files(folder)) == 1
    assert (one.where, one.others().holders) == ("", ())
    assert one.why
    one.note(entry(4))
    with one.turn() as had:
        assert had
    one.close()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/a", "/a"),
        ("/" + "a" * 300 + "/run-7", "…" + "a" * (184 - 3 - 6) + "/run-7"),
        ("ä" * 300, "…" + "ä" * 90),
        ("/lone \udcff", "/lone ?"),
        ("", ""),
    ],
)
def test_a_name_is_capped_at_its_beginning(folder: Path, opened: Callable[..., Ledger], name: str, shown: str) -> None:
    mine = opened(folder)
    opened(folder, name)
    assert [one.name for one in mine.others().holders] == [shown]


def test_a_figure_out_of_all_bounds_is_clamped(folder: Path, opened: Callable[..., Ledger]) -> None:
    one, two = opened(folder), opened(folder)
    one.note(Entry(Space(2**80, -5), Space(-1, 2**63), running=-1, oldest_s=float("-inf")))
    (seen,) = two.others().holders
    most = 2**63 - 1
    assert seen.entry == Entry(Space(most, 0), Space(0, most), running=0, oldest_s=float("-inf"))


def test_more_holders_than_descriptors_that_are_kept(
    folder: Path, opened: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_KEPT", 3)
    mine, *rest = (opened(folder, str(number)) for number in range(9))
    for number, one in enumerate(rest):
        one.note(entry(number))
    mine.others()
    before = len(os.listdir("/proc/self/fd"))
    for number, one in enumerate(rest):
        one.note(entry(number + 10))
        assert 10 + number in promised(mine.others())
    assert promised(mine.others()) == list(range(10, 18))
    assert len(os.listdir("/proc/self/fd")) == before


# --- Eight at once


RIVAL = """
import fcntl, os, random, sys, time
from batt_supervisor.core.headroom import Entry
from batt_supervisor.core.model import Space
from batt_supervisor.headroom.ledger import Ledger

folder, chairs_file, log_file, gap = sys.argv[1:]
gap = int(gap)
# Who really is in the gap, told by locks that have nothing to do with the ledger. These are POSIX locks: when a process
# dies, the kernel lets go of them before it lets go of the ledger's.
chairs = os.open(chairs_file, os.O_RDWR)
log = os.open(log_file, os.O_WRONLY | os.O_APPEND)
ledger = Ledger.open(folder, "rival")
assert ledger.where == folder, ledger.why

def sit():
    for chair in range(gap):
        try:
            fcntl.lockf(chairs, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, chair)
            return True
        except OSError:
            pass
    return False

while True:
    with ledger.turn() as had:
        mine = had and ledger.others().promised.threads + 1 <= gap
        if mine:
            ledger.note(Entry(Space(0, 1)))
            assert not ledger.trouble, ledger.trouble
            os.write(log, b"+" if sit() else b"!")
    if mine:
        time.sleep(random.random() * 0.002)
        fcntl.lockf(chairs, fcntl.LOCK_UN)
        ledger.note(Entry())
    else:
        time.sleep(random.random() * 0.001)
"""


def test_eight_that_want_the_same_gap_never_promise_more_than_there_is(folder: Path, ends: ExitStack) -> None:
    gap, kills, admissions = 3, 20, 3000
    chairs, log, said = (folder.with_name(name) for name in ("chairs", "log", "said"))
    for path in (chairs, log, said):
        path.touch()
    errors = ends.enter_context(said.open("ab"))

    def rival() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", RIVAL, str(folder), str(chairs), str(log), str(gap)]
        one = subprocess.Popen(command, cwd=ROOT, stderr=errors)
        ends.callback(one.wait)
        ends.callback(one.kill)
        return one

    rivals = [rival() for _ in range(8)]
    chance = random.Random(8)

    def enough() -> bool:
        assert [one.returncode for one in rivals if one.poll() is not None] == [], said.read_text()
        return log.stat().st_size >= admissions

    for _ in range(kills):
        # At any moment of a round, or of its start.
        here = log.stat().st_size
        eventually("they go on", lambda here=here: log.stat().st_size > here + chance.randrange(50))
        time.sleep(chance.random() * 0.005)
        one = rivals.pop(chance.randrange(8))
        one.kill()
        one.wait()
        rivals.append(rival())
    eventually("enough rounds", enough)
    assert b"!" not in log.read_bytes()

    for one in rivals:
        one.kill()
        one.wait()
    watcher = Ledger.open(str(folder), "watcher")
    ends.callback(watcher.close)
    assert watcher.others().holders == []
    assert len(files(folder)) == 1


# --- Ways to die, and to stand still


def test_a_killed_holder_vanishes_with_its_file(
    folder: Path, opened: Callable[..., Ledger], peer: Callable[..., Peer]
) -> None:
    mine = opened(folder)
    killed, other = peer(folder, "killed"), peer(folder, "other")
    killed.do("note(5)")
    other.do("note(2)")
    assert promised(mine.others()) == [2, 5]
    killed.kill()
    assert promised(mine.others()) == [2]
    assert len(files(folder)) == 2
    assert other.do("promised()") == [0]


def test_a_file_of_who_died_before_we_came_is_removed(
    folder: Path, opened: Callable[..., Ledger], peer: Callable[..., Peer]
) -> None:
    for _ in range(3):
        one = peer(folder)
        one.do("note(5)")
        one.kill()
    assert len(files(folder)) == 3
    assert opened(folder).others().holders == []
    assert len(files(folder)) == 1


def test_who_was_stopped_while_he_looked_does_not_keep_the_dead_alive(
    folder: Path, opened: Callable[..., Ledger], peer: Callable[..., Peer], ends: ExitStack
) -> None:
    mine, dead, looks = opened(folder), peer(folder, "dead"), peer(folder, "looks")
    path = _raw(folder, "dead")
    dead.kill()
    looks.do(f"fcntl.flock(os.open('{path}', os.O_RDONLY), fcntl.LOCK_SH)")
    looks.stop()
    assert [one.name for one in mine.others().holders] == ["looks"]
    assert not path.exists()


def test_who_is_killed_in_his_turn_does_not_keep_it(
    folder: Path, opened: Callable[..., Ledger], peer: Callable[..., Peer]
) -> None:
    mine, other = opened(folder), peer(folder)
    assert other.do("begin()") is True
    with mine.turn(0.0) as had:
        assert not had
    other.kill()
    with mine.turn() as had:
        assert had
        assert mine.others().holders == []


def test_who_is_stopped_in_his_turn_delays_the_others_by_their_patience_only(
    folder: Path, opened: Callable[..., Ledger], peer: Callable[..., Peer]
) -> None:
    mine, other = opened(folder), peer(folder)
    other.do("note(4)")
    assert other.do("begin()") is True
    other.stop()
    for patience_s in (0.1, 0.1, 0.0):
        before_s = time.monotonic()
        with mine.turn(patience_s) as had:
            assert not had
            # It is not dead: what it promised still counts.
            assert promised(mine.others()) == [4]
        assert time.monotonic() - before_s < PATIENCE_S
    other.process.send_signal(signal.SIGCONT)
    other.do("end()")
    with mine.turn() as had:
        assert had
    assert other.do("begin()") is True
    other.do("end()")


def test_a_turn_ends_with_whatever_is_raised_in_it(folder: Path, opened: Callable[..., Ledger]) -> None:
    one, two = opened(folder), opened(folder)
    with pytest.raises(ZeroDivisionError), one.turn():
        1 / 0  # noqa: B018
    with two.turn(0.0) as had:
        assert had


@pytest.mark.parametrize("way", ["fork()", "start()"])
def test_a_child_that_outlives_a_holder_does_not_keep_it_in_the_ledger(
    folder: Path, opened: Callable[..., Ledger], peer: Callable[..., Peer], ends: ExitStack, way: str
) -> None:
    mine, other = opened(folder), peer(folder)
    other.do("note(5)")
    assert other.do("begin()") is True
    child = other.do(way)
    ends.callback(os.kill, child, signal.SIGKILL)
    eventually("the child has let go", lambda: _open_files_below(child, folder) == [])
    # The parent has not.
    assert promised(mine.others()) == [5]
    other.process.kill()
    other.process.wait()
    assert mine.others().holders == []
    with mine.turn() as had:
        assert had
    assert _state(child) in "RS"


def _open_files_below(pid: int, folder: Path) -> list[str]:
    seen = (os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir())
    return [path for path in seen if path.startswith(str(folder))]


def test_a_forked_child_is_in_no_ledger_and_says_so(
    folder: Path, opened: Callable[..., Ledger], peer: Callable[..., Peer]
) -> None:
    mine, other = opened(folder), peer(folder)
    mine.note(entry(3))
    other.do("note(5)")
    said = other.do("in_child('note(9), ledger.where, promised(), begin(), end(), ledger.close(), ledger.why')")
    assert said == (None, "", [], True, None, None, "this process was forked from the one that is in the ledger")
    assert promised(mine.others()) == [5]
    assert other.do("promised()") == [3]


def test_holders_of_several_pid_namespaces_see_each_other_live_and_die(
    folder: Path, opened: Callable[..., Ledger], peer: Callable[..., Peer]
) -> None:
    apart = ("unshare", "-p", "-f", "--kill-child")
    try:
        subprocess.run([*apart, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no pid namespace to be had: {error}")
    mine, one, two = opened(folder), peer(folder, "one", before=apart), peer(folder, "two", before=apart)
    assert one.do("os.getpid()") == two.do("os.getpid()") == 1
    one.do("note(5)")
    two.do("note(7)")
    assert [(holder.pid, holder.name) for holder in sorted(mine.others().holders, key=lambda one: one.name)] == [
        (1, "one"),
        (1, "two"),
    ]
    assert (promised(mine.others()), one.do("promised()"), two.do("promised()")) == ([5, 7], [0, 7], [0, 5])
    one.kill()
    eventually("it is gone", lambda: promised(mine.others()) == [7])
    assert two.do("promised()") == [0]


# --- Whatever else is in the folder


def _raw(folder: Path, name: str) -> Path:
    (path,) = (path for path in folder.iterdir() if name.encode() in path.read_bytes())
    return path


def _signed(raw: bytes, change: Callable[[bytearray], None]) -> bytes:
    """A changed record whose checksum is right."""
    head = ledger_module._HEAD
    body = bytearray(raw[head.size :])
    change(body)
    magic, version, _ = head.unpack_from(raw)
    return head.pack(magic, version, zlib.crc32(bytes(body))) + body


def _put(form: str, at: int, value: Any) -> Callable[[bytearray], None]:
    return lambda body: struct.pack_into(form, body, at, value)


BAD_RECORDS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "half": lambda raw: raw[: len(raw) // 2],
    "a byte short": lambda raw: raw[:-1],
    "a byte long": lambda raw: raw + b"\0",
    "huge": lambda raw: raw * 40_000,
    "zeros": lambda raw: bytes(len(raw)),
    "noise": lambda raw: random.Random(1).randbytes(len(raw)),
    "torn": lambda raw: raw[:30] + b"\1" * 20 + raw[50:],
    "another's": lambda raw: b"someoneelse" + raw[11:],
    "next version": lambda raw: raw[:8] + b"\2\0" + raw[10:],
    "a negative promise": lambda raw: _signed(raw, _put("<q", 8, -1)),
    "a negative pid": lambda raw: _signed(raw, _put("<q", 0, -1)),
    "started at no time": lambda raw: _signed(raw, _put("<d", 48, float("nan"))),
    "a name beyond its end": lambda raw: _signed(raw, _put("<H", 56, 2000)),
}


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_a_record_that_is_not_whole_is_never_believed(folder: Path, opened: Callable[..., Ledger], kind: str) -> None:
    one, knows = opened(folder, "number one"), opened(folder, "two")
    one.note(entry(5))
    assert promised(knows.others()) == [5]
    path = _raw(folder, "number one")
    whole = path.read_bytes()
    path.write_bytes(BAD_RECORDS[kind](whole))
    os.utime(path, (1, 1))  # or an empty one would be that of somebody who has just come
    # Who has seen a whole one goes by that; who comes now does not, and says that something is there.
    assert promised(knows.others()) == [5]
    comes = opened(folder, "three")
    assert promised(comes.others()) == [0]
    assert "not understood" in comes.trouble
    assert path.exists()
    path.write_bytes(whole)
    assert promised(comes.others()) == [0, 5]
    assert comes.trouble == ""


def test_no_byte_of_a_record_can_change_unnoticed(folder: Path, opened: Callable[..., Ledger]) -> None:
    one = opened(folder, "number one")
    one.note(entry(5))
    raw = _raw(folder, "number one").read_bytes()
    assert len(raw) == 256
    assert ledger_module._unpacked(raw) is not None
    for at in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[at] ^= 1 << bit
            assert ledger_module._unpacked(bytes(changed)) is None


@pytest.mark.parametrize("content", [b"", b"garbage", b"x" * 10_000_000])
def test_a_file_with_a_holders_name_and_no_holder_is_removed(
    folder: Path, opened: Callable[..., Ledger], content: bytes
) -> None:
    mine = opened(folder)
    left = folder / f"ledger.12.{0:016x}"
    left.write_bytes(content)
    assert mine.others().holders == []
    assert not left.exists()


def test_what_is_no_holders_file_is_left_alone(folder: Path, opened: Callable[..., Ledger], ends: ExitStack) -> None:
    mine, other = opened(folder), opened(folder)
    other.note(entry(3))
    outside = folder.with_name("outside")
    outside.write_text("mine")
    names = [f"ledger.12.{number:016x}" for number in range(5)]
    (folder / names[0]).mkdir()
    (folder / names[1]).symlink_to(outside)
    (folder / names[2]).symlink_to("nowhere")
    os.mkfifo(folder / names[3])
    bound = ends.enter_context(socket.socket(socket.AF_UNIX))
    bound.bind(str(folder / names[4]))
    for name in ("queue.db", "lock", "ledger.12", "ledger.x.0000000000000000", f"ledger.12.{0:016X}.old", "ledger"):
        (folder / name).write_text("not ours")
        names.append(name)
    assert promised(mine.others()) == [3]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert promised(mine.others()) == [3]
    assert len(os.listdir("/proc/self/fd")) == before
    assert files(folder) >= set(names)
    assert outside.read_text() == "mine"
    assert mine.trouble == ""


def test_a_holder_that_was_taken_for_dead_while_it_began_makes_another_file(
    folder: Path, opened: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(folder)
    real, seen = os.open, []

    def slow(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        descriptor = real(path, flags, *args, **kwargs)
        if flags & os.O_EXCL and len(seen) < 3:
            seen.append(path)
            first.others()  # just between the making of the file and its lock
        return descriptor

    monkeypatch.setattr(os, "open", slow)
    second = opened(folder)
    monkeypatch.undo()
    second.note(entry(4))
    assert len(seen) == 3
    assert promised(first.others()) == [4]
    assert len(files(folder)) == 2


# --- Folders that go, are full, are somebody else's


def _removed(folder: Path) -> None:
    shutil.rmtree(folder)


def _replaced(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))
    folder.mkdir(mode=0o700)


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _without_turn(folder: Path) -> None:
    (folder / place_module.TURN).unlink()


@pytest.mark.parametrize("loss", [_removed, _replaced, _emptied, _without_turn])
@pytest.mark.parametrize("first", ["turn", "others"])
def test_a_folder_that_is_lost_in_use_is_made_again(
    folder: Path, opened: Callable[..., Ledger], loss: Callable[[Path], None], first: str
) -> None:
    one, two = opened(folder), opened(folder)
    one.note(entry(3))
    two.note(entry(4))
    before = len(os.listdir("/proc/self/fd"))
    loss(folder)
    for ledger in (one, two):
        if first == "turn":
            with ledger.turn() as had:
                assert had
        ledger.others()
    assert (promised(one.others()), promised(two.others())) == ([4], [3])
    with one.turn() as had:
        assert had
        with two.turn(0.0) as too:
            assert not too
    one.others()
    two.others()
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # each may have the other open by now
    assert len(files(folder)) == 2


@pytest.mark.parametrize("loss", [_removed, _emptied, _without_turn])
def test_who_comes_after_a_loss_has_the_same_turn_as_who_was_there(
    folder: Path, opened: Callable[..., Ledger], loss: Callable[[Path], None]
) -> None:
    was_there = opened(folder)
    loss(folder)
    comes = opened(folder)
    with was_there.turn() as had:
        assert had
        with comes.turn(0.0) as too:
            assert not too


def test_a_folder_that_is_lost_within_a_turn_leaves_no_lock_behind(folder: Path, opened: Callable[..., Ledger]) -> None:
    below = os.open(os.devnull, os.O_RDONLY)
    one, two = opened(folder), opened(folder)
    with one.turn():
        shutil.rmtree(folder)
        os.close(below)  # so that the number which the turn had is another file's the next time
        one.others()
        one.note(entry(3))
    with two.turn() as had:
        assert had
    assert promised(two.others()) == [3]


def test_a_place_that_cannot_be_had_now_is_had_later(
    folder: Path, opened: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_RETRY_S", 0.0)
    folder.write_text("in the way")
    one, two = opened(folder), opened(folder)
    one.note(entry(3))
    assert (one.where, one.why) == ("", f"{folder} is not a real directory")
    with one.turn() as had, two.turn(0.0) as too:
        assert had and too
    folder.unlink()
    one.others()
    assert (promised(two.others()), one.where, one.why) == ([3], str(folder), "")


def _symlink(folder: Path) -> None:
    (folder.parent / "real").mkdir(mode=0o700)
    folder.symlink_to("real")


def _dangling(folder: Path) -> None:
    folder.symlink_to("nowhere")


def _others_write(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def _group_writes(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def _somebody_elses(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODYS_UID, NOBODYS_UID)


def _folder_for_a_turn(folder: Path) -> None:
    (folder / place_module.TURN).mkdir(parents=True)
    folder.chmod(0o700)


def _pipe_for_a_turn(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.mkfifo(folder / place_module.TURN)


UNUSABLE: list[Any] = [
    (Path.touch, "{} is not a real directory"),
    (_symlink, "{} is not a real directory"),
    (_dangling, "{} is not a real directory"),
    (_others_write, "{} can be written by others (mode 0777)"),
    (_group_writes, "{} can be written by others (mode 0770)"),
    (_folder_for_a_turn, "{} cannot be used: Is a directory"),
    (_pipe_for_a_turn, "{} cannot be used: its ledger.turn is not a file"),
    pytest.param(_somebody_elses, f"{{}} belongs to uid {NOBODYS_UID}, not to 0", marks=as_root),
]


@pytest.mark.parametrize(("made", "why"), UNUSABLE)
def test_a_folder_that_cannot_be_trusted_is_refused_and_the_next_one_tried(
    folder: Path,
    opened: Callable[..., Ledger],
    monkeypatch: pytest.MonkeyPatch,
    made: Callable[[Path], None],
    why: str,
) -> None:
    made(folder)
    before = len(os.listdir("/proc/self/fd"))
    alone = opened(folder)
    assert (alone.where, alone.why) == ("", why.format(folder))
    assert len(os.listdir("/proc/self/fd")) == before
    assert alone.others().holders == ()
    with alone.turn() as had:
        assert had
    following = folder.with_name("following")
    monkeypatch.setattr(place_module, "AUTO", (str(folder), str(following)))
    auto = opened("auto")
    assert (auto.where, auto.why, auto.refused) == (str(following), "", why.format(folder))


def test_a_place_without_a_parent_is_refused(tmp_path: Path, opened: Callable[..., Ledger]) -> None:
    missing = tmp_path / "no" / "such"
    assert opened(missing).why == f"{missing} cannot be used: No such file or directory"
    assert not missing.parent.exists()


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("off", "the ledger is switched off"),
        ("here", 'the ledger is told to be in "here", which is neither "auto", "off" nor an absolute folder'),
        ("", 'the ledger is told to be in "", which is neither "auto", "off" nor an absolute folder'),
        ("/proc/nothing", "/proc/nothing cannot be used: No such file or directory"),
    ],
)
def test_without_a_place_there_are_no_others_and_every_turn_is_granted(
    opened: Callable[..., Ledger], where: str, why: str
) -> None:
    ledger = opened(where)
    ledger.note(entry(5))
    assert (ledger.where, ledger.why, ledger.trouble) == ("", why, "")
    assert ledger.others().holders == ()
    with ledger.turn() as had:
        assert had


def test_a_file_system_without_locks_is_refused(
    folder: Path, opened: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(place_module.fcntl, "flock", refuse)
    assert opened(folder).why == f"{folder} cannot be used: No locks available"
    assert files(folder) == set()


def test_the_place_depends_on_the_uid_and_on_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.geteuid()
    for name in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "USER"):
        monkeypatch.setenv(name, "/elsewhere")
    assert place_module.folders("auto") == [f"/dev/shm/batt-{uid}", f"/tmp/batt-{uid}"]


def test_the_folder_is_private(folder: Path, opened: Callable[..., Ledger]) -> None:
    opened(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@as_root
def test_two_users_neither_see_nor_disturb_each_other(
    folder: Path, opened: Callable[..., Ledger], peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.parent.chmod(0o1777)
    places = (f"{folder}-first-{{uid}}", f"{folder}-second-{{uid}}")
    monkeypatch.setattr(place_module, "AUTO", places)
    auto = "auto:" + ",".join(places)
    mine, theirs = opened("auto"), peer(auto, uid=NOBODYS_UID)
    mine.note(entry(3))
    theirs.do("note(5)")
    assert (mine.where, theirs.do("ledger.where")) == (f"{folder}-first-0", f"{folder}-first-{NOBODYS_UID}")
    assert (mine.others().holders, theirs.do("promised()")) == ([], [])
    with mine.turn() as had:
        assert had
        assert theirs.do("begin()") is True
    # Nor can the one be kept from his place by the other: he takes the next one.
    theirs.do(f"os.mkdir('{folder}-first-1')")
    third = peer(auto, uid=1)
    assert third.do("ledger.where") == f"{folder}-second-1"
    assert third.do("ledger.refused") == f"{folder}-first-1 belongs to uid {NOBODYS_UID}, not to 1"
    # He cannot get in where he is not wanted, either.
    assert peer(f"{folder}-first-0", uid=NOBODYS_UID).do("ledger.why").endswith("Permission denied")


@as_root
def test_a_folder_that_cannot_be_written_says_why(folder: Path, peer: Callable[..., Peer]) -> None:
    folder.parent.chmod(0o755)
    assert peer(folder, uid=NOBODYS_UID).do("ledger.why") == f"{folder} cannot be used: Permission denied"


@pytest.fixture
def small(ends: ExitStack, folder: Path) -> Callable[[str], Path]:
    """A tmpfs of a size; unmounted at the end."""

    def mounted(size: str) -> Path:
        at = folder.with_name("small")
        at.mkdir()
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", at], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"nothing can be mounted here: {error}")
        ends.callback(subprocess.run, ["umount", "-l", at], check=True)
        return at

    return mounted


@as_root
def test_a_full_disk_is_trouble_until_there_is_room(
    small: Callable[[str], Path], opened: Callable[..., Ledger], ends: ExitStack
) -> None:
    at = small("size=64k,nr_inodes=100")
    was_there = opened(at / "ledger", "was there")
    with pytest.raises(OSError, match="No space left"):
        (at / "filler").write_bytes(bytes(1 << 20))
    comes = opened(at / "ledger", "comes")
    assert comes.where == str(at / "ledger")
    comes.note(entry(5))
    assert comes.trouble == f"the ledger in {at}/ledger cannot be written: No space left on device"
    # Who has his record overwrites it, and is seen; who has none says that he is not.
    was_there.note(entry(3))
    assert was_there.trouble == ""
    assert promised(comes.others()) == [3]
    assert was_there.others().holders == []
    eventually(
        "that he had time to write it",
        lambda: was_there.others().holders == [] and "not understood" in was_there.trouble,
    )
    (at / "filler").unlink()
    comes.note(entry(5))
    assert comes.trouble == ""
    assert promised(was_there.others()) == [5]
    assert was_there.trouble == ""


@as_root
def test_no_room_for_a_file_is_a_reason(small: Callable[[str], Path], opened: Callable[..., Ledger]) -> None:
    at = small("size=64k,nr_inodes=3")
    folder = at / "ledger"
    assert opened(folder).why == f"{folder} cannot be used: No space left on device"


def test_without_a_free_descriptor_the_known_ones_are_still_read(
    folder: Path, opened: Callable[..., Ledger], peer: Callable[..., Peer]
) -> None:
    mine, short = opened(folder), peer(folder)
    mine.note(entry(3))
    assert short.do("promised()") == [3]
    mine.note(entry(4))
    assert short.do("without_descriptors(promised)") == [4]
    assert short.do("ledger.trouble") == f"the ledger in {folder} cannot be listed: Too many open files"
    assert short.do("without_descriptors(begin)") is True
    short.do("end()")
    assert short.do("promised()") == [4]
    assert short.do("ledger.trouble") == ""
