"""The users' scenario: eight instances of a program under one limit of processes or memory, and what is completed.

All instances of a candidate are started at once, each a Python process of its own with its share of the tasks. The
peers open a pool in each (`candidates.py`). Ours submit with battctl (`driver.py`), everything of it under the limit:

- batt-service: to one battd that is up already, as a service is.
- batt-eight: each instance to a battd of its own, which it starts and stops.
- with `-declared`: the submission says what a task needs; without it, battd has to find out.

What is measured is only told: the exit code is 0 whatever becomes of the tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

import chart
import chores
import driver
from candidates import PEERS, is_installed
from crowd import Controller, Crowd, NoLimit

import batt_supervisor
from batt_supervisor.client import Client
from batt_supervisor.errors import BattError
from batt_supervisor.units import parse_size

HERE = Path(__file__).resolve().parent
OURS = ("batt-service", "batt-eight", "batt-service-declared", "batt-eight-declared")
KNOWN = (*PEERS, *OURS)
CORES = len(os.sched_getaffinity(0))
LOOK_S = 0.05
STOP_S = 60.0

TRACEBACK = re.compile(r"^Traceback [^\n]*\n(?: [^\n]*\n|\n)*([^ \n][^\n]*)", re.MULTILINE)
"""The exception at its end."""

LOGGED = re.compile(r"^\S+ \[((?:warning|error|critical) .*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Case:
    """One limit, and the tasks that meet it.

    Attributes:
        function: The task, in `chores`.
        needs: What a submission declares.
        slots: Of a battd that is one of many.
    """

    label: str
    controller: Controller
    limit: int
    function: str
    instances: int
    tasks: int
    needs: tuple[str, ...]
    slots: int

    @property
    def total(self) -> int:
        return self.instances * self.tasks

    @property
    def ideal_s(self) -> float:
        return self.total * chores.CPU_S / CORES


@dataclass(slots=True)
class Seen:
    """What has become of a candidate in one round.

    Attributes:
        crashed: Instances that ended by themselves, but not well.
        hung: Instances that had not ended when the time was up.
        wall_s: From the first start to the last end.
        task_cpu_s: CPU that the completed tasks have used themselves.
        errors: What failed tasks said.
        notes: What else went wrong: the ends of crashed instances, programs that could not be forked.
    """

    completed: int = 0
    total: int = 0
    crashed: int = 0
    hung: int = 0
    wall_s: float = 0.0
    task_cpu_s: float = 0.0
    oom_kills: int = 0
    peak_pids: int = 0
    refused: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def plain(self) -> dict[str, Any]:
        """By name; `dataclasses.asdict` makes nonsense of a Counter before Python 3.12."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Seen:
        return cls(**{**plain, "errors": Counter(plain["errors"]), "notes": Counter(plain["notes"])})

    def add_value(self, function: str, number: int, value: Any) -> None:
        if isinstance(value, list) and len(value) == 2 and value[0] == chores.expected(function, number):
            self.completed += 1
            self.task_cpu_s += value[1]
        else:
            self.errors[f"wrong value: {value!r}"[:200]] += 1


class Round:
    """One candidate under one limit, once."""

    def __init__(self, case: Case, name: str, folder: Path, give_up_s: float) -> None:
        self._case, self._name, self._folder, self._give_up_s = case, name, folder, give_up_s
        self._env = {key: value for key, value in os.environ.items() if not key.startswith("BATT_")}
        self._env["PYTHONPATH"] = str(Path(batt_supervisor.__file__).parents[1])
        self.seen = Seen(total=case.total)

    def measure(self) -> Seen:
        with Crowd(self._case.controller, self._case.limit, self._folder) as crowd:
            if self._name in PEERS:
                self._run(crowd, self._peer, lambda: None)
                self._collect_peers()
            elif self._name.startswith("batt-service"):
                with self._service(crowd) as keep_up:
                    self._run(crowd, self._submission, keep_up)
                    self._collect_ours()
            else:
                self._run(crowd, self._embedded, lambda: None)
                self._collect_ours()
            crowd.look()
            self.seen.oom_kills, self.seen.peak_pids = crowd.oom_kills, crowd.peak_pids
            self.seen.refused = crowd.refused
        return self.seen

    def _start(self, crowd: Crowd, label: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
        return crowd.start(words, log=self._folder / f"{label}.log", cwd=HERE, env=self._env)

    def _run(self, crowd: Crowd, words: Callable[[int], list[str]], meanwhile: Callable[[], None]) -> None:
        """Start all instances, and wait until they have ended or the time is up."""
        began = time.monotonic()
        running = {n: self._start(crowd, f"i{n}", words(n)) for n in range(self._case.instances)}
        while running and time.monotonic() < began + self._give_up_s:
            crowd.look()
            meanwhile()
            for number, process in list(running.items()):
                if (code := process.poll()) is not None:
                    del running[number]
                    if code:
                        self.seen.crashed += 1
                        self.seen.notes[
                            f"instance ended with {code}: {_last_line(self._folder / f'i{number}.log')}"
                        ] += 1
            time.sleep(LOOK_S)
        self.seen.wall_s = time.monotonic() - began
        self.seen.hung = len(running)

    # Peers

    def _peer(self, number: int) -> list[str]:
        count = self._case.tasks
        words = (self._name, self._case.function, number * count, count, self._folder / f"i{number}.out")
        return [sys.executable, str(HERE / "candidates.py"), *map(str, words)]

    def _collect_peers(self) -> None:
        done: set[int] = set()
        for path in self._folder.glob("i*.out"):
            for line in map(json.loads, path.read_text().splitlines()):
                if line["error"]:
                    self.seen.errors[line["error"][:200]] += 1
                elif line["number"] not in done:
                    done.add(line["number"])
                    self.seen.add_value(self._case.function, line["number"], line["value"])

    # Ours

    def _submission(self, number: int) -> list[str]:
        return self._driver(number, self._folder / "s", "")

    def _embedded(self, number: int) -> list[str]:
        return self._driver(number, self._folder / f"s{number}", str(self._case.slots))

    def _driver(self, number: int, state_dir: Path, slots: str) -> list[str]:
        count = self._case.tasks
        items = self._folder / f"i{number}.items"
        items.write_text("".join(f"{n}\n" for n in range(number * count, (number + 1) * count)))
        needs = self._case.needs if self._name.endswith("-declared") else ()
        words = (str(state_dir), slots, f"i{number}", self._case.function, str(items), *needs)
        return [sys.executable, str(HERE / "driver.py"), *words]

    @contextmanager
    def _service(self, crowd: Crowd) -> Iterator[Callable[[], None]]:
        """One battd that serves; gives what keeps it up, as its manager would, from outside the limit."""
        state_dir = self._folder / "s"
        words = driver.battd(state_dir, None)
        process = self._start(crowd, "battd", words)
        tried_at = time.monotonic()

        def keep_up() -> None:
            nonlocal process, tried_at
            code = process.poll()
            if code is not None and time.monotonic() > tried_at + 0.5:
                self.seen.notes[f"battd ended with {code}: {_last_line(self._folder / 'battd.log')}"] += 1
                process, tried_at = self._start(crowd, "battd", words), time.monotonic()

        until = time.monotonic() + STOP_S
        while not _serves(state_dir) and time.monotonic() < until:
            keep_up()
            time.sleep(LOOK_S)
        if time.monotonic() > until:
            self.seen.notes["battd did not serve before the instances were started"] += 1
        yield keep_up
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.seen.notes[f"battd had not ended {STOP_S:g} s after SIGTERM"] += 1
            else:
                if code:
                    self.seen.notes[f"battd ended with {code} after SIGTERM"] += 1

    def _collect_ours(self) -> None:
        """From what each instance has fetched; where it had not come so far, as it stands now, asked from outside."""
        for number in range(self._case.instances):
            path = self._folder / f"i{number}.results"
            lines = path.read_text().splitlines() if path.exists() else []
            if len(lines) < self._case.tasks:
                self.seen.notes["instance fetched no results"] += 1
                state_dir = self._folder / ("s" if self._name.startswith("batt-service") else f"s{number}")
                found = _asked(state_dir, f"i{number}")
            else:
                found = [json.loads(line) for line in lines]
            for line in found:
                if line["state"] == "succeeded":
                    self.seen.add_value(self._case.function, number * self._case.tasks + line["index"], line["value"])
                else:
                    self.seen.errors[f"{line['state']}, {line['outcome']}: {line['reason']}"[:200]] += 1
        for path in self._folder.glob("i*.notes"):
            self.seen.notes.update(path.read_text().splitlines())
        for path in self._folder.glob("*.log"):
            text = path.read_text(errors="replace")
            for error in TRACEBACK.findall(text):
                self.seen.notes[f"traceback in a log: {error[:200]}"] += 1
            for line in LOGGED.findall(text):
                self.seen.notes[f"battd logged: {re.sub('[0-9]+', 'N', line)[:200]}"] += 1


def _asked(state_dir: Path, name: str) -> list[dict[str, Any]]:
    """The tasks of a run as battd tells them; none if it does not answer."""
    with suppress(BattError), Client(state_dir / "battd.sock", timeout=5.0) as client:
        return [task.model_dump(mode="json") for task in client.all_results(client.run(name).run)]
    return []


def _serves(state_dir: Path) -> bool:
    with suppress(BattError), Client(state_dir / "battd.sock", timeout=5.0) as client:
        client.service()
        return True
    return False


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


# What is to be measured


def cases(given: argparse.Namespace) -> list[Case]:
    instances, tasks, large = (2, 4, 2) if given.quick else (8, 32, 16)
    found = [
        Case(f"pids {limit}", "pids", limit, "split", instances, tasks, ("--threads", "5"), slots=2)
        for limit in given.pids
    ]
    if given.memory:
        text = f"{given.memory / 2**30:.3g} GiB"
        needs = ("--memory", "300M")
        # Two slots each would start with more than there is in all: sixteen times 300 MB.
        found.append(Case(f"memory {text}", "memory", given.memory, "touch", instances, large, needs, slots=1))
    return found


def available(names: Sequence[str]) -> list[str]:
    """Those that can run here; says why for each other one."""
    found = []
    for name in names:
        if name in PEERS and not is_installed(name):
            print(f"{name} is left out: not installed", file=sys.stderr)
        elif name.endswith("-declared") and not _can_declare():
            print(f"{name} is left out: this battctl has no option --threads", file=sys.stderr)
        else:
            found.append(name)
    return found


def _can_declare() -> bool:
    env = {**os.environ, "PYTHONPATH": str(Path(batt_supervisor.__file__).parents[1])}
    words = driver.battctl("/nowhere", "submit", "--help")
    return "--threads " in subprocess.run(words, env=env, cwd=HERE, capture_output=True, text=True, check=False).stdout


def measure(given: argparse.Namespace, kept: Path) -> dict[str, dict[str, list[Seen]]]:
    """Rounds by case and candidate; each round measures every candidate, so that all meet a machine alike."""
    todo, names = cases(given), available(given.candidates)
    found: dict[str, dict[str, list[Seen]]] = {case.label: {name: [] for name in names} for case in todo}
    # Writing 300 MB alone takes some machines longer than the 0.1 s that a task is meant to use.
    own_s = {case.label: getattr(chores, case.function)(0)[1] * case.total / CORES for case in todo}
    for number in range(given.rounds):
        for case in todo:
            for name in names:
                folder = kept / f"{case.label.replace(' ', '-')}-{name}-{number}"
                folder.mkdir()
                give_up_s = given.give_up or 6 * max(case.ideal_s, own_s[case.label]) + 30
                try:
                    seen = Round(case, name, folder, give_up_s).measure()
                except NoLimit as error:
                    print(f"{case.label} is left out: {error}", file=sys.stderr)
                    break
                found[case.label][name].append(seen)
                print(f"round {number + 1}: {case.label}, {name}: {_cell(seen)}", file=sys.stderr, flush=True)
                if not given.keep:
                    shutil.rmtree(folder, ignore_errors=True)
    return found


def add(found: dict[str, dict[str, list[Seen]]], earlier: Path) -> None:
    """Put rounds that were measured before, and kept by --json, in front."""
    rounds = json.loads(earlier.read_text())["rounds"]
    for label, by_name in rounds.items():
        here = found.setdefault(label, {})
        before = {name: [Seen.read(one) for one in seen] for name, seen in by_name.items()}
        found[label] = {name: before.get(name, []) + here.get(name, []) for name in KNOWN if name in {*before, *here}}


# What is told


def middle(rounds: Sequence[Seen]) -> Seen:
    """Medians, and all that was said."""
    first = rounds[0]
    figures = {
        name: statistics.median(getattr(one, name) for one in rounds)
        for name, value in first.plain().items()
        if isinstance(value, int | float)
    }
    errors, notes = Counter[str](), Counter[str]()
    for one in rounds:
        errors.update(one.errors)
        notes.update(one.notes)
    return replace(first, **figures, errors=errors, notes=notes)


def _cell(seen: Seen) -> str:
    return f"{chart.fraction(seen.completed / seen.total)}, {_aside(seen)}"


def _aside(seen: Seen) -> str:
    """Wall seconds, and what went wrong."""
    parts = [f"{'>' if seen.hung else ''}{seen.wall_s:.1f} s"]
    if seen.crashed or seen.hung:
        parts.append(f"({seen.crashed:g} / {seen.hung:g})")
    if seen.oom_kills:
        parts.append(f"{seen.oom_kills:g} OOM kills")
    return " ".join(parts)


def table(found: dict[str, dict[str, Seen]]) -> str:
    """A line for each candidate, a column for each limit."""
    names = list(dict.fromkeys(name for by_name in found.values() for name in by_name))
    rows = [["candidate", *found], ["---"] * (len(found) + 1)]
    rows += [[name, *(_cell(by[name]) if name in by else "-" for by in found.values())] for name in names]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def ideals(found: dict[str, dict[str, Seen]], todo: Sequence[Case]) -> Iterator[str]:
    for case in todo:
        seen = [one for one in found.get(case.label, {}).values() if one.completed]
        if seen:
            each_s = sum(one.task_cpu_s for one in seen) / sum(one.completed for one in seen)
            yield (
                f"{case.label}: {case.total} tasks; ideal wall {case.ideal_s:.1f} s, by the CPU that completed tasks "
                f"have used {each_s * case.total / CORES:.1f} s"
            )


def details(found: dict[str, dict[str, Seen]]) -> Iterator[str]:
    for label, by_name in found.items():
        for name, seen in by_name.items():
            yield f"{label}, {name}: peak {seen.peak_pids:g} pids, limit hit {seen.refused:g} times"
            for text, count in [*seen.errors.most_common(4), *seen.notes.most_common(8)]:
                yield f"  {count} x {text}"


def draw(found: dict[str, dict[str, Seen]], times: str, given: argparse.Namespace) -> str:
    names = dict.fromkeys(name for by_name in found.values() for name in by_name)
    rows = {
        name: {
            label: chart.Bar(by_name[name].completed / by_name[name].total, _aside(by_name[name]))
            for label, by_name in found.items()
            if name in by_name
        }
        for name in names
    }
    note = (
        f"fraction of tasks completed · wall time, (programs crashed / hung); median of {times}; "
        f"{CORES} cores, Python {platform.python_version()}"
    )
    title = f"{2 if given.quick else 8} programs at once under one limit"
    return chart.svg(title, note, list(found), rows, ours=OURS)


def report(rounds: dict[str, dict[str, list[Seen]]], given: argparse.Namespace) -> None:
    found = {
        label: {name: middle(one) for name, one in by_name.items() if one}
        for label, by_name in rounds.items()
        if any(by_name.values())
    }
    counts = sorted({len(one) for by_name in rounds.values() for one in by_name.values() if one})
    times = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]]))) if counts else "0"
    if given.json:
        plain = {
            label: {name: [seen.plain() for seen in one] for name, one in by.items()} for label, by in rounds.items()
        }
        print(json.dumps({"cores": CORES, "python": platform.python_version(), "rounds": plain}))
    else:
        print(
            f"{times} rounds; Python {platform.python_version()}, Linux {platform.release()}, {CORES} cores, "
            f"load {os.getloadavg()[0]:.1f}"
        )
        print("Fraction of tasks completed, wall time; instances (crashed / hung)", end="\n\n")
        print(table(found), end="\n\n")
        for line in [*ideals(found, cases(given)), "", *details(found)]:
            print(line)
    if given.chart and found:
        given.chart.write_text(draw(found, times, given))


def _words(text: str) -> list[str]:
    names = [*KNOWN] if text == "all" else text.split(",")
    if unknown := [name for name in names if name not in KNOWN]:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(KNOWN)}")
    return names


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if int(word)]


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except BattError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _folder(text: str) -> Path:
    return Path(text).resolve()


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="What is completed when programs share too few processes or too little memory."
    )
    parser.add_argument("--candidates", type=_words, default="all", help=f"some of {','.join(KNOWN)}")
    parser.add_argument("--pids", type=_numbers, default="60,90,120", help="limits, with commas; 0: none (%(default)s)")
    parser.add_argument("--memory", type=_size, default="1.5G", help="limit; 0: not measured (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each (default: %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="2 instances of 4 tasks (memory: 2) in place of 8 of 32 (16)"
    )
    parser.add_argument("--give-up", type=float, metavar="SECONDS", help="a hung instance's limit (6 x ideal + 30)")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="write the medians as SVG, too")
    parser.add_argument(
        "--keep", type=_folder, metavar="FOLDER", help="keep logs and state in a new folder with a short name"
    )
    parser.add_argument("--add", type=Path, nargs="+", default=[], metavar="FILE", help="earlier rounds, from --json")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    given = parser.parse_args()
    if given.rounds < (0 if given.add else 1):
        parser.error("--rounds must be at least 1, or 0 with --add")
    signal.signal(signal.SIGTERM, _leave)
    # Sockets are in it, whose paths have at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="batt-", dir="/tmp") as folder:
        if given.keep:
            given.keep.mkdir(parents=True)
        found = measure(given, given.keep or Path(folder))
    for earlier in given.add:
        add(found, earlier)
    report(found, given)


if __name__ == "__main__":
    main()
