"""Which files below results/ are needed: a row names them, or their attempt has not ended."""

from __future__ import annotations

from typing import Any

from batt_supervisor.core.model import Outcome


def test_a_file_is_needed_that_a_row_names_or_whose_attempt_has_not_ended(desk: Any) -> None:
    finished, kept_in_row, running, queued = desk.tasks(desk.run(4))
    desk.finish(finished, value=None, value_file=f"{finished}-1.json")
    desk.finish(kept_in_row)
    desk.claim(running)
    needed = {
        f"{finished}-1.json",
        f"{running}-1.json",
        f"{running}-1.json.tmp",
        f"modules-{running}-1.json",
    }
    others = {
        f"{finished}-2.json",
        f"{finished}-1.json.tmp",
        f"{kept_in_row}-1.json",
        f"{running}-2.json",
        f"{running}-11.json",
        f"{queued}-0.json",
        f"{queued}-1.json",
        "99999-1.json",
        "request-1.json",
        "modules-.json",
        "-1.json",
        "a\"'%_.json",
        "",
    }
    assert desk.reader.files_needed([*needed, *others]) == needed


def test_an_attempt_that_was_lost_needs_its_file_no_longer(desk: Any) -> None:
    (task,) = desk.tasks(desk.run(1))
    held = desk.claim(task)
    assert desk.reader.files_needed([f"{task}-1.json"]) == {f"{task}-1.json"}
    desk.settle(held, Outcome.LOST)
    assert desk.reader.files_needed([f"{task}-1.json"]) == set()
    desk.claim(task)
    assert desk.reader.files_needed([f"{task}-1.json", f"{task}-2.json"]) == {f"{task}-2.json"}
