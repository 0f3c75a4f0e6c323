"""The no-op task as celery has it; the variable BENCH_REDIS names the socket of its redis."""

from __future__ import annotations

import os

from celery import Celery

URL = f"redis+socket://{os.environ['BENCH_REDIS']}"

app = Celery("noop_celery", broker=URL, backend=URL)


@app.task(name="noop")
def noop(number: int) -> int:
    return number
