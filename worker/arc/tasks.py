"""The task functions: JSON in, JSON out, named to the supervisor by import path ("worker.arc.tasks:score").

In all of them `program` is a name in the catalogue or source text, `sample` a name such as "demo[0]", `dataset` one of
`grids.DATASETS`, `dsl` the path of the user's own DSL and `programs_dir` that of the user's own programs.
"""

import math
import time
from collections.abc import Callable
from typing import Any, Final

from worker.arc.catalogue import label, load_program, program_names, program_source
from worker.arc.grids import Sample, as_grid, load_sample, load_task
from worker.arc.inlining import inline_source
from worker.guard import SoftTimeout, call_with_timeout

MAX_NAMES: Final = 40
"""So many names a list in a result of `score_many` has at most; the counts beside them are complete."""

MAX_EXCEPTIONS: Final = 20
MAX_MESSAGE: Final = 120


def score(
    task_id: str,
    sample: str,
    program: str,
    *,
    dataset: str = "training",
    dsl: str | None = None,
    programs_dir: str | None = None,
) -> dict[str, Any]:
    """Run one program on one sample, without any limit of its own: one that hangs is the supervisor's to end.

    Returns:
        task_id, sample, program (its name or short MD5), solved, and seconds: the wall time of the program itself.

    Raises:
        NotAGrid: The program returned something else.
        ValueError: Sample, task, dataset or program is not known, or the program is not one.
        Exception: Whatever the program raised.
    """
    pair = load_sample(task_id, sample, dataset)
    solve = load_program(program, dsl, programs_dir)
    started = time.perf_counter()
    solved = _solves(solve, pair)
    seconds = time.perf_counter() - started
    return {
        "task_id": task_id,
        "sample": sample,
        "program": label(program),
        "solved": solved,
        "seconds": round(seconds, 6),
    }


def score_many(
    task_id: str,
    sample: str,
    programs: list[str] | None = None,
    *,
    budget_s: float = 1.0,
    dataset: str = "training",
    dsl: str | None = None,
    programs_dir: str | None = None,
) -> dict[str, Any]:
    """Run many programs on one sample, each within its own soft limit; what one of them does ends none of the others.

    If a soft limit of the whole attempt passes meanwhile, what is known by then is returned and called partial.

    Args:
        programs: None for the whole catalogue.
        budget_s: Wall seconds for each program.

    Returns:
        task_id and sample; candidates, tried, wrong: counts; solved, timeouts, not_tried: up to MAX_NAMES names each,
        with solved_count, timeout_count, not_tried_count; exceptions: up to MAX_EXCEPTIONS texts by name, with
        exception_count; partial: whether some were not tried; seconds: wall time of it all.

    Raises:
        ValueError: Sample, task or dataset is not known. A program that is not known is an exception of that program.
        RuntimeError: Not called from the main thread.
    """
    pair = load_sample(task_id, sample, dataset)
    candidates = list(program_names(programs_dir)) if programs is None else programs
    started = time.perf_counter()
    solved: list[str] = []
    timeouts: list[str] = []
    exceptions: dict[str, str] = {}
    wrong = exception_count = tried = 0
    try:
        for program in candidates:
            try:
                if call_with_timeout(_load_and_solve, budget_s, program, pair, dsl, programs_dir):
                    solved.append(label(program))
                else:
                    wrong += 1
            except (Exception, SystemExit) as error:
                exception_count += 1
                if len(exceptions) < MAX_EXCEPTIONS:
                    exceptions[label(program)] = f"{type(error).__name__}: {error}"[:MAX_MESSAGE]
            except SoftTimeout as stop:
                if stop.enclosing:
                    raise
                timeouts.append(label(program))
            tried += 1
    except SoftTimeout:
        pass  # the attempt's own limit: what is known by now is the result
    left = [label(program) for program in candidates[tried : tried + MAX_NAMES]]
    return {
        "task_id": task_id,
        "sample": sample,
        "candidates": len(candidates),
        "tried": tried,
        "solved": solved[:MAX_NAMES],
        "solved_count": len(solved),
        "wrong": wrong,
        "exceptions": exceptions,
        "exception_count": exception_count,
        "timeouts": timeouts[:MAX_NAMES],
        "timeout_count": len(timeouts),
        "not_tried": left,
        "not_tried_count": len(candidates) - tried,
        "partial": tried < len(candidates),
        "seconds": round(time.perf_counter() - started, 6),
    }


def inline(
    program: str, *, growth_limit: float = 4.0, node_limit: int = 5000, programs_dir: str | None = None
) -> dict[str, Any]:
    """Put a program's assignments into its return expression.

    Args:
        growth_limit: How many times its former number of syntax nodes the function may have.
        node_limit: How many it may have at most.

    Returns:
        program, source, inlined: False if the source is the unchanged one; reason: why, or how the size changed.

    Raises:
        ValueError: The name is not known, or the source is no straight-line program with one `solve`.
    """
    result = inline_source(program_source(program, programs_dir), growth_limit, node_limit)
    return {
        "program": label(program),
        "source": result.source,
        "inlined": result.inlined,
        "reason": result.reason,
    }


def speed(
    task_id: str,
    program: str,
    *,
    dataset: str = "training",
    dsl: str | None = None,
    programs_dir: str | None = None,
) -> dict[str, Any]:
    """Run one program over every sample of a task and time it.

    Returns:
        task_id, program; seconds: wall time by sample; total_s; solved: how many samples, of `samples`; t_log: 11 less
        the whole part of the natural logarithm of total_s, so one more for each time the program is e times as fast.

    Raises:
        As `score`.
    """
    samples = load_task(task_id, dataset).samples
    solve = load_program(program, dsl, programs_dir)
    seconds: dict[str, float] = {}
    solved = 0
    for name, pair in samples.items():
        started = time.perf_counter()
        solved += _solves(solve, pair)
        seconds[name] = round(time.perf_counter() - started, 6)
    total_s = sum(seconds.values())
    return {
        "task_id": task_id,
        "program": label(program),
        "seconds": seconds,
        "total_s": round(total_s, 6),
        "solved": solved,
        "samples": len(samples),
        "t_log": time_class(total_s),
    }


def time_class(seconds: float) -> int:
    """11 less the whole part of the natural logarithm of the seconds; under a microsecond counts as one."""
    return 11 - int(math.log(max(seconds, 1e-6)))


def _load_and_solve(program: str, pair: Sample, dsl: str | None, programs_dir: str | None) -> bool:
    return _solves(load_program(program, dsl, programs_dir), pair)


def _solves(solve: Callable[[Any], Any], pair: Sample) -> bool:
    return as_grid(solve(pair.input)) == pair.output
