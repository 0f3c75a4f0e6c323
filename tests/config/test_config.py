"""battd's settings: where they come from, and one sentence for what cannot be meant."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from batt_supervisor.config import RELOADABLE, SOCKET_PATH_MAX, Settings, load
from batt_supervisor.errors import BadConfiguration, BadInput

S = 1.0


def write(folder: Path, text: str) -> Path:
    path = folder / "battd.toml"
    path.write_text(text, encoding="utf-8")
    return path


def from_file(folder: Path, text: str, **environ: str) -> Settings:
    return load({"BATT_STATE_DIR": str(folder / "state"), **environ}, write(folder, text), {})


def test_without_anything_given_the_defaults_hold(tmp_path: Path) -> None:
    settings = load({"BATT_STATE_DIR": str(tmp_path)}, None, {})
    assert settings == Settings(state_dir=tmp_path, socket=tmp_path / "battd.sock")
    assert settings.slots == len(os.sched_getaffinity(0))
    assert (settings.timeout, settings.max_attempts, settings.allow) == (600.0, 1, ("*", "cmd:*"))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("slots", "7", 7),
        ("max_tasks", "0", 0),
        ("timeout", "'1h30m'", 5400.0),
        ("timeout", "20", 20.0),
        ("timeout", "0.5", 0.5),
        ("retry_delay", "'500ms'", 0.5),
        ("need_memory", "'1GiB'", 1 << 30),
        ("need_memory", "'64MB'", 64_000_000),
        ("reserve_memory", "0", 0),
        ("allow", "['zoo.*']", ("zoo.*",)),
        ("allow", "[]", ()),
        ("preload", "['json', 'zoo.animals']", ("json", "zoo.animals")),
        ("synchronous", "'normal'", "normal"),
        ("log_format", "'json'", "json"),
        ("cpu_limit", "'90s'", 90.0),
        ("cpu_limit", "0", 0.0),
        ("stall_timeout", "'0s'", 0.0),
        ("memory_limit", "'1GiB'", 1 << 30),
        ("memory_limit", "0", 0),
        ("thread_limit", "0", 0),
        ("output_limit", "0", 0),
        ("max_worker_memory", "'2GiB'", 2 << 30),
        ("max_worker_age", "0", 0.0),
        ("keep_succeeded", "'30d'", 30 * 86400.0),
        ("keep_failed", "0", 0.0),
        ("keep_bytes", "'5GB'", 5 * 10**9),
        ("start_method", "'spawn'", "spawn"),
        ("ledger", "'off'", "off"),
        ("cgroup_root", "'off'", "off"),
        ("cgroup_root", "'/sys/fs/cgroup'", "/sys/fs/cgroup"),
    ],
)
def test_a_value_of_the_file_is_understood(tmp_path: Path, key: str, text: str, value: Any) -> None:
    assert getattr(from_file(tmp_path, f"{key} = {text}"), key) == value


BAD = [
    ("slots", "0"), ("slots", "-1"), ("slots", "513"), ("slots", "'many'"), ("slots", "1.5"), ("slots", "[1]"),
    ("max_tasks", "-1"), ("max_tasks", "'x'"),
    ("preload", "'json'"), ("preload", "['a b']"), ("preload", "['a..b']"), ("preload", "[1]"), ("preload", "['']"),
    ("allow", "'*'"), ("allow", "[1]"),
    ("timeout", "0"), ("timeout", "-5"), ("timeout", "'soon'"),
    ("timeout", "true"), ("timeout", "inf"), ("timeout", "nan"),
    ("timeout", "[]"), ("timeout", "''"), ("timeout", "'-1s'"), ("timeout", "2020-01-01"),
    ("max_attempts", "0"), ("max_attempts", "1001"), ("max_attempts", "'twice'"),
    ("retry_delay", "'0s'"), ("retry_delay", "'x'"),
    ("boot_timeout", "'2h'"), ("boot_timeout", "0"),
    ("drain_timeout", "'never'"), ("watchdog", "0"),
    ("need_memory", "-1"), ("need_memory", "'lots'"), ("need_memory", "1.5"), ("need_memory", "true"),
    ("need_threads", "0"), ("need_threads", "'four'"),
    ("reserve_memory", "'1 XB'"), ("reserve_threads", "-1"),
    ("max_args_bytes", "'big'"), ("max_result_bytes", "-5"),
    ("synchronous", "'off'"), ("synchronous", "1"), ("log_level", "'loud'"), ("log_format", "'xml'"),
    ("cpu_limit", "-1"), ("cpu_limit", "'never'"), ("cpu_limit", "true"), ("stall_timeout", "'x'"),
    ("memory_limit", "'1MiB'"), ("memory_limit", "1"), ("memory_limit", "-1"),
    ("thread_limit", "-1"), ("thread_limit", "'many'"), ("output_limit", "'all'"),
    ("max_worker_memory", "1.5"), ("max_worker_age", "inf"),
    ("start_method", "'fork'"), ("cgroup_root", "'sys/fs/cgroup'"), ("cgroup_root", "''"), ("cgroup_root", "5"),
    ("ledger", "'dev/shm/x'"), ("ledger", "''"), ("ledger", "5"),
    ("keep_succeeded", "'never'"), ("keep_failed", "-1"), ("keep_cancelled", "true"), ("keep_events", "'x'"),
    ("keep_at_least", "inf"), ("keep_runs", "-1"), ("keep_runs", "'all'"), ("keep_bytes", "'lots'"),
    ("socket_group", "5"), ("socket", "5"), ("socket", "[]"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "text"), BAD)
def test_a_bad_value_is_one_sentence_that_names_key_and_file(tmp_path: Path, key: str, text: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        from_file(tmp_path, f"{key} = {text}")
    sentence = str(caught.value)
    assert sentence.startswith((f"{key} in {tmp_path}/battd.toml", f"{key}.0 in {tmp_path}/battd.toml"))
    assert "(given: " in sentence
    assert "\n" not in sentence


def test_every_key_has_a_bad_value_in_the_table() -> None:
    assert set(Settings.model_fields) - {key for key, _ in BAD} == {"state_dir"}


@pytest.mark.parametrize("text", ["5", "[]", "true"])
def test_a_state_dir_that_is_no_text_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadConfiguration, match="state_dir"):
        load({}, write(tmp_path, f"state_dir = {text}"), {})


@pytest.mark.parametrize("key", ["state_dir", "socket"])
def test_the_home_of_nobody_is_told(tmp_path: Path, key: str) -> None:
    with pytest.raises(BadConfiguration, match=key):
        load({}, write(tmp_path, f"{key} = '~no-such-user/x'"), {})


@pytest.mark.parametrize(
    "key", ["slots", "max_tasks", "max_attempts", "need_threads", "reserve_threads", "thread_limit"]
)
def test_true_is_no_number(tmp_path: Path, key: str) -> None:
    with pytest.raises(BadConfiguration, match=key):
        from_file(tmp_path, f"{key} = true")


def test_a_duration_is_finite(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="timeout"):
        from_file(tmp_path, f"timeout = '{'9' * 400}s'")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("slot = 3", "unknown key 'slot' in {path}; did you mean 'slots'?"),
        ("max-tasks = 3", "unknown key 'max-tasks' in {path}; did you mean 'max_tasks'?"),
        ("Timeout = 3", "unknown key 'Timeout' in {path}; did you mean 'timeout'?"),
        ("[pool]\nslots = 3", "unknown key 'pool' in {path}"),
        ("xyzzy = 3", "unknown key 'xyzzy' in {path}"),
    ],
)
def test_an_unknown_key_names_its_nearest_neighbour(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        from_file(tmp_path, text)
    assert str(caught.value).startswith(sentence.format(path=tmp_path / "battd.toml"))


def test_a_broken_file_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"battd\.toml is not TOML: .*line 2"):
        from_file(tmp_path, "slots = 1\nslots = = 2")


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "battd.toml").write_bytes(b"slots = 1 # \xff")
    with pytest.raises(BadConfiguration, match="is not TOML"):
        load({}, tmp_path / "battd.toml", {})


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"nothing\.toml cannot be read: No such file"):
        load({}, tmp_path / "nothing.toml", {})
    with pytest.raises(BadConfiguration, match="cannot be read"):
        load({"BATT_CONFIG": str(tmp_path)}, None, {})


# Where a value comes from


@pytest.mark.parametrize(
    ("file", "variable", "flag", "slots"),
    [(2, None, None, 2), (2, "3", None, 3), (2, "3", 4, 4), (None, "3", 4, 4), (2, None, 4, 4), (2, "", None, 2)],
)
def test_flags_win_over_variables_and_variables_over_the_file(
    tmp_path: Path, file: int | None, variable: str | None, flag: int | None, slots: int
) -> None:
    environ = {"BATT_STATE_DIR": str(tmp_path)} | ({} if variable is None else {"BATT_SLOTS": variable})
    path = write(tmp_path, "" if file is None else f"slots = {file}")
    assert load(environ, path, {"slots": flag}).slots == slots


def test_the_file_may_be_named_by_a_variable_and_a_flag_wins(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text("slots = 11")
    two.write_text("slots = 22")
    environ = {"BATT_CONFIG": str(one), "BATT_STATE_DIR": str(tmp_path)}
    assert load(environ, None, {}).slots == 11
    assert load(environ, two, {}).slots == 22


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("BATT_ALLOW", "zoo.*, cmd:ls ,", ("zoo.*", "cmd:ls")),
        ("BATT_PRELOAD", "json,os.path", ("json", "os.path")),
        ("BATT_TIMEOUT", "20s", 20.0),
        ("BATT_NEED_MEMORY", "1G", 1 << 30),
        ("BATT_MAX_TASKS", "0", 0),
        ("BATT_LOG_LEVEL", "debug", "debug"),
    ],
)
def test_a_variable_is_understood(tmp_path: Path, variable: str, text: str, value: Any) -> None:
    settings = load({"BATT_STATE_DIR": str(tmp_path), variable: text}, None, {})
    assert getattr(settings, variable.removeprefix("BATT_").lower()) == value


def test_a_bad_variable_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"^slots: .*\(given: 'x'\)$"):
        load({"BATT_STATE_DIR": str(tmp_path), "BATT_SLOTS": "x"}, None, {})


# Paths


def test_a_relative_path_of_the_file_is_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = load({}, write(tmp_path / "etc", "state_dir = 'var'\nsocket = '../run/s'"), {})
    assert (settings.state_dir, settings.socket) == (tmp_path / "etc/var", tmp_path / "etc/../run/s")


def test_a_relative_path_of_a_flag_or_variable_is_relative_to_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({}, None, {"state_dir": Path("var")}).state_dir == tmp_path / "var"
    assert load({"BATT_STATE_DIR": "var"}, None, {}).socket == tmp_path / "var" / "battd.sock"


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load({}, write(tmp_path, "state_dir = '~/batt'"), {}).state_dir == tmp_path / "batt"
    assert load({"BATT_STATE_DIR": "~/other"}, None, {}).socket == tmp_path / "other" / "battd.sock"


def test_the_socket_is_in_the_state_directory_unless_it_is_named(tmp_path: Path) -> None:
    assert load({}, None, {"state_dir": tmp_path}).socket == tmp_path / "battd.sock"
    environ = {"BATT_SOCKET": "/run/b.sock", "BATT_STATE_DIR": str(tmp_path)}
    assert load(environ, None, {}).socket == Path("/run/b.sock")


@pytest.mark.parametrize(
    ("name", "fits"), [("s" * (SOCKET_PATH_MAX - 1), True), ("s" * SOCKET_PATH_MAX, False), ("ä" * 60, False)]
)
def test_a_socket_path_has_as_many_bytes_as_the_kernel_takes(name: str, fits: bool) -> None:
    environ = {"BATT_SOCKET": f"/{name}", "BATT_STATE_DIR": "/tmp"}
    if fits:
        assert str(load(environ, None, {}).socket) == f"/{name}"
    else:
        with pytest.raises(
            BadConfiguration, match=r"^socket: .* is 1\d\d bytes long, a unix socket's path has at most 107"
        ):
            load(environ, None, {})


# What follows from them


@pytest.mark.parametrize(
    ("allow", "work", "may"),
    [
        (("*",), "zoo.a:f", True),
        (("zoo.*",), "zoo.a:f", True),
        (("zoo.*",), "zoo:f", False),
        (("zoo:*",), "zoo:f", True),
        (("zoo.a:f",), "zoo.a:f", True),
        (("zoo.a:f",), "zoo.a:ff", False),
        (("Zoo.*",), "zoo.a:f", False),
        (("cmd:ls",), "cmd:ls", True),
        (("cmd:ls",), "cmd:/bin/ls", False),
        (("zoo.*",), "cmd:ls", False),
        ((), "zoo.a:f", False),
    ],
)
def test_a_pattern_allows_what_it_matches_and_nothing_else(allow: tuple[str, ...], work: str, may: bool) -> None:
    settings = Settings(state_dir=Path("/tmp"), socket=Path("/tmp/s"), allow=allow)
    assert settings.allows(work) is may


def test_a_pattern_for_functions_allows_no_command() -> None:
    assert not Settings(state_dir=Path("/tmp"), socket=Path("/tmp/s"), allow=("*",)).allows("cmd:rm")


def test_a_stage_has_the_default_limits_where_it_says_nothing() -> None:
    settings = Settings(state_dir=Path("/tmp"), socket=Path("/tmp/s"), timeout=7, max_attempts=3, retry_delay="2s")
    found = settings.limits()
    assert (found.timeout_s, found.soft_timeout_s, found.max_attempts, found.retry_delay_s) == (7.0, None, 3, 2.0)
    assert settings.limits(timeout_s=1.5, max_attempts=1).timeout_s == 1.5


@pytest.mark.parametrize(
    ("soft_s", "timeout_s", "good"), [(5.0, None, True), (7.0, None, False), (8.0, 9.0, True), (9.0, 9.0, False)]
)
def test_a_soft_timeout_comes_before_the_timeout(soft_s: float, timeout_s: float | None, good: bool) -> None:
    settings = Settings(state_dir=Path("/tmp"), socket=Path("/tmp/s"), timeout=7)
    if good:
        assert settings.limits(soft_timeout_s=soft_s, timeout_s=timeout_s).soft_timeout_s == soft_s
    else:
        with pytest.raises(BadInput, match=re.escape(f"soft_timeout ({soft_s:g} s) must be shorter than timeout")):
            settings.limits(soft_timeout_s=soft_s, timeout_s=timeout_s)


AMOUNTS = [
    ("cpu_limit", "cpu_limit_s", 90.0),
    ("stall_timeout", "stall_timeout_s", 5.0),
    ("memory_limit", "memory_limit_bytes", 1 << 30),
    ("thread_limit", "thread_limit", 64),
    ("output_limit", "output_limit_bytes", 1 << 20),
]


@pytest.mark.parametrize(("key", "field", "amount"), AMOUNTS)
@pytest.mark.parametrize(
    ("default", "given", "found"),
    [
        (True, None, True),
        (True, 0, None),
        (True, True, True),
        (False, None, None),
        (False, 0, None),
        (False, True, True),
    ],
)
def test_nought_is_no_limit_whatever_the_default_is(
    key: str, field: str, amount: Any, default: bool, given: Any, found: Any
) -> None:
    settings = Settings(state_dir=Path("/tmp"), socket=Path("/tmp/s"), **{key: amount if default else 0})
    limits = settings.limits(**{field: amount if given is True else given})
    assert getattr(limits, field) == (amount if found else None)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"stall_timeout_s": 7.0}, "stall_timeout (7 s) must be shorter than timeout (7 s)"),
        ({"stall_timeout_s": 5.0, "timeout_s": 2.0}, "stall_timeout (5 s) must be shorter than timeout (2 s)"),
        ({"memory_limit_bytes": 1 << 20}, "memory_limit: 1.0 MiB is less than a worker itself takes"),
        ({"thread_limit": -1}, "thread_limit must be at least 1"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(given: dict[str, Any], sentence: str) -> None:
    settings = Settings(state_dir=Path("/tmp"), socket=Path("/tmp/s"), timeout=7)
    with pytest.raises(BadInput, match=re.escape(sentence)):
        settings.limits(**given)


def test_a_default_stall_timeout_gives_way_to_a_shorter_timeout_of_a_stage() -> None:
    settings = Settings(state_dir=Path("/tmp"), socket=Path("/tmp/s"), stall_timeout=30)
    assert settings.limits().stall_timeout_s == 30.0
    assert settings.limits(timeout_s=20.0).stall_timeout_s is None


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = load({"BATT_STATE_DIR": str(tmp_path)}, None, {})
    with pytest.raises(ValidationError):
        settings.slots = 3


def test_what_can_be_reloaded_is_a_part_of_what_there_is() -> None:
    assert set(Settings.model_fields) > RELOADABLE
    assert not {"state_dir", "socket", "socket_group", "synchronous", "start_method", "cgroup_root"} & RELOADABLE
