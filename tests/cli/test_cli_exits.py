from __future__ import annotations

from pathlib import Path

from batt_supervisor.cli.exits import OF_RUN, TABLE, Exit, markdown
from batt_supervisor.core.lifecycle import RunState
from batt_supervisor.errors import BattError


def test_the_page_says_what_the_table_says() -> None:
    assert (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text() == markdown()


def test_every_code_has_its_row() -> None:
    assert list(TABLE) == list(Exit)


def test_every_error_exits_with_a_code_of_the_table() -> None:
    todo: list[type[BattError]] = [BattError]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        assert kind.exit_code in set(Exit), kind


def test_every_end_of_a_run_has_its_code() -> None:
    assert set(OF_RUN) == set(RunState) - {RunState.RECEIVING, RunState.RUNNING}
