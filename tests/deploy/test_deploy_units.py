"""The systemd units, as systemd itself reads them."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deploy_service import ROOT

from batt_supervisor.config import Settings

DEPLOY = ROOT / "deploy"
UNITS = ("battd.service", "battd-user.service")

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine"
)


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    # Any program will do for one that exists.
    return subprocess.run(
        [folder / "check-unit.sh", sys.executable], capture_output=True, text=True, check=False, timeout=120
    )


@needs_systemd
def test_the_units_pass_verification() -> None:
    done = check(DEPLOY)
    assert done.returncode == 0, done.stderr
    assert "both units pass" in done.stdout
    assert re.search(r"battd.service is exposed \d", done.stdout)


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_an_unknown_key_does_not_pass(unit: str, tmp_path: Path) -> None:
    for path in DEPLOY.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    text = (tmp_path / unit).read_text()
    (tmp_path / unit).write_text(text.replace("[Service]\n", "[Service]\nOOMPolitics=continue\n"))
    done = check(tmp_path)
    assert done.returncode != 0
    assert "OOMPolitics" in done.stderr


def unit(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str
    parser.read(DEPLOY / name)
    return parser["Service"]


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_suits_what_battd_does(name: str, tmp_path: Path) -> None:
    service = unit(name)
    defaults = Settings(state_dir=tmp_path, socket=tmp_path / "s")
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > defaults.watchdog
    assert int(service["TimeoutStopSec"]) > defaults.drain_timeout
    assert service["KillMode"] == "mixed"
    assert service["OOMPolicy"] == "continue"
    assert set(service["Delegate"].split()) == {"cpu", "memory", "pids"}
    assert "ProtectControlGroups" not in service


def test_supervisord_waits_longer_than_battd_drains(tmp_path: Path) -> None:
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
    parser.read(ROOT / "supervisor.conf")
    assert (
        parser.getint("program:battd", "stopwaitsecs")
        > Settings(state_dir=tmp_path, socket=tmp_path / "s").drain_timeout
    )
