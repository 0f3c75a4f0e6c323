"""Which battd is meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from batt_supervisor import paths
from batt_supervisor.cli.place import Flags, find
from batt_supervisor.errors import BadConfiguration
from batt_supervisor.paths import default_socket, default_state_dir


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not root."""
    monkeypatch.setattr(paths.os, "geteuid", lambda: 1234)


def test_root_has_the_system_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths.os, "geteuid", lambda: 0)
    assert default_state_dir({"HOME": "/root"}) == Path("/var/lib/batt")


def test_a_user_has_a_directory_below_the_home(user: None, tmp_path: Path) -> None:
    assert default_state_dir({"HOME": str(tmp_path)}) == tmp_path / ".local/state/batt"
    assert default_state_dir({"HOME": "/", "XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "batt"


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "here"}, {"HOME": "/dev/null/x"}])
def test_without_a_home_that_can_be_written_it_is_below_tmp(user: None, environ: dict[str, str]) -> None:
    assert default_state_dir(environ) == Path("/tmp/batt-1234")


def test_a_home_that_may_not_be_written_is_passed_over(
    user: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths.os, "access", lambda place, mode: not str(place).startswith(str(tmp_path)))
    assert default_state_dir({"HOME": str(tmp_path)}) == Path("/tmp/batt-1234")


def test_the_environment_wins_over_the_defaults() -> None:
    assert default_state_dir({"BATT_STATE_DIR": "/x"}) == Path("/x")
    assert default_socket({"BATT_STATE_DIR": "/x"}) == Path("/x/battd.sock")
    assert default_socket({"BATT_STATE_DIR": "/x"}, Path("/y")) == Path("/y/battd.sock")
    assert default_socket({"BATT_SOCKET": "/z.sock"}, Path("/y")) == Path("/z.sock")


def test_flags_win_over_the_environment_and_that_over_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "batt.toml"
    config.write_text('socket = "c.sock"\nstate_dir = "/c"\nslots = 3\n')
    environ = {"BATT_CONFIG": str(config)}
    assert find(Flags(), environ).socket == tmp_path / "c.sock"
    assert find(Flags(), environ).state_dir == Path("/c")
    environ["BATT_SOCKET"] = "/e.sock"
    assert find(Flags(), environ).socket == Path("/e.sock")
    assert find(Flags(socket="/f.sock"), environ).socket == Path("/f.sock")
    assert find(Flags(state_dir="/f"), {}).socket == Path("/f/battd.sock")


def test_battd_comes_to_the_same_answer(tmp_path: Path) -> None:
    config_module = pytest.importorskip("batt_supervisor.config")
    file = tmp_path / "batt.toml"
    file.write_text('socket = "c.sock"\n')
    for environ, flags in (
        ({}, {}),
        ({"BATT_STATE_DIR": "/e"}, {}),
        ({"BATT_STATE_DIR": "/e", "BATT_SOCKET": "/s"}, {"state_dir": "/f"}),
        ({}, {"state_dir": "/f"}),
        ({"BATT_CONFIG": str(file)}, {"state_dir": "/f"}),
    ):
        home = {"HOME": str(tmp_path), **environ}
        settings = config_module.load(home, None, flags)
        place = find(Flags(**flags), home)
        assert (settings.state_dir, settings.socket) == (place.state_dir, place.socket)


@pytest.mark.parametrize(
    ("text", "said"), [("socket = 3", "must be a path"), ("socket = ", "is not TOML"), (None, "cannot be read")]
)
def test_a_broken_configuration_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    config = tmp_path / "batt.toml"
    if text is not None:
        config.write_text(text)
    with pytest.raises(BadConfiguration, match=said):
        find(Flags(config=str(config)), dict(os.environ))
