"""Generators for run files: each item is the arguments of one task function, by name.

`samples` goes with `worker.arc.tasks:score_many`, `mutants` with `worker.arc.tasks:score`.
"""

import random
from collections.abc import Iterator
from typing import Any, Final

from worker.arc.catalogue import claimed_tasks, program_names, program_source
from worker.arc.grids import load_task, task_ids
from worker.arc.mutate import mutant, parse

KINSHIP: Final = 0.35
"""How often a mutant for a task that a shipped program solves descends from that program."""


def samples(dataset: str = "training") -> Iterator[dict[str, Any]]:
    """Every sample of every task, in the order of the data: task_id, sample, and dataset if it is not "training"."""
    for task_id in task_ids(dataset):
        for sample in load_task(task_id, dataset).samples:
            yield _item(dataset, task_id=task_id, sample=sample)


def mutants(count: int, seed: int, dataset: str = "training") -> Iterator[dict[str, Any]]:
    """`count` mutated programs on samples drawn at random: task_id, sample, program (its source), and dataset if it is
    not "training". The same arguments give the same items, in any process."""
    rng = random.Random(seed)
    sources = {name: program_source(name) for name in program_names()}
    programs = {name: parse(source) for name, source in sources.items()}
    ids = task_ids(dataset)
    solvers: dict[str, list[str]] = {}
    for name, source in sources.items():
        for task_id in claimed_tasks(source):
            solvers.setdefault(task_id, []).append(name)
    for _ in range(count):
        task_id = rng.choice(ids)
        sample = rng.choice(list(load_task(task_id, dataset).samples))
        parents = solvers.get(task_id)
        parent = rng.choice(parents) if parents and rng.random() < KINSHIP else None
        yield _item(dataset, task_id=task_id, sample=sample, program=mutant(rng, programs, parent))


def _item(dataset: str, **arguments: str) -> dict[str, Any]:
    return arguments if dataset == "training" else {**arguments, "dataset": dataset}
