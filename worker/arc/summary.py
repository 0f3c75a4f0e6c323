"""What a run of the reference workload found: `python -m worker.arc.summary RESULTS.jsonl`.

Reads the lines that `battctl results RUN --jsonl` prints ("-" for standard input) and prints a short report. A sample
counts only where its task function returned a whole result, and a task counts as solved only if none of its samples is
missing.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from worker.arc.grids import load_task, task_ids


class Summary:
    """The figures of one or several runs, line by line."""

    def __init__(self) -> None:
        self.lines = 0
        self.cpu_s = 0.0
        self.outcomes: Counter[str] = Counter()
        self.catalogue_runs: Counter[str] = Counter()
        self.candidates: Counter[str] = Counter()
        self.mutants: Counter[str] = Counter()
        self.mutant_errors: Counter[str] = Counter()
        self.solvers: dict[tuple[str, str], dict[str, set[str]]] = {}
        self.seen: dict[tuple[str, str], set[str]] = {}

    def add(self, line: dict[str, Any]) -> None:
        """Count one line; one whose arguments are of no function of this workload counts only among all lines."""
        self.lines += 1
        self.cpu_s += line.get("cpu_s") or 0.0
        outcome = line.get("outcome") or line.get("state") or "unknown"
        self.outcomes[outcome] += 1
        arguments = line.get("args")
        if not isinstance(arguments, dict) or not {"task_id", "sample"} <= arguments.keys():
            return
        value = line["value"] if outcome == "ok" and isinstance(line.get("value"), dict) else None
        if "program" in arguments:
            self._add_mutant(outcome, value, line)
        else:
            self._add_catalogue(arguments, outcome, value)

    def _add_mutant(self, outcome: str, value: dict[str, Any] | None, line: dict[str, Any]) -> None:
        if value is not None:
            self.mutants["match" if value.get("solved") else "wrong"] += 1
            return
        self.mutants[outcome] += 1
        if outcome == "exception":
            self.mutant_errors[_exception_name(line)] += 1

    def _add_catalogue(self, arguments: dict[str, Any], outcome: str, value: dict[str, Any] | None) -> None:
        task = (str(arguments.get("dataset", "training")), str(arguments["task_id"]))
        sample = str(arguments["sample"])
        self.seen.setdefault(task, set())
        if value is None:
            self.catalogue_runs[outcome] += 1
            return
        partial = bool(value.get("partial"))
        self.catalogue_runs["partial" if partial else "ok"] += 1
        for name, key in (
            ("match", "solved_count"),
            ("wrong", "wrong"),
            ("exception", "exception_count"),
            ("soft timeout", "timeout_count"),
            ("not tried", "not_tried_count"),
        ):
            self.candidates[f"{name} {'test' if sample.startswith('test') else 'demo'}"] += int(value.get(key) or 0)
        if not partial:
            self.seen[task].add(sample)
        self.solvers.setdefault(task, {})[sample] = set(value.get("solved") or ())

    def tasks(self) -> dict[str, int]:
        """How many tasks are `solved`, have `holes` or are `unsolved`, and of how many: `all`.

        Solved: one program solved every test sample. `solved_with_demo`: and every demo sample too.
        """
        counts = {"solved": 0, "solved_with_demo": 0, "holes": 0, "unsolved": 0, "all": 0}
        for dataset in sorted({dataset for dataset, _ in self.seen}):
            expected = _expected(dataset)
            known = expected if expected is not None else {task for name, task in self.seen if name == dataset}
            counts["all"] += len(known)
            for task_id in known:
                fate = self._fate(dataset, task_id)
                counts[fate] += 1
                solvers = self.solvers.get((dataset, task_id), {}).values()
                counts["solved_with_demo"] += fate == "solved" and bool(set.intersection(*solvers))
        return counts

    def _fate(self, dataset: str, task_id: str) -> str:
        seen = self.seen.get((dataset, task_id), set())
        samples = _sample_names(dataset, task_id)
        if not seen or (samples is not None and not samples <= seen):
            return "holes"
        scored = self.solvers.get((dataset, task_id), {})
        if not scored.keys() <= seen:
            return "holes"
        tests = [solved for sample, solved in scored.items() if sample.startswith("test")]
        return "solved" if tests and set.intersection(*tests) else "unsolved"

    def report(self) -> str:
        """The summary as text, for people."""
        out = [f"{self.lines} results, {self.cpu_s:.1f} s of CPU: {_listed(self.outcomes)}"]
        if self.catalogue_runs:
            whole = sum(len(samples) for samples in self.seen.values())
            tasks = self.tasks()
            out += [
                "",
                f"Samples scored with the whole catalogue: {whole} of {sum(self.catalogue_runs.values())}",
                f"  attempts            {_listed(self.catalogue_runs)}",
                f"  programs on demo    {self._programs('demo')}",
                f"  programs on test    {self._programs('test')}",
                f"  killed at deadline  {self.catalogue_runs['timeout']} attempts",
                f"Tasks solved on all test samples by one program: {tasks['solved']} of {tasks['all']}",
                f"  demo samples too    {tasks['solved_with_demo']}",
                f"  not solved          {tasks['unsolved']}",
                f"  samples missing     {tasks['holes']} (not counted as solved, whatever the rest shows)",
            ]
        if self.mutants:
            total = sum(self.mutants.values())
            out += ["", f"Mutated programs: {total}"]
            out += [f"  {name:<19} {n:>6}  {100 * n / total:5.1f} %" for name, n in self.mutants.most_common()]
            if self.mutant_errors:
                out.append(f"  raised              {_listed(self.mutant_errors)}")
        return "\n".join(out)

    def _programs(self, kind: str) -> str:
        names = ("match", "wrong", "exception", "soft timeout", "not tried")
        return ", ".join(f"{self.candidates[f'{name} {kind}']} {name}" for name in names)


def summarize(lines: Iterable[str]) -> Summary:
    """The summary of JSON lines; empty ones are passed over.

    Raises:
        ValueError: A line is not a JSON object; names it.
    """
    summary = Summary()
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON: {error}") from None
        if not isinstance(line, dict):
            raise ValueError(f"line {number} is not a JSON object")
        summary.add(line)
    return summary


def main(arguments: Sequence[str] | None = None, output: TextIO | None = None) -> int:
    """Print the summary of a file; 2 if it cannot be read, else 0."""
    parser = argparse.ArgumentParser(prog="python -m worker.arc.summary", description="Sums up a run over ARC tasks.")
    parser.add_argument("results", help='what `battctl results RUN --jsonl` printed; "-" for standard input')
    path = parser.parse_args(arguments).results
    try:
        if path == "-":
            summary = summarize(sys.stdin)
        else:
            with open(path, encoding="utf-8") as file:
                summary = summarize(file)
    except (OSError, ValueError) as error:
        print(f"cannot read {path}: {error}", file=sys.stderr)
        return 2
    print(summary.report(), file=output)
    return 0


def _exception_name(line: dict[str, Any]) -> str:
    """The type of the exception, from an error object with "type", or from a text "ValueError: ..."."""
    error = line.get("error") or line.get("reason")
    name = error.get("type") if isinstance(error, dict) else str(error or "").split(":")[0]
    return str(name or "unknown")


def _expected(dataset: str) -> set[str] | None:
    """The ids of the dataset's tasks, or None where the data is not at hand."""
    try:
        return set(task_ids(dataset))
    except (ImportError, ValueError):
        return None


def _sample_names(dataset: str, task_id: str) -> set[str] | None:
    try:
        return set(load_task(task_id, dataset).samples)
    except (ImportError, ValueError):
        return None


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common(8))


if __name__ == "__main__":
    sys.exit(main())
