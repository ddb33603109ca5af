"""A small client of Airflow's REST interface: a token that renews itself, JSON in and out, errors by consequence."""

from __future__ import annotations

import http.client
import json
import logging
import threading
import urllib.parse
from contextlib import suppress
from typing import Any

from ztfds.survey.errors import ConfigurationError, ServiceDown

logger = logging.getLogger(__name__)

PAGE = 100
"""Most entries that Airflow lists in one answer."""


class AirflowDown(ServiceDown):
    """Airflow's api-server does not answer, or answers that it cannot work now."""

    code = "airflow_down"


class AirflowApi:
    """Client of one api-server; one connection is kept open, calls from several threads take turns.

    Parameters
    ----------
    url : str
        Address, ``http://host:port`` without a path (``https`` works too).
    user, password : str
        Account of the auth manager.
    timeout_s : float
        Longest wait for one answer [s].
    """

    def __init__(self, url: str, user: str, password: str, timeout_s: float = 20.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"not the address of an Airflow api-server: {url!r}")
        self.url = url.rstrip("/")
        self._prefix = parts.path.rstrip("/")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._account = {"username": user, "password": password}
        self._token = ""
        self._turn = threading.Lock()

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Call one route, logging in (again) when the server asks for it.

        Returns
        -------
        status : int
            HTTP status below 500; conflicts and refusals are the caller's to judge.
        answer : object
            Decoded JSON (None where the answer is empty or not JSON, as unknown routes answer with a page).

        Raises
        ------
        AirflowDown
            No answer, or a status of 500 and above, or 429.
        ConfigurationError
            The account is refused.
        """
        with self._turn:
            if not self._token:
                self._log_in()
            status, answer = self._once(method, path, body)
            if status == 401:
                self._log_in()
                status, answer = self._once(method, path, body)
        if status >= 500 or status == 429:
            raise AirflowDown(f"{method} {path} answered {status}: {answer}")
        return status, answer

    def _log_in(self) -> None:
        """Fetch a new token."""
        self._token = ""
        status, answer = self._once("POST", "/auth/token", self._account)
        if status >= 500 or answer is None:
            raise AirflowDown(f"log-in answered {status}")
        if status >= 400:
            raise ConfigurationError(f"Airflow refuses the account {self._account['username']!r} ({status})")
        self._token = answer["access_token"]

    def _once(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Send one request; a kept connection that the server has closed meanwhile is opened again, once."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        payload = None if body is None else json.dumps(body)
        reused = self._connection.sock is not None
        try:
            return self._exchange(method, self._prefix + path, payload, headers)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if not reused:
                raise AirflowDown(f"no answer from {self.url}: {error}") from error
        try:
            return self._exchange(method, self._prefix + path, payload, headers)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise AirflowDown(f"no answer from {self.url}: {error}") from error

    def _exchange(self, method: str, path: str, payload: str | None, headers: dict[str, str]) -> tuple[int, Any]:
        """One request and its answer."""
        self._connection.request(method, path, payload, headers)
        response = self._connection.getresponse()
        content = response.read()
        try:
            return response.status, json.loads(content) if content else None
        except ValueError:
            return response.status, None

    def health(self) -> dict[str, Any]:
        """State of the components: ``{"scheduler": {"status": ..., "latest_scheduler_heartbeat": ...}, ...}``.

        Raises
        ------
        AirflowDown
            The api-server does not answer.
        """
        with self._turn:
            status, answer = self._once("GET", "/api/v2/monitor/health", None)
        if status != 200 or not isinstance(answer, dict):
            raise AirflowDown(f"health answered {status}")
        return answer

    def warm(self) -> None:
        """Let the server build its interface for tasks, which it does at the first call (seconds); failing is harmless."""
        with self._turn, suppress(AirflowDown):
            self._once("GET", "/execution/health", None)

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any], *, partition_key: str | None = None) -> bool:
        """Create a DAG run of a given id.

        Parameters
        ----------
        dag_id, run_id : str
            Which DAG, and the identifier of the run.
        conf : dict
            Configuration of the run (JSON).
        partition_key : str, optional
            Only for DAGs whose schedule is partitioned.

        Returns
        -------
        bool
            True when the run was created now, False when it exists already.

        Raises
        ------
        AirflowDown
            The api-server is away, or does not know the DAG (yet).
        ConfigurationError
            The request is refused.
        """
        body: dict[str, Any] = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        if partition_key is not None:
            body["partition_key"] = partition_key
        status, answer = self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)
        if status == 409:
            return False
        if status == 404 or answer is None:
            raise AirflowDown(f"Airflow does not know the DAG {dag_id!r} (yet)")
        if status >= 400:
            raise ConfigurationError(f"Airflow refuses the run {run_id!r} of {dag_id!r} ({status}): {answer}")
        return True

    def runs(self, dag_id: str, prefix: str) -> list[dict[str, Any]]:
        """List the runs of a DAG whose id begins with `prefix` (at most 100)."""
        pattern = urllib.parse.quote(prefix, safe="")
        status, answer = self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns?run_id_pattern={pattern}%25&limit=100")
        if status == 404 or answer is None:
            raise AirflowDown(f"Airflow does not know the DAG {dag_id!r} (yet)")
        if status >= 400:
            raise ConfigurationError(f"Airflow refuses to list the runs of {dag_id!r} ({status}): {answer}")
        return [run for run in answer.get("dag_runs", []) if run["dag_run_id"].startswith(prefix)]

    def dags(self) -> dict[str, str]:
        """The DAGs that Airflow knows and that are not stale: identifiers, with their file below the folder of DAGs."""
        found: list[dict[str, Any]] = []
        while True:
            _, answer = self.call("GET", f"/api/v2/dags?limit={PAGE}&offset={len(found)}&order_by=dag_id")
            page = (answer or {}).get("dags", [])
            found += page
            if len(page) < PAGE:
                return {dag["dag_id"]: dag.get("relative_fileloc") or "" for dag in found if not dag.get("is_stale")}

    def ensure_pool(self, name: str, slots: int) -> None:
        """Create a pool, or set its number of slots."""
        status, _ = self.call("POST", "/api/v2/pools", {"name": name, "slots": slots, "include_deferred": False})
        if status == 409:
            body = {"pool": name, "slots": slots, "include_deferred": False}
            status, answer = self.call("PATCH", f"/api/v2/pools/{name}", body)
            if status >= 400:
                raise ConfigurationError(f"the pool {name!r} cannot be changed ({status}): {answer}")
        elif status >= 400:
            raise ConfigurationError(f"the pool {name!r} cannot be created ({status})")

    def close(self) -> None:
        """Close the kept connection."""
        self._connection.close()
