"""Bad input: one clear sentence, the documented exit code, and nothing changed."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from batt_supervisor.client import Client
from batt_supervisor.core.lifecycle import State
from batt_supervisor.errors import BadInput, BattError, NotFound, Refused
from batt_supervisor.testing import Daemon, DaemonEnded
from batt_supervisor.wire import RunSpec, StageSpec, TaskSpec

Battctl = Callable[..., Any]


def row_counts(daemon: Daemon) -> dict[str, int]:
    db = sqlite3.connect(f"file:{daemon.state_dir / 'queue.db'}?mode=ro", uri=True)
    try:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        # Not what was: numbers that are never given again, and what is told of a submission that was given up.
        kept = set(tables) - {"sqlite_sequence", "events", "marks"}
        return {name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in sorted(kept)}
    finally:
        db.close()


@pytest.fixture
def unchanged(battd: Daemon) -> Iterator[None]:
    before = row_counts(battd)
    yield
    assert row_counts(battd) == before


def refused(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    assert done.returncode == code, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("battctl: ")
    for part in parts:
        assert part in done.stderr
    assert done.stdout == ""


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["zoo.calm:ecko"], ["has no 'ecko'", "did you mean 'echo'?"]),
        (["zoo.clam:echo"], ["no module 'clam'", "did you mean 'calm'?"]),
        (["zo.calm:echo"], ["no module 'zo'"]),
        (["zoo.calm.echo"], ["did you mean 'zoo.calm:echo'?"]),
        (["zoo.calm:echo", "--args", "[1"], ["--args is not JSON"]),
        (["zoo.calm:echo", "--args", "[NaN]"], ["--args is not JSON"]),
        (["zoo.calm:echo", "--timeout", "soon"], ["--timeout", "'soon' is not a duration"]),
        (["zoo.calm:echo", "--timeout", "0"], ["timeout"]),
        (["zoo.calm:echo", "--timeout", "5s", "--soft-timeout", "6s"], ["must be shorter than"]),
        (["zoo.calm:echo", "--soft-timeout", "11m"], ["soft_timeout", "must be shorter than", "600"]),
        (["zoo.calm:echo", "--max-attempts", "0"], ["--max-attempts"]),
        (["zoo.calm:echo", "--cwd", "/no/such/folder"], ["/no/such/folder"]),
        (["zoo.calm:echo", "--env", "NAMELESS"], ["NAME=VALUE"]),
        (["zoo.calm:echo", "--tiemout", "5s"], ["--tiemout"]),
        (["--", "no-such-program-anywhere"], ["no-such-program-anywhere", "not found on the PATH"]),
        (["no-such-file.toml"], ["no-such-file.toml"]),
        ([], ["nothing to submit"]),
    ],
)
def test_a_submission_that_cannot_be_meant_is_refused(
    battd: Daemon, battctl: Battctl, words: list[str], parts: list[str]
) -> None:
    refused(battctl(battd, "submit", *words), 2, *parts)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("line", ["{'a': 1}", "[1,", "NaN", "\ufeff{", "[1] [2]"])
def test_a_broken_line_of_items_is_named_by_its_number_and_nothing_is_submitted(
    battd: Daemon, battctl: Battctl, tmp_path: Path, line: str
) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text("\n".join(["[1]"] * 7000 + [line] + ["[2]"] * 10))
    refused(battctl(battd, "submit", "zoo.calm:echo", "--items", str(items)), 2, "line 7001", str(items))


@pytest.mark.usefixtures("unchanged")
def test_an_items_file_that_is_no_text_is_refused(battd: Daemon, battctl: Battctl, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_bytes(b"[1]\n\xff\xfe\n")
    refused(battctl(battd, "submit", "zoo.calm:echo", "--items", str(items)), 2, "line 2")


@pytest.mark.parametrize("words", [["status"], ["submit", "zoo.calm:echo"], ["results", "r1"], ["wait", "r1"]])
def test_a_missing_socket_is_exit_code_seven(battctl: Battctl, tmp_path: Path, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "batt_supervisor.cli.main", "--socket", str(tmp_path / "none"), *words],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    refused(done, 7, str(tmp_path / "none"), "does not exist")


def test_unknown_runs_and_tasks_are_exit_code_six(battd: Daemon, battctl: Battctl) -> None:
    battd.wait(battd.submit("zoo.calm:nothing", name="a-name"))
    refused(battctl(battd, "wait", "r999999"), 6, "no run 'r999999'")
    refused(battctl(battd, "results", "a-nane"), 6, "did you mean 'a-name'?")
    refused(battctl(battd, "why", "t999999"), 6, "no task 't999999'")


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ("slotz = 3\n", "did you mean 'slots'?"),
        ("slots = 0\n", "slots"),
        ("slots = 'many'\n", "slots"),
        ("timeout = 'soon'\n", "is not a duration"),
        ("slots = [\n", "is not TOML"),
        ("preload = ['not a module']\n", "is not a module's name"),
        ("socket_group = 'no-such-group'\n", "no group 'no-such-group'"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_exit_code_two(
    new_battd: Callable[..., Daemon], config: str, part: str
) -> None:
    daemon = new_battd(config, slots=None)
    with pytest.raises(DaemonEnded, match="battd: ") as ended:
        daemon.start()
    assert ended.value.code == 2
    assert part in daemon.log
    assert len(daemon.log.splitlines()) == 1


# Straight at the API


@pytest.fixture
def http(battd: Daemon) -> Iterator[httpx.Client]:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(battd.socket)), base_url="http://battd") as client:
        yield client


RUN = {"name": "n", "cwd": "/", "stages": [{"name": "s", "function": "zoo.calm:echo"}]}
STAGE = RUN["stages"][0]  # type: ignore[index]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({**RUN, "cwd": "relative"}, "cwd"),
        ({**RUN, "stages": []}, "stages"),
        ({**RUN, "stages": [STAGE, STAGE]}, "two have the name 's'"),
        ({**RUN, "stages": [{**STAGE, "command": ["true"]}]}, "exactly one of 'function' and 'command'"),
        ({**RUN, "stages": [{"name": "s", "command": []}]}, "'command' is empty"),
        ({**RUN, "stages": [{**STAGE, "after": ["later"]}, {**STAGE, "name": "later"}]}, "no earlier stage"),
        ({**RUN, "stages": [{**STAGE, "timeout_s": True}]}, "true or false"),
        ({**RUN, "stages": [{**STAGE, "timeout_s": -1}]}, "timeout_s"),
        ({**RUN, "stages": [{**STAGE, "timeuot_s": 1}]}, "did you mean 'timeout_s'?"),
        ({**RUN, "stages": [{**STAGE, "function": "zoo.calm"}]}, "package.module:name"),
        ({**RUN, "stages": [{**STAGE, "function": "../../etc/passwd:x"}]}, "package.module:name"),
        ({**RUN, "env": {"A=B": "c"}}, "env"),
        ({**RUN, "env": {"A": "\0"}}, "env"),
        ({**RUN, "deadline_s": 0}, "deadline_s"),
        ({**RUN, "key": ""}, "key"),
        ({**RUN, "name": ""}, "name"),
        ([], ""),
        ("text", ""),
        (None, ""),
    ],
)
def test_a_specification_that_cannot_be_meant_is_refused_with_the_field(
    http: httpx.Client, body: Any, part: str
) -> None:
    answer = http.post("/v1/runs", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"] == "bad_input"
    assert part in answer.json()["message"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"name": NaN}'])
def test_a_body_that_is_no_json_is_refused(http: httpx.Client, text: bytes) -> None:
    answer = http.post("/v1/runs", content=text, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"] == "bad_input"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/runs/{run}/results?limit=0", 422),
        ("/v1/runs?limit=-1", 422),
        ("/v1/runs/r99999999999999999999999", 404),
        ("/v1/tasks/t0/log?tail_bytes=0", 422),
        ("/v1/tasks/{task}/log?attempt=99999999999999999999999", 404),
        ("/v1/tasks/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
        ("/v1/nothing", 404),
        ("/", 404),
    ],
)
def test_a_question_that_cannot_be_meant_is_refused(battd: Daemon, http: httpx.Client, path: str, status: int) -> None:
    run = battd.submit("zoo.calm:nothing")
    battd.wait(run)
    answer = http.get(path.replace("{run}", run).replace("{task}", battd.task(run)))
    assert answer.status_code == status, answer.text
    assert answer.json()["error"] in ("bad_input", "not_found")
    assert battd.alive()


def test_a_page_behind_the_end_is_empty(battd: Daemon, http: httpx.Client) -> None:
    run = battd.submit("zoo.calm:nothing")
    battd.wait(run)
    answer = http.get(f"/v1/runs/{run}/results?after={2**62}")
    assert answer.json() == {"items": [], "next": None, "ended": True}
    assert http.get(f"/v1/runs/{run}/results?after={10**30}").status_code < 500


def created(battd: Daemon, **given: Any) -> str:
    spec = RunSpec(name="n", cwd="/", stages=(StageSpec(name="s", function="zoo.calm:echo"),), **given)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(battd.socket)), base_url="http://battd") as http:
        return str(http.post("/v1/runs", json=spec.model_dump(mode="json")).json()["run"])


def test_tasks_with_a_gap_before_them_are_refused(battd: Daemon, http: httpx.Client) -> None:
    run = created(battd)
    answer = http.post(f"/v1/runs/{run}/tasks", json={"offset": 5, "tasks": [{"args": []}]})
    assert answer.status_code == 409
    assert "gap" in answer.json()["message"]
    answer = http.post(f"/v1/runs/{run}/tasks", json={"offset": 0, "tasks": [{"args": [], "stage": 3}]})
    assert answer.status_code == 409
    assert http.delete(f"/v1/runs/{run}").status_code == 204
    with pytest.raises(NotFound):
        battd.client.run(run)


def test_a_sealed_run_takes_no_more(battd: Daemon, http: httpx.Client) -> None:
    run = battd.submit("zoo.calm:nothing")
    answer = http.post(f"/v1/runs/{run}/tasks", json={"offset": 1, "tasks": [{"args": []}]})
    assert answer.status_code == 409
    assert "takes no more" in answer.json()["message"]
    assert http.delete(f"/v1/runs/{run}").status_code == 409
    assert battd.wait(run).counts == {State.SUCCEEDED: 1}


def test_arguments_that_are_too_large_are_refused(battd: Daemon) -> None:
    before = row_counts(battd)
    with pytest.raises(BadInput, match="max_args_bytes"):
        battd.submit("zoo.calm:echo", ["x" * (2**20 + 10)])
    assert row_counts(battd) == before


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("half a character \ud800", id="half a surrogate pair"),
        pytest.param(json.loads("[" * 400 + "]" * 400), id="400 deep"),
    ],
)
def test_odd_arguments_are_refused_or_can_be_read_again(battd: Daemon, value: Any) -> None:
    try:
        run = battd.submit("zoo.calm:nothing", [[value]])
    except BattError as error:
        assert isinstance(error, BadInput)
        return
    battd.wait(run)
    assert battd.results(run)[0].args == [value]


def test_a_key_that_was_used_gives_the_run_that_it_made(battd: Daemon, battctl: Battctl, tmp_path: Path) -> None:
    run = battd.submit("zoo.calm:echo", [1, 2], key="once")
    before = row_counts(battd)
    words = ("--cwd", "/", "--name", battd.client.run(run).name, "--json")
    (tmp_path / "items").write_text("1\n2\n")
    again = battctl(battd, "submit", "zoo.calm:echo", "--items", str(tmp_path / "items"), "--key", "once", *words)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == {"run": run, "tasks": 2, "existing": True}
    fewer = battctl(battd, "submit", "zoo.calm:echo", "--args", "[1]", "--key", "once", *words)
    assert fewer.returncode == 8
    assert f"run {run} has 2 tasks, and 1 were submitted now" in fewer.stderr
    items = battctl(battd, "submit", "zoo.calm:echo", "--args", "[3]", "--key", "once", *words)
    assert items.returncode == 8
    assert f"task 0 of run {run} is there already, and is another" in items.stderr
    other = battctl(battd, "submit", "zoo.calm:add", "--args", "[3]", "--key", "once", *words)
    assert other.returncode == 8
    assert f"the key 'once' belongs to run {run}, which was submitted with another function" in other.stderr
    battd.wait(run)
    assert row_counts(battd)["runs"] == before["runs"]


def test_peers_see_a_private_socket_and_state_directory(battd: Daemon) -> None:
    assert battd.socket.stat().st_mode & 0o777 == 0o600
    assert battd.state_dir.stat().st_mode & 0o777 == 0o700


def test_several_clients_at_once_lose_nothing(battd: Daemon) -> None:
    clients = [Client(battd.socket) for _ in range(8)]
    spec = RunSpec(name="many", cwd="/", stages=(StageSpec(name="s", function="zoo.calm:echo"),))
    runs = [client.submit(spec, [TaskSpec(args=[n]) for n in range(100)]).run for client in clients]
    assert len(set(runs)) == 8
    for run in runs:
        assert battd.wait(run).counts == {State.SUCCEEDED: 100}
    for client in clients:
        client.close()


def test_an_unsealed_run_can_be_cancelled(battd: Daemon) -> None:
    run = created(battd, key="never sealed")
    battd.client.cancel(run)
    with pytest.raises((NotFound, Refused)):
        battd.client.run(run)
