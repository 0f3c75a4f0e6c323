"""Did an exception come of there being no memory, no thread or no process to be had; and which limit was it?

`outcome_of` judges by the exception alone, through everything it came from. What it finds is not charged to the task,
which goes again with a doubled need: so both mistakes cost. Proof is needed, and a text that may as well be the task's
own is none. Two kinds of MemoryError are the task's own fault, and stay an exception:

- A request for more than all memory and swap of the machine. No attempt will ever be granted it, with whatever need, so
  three more would be wasted. Libraries put the size into the message (numpy, arrow, torch, OpenCV). Python's own
  MemoryError says nothing, that of `bytearray(2**60)` no more than that of a list's next item. Without a size it counts
  as exhaustion, for the other way round an innocent task would be charged; the resource budget bounds what that costs.
- The parser's: up to Python 3.11 source that is nested too deeply is a bare MemoryError, whatever memory there is.

`worker.shortage` reads which limit it was.
"""

from __future__ import annotations

import errno
import re
import resource
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Literal

from worker.shortage import Outcome, fields, is_short, soft_limit

_Verdict = Literal["out_of_memory", "out_of_threads", "own_fault"]

LINKS_MAX: Final = 1_000
"""Exceptions looked at, of all that one came from."""

TEXT_MAX: Final = 4_000
"""Characters looked at, at either end of a message."""

# A phrase in quotes is spoken about; only as an exception's repr it is that exception's own.
_SAID = r"""(?:(?<=Error\(["'])|(?<=Exception\(["'])|(?<!["'`]))"""
_AGAIN = "Resource temporarily unavailable"

_NO_THREADS: Final = re.compile(
    rf"""{_SAID}(?:
        can't\ start\ new\ thread | can't\ allocate\ thread\b
        | unable\ to\ create\ (?:new\ )?native\ thread                             # the JVM
        | unable\ to\ allocate\ necessary\ resources\ for\ OMP\ thread            # Intel's OpenMP
        | (?:Thread\ creation|thread\ constructor)\ failed(?!.{{0,99}}not\ permitted)     # libgomp, libc++
        | pthread_create\b(?!.{{0,99}}not\ permitted).{{0,20}}(?:\ failed|:\ {_AGAIN})    # OpenBLAS
        | (?:ThreadPoolBuildError|spawn\ threads?)\b.{{0,99}}\bcode:\ 11\b                # rayon, Rust's own
        | \b(?:v?fork|forkpty|posix_spawnp?|clone)\b(?:\(\))?(?:\ failed)?:\ (?:retry:\ )?(?:\[Errno\ 11\]\ )?{_AGAIN}
        | \b(?:start|spawn|creat|fork)(?:e|ing)?\ (?:(?:an?|another|new|child|worker|the)\ )*
          (?:thread|process)(?:e?s)?\b
          .{{0,40}}{_AGAIN}
    )""".replace(_AGAIN, _AGAIN.replace(" ", r"\ ")),
    re.VERBOSE,
)

_NO_MEMORY: Final = re.compile(
    rf"""{_SAID}(?:
        Unable\ to\ allocate\ \d[\d.]*\ (?:bytes|[KMGTPE]iB)\b                       # numpy
        | \[Errno\ 12\] | \bos\ error\ 12\b | \bError\ code\ 12\b
        | Cannot\ allocate\ memory(?=$|["')\].,;:]|\ \()                           # not "... in static TLS block"
        | std::bad_alloc\b
        | DefaultCPUAllocator:\ (?:can't\ allocate|not\ enough)\ memory            # torch
        | OOM\ when\ allocating\ tensor\b.{{0,300}}\bby\ allocator\ cpu\b                  # tensorflow
        | RESOURCE_EXHAUSTED:\ Out\ of\ memory\ allocating\ \d+\ bytes             # jax on CPUs
        | \b(?:malloc|realloc|calloc)\ of\ size\ \d+\ failed                       # arrow
        | -4:Insufficient\ memory                                                  # OpenCV
        | \bsqlite3\.\w+\)?:?\ out\ of\ memory                                     # by way of SQLAlchemy
        | can't\ allocate\ (?:read\ )?lock\b
    )
    | \bOSError\(12,\ 'Cannot\ allocate\ memory'
    | (?:^|[:(,]\ )MemoryError(?=$|:\ |\(|\))                                      # a repr, or a traceback as text
    """,
    re.VERBOSE | re.MULTILINE,
)

_SIZED: Final = re.compile(
    r"Unable to allocate (\d+(?:\.\d+)?) (bytes|[KMGTPE]iB)\b"
    r"|(?:tried to allocate|Failed to allocate|memory allocating|alloc of size) (\d+)"
)

_DEVICE: Final = re.compile(r"(?i:cuda|cupy)|\bhip(?:Error|Malloc)|/device:GPU|device memory|RMM")
"""Another memory than the host's: more of the latter does not help."""

_UNMAPPED: Final = re.compile(r"failed to map segment from shared object$", re.MULTILINE)
"""glibc 2.36 does not say why. It may be a file system that forbids execution, too."""

_FRAME: Final = re.compile(
    r'/(?:subprocess|multiprocessing/(?:popen_\w+|util))\.py", line \d+, in (?:_execute_child|_launch|spawnv_passfds)$'
    r"|^ +.*\bos\.(?:fork|forkpty|posix_spawnp?)\(",
    re.MULTILINE,
)
"""The place where a process is started, in a traceback that came as text."""

_STARTS: Final = frozenset({"fork", "forkpty", "posix_spawn", "posix_spawnp", "fork_exec", "_fork_exec"})
_PARSES: Final = frozenset({"compile", "eval", "exec"})

_SPEAKS_OF_TEXTS: Final = (AssertionError, LookupError, NameError, SyntaxError, UnicodeError, RecursionError)
"""What their messages quote is what was compared, looked up or read."""

_raw_exception: Any = BaseException
_raw_os_error: Any = OSError
_raw_group: Any = BaseExceptionGroup
# Their own attributes, whatever a class of the task has put in place of these.


def outcome_of(error: BaseException) -> Outcome | None:
    """What was short, if the exception proves it, by itself or by anything it came from; None where nothing does.

    Looked through are causes, contexts (`from None` hides them from readers, not from here), members of groups, and
    exceptions among the arguments. So an exception that is raised while one of these is handled counts as it: mostly it
    is its consequence. The outermost proof decides. No proof is what may have another reason: a worker process that was
    killed (BrokenProcessPool, TerminatedWorkerError), EAGAIN that is not from starting a process. A full disk, memory
    of a GPU and RecursionError are other matters.
    """
    verdicts = [verdict for link in _links(error) if (verdict := _verdict(link)) is not None]
    own_fault = "own_fault" in verdicts
    for verdict in verdicts:
        if verdict == "out_of_threads" or (verdict == "out_of_memory" and not own_fault):
            return verdict
    return None


def _links(error: BaseException) -> Iterator[BaseException]:
    """The exception and all it came from, the nearest first, each once."""
    links = [error]
    seen = {id(error)}
    for link in links:  # it grows meanwhile
        yield link
        for origin in _origins(link):
            if isinstance(origin, BaseException) and id(origin) not in seen and len(links) < LINKS_MAX:
                seen.add(id(origin))
                links.append(origin)


def _origins(link: BaseException) -> Iterator[object]:
    yield _raw_exception.__cause__.__get__(link)
    yield _raw_exception.__context__.__get__(link)
    if isinstance(link, BaseExceptionGroup):
        yield from _raw_group.exceptions.__get__(link)
    yield from _raw_exception.args.__get__(link)


def _verdict(link: BaseException) -> _Verdict | None:
    number = _raw_os_error.errno.__get__(link) if isinstance(link, OSError) else None
    if number == errno.EAGAIN:
        return "out_of_threads" if _from_start(link) else None
    if number == errno.ENOMEM:
        return "out_of_memory"
    kind = type(link)
    if number is not None or isinstance(link, _SPEAKS_OF_TEXTS) or kind.__module__ == "subprocess":
        return None  # subprocess quotes commands
    text = _text(link)
    if isinstance(link, MemoryError):
        if _DEVICE.search(f"{kind.__module__}.{kind.__qualname__}: {text}"):
            return None
        return "own_fault" if _is_too_large(text) or _from_parser(link, text) else "out_of_memory"
    if text == _AGAIN and kind is RuntimeError:
        # How a std::thread that was refused in C++ comes out. Python code that words an EAGAIN so has one behind it.
        alone = not any(isinstance(origin, BaseException) for origin in _origins(link))
        return "out_of_threads" if alone else None
    return _verdict_on_text(link, text)


def _verdict_on_text(link: BaseException, text: str) -> _Verdict | None:
    """For a message that another one was made part of."""
    if "Traceback (most recent call last)" in text:
        whole = text
        # Without the lines of source: code that looks for such texts quotes them.
        text = "\n".join(line for line in text.splitlines() if not line.startswith(" "))
        if "[Errno 11]" in text and _FRAME.search(whole):
            return "out_of_threads"
    if _NO_THREADS.search(text):
        return "out_of_threads"
    found = _NO_MEMORY.search(text)
    if found is not None:
        line = text[text.rfind("\n", 0, found.start()) + 1 :].partition("\n")[0]
        if _DEVICE.search(line):
            return None
        return "own_fault" if _is_too_large(line) else "out_of_memory"
    if type(link).__module__ == "sqlite3" and text == "out of memory":
        return "out_of_memory"
    if isinstance(link, ImportError) and _UNMAPPED.search(text) and soft_limit(resource.RLIMIT_AS) is not None:
        return "out_of_memory"
    return None


def _text(link: BaseException) -> str:
    try:
        text = str.__str__(str(link))
    except BaseException:  # the task's own code
        return ""
    return text if len(text) <= 2 * TEXT_MAX else f"{text[:TEXT_MAX]}\n{text[-TEXT_MAX:]}"


def _is_too_large(text: str) -> bool:
    """Whether the text tells of a request for more memory than the machine has."""
    sized = _SIZED.search(text)
    if sized is None:
        return False
    amount, unit, number = sized.groups()
    size = float(number) if number else float(amount) * 1024 ** ("bytes", *"KMGTPE").index(unit.removesuffix("iB"))
    memory = fields("/proc/meminfo")
    total = memory.get("MemTotal", 0) + memory.get("SwapTotal", 0)
    return 0 < total * 1024 < size


def _from_parser(link: BaseException, text: str) -> bool:
    if "Parser stack overflowed" in text:
        return True
    try:
        return _was_calling(link, _PARSES) and not is_short("out_of_memory")
    except MemoryError:
        return False


def _from_start(link: BaseException) -> bool:
    """Whether it was raised by starting a process. A pipe that does not block says EAGAIN just as well."""
    step = _raw_exception.__traceback__.__get__(link)
    while step is not None:
        frame = step.tb_frame
        # Raised there by hand as well: what the child found when it became the program.
        if frame.f_code.co_name == "_execute_child" and frame.f_globals.get("__name__") == "subprocess":
            return True
        step = step.tb_next
    return _was_calling(link, _STARTS)


def _was_calling(link: BaseException, names: frozenset[str]) -> bool:
    """Whether the innermost frame was at a call of one of these."""
    step: TracebackType | None = _raw_exception.__traceback__.__get__(link)
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step is not None and not names.isdisjoint(step.tb_frame.f_code.co_names) and not names.isdisjoint(_at(step))


def _at(place: TracebackType) -> frozenset[str]:
    """Names in the expression that the frame was at; all in its code, where that cannot be told."""
    code = place.tb_frame.f_code
    try:
        import dis

        steps = list(dis.get_instructions(code))
        first, last = next(_span(step) for step in steps if step.offset == place.tb_lasti)
        if last == (-1, -1):
            return frozenset(code.co_names)
        inside = (step for step in steps if first <= _span(step)[0] and _span(step)[1] <= last)
        return frozenset(str(step.argval) for step in inside if step.opcode in dis.hasname)
    except Exception:  # no memory for it, or a task's code object without positions
        return frozenset(code.co_names)


def _span(step: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where in the source an instruction begins and ends; one without a place is nowhere."""
    line, end_line, column, end_column = step.positions
    return ((-1, -1), (-1, -1)) if None in step.positions else ((line, column), (end_line, end_column))
