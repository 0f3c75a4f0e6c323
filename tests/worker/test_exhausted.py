"""No memory, no threads: told by what is raised, for what it is and nothing else; and which limit it was."""

import errno
import json
import multiprocessing.pool
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from worker import exhausted, shortage
from worker.exhausted import outcome_of

ROOT = Path(exhausted.__file__).parents[1]
REFUSED = "can't start new thread"
AGAIN = "[Errno 11] Resource temporarily unavailable"
NO_MEMORY = "[Errno 12] Cannot allocate memory"
UNUSED_UID = 54_321


class SomebodysError(Exception):
    pass


def raised(make: Callable[[], Any]) -> BaseException:
    try:
        make()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


# By texts

OF_THREADS = [
    RuntimeError(REFUSED),
    RuntimeError("can't allocate thread"),
    ValueError(f"inline_variables_func failed: inline_variables failed: {REFUSED}"),
    SomebodysError(f"gpu_batch: {REFUSED} (attempt 3)"),
    ValueError(f"worker 3 failed with RuntimeError({REFUSED!r})"),
    RuntimeError("failed", RuntimeError(REFUSED)),
    SystemExit(f"error: {REFUSED}"),
    RuntimeError("Resource temporarily unavailable"),
    RuntimeError("thread constructor failed: Resource temporarily unavailable"),
    SomebodysError("libgomp: Thread creation failed: Resource temporarily unavailable"),
    SomebodysError("OMP: Error #34: System unable to allocate necessary resources for OMP thread:"),
    SomebodysError("OpenBLAS blas_thread_init: pthread_create failed for thread 5 of 8: 资源暂时不可用"),
    SomebodysError("OpenBLAS blas_thread_init: pthread_create: Resource temporarily unavailable"),
    SomebodysError(
        "could not spawn threads: ThreadPoolBuildError { kind: IOError(Os { code: 11, kind: WouldBlock, message: "
        '"Resource temporarily unavailable" }) }'
    ),
    SomebodysError("java.lang.OutOfMemoryError: unable to create native thread: possibly out of memory"),
    SomebodysError(f"fork: retry: {AGAIN}"),
    SomebodysError("fork: Resource temporarily unavailable"),
    SomebodysError(f"could not start a new process: {AGAIN}"),
    SomebodysError(f"starting the worker process failed: {AGAIN}"),
]  # fmt: skip

OF_MEMORY = [
    MemoryError(),
    MemoryError("Unable to allocate 74.5 MiB for an array with shape (9765625,) and data type float64"),
    type("_ArrayMemoryError", (MemoryError,), {})("Unable to allocate 9.00 bytes for an array"),
    MemoryError("Unable to allocate 1.2.3 GiB"),
    MemoryError("std::bad_alloc"),
    type("ArrowMemoryError", (MemoryError,), {})("realloc of size 2172846 failed"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError(errno.ENOMEM, "anything"),
    RuntimeError(f"inline_differ failed: {NO_MEMORY}"),
    ValueError(f"failed: {OSError(errno.ENOMEM, 'Cannot allocate memory')!r}"),
    ValueError(f"failed: {MemoryError()!r}"),
    ValueError("sample 3: MemoryError: Unable to allocate 1.50 GiB for an array"),
    RuntimeError("failed", MemoryError()),
    RuntimeError("std::bad_alloc"),
    RuntimeError("caught: std::bad_alloc"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:75] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 1178729664 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("unable to mmap 160 bytes from file </torch_1_2>: Cannot allocate memory (12)"),
    SomebodysError(
        "OOM when allocating tensor with shape[1,512] and type float on /job:localhost/replica:0/task:0/device:CPU:0 "
        "by allocator cpu"
    ),
    SomebodysError("OpenCV(4.8.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 49766400 bytes in"),
    SomebodysError("Cannot allocate memory (os error 12)"),
    ImportError("libfoo.so: failed to map segment from shared object: Cannot allocate memory"),
    SomebodysError("(sqlite3.OperationalError) out of memory"),
    sqlite3.OperationalError("out of memory"),
    RuntimeError("can't allocate lock"),
]  # fmt: skip

THE_TASKS_OWN = [
    ValueError("memory"),
    ValueError("out of memory"),
    ValueError("not enough memory for the model's history of threads"),
    ValueError("thread 3 cannot be started"),
    RuntimeError("cannot schedule new futures after shutdown"),
    RuntimeError("threads can only be started once"),
    RecursionError("maximum recursion depth exceeded while calling a Python object"),
    KeyError(REFUSED),
    AssertionError(f"{REFUSED} not in the log"),
    SyntaxError(NO_MEMORY),
    NameError("name 'MemoryError_' is not defined"),
    ValueError(f'the log has "{REFUSED}" in line 3'),
    ValueError("class NoMemoryError: not found"),
    ValueError("expected a MemoryError here"),
    ValueError("Cannot allocate memory to room 5"),
    SomebodysError(AGAIN),
    SomebodysError(f"process 3: reading from worker 2: {AGAIN}"),
    SomebodysError("Resource temporarily unavailable"),
    BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    OSError(errno.EAGAIN, "Resource temporarily unavailable", "/dev/tty"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.EIO, REFUSED),
    TimeoutError(),
    sqlite3.OperationalError("database or disk is full"),
    ImportError("libgomp.so.1: cannot allocate memory in static TLS block"),
    ImportError("libfoo.so: failed to map segment from shared object: Operation not permitted"),
    ImportError("libfoo.so: failed to map segment from shared object"),  # nothing limits this process
    SomebodysError("OpenBLAS blas_thread_init: pthread_create failed for thread 2 of 8: Operation not permitted"),
    SomebodysError("429 RESOURCE_EXHAUSTED: Quota exceeded for quota metric"),
    SomebodysError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4770354232 bytes."),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 15.78 GiB total capacity)"),
    MemoryError("std::bad_alloc: out_of_memory: CUDA error at: /rmm/cuda_memory_resource.hpp"),
    type("OutOfMemoryError", (MemoryError,), {"__module__": "cupy.cuda.memory"})("Out of memory allocating 8 bytes"),
    BrokenProcessPool("A process in the process pool was terminated abruptly while the future was running or pending."),
    type("TerminatedWorkerError", (BrokenProcessPool,), {})(
        "A worker process managed by the executor was unexpectedly terminated. This could be caused by a segmentation "
        "fault while calling the function or by an excessive memory usage causing the Operating System to kill it."
    ),
    subprocess.CalledProcessError(1, ["python", "-c", f"raise RuntimeError({REFUSED!r})"], stderr=REFUSED),
    ValueError("array is too big; `arr.size * arr.dtype.itemsize` is larger than the maximum possible size."),
    OverflowError("cannot fit 'int' into an index-sized integer"),
    # Requests that no machine will ever grant.
    MemoryError("Unable to allocate 8.88 PiB for an array with shape (10000000000000000,) and data type int8"),
    ValueError("failed: Unable to allocate 6.94 EiB for an array with shape (1,) and data type float64"),
    MemoryError("malloc of size 2417947094267967360 failed"),
    RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000000 bytes. Error code 12 "
        "(Cannot allocate memory)"
    ),
    MemoryError("Parser stack overflowed - Python source too complex to parse"),
]  # fmt: skip


def name_of(error: BaseException) -> str:
    return f"{type(error).__name__} {str(error)[:60]}"


@pytest.mark.parametrize("error", OF_THREADS, ids=name_of)
def test_a_refused_thread_is_known_by_what_is_said_of_it(error: BaseException) -> None:
    assert outcome_of(error) == "out_of_threads"


@pytest.mark.parametrize("error", OF_MEMORY, ids=name_of)
def test_a_lack_of_memory_is_known_by_what_is_said_of_it(error: BaseException) -> None:
    assert outcome_of(error) == "out_of_memory"


@pytest.mark.parametrize("error", THE_TASKS_OWN, ids=name_of)
def test_what_proves_nothing_stays_the_tasks_own(error: BaseException) -> None:
    assert outcome_of(error) is None


def test_only_a_limit_of_address_space_explains_a_library_that_cannot_be_mapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = ImportError("libfoo.so: failed to map segment from shared object")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**30, 2**30))
    assert outcome_of(error) == "out_of_memory"


def test_words_at_either_end_of_a_huge_text_are_found() -> None:
    assert outcome_of(ValueError(f"{REFUSED}: {'x' * 10_000_000}")) == "out_of_threads"
    assert outcome_of(ValueError(f"{'x' * 10_000_000}: {REFUSED}")) == "out_of_threads"


@pytest.mark.parametrize("size", ["6.94 EiB", "8.88 PiB", "900.00 TiB"])
def test_a_request_above_the_whole_machine_is_no_lack_even_of_its_wrapping(size: str) -> None:
    def act() -> None:
        try:
            raise MemoryError(f"Unable to allocate {size} for an array with shape (1,)")
        except MemoryError as error:
            raise RuntimeError(f"failed: {NO_MEMORY}") from error

    assert outcome_of(raised(act)) is None


def test_numpy_says_how_much_it_wanted() -> None:
    numpy = pytest.importorskip("numpy")
    assert outcome_of(raised(lambda: numpy.empty(10**16))) is None


# Through chains


def hidden(first: BaseException) -> BaseException:
    def act() -> None:
        try:
            raise first
        except BaseException:
            raise ValueError("something failed") from None

    return raised(act)


def caused(first: BaseException) -> BaseException:
    second, third = ValueError("second"), ValueError("third")
    second.__cause__, third.__context__ = first, second
    return third


def grouped(first: Exception) -> BaseException:
    return ExceptionGroup("outer", [ValueError("x"), ExceptionGroup("inner", [KeyError("y"), first])])


def ringed(first: BaseException) -> BaseException:
    second = ValueError("second")
    second.__cause__, first.__cause__, first.__context__ = first, second, first
    return second


def long_chain(first: BaseException) -> BaseException:
    for number in range(500):
        after = ValueError(str(number))
        after.__context__ = first
        first = after
    return first


@pytest.mark.parametrize("wrapped", [hidden, caused, grouped, ringed, long_chain])
@pytest.mark.parametrize(
    ("make", "outcome"),
    [
        (lambda: RuntimeError(REFUSED), "out_of_threads"),
        (MemoryError, "out_of_memory"),
        (lambda: OSError(errno.ENOMEM, "x"), "out_of_memory"),
        (lambda: ValueError("x"), None),
    ],
)
def test_what_an_exception_came_from_counts(
    wrapped: Callable[[Any], BaseException], make: Callable[[], BaseException], outcome: str | None
) -> None:
    assert outcome_of(wrapped(make())) == outcome


def test_the_search_has_an_end() -> None:
    error: BaseException = MemoryError()
    for _ in range(exhausted.LINKS_MAX):
        after = ValueError("x")
        after.__cause__ = error
        error = after
    assert outcome_of(error) is None


class Liar(Exception):
    """Hides where it came from, and cannot be shown."""

    __cause__ = property(lambda self: 1 // 0)  # type: ignore[assignment]
    __traceback__ = property(lambda self: 1 // 0)  # type: ignore[assignment]

    def __str__(self) -> str:
        raise SystemExit(3)


def test_a_class_that_lies_about_its_origin_does_not_hide_it() -> None:
    liar = Liar()
    BaseException.__setstate__(liar, None)
    BaseException.__dict__["__cause__"].__set__(liar, MemoryError())
    assert outcome_of(liar) == "out_of_memory"


REMOTE = '''
"""
Traceback (most recent call last):
  File "/usr/lib/python3.11/multiprocessing/pool.py", line 125, in worker
    result = (True, func(*args, **kwds))
  File "/home/task.py", line 7, in work
    {source}
{frame}{last}
"""'''
IN_SUBPROCESS = """  File "/usr/lib/python3.11/subprocess.py", line 1885, in _execute_child
    self.pid = _fork_exec(
"""


@pytest.mark.parametrize(
    ("source", "frame", "last", "outcome"),
    [
        ("pool.submit(work)", "", f"RuntimeError: {REFUSED}", "out_of_threads"),
        ("held.append(bytes(n))", "", "MemoryError", "out_of_memory"),
        ("os.fork()", "", f"BlockingIOError: {AGAIN}", "out_of_threads"),
        ("run(['ls'])", IN_SUBPROCESS, f"BlockingIOError: {AGAIN}", "out_of_threads"),
        ("sock.recv(5)", "", f"BlockingIOError: {AGAIN}", None),
        (f'if "{REFUSED}" in str(e): raise', "", "ValueError: x", None),
        (f'raise ValueError("no {REFUSED}")', "", "ValueError: x", None),
        ("raise MemoryError_", "", "NameError: name 'MemoryError_' is not defined", None),
    ],
)
def test_the_traceback_of_another_process_is_read_but_not_its_source(
    source: str, frame: str, last: str, outcome: str | None
) -> None:
    error = SomebodysError("in a worker")
    error.__cause__ = multiprocessing.pool.RemoteTraceback(REMOTE.format(source=source, frame=frame, last=last))
    assert outcome_of(error) == outcome
    broken = BrokenProcessPool("A child process terminated abruptly")
    broken.__cause__ = error.__cause__
    assert outcome_of(broken) == outcome


# EAGAIN, by where it is from


def test_eagain_from_a_socket_is_the_tasks_own_even_beside_a_fork() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def act() -> None:
        if ours.fileno() < 0:
            os.fork()
        ours.recv(1)

    with ours, theirs:
        assert isinstance(raised(act), BlockingIOError)
        assert outcome_of(raised(act)) is None


def test_a_parser_that_gives_up_has_not_run_out_of_memory() -> None:
    deep = "-" * 100_000 + "1"
    error = raised(lambda: compile(deep, "deep", "eval"))
    if not isinstance(error, MemoryError):
        pytest.skip(f"this Python says {error!r}")
    assert outcome_of(error) is None
    assert outcome_of(raised(lambda: [0] * 2**60)) == "out_of_memory", "beside a call of another kind"


# Limits that are really reached

CHILD = """
import json, os, resource, sys, threading, time
from worker import report, shortage

def tell(act):
    try:
        act()
    except BaseException as error:
        print(json.dumps(report.of_error(error)), flush=True)
        os._exit(0)
    os._exit(3)
"""


def child(code: str, *, ulimit: str = "", **env: str) -> dict[str, Any]:
    """The report of what `code`, which calls `tell`, has raised in a process of its own."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'{ulimit}\nexec "$@"', "sh", sys.executable, "-c", CHILD + code],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **env},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout, (done.returncode, done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    return found


SEEDS = "ulimit -s 8192; ulimit -v 1048576"
"""As the seeds' server has it; and the usual size of a stack."""


@pytest.mark.parametrize(
    "task",
    [
        "nested_pool(500, 60)",
        "pool_in_a_pool(30, 30, 60)",
        "wrapped_thread_error()",
        "leak_threads(500)",
    ],
)
def test_threads_that_address_space_does_not_hold_are_told_with_it(task: str) -> None:
    told = child(f"from zoo import starves\ntell(lambda: starves.{task})", ulimit=SEEDS)
    assert told["outcome"] == "out_of_threads"
    assert REFUSED in told["reason"]
    assert "(RLIMIT_AS: 1" in told["reason"]
    assert "of 1024 MiB of address space used by this process" in told["reason"]


def test_a_stack_that_does_not_fit_now_is_said_to_be_the_reason() -> None:
    code = "from zoo import starves\ntell(lambda: starves.leak_threads(500))"
    assert "so a thread's 8 MiB stack and 64 MiB arena do not fit" in child(code, ulimit=SEEDS)["reason"]
    told = child(code, ulimit=SEEDS, MALLOC_ARENA_MAX="1")
    assert "so a thread's 8 MiB stack does not fit" in told["reason"]


FILL = """
def act():
    held, size = [], 1 << 20
    while size > 16:
        try:
            held.append(bytearray(size))
        except MemoryError:
            size //= 2
    while True:
        held.append([None])

tell(act)
"""


def test_memory_that_address_space_does_not_hold_is_told_with_it() -> None:
    told = child("from zoo import starves\ntell(lambda: starves.hog(2 << 30))", ulimit=SEEDS)
    assert told["outcome"] == "out_of_memory"
    assert told["reason"].startswith("MemoryError (RLIMIT_AS: ")


def test_it_is_told_without_any_memory_left() -> None:
    told = child(FILL, ulimit="ulimit -v 262144")
    assert told["outcome"] == "out_of_memory"
    assert told["reason"].startswith("MemoryError (RLIMIT_AS: 25")
    assert "act" in told["error"]["traceback"]


def test_data_that_its_limit_does_not_hold_is_told_with_it() -> None:
    told = child(FILL, ulimit="ulimit -d 131072")
    assert told["outcome"] == "out_of_memory"
    assert "RLIMIT_DATA: 12" in told["reason"]


def test_a_request_that_a_limit_refuses_names_it_though_it_has_room() -> None:
    told = child("tell(lambda: bytearray(2 << 30))", ulimit=SEEDS)
    assert told["outcome"] == "out_of_memory"
    assert "nearest limit: RLIMIT_AS: " in told["reason"]


AS_NOBODY = f"""
import multiprocessing.popen_fork, pty, subprocess  # while they can be read

if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid({UNUSED_UID}, {UNUSED_UID}, {UNUSED_UID})
    os.setresuid({UNUSED_UID}, {UNUSED_UID}, {UNUSED_UID})
resource.setrlimit(resource.RLIMIT_NPROC, (12, 12))

def wait():
    threading.Event().wait(60)

def threads():
    for _ in range(60):
        threading.Thread(target=wait, daemon=True).start()

def until_full():
    try:
        threads()
    except RuntimeError:
        pass
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes a user of its own")


@needs_root
@pytest.mark.parametrize(
    "act",
    [
        "threads()",
        "until_full() or os.fork()",
        "until_full() or subprocess.Popen(['/bin/true'])",
        "until_full() or subprocess.Popen(['/bin/true'], close_fds=False)",
        "until_full() or subprocess.run('true', shell=True, check=True)",
        "until_full() or os.posix_spawn('/bin/true', ['true'], {})",
        "until_full() or multiprocessing.get_context('fork').Process(target=print).start()",
        "until_full() or os.forkpty()",
    ],
)
def test_threads_and_processes_that_the_users_limit_refuses_are_told_with_it(act: str) -> None:
    told = child(f"{AS_NOBODY}\ntell(lambda: {act})")
    assert told["outcome"] == "out_of_threads", told
    assert f"RLIMIT_NPROC: 12 of 12 processes and threads of user {UNUSED_UID}" in told["reason"]


@needs_root
def test_the_users_limit_does_not_hold_for_root() -> None:
    code = "resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)); print(json.dumps({'told': shortage.told()}))"
    assert "RLIMIT_NPROC" not in child(code)["told"]


PIDS = Path("/sys/fs/cgroup/pids")


def remove(group: Path) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            return group.rmdir()
        except OSError:  # a thread of a process that has ended may still be on its way out
            if time.monotonic() > until:
                raise
        time.sleep(0.01)


@pytest.fixture
def pids_group() -> Iterator[Path]:
    """A group of our own in a real v1 hierarchy, with another one inside."""
    outer = PIDS / f"test-exhausted-{os.getpid()}"
    try:
        outer.mkdir()
    except OSError as error:
        pytest.skip(f"no group can be made in cgroup v1 pids: {error}")
    inner = outer / "inner"
    try:
        inner.mkdir()
        yield inner
    finally:
        for folder in (inner, outer):
            if folder.exists():
                remove(folder)


IN_GROUP = """
with open({procs!r}, "w") as entrance:
    entrance.write("0")

def wait():
    threading.Event().wait(60)

def threads():
    for _ in range(60):
        threading.Thread(target=wait, daemon=True).start()

def nested():
    from zoo import starves
    starves.nested_pool(60, 60)
"""


@pytest.mark.parametrize("limited", ["inner", "outer"])
def test_threads_that_a_group_refuses_are_told_with_its_limit(pids_group: Path, limited: str) -> None:
    group = pids_group if limited == "inner" else pids_group.parent
    (group / "pids.max").write_text("9")
    enter = IN_GROUP.format(procs=str(pids_group / "cgroup.procs"))
    told = child(f"{enter}\ntell(threads)")
    assert told["outcome"] == "out_of_threads"
    assert f"(pids.max of /{group.relative_to(PIDS)}: 9 of 9 processes and threads)" in told["reason"]
    told = child(f"{enter}\ntell(nested)")
    assert told["outcome"] == "out_of_threads"
    assert f"pids.max of /{group.relative_to(PIDS)}: " in told["reason"], "its threads are gone by then"
    assert "of 9 processes and threads now; such a limit has refused " in told["reason"]


# Telling


def test_nothing_is_told_where_nothing_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortage, "_limits", lambda outcome: iter(()))
    monkeypatch.setattr(shortage, "_past", lambda outcome: iter(()))
    assert shortage.told() == ""


@pytest.mark.parametrize("error", [MemoryError, OSError, ValueError])
def test_what_cannot_be_read_is_left_out(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(shortage, "_read", fail)
    assert shortage.told() == ""
    assert outcome_of(RuntimeError(REFUSED)) == "out_of_threads"


def test_telling_starts_nothing_and_leaves_nothing_open() -> None:
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        shortage.told()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files


FILES = {
    "/proc/self/cgroup": b"3:pids:/top/slot\n0::/a b/slot\n",
    "/proc/self/mountinfo": (
        b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        b"39 31 0:36 /top /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n"
        b"41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n"
    ),
}


def test_all_groups_around_are_looked_at_whatever_is_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortage, "_read", FILES.__getitem__)
    assert shortage._groups("pids") == [("/sys/fs/cgroup/pids/slot", "/top/slot"), ("/sys/fs/cgroup/pids", "/top")]
    assert shortage._groups("") == [
        ("/sys/fs/cgroup/uni fied/a b/slot", "/a b/slot"),
        ("/sys/fs/cgroup/uni fied/a b", "/a b"),
        ("/sys/fs/cgroup/uni fied", "/"),
    ]
    assert shortage._groups("memory") == []


def test_a_group_of_v2_that_is_full_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = "/sys/fs/cgroup/slot"
    files = {
        "/proc/self/cgroup": b"0::/slot\n",
        "/proc/self/mountinfo": b"41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "/proc/meminfo": b"MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\nSwapTotal: 0 kB\n",
        f"{folder}/pids.max": b"20\n",
        f"{folder}/pids.current": b"20\n",
        f"{folder}/memory.max": b"1073741824\n",
        f"{folder}/memory.current": b"1063741824\n",
        f"{folder}/memory.stat": b"anon 5\ninactive_file 0\n",
        "/sys/fs/cgroup/pids.max": b"max\n",
    }

    def read(path: str) -> bytes:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    monkeypatch.setattr(shortage, "_read", read)
    assert "pids.max of /slot: 20 of 20 processes and threads" in shortage.told("out_of_threads")
    assert shortage.told("out_of_memory") == "memory.max of /slot: 1014 of 1024 MiB used"
    files[f"{folder}/memory.stat"] = b"inactive_file 900000000\n"
    assert shortage.told("out_of_memory") == "", "cache that is not in use is free"


def test_a_group_of_v1_that_has_no_memory_left_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/self/cgroup": b"4:memory:/a/b\n",
        "/proc/self/mountinfo": b"35 31 0:32 / /m rw,relatime - cgroup cgroup rw,memory\n",
        "/m/memory.limit_in_bytes": b"9223372036854771712\n",
        "/m/memory.usage_in_bytes": b"9000000000\n",
        "/m/a/memory.limit_in_bytes": b"536870912\n",
        "/m/a/memory.usage_in_bytes": b"536870000\n",
        "/m/a/b/memory.limit_in_bytes": b"9223372036854771712\n",
        "/m/a/b/memory.usage_in_bytes": b"5000000\n",
    }
    host = {"MemTotal": 8_388_608, "MemAvailable": 4_194_304}
    fields = shortage.fields

    def read(path: str) -> bytes:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    monkeypatch.setattr(shortage, "_read", read)
    monkeypatch.setattr(shortage, "fields", lambda path: host if path == "/proc/meminfo" else fields(path))
    assert shortage.told("out_of_memory") == "memory.limit_in_bytes of /a: 511 of 512 MiB used"


def test_room_that_is_kept_costs_no_memory_and_is_taken_back() -> None:
    shortage.give_room()
    shortage.give_room()
    assert shortage._room.given == shortage.Room.BYTES
    shortage.take_room()
    shortage.take_room()
    assert shortage._room.given == 0


def test_importing_it_takes_next_to_nothing() -> None:
    heavy = "{'dis', 'subprocess', 'multiprocessing', 'threading', 'inspect'}"
    code = f"import sys; import worker.exhausted; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=True)
    assert done.stdout == b"[]\n"
