"""The API over a store, without a battd: its answers to requests."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from batt_supervisor.api.app import create_app
from batt_supervisor.api.service import Service
from batt_supervisor.config import Settings
from batt_supervisor.store import Store

Asked = Callable[..., httpx.Response]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Asked]]:
    """Serves a store whose files are in the test's folder; what is asked of it is `method, path, body`."""
    served: list[tuple[Service, Store]] = []

    def over(store: Store, **given: Any) -> Asked:
        settings = Settings(state_dir=tmp_path, socket=tmp_path / "s")
        service = Service(
            store=store,
            settings=lambda: settings,
            run_changed=given.pop("run_changed", lambda run_id: None),
            stop_asked=lambda task_id: None,
            describe=lambda: None,  # type: ignore[arg-type,return-value]
            holds=dict,
            draining=lambda: False,
            logs=tmp_path,
            results=tmp_path,
            **given,
        )
        served.append((service, store))
        app = create_app(service)

        async def answer(method: str, path: str, body: Any) -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://battd") as client:
                return await client.request(method, path, json=body)

        return lambda method, path, body=None: asyncio.run(answer(method, path, body))

    yield over
    for service, store in served:
        service.close()
        store.close()
