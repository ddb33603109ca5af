"""The operators' pages as a person meets them: logged in with each role, in a real browser, on a night that has run."""

from __future__ import annotations

import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import BINARY, Browser, browser

from ztfds.drills.sandbox import Sandbox
from ztfds.operations.services import airflow
from ztfds.registry import database

PAGES = ("tonight", "alarms", "reports", "references", "channels", "telemetry", "rules", "drills")
needs_chromium = pytest.mark.skipif(
    BINARY is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)


def token(observatory: Sandbox, user: str) -> str:
    client = airflow.api(observatory.state, user)
    client.call("GET", "/api/v2/dags")
    return client._token


def status(url: str, bearer: str = "") -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {bearer}"} if bearer else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def tab(observatory: Sandbox) -> Iterator[Browser]:
    """A browser that is logged in as a viewer."""
    folder = Path(tempfile.mkdtemp(prefix="ztfds-browser-"))
    with browser(folder) as opened:
        opened.cookie("_token", token(observatory, "viewer"), observatory.state.api_url)
        yield opened
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("route", PAGES)
def test_every_role_may_look_and_nobody_else(observatory: Sandbox, route: str) -> None:
    url = f"{observatory.state.api_url}/ztfds/{route}"
    assert status(url) == 401
    assert status(url, "not.a.token") in (401, 403)
    assert [status(url, token(observatory, user)) for user in ("viewer", "operator", "admin")] == [200, 200, 200]


def test_what_does_not_exist_is_said_so(observatory: Sandbox) -> None:
    bearer = token(observatory, "viewer")
    for path in ("exposure/ztf_20000101000000", "exposure/ztf_20000101000000/3", "report/1", "picture/x/0/science.png"):
        assert status(f"{observatory.state.api_url}/ztfds/{path}", bearer) == 404


def test_the_plugins_load_without_errors(observatory: Sandbox) -> None:
    client = airflow.api(observatory.state)
    code, answer = client.call("GET", "/api/v2/plugins/importErrors")
    assert (code, answer["import_errors"]) == (200, [])


@needs_chromium
def test_from_tonight_to_a_quadrant_in_two_clicks(observatory: Sandbox, tab: Browser) -> None:
    url = observatory.state.api_url
    row = database.fetch_one(
        observatory.context.dsn,
        "select exposure, rcid, nalertpackets as n from diffimages where nalertpackets > 0 order by jd desc limit 1",
    )
    tab.open(f"{url}/ztfds/tonight")
    assert "exposures on sky" in tab.text() and row["exposure"] in tab.text()
    tab.open(url + tab.ask(f"document.querySelector('a[href*=\"{row['exposure']}\"]').getAttribute('href')"))
    assert "Run in Airflow" in tab.text()
    link = f"/ztfds/exposure/{row['exposure']}/{row['rcid']}"
    assert tab.ask(f"document.querySelectorAll('svg a[href=\"{link}\"]').length") == 1
    tab.open(url + link)
    assert "Candidates" in tab.text() and "sciimg" in tab.text()
    assert tab.ask("[...document.images].filter(i => i.complete && i.naturalWidth > 0).length") >= 3
    assert all(asked.startswith((url, "data:")) for asked in tab.requests)
    assert tab.errors == []


@needs_chromium
def test_the_pages_fit_a_phone(observatory: Sandbox, tab: Browser) -> None:
    tab.phone()
    for route in PAGES:
        tab.open(f"{observatory.state.api_url}/ztfds/{route}")
        assert tab.ask("document.documentElement.scrollWidth") <= 390, route


@needs_chromium
def test_airflow_shows_the_pages_in_its_navigation(observatory: Sandbox, tab: Browser) -> None:
    tab.open(f"{observatory.state.api_url}/plugin/ztfds-tonight")
    observatory.wait(lambda: "/ztfds/tonight" in " ".join(tab.requests) or _framed(tab), "the page in Airflow's frame")


def _framed(tab: Browser) -> bool:
    """Whether Airflow's page has our page in a frame."""
    return bool(tab.ask("[...document.querySelectorAll('iframe')].some(f => f.src.includes('/ztfds/tonight'))"))
