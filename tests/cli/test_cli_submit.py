"""battctl submit against the stub: what is sent, and what is refused before anything is."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

Battctl = Callable[..., Any]


@pytest.fixture
def items(tmp_path: Path) -> str:
    (tmp_path / "items.jsonl").write_text('{"a": 1}\n[2, 3]\n\n"x"\n')
    return "items.jsonl"


def only_run(stub: Any) -> Any:
    assert len(stub.runs) == 1
    return next(iter(stub.runs.values()))


def test_a_line_is_a_task(battctl: Battctl, stub: Any, items: str, tmp_path: Path) -> None:
    words = ("--items", items, "--name", "n", "--timeout", "20s", "--max-attempts", "2", "--json")
    ended = battctl("submit", "worker.arc.tasks:score", *words)
    assert (ended.code, ended.json, ended.err) == (0, {"run": "r1", "tasks": 3}, "")
    run = only_run(stub)
    assert [task["args"] for task in run["tasks"]] == [{"a": 1}, [2, 3], ["x"]]
    assert (run["spec"]["name"], run["spec"]["cwd"]) == ("n", str(tmp_path.resolve()))
    stage = run["spec"]["stages"][0]
    assert (stage["function"], stage["timeout_s"], stage["max_attempts"]) == ("worker.arc.tasks:score", 20, 2)


@pytest.mark.parametrize(("text", "args"), [("[1]", [1]), ('{"x": 2}', {"x": 2}), ("3", [3]), ('"a"', ["a"])])
def test_args_are_one_task(battctl: Battctl, stub: Any, text: str, args: Any) -> None:
    assert battctl("submit", "m:f", "--args", text).code == 0
    assert [task["args"] for task in only_run(stub)["tasks"]] == [args]


def test_without_items_there_is_one_task(battctl: Battctl, stub: Any) -> None:
    ended = battctl("submit", "m:f")
    assert ended.code == 0
    assert "run r1 'm:f': 1 task;" in ended.out
    assert [task["args"] for task in only_run(stub)["tasks"]] == [[]]


def test_standard_input_gives_items(battctl: Battctl, stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"1\n2\n")))
    assert battctl("submit", "m:f", "--items", "-", "--json").json["tasks"] == 2


def test_a_command_stands_behind_dashes(battctl: Battctl, stub: Any) -> None:
    words = ("--timeout", "10m", "--", "python", "run_batt.py", "-i", "x", "-c", "32", "--json")
    ended = battctl("submit", *words)
    assert ended.code == 0
    assert ended.out.startswith("run r1 'python'")
    stage = only_run(stub)["spec"]["stages"][0]
    assert (stage["command"], stage["timeout_s"], stage["shell"]) == (list(words[3:]), 600, False)
    assert [task["args"] for task in only_run(stub)["tasks"]] == [{}]


def test_a_command_is_run_for_each_line(battctl: Battctl, stub: Any, items: str) -> None:
    assert battctl("submit", "--items", items, "--shell", "--", "echo", "{item}", "|", "wc").code == 0
    assert only_run(stub)["spec"]["stages"][0]["command"] == ["echo {item} | wc"]
    assert [task["args"] for task in only_run(stub)["tasks"]] == [
        {"item": '{"a": 1}'},
        {"item": "[2, 3]"},
        {"item": "x"},
    ]


def test_the_first_or_random_items_are_taken(battctl: Battctl, stub: Any, tmp_path: Path) -> None:
    (tmp_path / "many").write_text("".join(f"{n}\n" for n in range(100)))
    for words in (("-c", "2"), ("-c", "-5", "--seed", "3"), ("--random", "5", "--seed", "3"), ("-c", "0")):
        assert battctl("submit", "m:f", "--items", "many", *words).err == ""
    first, negative, at_random, everything = ([t["args"][0] for t in run["tasks"]] for run in stub.runs.values())
    assert first == [0, 1]
    assert len(negative) == 5
    assert negative == at_random == sorted(negative)
    assert everything == list(range(100))


def test_a_fresh_seed_is_told(battctl: Battctl, stub: Any, tmp_path: Path) -> None:
    (tmp_path / "many").write_text("".join(f"{n}\n" for n in range(1000)))
    ended = battctl("submit", "m:f", "--items", "many", "--random", "5", "--json")
    assert ended.json == {"run": "r1", "tasks": 5}
    seed = ended.err.split("--seed ")[1].split()[0]
    battctl("submit", "m:f", "--items", "many", "--random", "5", "--seed", seed)
    assert stub.runs["r1"]["tasks"] == stub.runs["r2"]["tasks"]


def test_a_known_key_creates_nothing(battctl: Battctl, stub: Any) -> None:
    assert battctl("submit", "m:f", "--key", "k", "--json").json == {"run": "r1", "tasks": 1}
    again = battctl("submit", "m:f", "--key", "k", "--json")
    assert again.json == {"run": "r1", "tasks": 1, "existing": True}
    assert list(stub.runs) == ["r1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing to submit"),
        (("m:f", "--", "echo"), "either the target 'm:f' or a command"),
        (("--",), "no command behind --"),
        (("m.f",), "did you mean 'm:f'?"),
        (("items.jsonl",), "a command goes behind --"),
        (("gone.toml",), "the run file gone.toml cannot be read: No such file"),
        (("m:f", "--args", "[1"), "--args is not JSON: expecting"),
        (("m:f", "--args", "[NaN]"), "it says NaN"),
        (("m:f", "--args", "1", "--items", "items.jsonl"), "give one of them"),
        (("m:f", "--items", "gone"), "the items file gone cannot be read: No such file or directory"),
        (("m:f", "--items", "broken.jsonl"), "broken.jsonl line 2 is not JSON: expecting property name"),
        (("m:f", "--items", "empty.jsonl"), "there are no items"),
        (("m:f", "-c", "3"), "give --items"),
        (("m:f", "--items", "items.jsonl", "-c", "3", "--random", "2"), "-c and --random both choose"),
        (("m:f", "--seed", "-2"), "'--seed'"),
        (("m:f", "--items", "items.jsonl", "--random", "0"), "'--random'"),
        (("m:f", "--timeout", "20x"), "--timeout: '20x' is not a duration"),
        (("m:f", "--timeout", "0"), "--timeout must be longer than 0"),
        (("m:f", "-t", "5s", "--soft-timeout", "5s"), "--soft-timeout (5s) must be shorter than --timeout (5s)"),
        (("--soft-timeout", "5s", "--", "ls"), "--soft-timeout is for functions"),
        (("--python", "/usr/bin/python3", "--", "ls"), "--python is for functions"),
        (("m:f", "--python", "/no/python"), "--python: /no/python is not an executable file"),
        (("m:f", "--cpu-limit", "lots"), "--cpu-limit: 'lots' is not a duration"),
        (("m:f", "--stall-timeout", "-1"), "--stall-timeout: '-1' is not a duration"),
        (("m:f", "--memory-limit", "lots"), "--memory-limit: 'lots' is not a size"),
        (("m:f", "--output-limit", "1.5"), "--output-limit: '1.5' is not a size"),
        (("m:f", "--thread-limit", "-1"), "'--thread-limit'"),
        (("m:f", "--memory", "lots"), "--memory: 'lots' is not a size"),
        (("m:f", "--threads", "-1"), "'--threads'"),
        (("m:f", "--kind", ""), "'kind'"),
        (("m:f", "--memmory", "1GiB"), "no such option: --memmory"),
        (("m:f", "--max-attempts", "0"), "'--max-attempts'"),
        (("m:f", "--env", "A"), "--env 'A': write NAME=VALUE"),
        (("m:f", "--cwd", "gone"), "gone is not there"),
        (("m:f", "--cwd", "items.jsonl"), "is not a directory"),
        (("m:f", "--name", "r7"), "the name 'r7' would be taken"),
        (("m:f", "--shell"), "--shell goes with a command"),
        (("--args", "1", "--", "echo"), "--args goes with a function"),
        (("--items", "items.jsonl", "--", "echo"), "the command has no {item}"),
        (("--", "echo", "{item}"), "there are no --items"),
        (("m:f", "--tiemout", "3"), "no such option: --tiemout"),
        (("m:f", "more"), "unexpected extra argument"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_bad_input_is_one_sentence_and_changes_nothing(
    battctl: Battctl, stub: Any, items: str, tmp_path: Path, words: tuple[str, ...], said: str, dry: tuple[str, ...]
) -> None:
    (tmp_path / "broken.jsonl").write_text("1\n{x}\n")
    (tmp_path / "empty.jsonl").write_text("\n")
    ended = battctl("submit", *dry, *words)
    assert ended.code == 2
    assert ended.err.startswith("battctl: ")
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert ended.out == ""
    assert stub.runs == {}


def test_with_json_the_problem_comes_as_json_too(battctl: Battctl, stub: Any) -> None:
    first, second = battctl("submit", "m:f", "--args", "[", "--json").err.splitlines()
    assert first.startswith("battctl: --args is not JSON")
    assert second.startswith('{"error":"bad_input","message":"--args is not JSON')


def test_limits_of_the_command_line_are_sent(battctl: Battctl, stub: Any) -> None:
    words = ("--cpu-limit", "1m", "--stall-timeout", "0", "--memory-limit", "1GiB", "--thread-limit", "9")
    words += ("--output-limit", "0", "--allow-children", "--seed", "7", "--python", sys.executable)
    assert battctl("submit", "m:f", *words).code == 0
    spec = only_run(stub)["spec"]
    stage = spec["stages"][0]
    assert (stage["cpu_limit_s"], stage["stall_timeout_s"], stage["memory_limit_bytes"]) == (60, 0, 1 << 30)
    assert (stage["thread_limit"], stage["output_limit_bytes"], stage["allow_children"]) == (9, 0, True)
    assert (spec["seed"], spec["python"]) == (7, sys.executable)
    ended = battctl("submit", "m:f", *words, "--dry-run")
    told = "CPU limit 1m, no stall timeout, memory limit 1.0 GiB, no output limit, thread limit 9, children may stay"
    assert f"({told})" in ended.out
    assert f"  interpreter: {sys.executable}\n  seed: 7\n" in ended.out


def test_needs_of_the_command_line_are_sent(battctl: Battctl, stub: Any) -> None:
    words = ("--memory", "1.5GiB", "--threads", "1", "--kind", "score")
    assert battctl("submit", "m:f", *words).code == 0
    stage = only_run(stub)["spec"]["stages"][0]
    assert (stage["need_memory_bytes"], stage["need_threads"], stage["kind"]) == (3 << 29, 1, "score")
    assert (stage["memory_limit_bytes"], stage["thread_limit"]) == (None, None)
    ended = battctl("submit", "m:f", *words, "--dry-run")
    assert "(needs 1.5 GiB of memory, needs 1 thread, kind score)" in ended.out


def test_limits_that_are_not_given_are_left_to_battd(battctl: Battctl, stub: Any) -> None:
    assert battctl("submit", "m:f").code == 0
    spec = only_run(stub)["spec"]
    words = ("limit", "timeout", "need", "kind")
    limits = {name: value for name, value in spec["stages"][0].items() if any(word in name for word in words)}
    assert set(limits.values()) == {None}
    assert (spec["seed"], spec["python"], spec["stages"][0]["allow_children"]) == (None, None, False)


def test_a_dry_run_needs_no_battd(battctl: Battctl, items: str) -> None:
    ended = battctl("submit", "m:f", "--items", items, "-t", "20s", "--env", "SECRET=x", "--dry-run")
    assert ended.code == 0
    assert "would submit 'm:f': 3 tasks" in ended.out
    assert "stage f: 3 tasks of m:f (timeout 20s)" in ended.out
    assert '{"a": 1}' in ended.out
    assert "=x" not in ended.out
    whole = battctl("submit", "m:f", "--items", items, "--dry-run", "--json").json
    assert (whole["tasks"], whole["spec"]["stages"][0]["function"]) == (3, "m:f")


def test_a_run_file_is_submitted(battctl: Battctl, stub: Any, items: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.toml").write_text(
        '[[stage]]\nname = "one"\nfunction = "m:f"\nitems = "../items.jsonl"\n'
        '[[stage]]\nname = "two"\nfunction = "m:g"\nafter = ["one"]\n'
    )
    assert battctl("submit", "runs/a.toml", "-c", "2", "--json").json == {"run": "r1", "tasks": 3}
    run = only_run(stub)
    assert [task["stage"] for task in run["tasks"]] == [0, 0, 1]
    assert (run["spec"]["name"], run["spec"]["cwd"]) == ("a", str(tmp_path.resolve()))


def test_submit_and_wait(battctl: Battctl, stub: Any, run_info: Callable[..., dict[str, Any]]) -> None:
    stub.on("GET", "/v1/runs/r1", run_info(run="r1", state="failed", ended_at_ms=3_000, counts={"failed": 1}))
    ended = battctl("submit", "m:f", "--wait")
    assert ended.code == 1
    assert ended.out.splitlines()[-1].startswith("run r1 'arc' failed")
    stub.on("GET", "/v1/runs/r2", run_info(run="r2", state="failed"))
    ended = battctl("submit", "m:f", "--wait", "--json")
    assert (ended.code, ended.json["state"]) == (1, "failed")
