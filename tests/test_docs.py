from __future__ import annotations

import re
from pathlib import Path

from batt_supervisor.config import RELOADABLE, Settings

DOCS = Path(__file__).parent.parent / "docs"


def test_every_key_is_documented_and_nothing_else_is() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| *(reload)? *\|$", (DOCS / "configuration.md").read_text(), re.MULTILINE)
    assert [key for key, _ in rows] == list(Settings.model_fields)
    assert {key for key, reload in rows if reload} == RELOADABLE
