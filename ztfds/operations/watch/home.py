"""The watch of the services of one home folder: which database, which disks, how each service is asked."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.operations.services.airflow import HEALTH_KEYS
from ztfds.operations.services.rest import AirflowApi
from ztfds.operations.services.state import State
from ztfds.operations.watch.notify import Notifier
from ztfds.operations.watch.rounds import Watch


def watch_of(state: State) -> Watch:
    """The watch of a home folder."""
    folders = {name: Path(folder) for name, folder in state.roots.items()}
    return Watch(
        EmbeddedPostgres(state.home).dsn("ztf_pipeline"),
        folders,
        state.logs / "ztfds.prom",
        {"kafka": _listens(state.ports["kafka"]), **_components(state.api_url)},
        Notifier.of(state.settings.notify),
    )


def _listens(port: int) -> Callable[[], bool]:
    """Whether something takes connections at a loopback port."""

    def probe() -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=3.0):
            return True

    return probe


def _components(url: str) -> dict[str, Callable[[], bool]]:
    """Airflow's components, all by the one answer of the api-server, which the first of them asks for."""
    health: dict[str, dict[str, str]] = {}

    def api() -> bool:
        health.clear()
        client = AirflowApi(url, "", "", timeout_s=5.0)
        try:
            health.update(client.health())
        finally:
            client.close()
        return health["metadatabase"]["status"] == "healthy"

    def component(key: str) -> Callable[[], bool]:
        return lambda: health.get(key, {}).get("status") == "healthy"

    return {"api-server": api, **{name: component(key) for name, key in HEALTH_KEYS.items()}}
