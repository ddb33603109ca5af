"""The operators' pages as a person meets them: logged in with each role, in a real browser, on a night that has run."""

from __future__ import annotations

import json
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

PAGES = (
    "tonight", "alarms", "reports", "references", "channels", "telemetry", "rules", "drills", "quality", "coverage", "channel/22", "day",
)  # fmt: skip
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
def test_the_sky_is_a_map_to_move_in(observatory: Sandbox, tab: Browser) -> None:
    url, dsn = observatory.state.api_url, observatory.context.dsn
    n = database.fetch_one(dsn, "select count(distinct field)::int as n from field_totals")["n"]
    tab.open(f"{url}/ztfds/coverage")
    observatory.wait(lambda: tab.ask("document.querySelector('#sky canvas').dataset.loaded"), "the fields of the night")
    choose = "const s = document.querySelector('#sky [name={}]'); s.value = '{}'; s.dispatchEvent(new Event('change'))"
    tab.ask(f"{{ {choose.format('nights', '')} }}")
    observatory.wait(
        lambda: tab.ask("document.querySelector('#sky canvas').dataset.loaded") == "all", "the fields of all nights"
    )
    assert tab.ask("+document.querySelector('#sky canvas').dataset.fields") == n > 0
    said = "document.querySelector('#sky output').innerText"
    assert "point at one" in tab.ask(said)
    tab.ask("document.querySelector('#sky canvas').focus()")
    tab.key("n")
    row = database.fetch_one(
        dsn, "select field, sum(visits)::int as n from field_totals group by 1 order by max(ra) limit 1"
    )
    assert f"Field {row['field']}" in tab.ask(said) and f"{row['n']} visit" in tab.ask(said)
    assert tab.ask("document.querySelector('#sky output a').getAttribute('href')") == f"/ztfds/field/{row['field']}"
    place = tab.ask("JSON.stringify(document.querySelector('#sky canvas').getBoundingClientRect())")
    tab.pointer("mouseMoved", *_corner(place))
    assert "point at one" in tab.ask(said)  # there is no field at the upper left
    tab.ask(f"{{ {choose.format('filter', '3')} }}")
    in_i = database.fetch_one(dsn, "select count(distinct field)::int as n from field_totals where fid = 3")["n"]
    assert tab.ask("+document.querySelector('#sky canvas').dataset.fields") == in_i
    for key in ("+", "ArrowLeft", "0", "-"):
        tab.key(key)
    assert tab.errors == [] and all(asked.startswith((url, "data:")) for asked in tab.requests)


def _corner(place: str) -> tuple[float, float]:
    """A point near the upper left of an element, from its rectangle as JSON."""
    box = json.loads(place)
    return box["x"] + 5, box["y"] + 5


@needs_chromium
def test_without_scripts_the_maps_are_pictures(observatory: Sandbox, tab: Browser) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(f"{observatory.state.api_url}/ztfds/coverage")
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert tab.ask("document.getElementById('sky').offsetHeight") == 0
    assert "Since the beginning" in tab.text()


@needs_chromium
def test_from_a_night_to_a_field_to_a_quadrant(observatory: Sandbox, tab: Browser) -> None:
    url = observatory.state.api_url
    tab.open(f"{url}/ztfds/quality")
    assert "Seeing (FWHM) (arcsec)" in tab.text() and tab.ask("document.querySelectorAll('svg path').length") > 10
    field = database.fetch_one(observatory.context.dsn, "select field from diffimages order by jd desc limit 1")[
        "field"
    ]
    tab.open(f"{url}/ztfds/field/{field}")
    assert "Epochs" in tab.text()
    tab.open(url + tab.ask("document.querySelector('svg a[href*=rcid]').getAttribute('href').replaceAll('&amp;', '&')"))
    assert "Images of this quadrant" in tab.text()
    tab.open(url + tab.ask("[...document.querySelectorAll('td a[href*=\"/exposure/\"]')].at(-1).getAttribute('href')"))
    assert "Candidates" in tab.text() and tab.errors == []


@needs_chromium
def test_airflow_shows_the_pages_in_its_navigation(observatory: Sandbox, tab: Browser) -> None:
    tab.open(f"{observatory.state.api_url}/plugin/ztfds-tonight")
    observatory.wait(lambda: "/ztfds/tonight" in " ".join(tab.requests) or _framed(tab), "the page in Airflow's frame")


def _framed(tab: Browser) -> bool:
    """Whether Airflow's page has our page in a frame."""
    return bool(tab.ask("[...document.querySelectorAll('iframe')].some(f => f.src.includes('/ztfds/tonight'))"))
