"""python -m batt_supervisor.store STATE_DIR/queue.db: converts a large database of an older version; see `convert`."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from batt_supervisor.errors import BattError
from batt_supervisor.store import trouble
from batt_supervisor.store.convert import COPIES, convert
from batt_supervisor.store.schema import connect


def main(arguments: list[str]) -> int:
    """Convert the database that is named; the exit code."""
    if len(arguments) != 1:
        print("usage: python -m batt_supervisor.store STATE_DIR/queue.db", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    if not path.is_file():
        print(f"{path} is no file", file=sys.stderr)
        return 2
    before = path.stat().st_size
    try:
        with closing(connect(path)) as db:
            done = convert(db, path, None)
    except sqlite3.Error as error:
        said: BattError = trouble.told(error, path)
        print(f"{path} is as it was: {said}", file=sys.stderr)
        return said.exit_code
    if not done:
        print(f"{path} is as it was: {COPIES * before} bytes must be free on its disk", file=sys.stderr)
        return 8
    print(f"{path}: {before} bytes before, {path.stat().st_size} now; from now on it is shortened bit by bit")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
