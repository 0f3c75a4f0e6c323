"""Another client of a busy battd: submits runs of one task until its input ends, and tells how long it waited.

Run as a program of its own, so that it shares nothing with the client that keeps battd busy. Each of its requests is
one write, so each waits for battd's writer once. Prints a line when it begins, and at the end a JSON array of
milliseconds, one for each request.
"""

from __future__ import annotations

import json
import select
import sys
import time

import httpx

from batt_supervisor.wire import RunSpec, StageSpec

PAUSE_S = 0.03


def main() -> None:
    socket = sys.argv[1]
    transport = httpx.HTTPTransport(uds=socket, trust_env=False)
    stage = StageSpec(name="only", command=("true",))
    body = RunSpec(name="bystander", cwd="/", stages=(stage,)).model_dump_json()
    took_ms: list[float] = []
    with httpx.Client(transport=transport, base_url="http://battd", trust_env=False, timeout=60.0) as http:

        def write(path: str, content: str | None = None) -> httpx.Response:
            began = time.perf_counter()
            answer = http.post(path, content=content, headers={"content-type": "application/json"})
            took_ms.append((time.perf_counter() - began) * 1e3)
            return answer.raise_for_status()

        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
            run = write("/v1/runs", body).json()["run"]
            write(f"/v1/runs/{run}/tasks", '{"offset":0,"tasks":[{}]}')
            write(f"/v1/runs/{run}/seal")
            # Open runs would pile up, for nothing of this battd's starts; that is not what is measured.
            http.post(f"/v1/runs/{run}/cancel").raise_for_status()
    print(json.dumps(took_ms))


if __name__ == "__main__":
    main()
