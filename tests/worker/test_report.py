"""Reports: small, whole and true, whatever a task returns or raises."""

import errno
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pebble.common.types import Result, ResultStatus
from pebble.pool.base_pool import TaskPayload
from pebble.pool.process import TaskResult, WorkerTask

from worker import entry, exhausted, report, shortage

ONE_WRITE = 16_384
"""Up to so many bytes of pickle, multiprocessing sends a message's length and body in one write."""


def test_a_request_at_its_limit_is_one_write() -> None:
    frame = b"x" * report.FRAME_MAX
    assert len(pickle.dumps(WorkerTask(2**40, TaskPayload(entry.serve, (frame,), {})))) < ONE_WRITE


def test_a_reply_at_its_limit_would_be_one_write() -> None:
    data = b"x" * report.FRAME_MAX
    assert len(pickle.dumps(TaskResult(2**40, Result(ResultStatus.SUCCESS, data)))) < ONE_WRITE


# Values


@pytest.mark.parametrize("value", [None, 0, "ä😀\0\ud800", [1, [2, {"a": None}]], {"k": 1.5}, True, 10**30, ""])
def test_a_value_is_stored_as_its_json(value: Any) -> None:
    told = report.of_value(value, 1000)
    assert told["outcome"] == "ok"
    assert json.loads(told["value"]) == value
    assert told["value"].isascii()


def deep(levels: int) -> Any:
    found: Any = []
    for _ in range(levels):
        found = [found]
    return found


def itself() -> Any:
    found: list[Any] = []
    found.append(found)
    return found


class Items(dict[str, Any]):
    """A mapping whose own code is run by the encoder."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(a=1)
        self._error = error

    def items(self) -> Any:
        raise self._error


@pytest.mark.parametrize(
    "make",
    [
        object, lambda: {1, 2}, lambda: b"bytes", lambda: float("nan"), lambda: float("inf"), lambda: [1j],
        lambda: {(1, 2): 3}, lambda: deep(100_000), itself, lambda: (x for x in ()), lambda: Items(SystemExit(3)),
        lambda: Items(KeyboardInterrupt()), lambda: Items(OSError("x")), lambda: Items(MemoryError()),
    ],
    ids=[
        "object", "set", "bytes", "nan", "inf", "complex", "tuple key", "deep", "itself", "generator", "exits",
        "interrupts", "fails", "no memory",
    ],
)  # fmt: skip
def test_a_value_that_json_cannot_hold_is_a_bad_result(make: Callable[[], Any]) -> None:
    told = report.of_value(make(), 1000)
    assert told["outcome"] == "bad_result"
    assert told["reason"]
    assert "value" not in told


@pytest.mark.parametrize(("size", "outcome"), [(10, "ok"), (11, "bad_result")])
def test_a_value_may_be_as_large_as_the_settings_say(size: int, outcome: str) -> None:
    told = report.of_value("x" * (size - 2), 10)
    assert told["outcome"] == outcome
    if outcome == "bad_result":
        assert told["reason"] == "the result is 11 bytes of JSON, max_result_bytes is 10"


# Errors


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class NoText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value] # noqa: PLE0307 - that is the point


class BadRepr(Exception):
    def __repr__(self) -> str:
        raise ValueError("no")


class OddText(str):
    def __len__(self) -> int:
        raise RuntimeError("no")

    def __format__(self, spec: str) -> str:
        raise RuntimeError("no")


class Odd(Exception):
    def __str__(self) -> str:
        return OddText("odd")


class BadCause(Exception):
    @property
    def __cause__(self) -> Any:
        raise RuntimeError("no")


class BadErrno(OSError):
    @property
    def errno(self) -> Any:
        raise RuntimeError("no")


class NoTruth(Exception):
    def __bool__(self) -> bool:
        raise RuntimeError("no")


class BadTraceback(Exception):
    @property
    def __traceback__(self) -> Any:
        raise RuntimeError("no")


class BadModule(Exception):
    __module__ = property(lambda self: 1 // 0)  # type: ignore[assignment]


def from_no_truth() -> BaseException:
    try:
        raise ValueError("outer") from NoTruth("inner")
    except ValueError as error:
        return error


def chained(links: int) -> BaseException:
    error: BaseException = ValueError("first")
    for number in range(links):
        after = ValueError(str(number))
        after.__cause__ = error
        error = after
    return error


def ring() -> BaseException:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    return one


def grouped(levels: int) -> BaseException:
    error: Exception = ValueError("x")
    for _ in range(levels):
        error = ExceptionGroup("g", [error, ValueError("y")])
    return error


@pytest.mark.parametrize(
    "error",
    [
        Silent(), Leaving(), NoText(), BadRepr(), BadTraceback(), BadModule(), chained(2000), ring(), grouped(50),
        ValueError("x" * 10_000_000), ValueError("\ud800"), ValueError("😀" * 100_000),
        SystemExit(3), KeyboardInterrupt(), GeneratorExit(),
        ExceptionGroup("many", [ValueError(str(n)) for n in range(1000)]),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), SyntaxError("x", ("f", 1, 1, "\0", 1, 2)),
        Odd(), BadCause(),
        BadErrno(), from_no_truth(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_any_exception_gives_a_report_of_capped_size(error: BaseException) -> None:
    told = report.of_error(error)
    assert told["outcome"] in ("exception", "out_of_memory", "out_of_threads")
    assert len(told["reason"]) <= 300
    assert len(told["error"]["message"]) <= report.MESSAGE_MAX
    assert len(told["error"]["traceback"]) <= report.TRACEBACK_MAX + 100
    assert type(error).__name__ in told["error"]["type"]
    json.dumps(told)


def test_an_error_is_told_with_its_type_message_and_traceback() -> None:
    try:
        {}["missing"]
    except KeyError as error:
        told = report.of_error(error)
    assert told["error"]["type"] == "KeyError"
    assert told["reason"] == "KeyError: 'missing'"
    assert '{}["missing"]' in told["error"]["traceback"]
    assert report.of_error(json.JSONDecodeError("x", "y", 0))["error"]["type"] == "json.decoder.JSONDecodeError"
    assert report.of_error(ValueError())["reason"] == "ValueError"


def test_the_end_of_a_long_traceback_is_kept() -> None:
    def dig(level: int) -> None:
        if level:
            dig(level - 1)
        raise ValueError("at the bottom " + "x" * 20_000)

    try:
        dig(500)
    except ValueError as error:
        told = report.of_error(error)
    assert told["error"]["message"].startswith("at the bottom")
    assert told["error"]["message"].endswith("chars)")


def raised(make: Callable[[], Any]) -> BaseException:
    try:
        make()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def no_memory() -> None:
    raise MemoryError


def wrapped_memory() -> None:
    try:
        raise MemoryError
    except MemoryError as error:
        raise ValueError("while reading") from error


def while_handling_memory() -> None:
    try:
        raise MemoryError
    except MemoryError:
        raise ValueError("cleaning up") from None


def hidden_cause() -> None:
    try:
        raise MemoryError
    except MemoryError:
        [].pop()


def no_thread() -> None:
    raise RuntimeError("can't start new thread")


def real_no_thread() -> None:
    before = threading.stack_size(1 << 46)
    try:
        threading.Thread(target=print).start()
    finally:
        threading.stack_size(before)


def full_pipe() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 65536)
    finally:
        os.close(read)
        os.close(write)


def one_of_many(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise ExceptionGroup("unhandled errors in a TaskGroup", [ValueError("x"), error])

    return act


class Few(Exception):
    """An exception that holds a list, and is false when that is empty."""

    def __len__(self) -> int:
        return 0


def from_few() -> None:
    few = Few()
    few.__cause__ = MemoryError()
    outer = ValueError("outer")
    outer.__cause__ = few
    raise outer


@pytest.mark.parametrize(
    ("make", "outcome"),
    [
        (no_memory, "out_of_memory"),
        (wrapped_memory, "out_of_memory"),
        (hidden_cause, "out_of_memory"),
        (while_handling_memory, "out_of_memory"),
        (
            lambda: (os.open("/", os.O_RDONLY) and None) or (_ for _ in ()).throw(OSError(errno.ENOMEM, "x")),
            "out_of_memory",
        ),
        (lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "x")), "exception"),
        (lambda: (_ for _ in ()).throw(RuntimeError("something else")), "exception"),
        (lambda: (_ for _ in ()).throw(ValueError("memory")), "exception"),
        (lambda: (_ for _ in ()).throw(RuntimeError("can't allocate thread")), "out_of_threads"),
        (lambda: (_ for _ in ()).throw(ValueError("inlining failed: can't start new thread")), "out_of_threads"),
        (no_thread, "out_of_threads"),
        (full_pipe, "exception"),
        (lambda: subprocess.Popen(["/no/such/program"]), "exception"),
        (one_of_many(MemoryError()), "out_of_memory"),
        (one_of_many(RuntimeError("can't start new thread")), "out_of_threads"),
        (from_few, "out_of_memory"),
        pytest.param(
            lambda: (_ for _ in ()).throw(BlockingIOError(errno.EAGAIN, "x")),
            "exception",
            id="EAGAIN that may be anything",
        ),
    ],
)
def test_a_lack_of_memory_or_threads_is_told_apart_from_the_tasks_own_error(
    make: Callable[[], Any], outcome: str
) -> None:
    assert report.of_error(raised(make))["outcome"] == outcome


@pytest.mark.parametrize("length", [0, 10, 10_000])
@pytest.mark.parametrize("limit", ["", "pids.max of /a: 9 of 9", "x" * 10_000])
def test_a_reason_ends_with_the_limit_that_was_short(monkeypatch: pytest.MonkeyPatch, length: int, limit: str) -> None:
    monkeypatch.setattr(shortage, "told", lambda outcome: limit)
    reason = report.of_error(MemoryError("m" * length))["reason"]
    assert reason.startswith("MemoryError")
    assert len(reason) <= report.REASON_MAX
    assert reason.endswith(f" ({report.clip(limit, report.REASON_MAX // 2)})") == bool(limit)
    assert report.of_error(ValueError("x"))["reason"] == "ValueError: x"


def fail_for_memory(*_: Any) -> Any:
    raise MemoryError


@pytest.mark.parametrize(("module", "broken"), [(exhausted, "outcome_of"), (shortage, "told")])
def test_an_error_is_told_where_not_even_that_has_memory(
    monkeypatch: pytest.MonkeyPatch, module: Any, broken: str
) -> None:
    monkeypatch.setattr(module, broken, fail_for_memory)
    told = report.of_error(MemoryError())
    assert told["outcome"] == "out_of_memory"
    assert told["reason"].startswith("MemoryError")
    assert set(told["error"]) == {"type", "message", "traceback"}
    assert report.of_error(MemoryError()) is not told, "each report is added to"


def test_a_thread_that_the_system_really_refuses_is_a_lack_of_threads() -> None:
    error = raised(real_no_thread)
    if not isinstance(error, RuntimeError) or "thread" not in str(error):
        pytest.skip(f"this system does not refuse it: {error!r}")
    assert report.of_error(error)["outcome"] == "out_of_threads"


def test_a_fork_of_the_tasks_own_that_is_refused_is_a_lack_of_processes(tmp_path: Path) -> None:
    script = tmp_path / "task.py"
    script.write_text(
        "import os, resource\n"
        "from worker import report\n"
        "error = None\n"
        "if os.geteuid() == 0:\n    os.setresuid(65534, 65534, 65534)\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n"
        "try:\n    os.fork() or os._exit(0)\n"
        "except OSError as error:\n    print(report.of_error(error)['outcome'])\n"
    )
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONPATH": str(Path(report.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout:
        pytest.skip(f"a refused fork cannot be had here: {done.stderr[-200:]}")
    assert done.stdout.split() == ["out_of_threads"]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (0, {"outcome": "ok", "value": '{"exit_code":0}', "exit_code": 0}),
        (3, {"outcome": "crashed", "reason": "exit code 3", "exit_code": 3}),
        (-11, {"outcome": "crashed", "reason": "killed by SIGSEGV", "signal": "SIGSEGV"}),
        (-63, {"outcome": "crashed", "reason": "killed by signal 63", "signal": "signal 63"}),
    ],
)
def test_a_command_is_what_its_exit_says(code: int, told: dict[str, Any]) -> None:
    assert report.of_exit(code) == told


# Packing


def packed(told: dict[str, Any], folder: Path) -> dict[str, Any]:
    data = report.pack({"serial": 2**31, "wall_s": 0.1, **told}, str(folder / "12-1.json"))
    assert len(data) <= report.FRAME_MAX, "it keeps to its share of the tray"
    found: dict[str, Any] = json.loads(data)
    return found


def test_a_small_report_leaves_no_file(tmp_path: Path) -> None:
    assert packed(report.of_value([1], 1000), tmp_path)["value"] == "[1]"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [14_000, 14_900, 15_000, 15_100, 16_384, 1_000_000])
def test_a_large_value_goes_into_a_file_whole(tmp_path: Path, size: int) -> None:
    value = "x" * size
    found = packed(report.of_value(value, 1 << 24), tmp_path)
    if found["value"] is None:
        assert found["file"] == "12-1.json"
        assert [entry.name for entry in tmp_path.iterdir()] == ["12-1.json"]
        assert json.loads((tmp_path / "12-1.json").read_text()) == value
        assert (tmp_path / "12-1.json").stat().st_mode & 0o077 == 0
    else:
        assert json.loads(found["value"]) == value
        assert size < report.FRAME_MAX


def test_before_a_file_is_written_that_is_said_and_for_no_other_report(tmp_path: Path) -> None:
    said: list[list[Path]] = []
    for size in (10, 20_000):
        value = report.of_value("x" * size, 1 << 24)
        report.pack(value, str(tmp_path / "12-1.json"), lambda: said.append(list(tmp_path.iterdir())))
    assert said == [[]]


def test_a_value_waits_for_a_disk_that_was_full_for_a_moment(tmp_path: Path) -> None:
    """What is written to /dev/full finds no room; the file is first made beside its place, and that is a link."""
    (tmp_path / "12-1.json.tmp").symlink_to("/dev/full")
    assert packed(report.of_value("x" * 20_000, 1 << 24), tmp_path)["file"] == "12-1.json"
    assert [entry.name for entry in tmp_path.iterdir()] == ["12-1.json"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB; needs root and the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_value_that_never_finds_room_is_the_disks_loss_and_leaves_nothing(
    full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "DISK_S", 0.3)
    monkeypatch.setattr(report, "DISK_PAUSES_S", (0.05, 0.1))
    found = packed(report.of_value("x" * 100_000, 1 << 24), full_disk)
    assert found["outcome"] == "lost"
    assert found["reason"] == "its result of 100002 bytes could not be written: No space left on device"
    assert list(full_disk.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "\0",
        "ä",
        "\ud800",
        "😀",
    ],
)
def test_a_large_error_is_shortened_until_it_is_one_write(tmp_path: Path, text: str) -> None:
    class Bad(Exception):
        pass

    Bad.__qualname__ = text * 300
    try:
        raise Bad(text * 10_000)
    except Bad as error:
        told = report.of_error(error)
    found = packed(told, tmp_path)
    assert found["outcome"] == "exception"
    assert found["error"]["message"]


@pytest.mark.parametrize("outcome", ["ok", "bad_result", "exception"])
@pytest.mark.parametrize("length", [10, 100, 1000])
def test_a_report_that_names_as_many_module_files_as_it_may_keeps_its_size(
    tmp_path: Path, outcome: str, length: int
) -> None:
    error = {"type": "a", "message": "😀" * 2000, "traceback": "\0" * 6000}
    told = {"outcome": outcome, **({"error": error} if outcome == "exception" else {})}
    modules: dict[str, list[int]] = {}
    while len(json.dumps(modules)) <= entry.MODULES_MAX - length - 100:
        modules[f"/{len(modules):04}{'d' * length}"] = [1_700_000_000_000_000_000] * 2 + [4096, 123456789]
    assert packed({**told, "modules": modules}, tmp_path)["outcome"] == outcome


@pytest.mark.parametrize(("text", "limit"), [("", 30), ("x" * 30, 30), ("x" * 31, 30), ("x" * 10**6, 30)])
def test_a_clipped_text_keeps_its_limit_and_says_how_long_it_was(text: str, limit: int) -> None:
    found = report.clip(text, limit)
    assert len(found) <= limit
    assert found == text or found.endswith(f"({len(text)} chars)")
