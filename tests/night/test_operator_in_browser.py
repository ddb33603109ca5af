"""What an operator does by day, in a real browser on real services: re-run, reprocess, retire, judge; refused without the right."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import BINARY, Browser, browser

from ztfds.drills.contingencies import write_faults
from ztfds.drills.sandbox import Sandbox
from ztfds.operations.control import changes
from ztfds.survey import ids

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]


@contextmanager
def logged_in(observatory: Sandbox, user: str) -> Iterator[Browser]:
    """A browser in which somebody has given name and password."""
    folder = Path(tempfile.mkdtemp(prefix="ztfds-browser-"))
    try:
        with browser(folder) as tab:
            tab.open(observatory.state.api_url)
            tab.fill("input[name=username]", user)
            tab.fill("input[name=password]", observatory.state.passwords[user])
            tab.click("Sign in")
            tab.see("Home")
            yield tab
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def operator(observatory: Sandbox) -> Iterator[Browser]:
    with logged_in(observatory, "operator") as tab:
        yield tab


@pytest.fixture(scope="module")
def failed(observatory: Sandbox) -> dict[str, str]:
    """A CCD file of a night in which the software failed on one quadrant; the mistake is repaired by now."""
    plan = observatory.plan(2)
    write_faults(
        observatory, [{"at": "science:computed", "do": "bug", "words": "sought", "once": f"bug-{plan.dates[0]}"}]
    )
    observatory.send(plan)
    observatory.finish(plan)
    write_faults(observatory, [])
    nid = ids.nid_of_date(plan.dates[0])
    query = "select c.filename, c.exposure from ccdfiles c join exposures using (exposure) where nid = %s and c.state = 'failed'"
    (row,) = observatory.query(query, (nid,))
    return {**row, "night": plan.dates[0]}


def page(observatory: Sandbox, tab: Browser, route: str) -> None:
    """One of our pages as Airflow shows it, in a frame."""
    tab.open(f"{observatory.state.api_url}/plugin/ztfds-{route}")


def until(observatory: Sandbox, tab: Browser, query: str, parameters: tuple[object, ...], what: str) -> None:
    """Wait for a row; what the reader sees is told when it does not come."""
    try:
        observatory.wait(lambda: bool(observatory.query(query, parameters)), what)
    except Exception as error:
        raise AssertionError(f"{what}: {tab.text()[:1500]}") from error


def test_from_tonight_to_the_reason_of_a_failed_quadrant_and_its_re_run_in_two_clicks(
    observatory: Sandbox, operator: Browser, failed: dict[str, str]
) -> None:
    page(observatory, operator, "tonight")
    operator.see("sought")
    operator.click(failed["exposure"])
    operator.see("Attempts that did not end well")
    operator.click("Run again what is not finished")
    operator.see("tasks run again")
    operator.wait(
        "document.querySelector('iframe').contentDocument.querySelector('h1')?.innerText.includes('processed')", 90
    )
    query = "select 1 from exposures where exposure = %s and state = 'processed'"
    assert observatory.query(query, (failed["exposure"],))
    waits = (
        "select 1 from alert_outbox where exposure = %s having bool_and(state = 'sent') and count(distinct rcid) = 8"
    )
    until(observatory, operator, waits, (failed["exposure"],), "the alerts of all eight quadrants are sent")
    operator.click("Run in Airflow")
    operator.wait(
        f"location.pathname == '/dags/exposure/runs/{failed['exposure']}' && document.body.innerText.includes('close')"
    )


def test_runs_tell_what_ran_where_with_what_and_what_was_said(
    observatory: Sandbox, operator: Browser, failed: dict[str, str]
) -> None:
    page(observatory, operator, "runs")
    frame = "document.querySelector('iframe').contentDocument"
    operator.see("search")
    for name, value in (("exposure", failed["exposure"]), ("class", "bug")):
        operator.ask(f"{frame}.querySelector('[name={name}]').value = '{value}'")
    operator.click("search")
    operator.wait(f"{frame}.location.search.includes('class=bug') && !!{frame}.querySelector('h2')")
    rows = operator.ask(f"{frame}.querySelector('table').rows.length")
    assert rows == 2, operator.text()
    row = operator.ask(f"{frame}.querySelector('table').rows[1].innerText")
    job = observatory.query("select * from jobs where exposure = %s and error_class = 'bug'", (failed["exposure"],))[0]
    assert all(
        words in row
        for words in (job["host"], job["swversion"], job["config_hash"][:12], f"rcid {job['rcid']}", "science")
    )
    assert job["waited_s"] > 0 and "drill: bug at science:computed" in operator.text()
    operator.click("process_ccd", exact=False)
    operator.wait(
        "location.pathname.includes('/tasks/process_ccd/mapped/') && document.body.innerText.includes('sought')"
    )


def fill_form(tab: Browser, dag: str, fill: Callable[[], None]) -> str:
    """Fill in the form of a DAG and send it; returns the run's id."""
    tab.click("Trigger Dag")
    tab.see("Run Parameters")
    fill()
    tab.click("Trigger", number=-1)
    tab.wait(f"location.pathname.startsWith('/dags/{dag}/runs/')")
    return str(tab.ask("decodeURIComponent(location.pathname.split('/').at(-1))"))


def decide(tab: Browser, words: str, answer: str) -> None:
    """Answer what a run asks for, once some words are there to decide by."""
    tab.wait("document.body.innerText.includes('Required Actions')")
    tab.open(tab.ask("location.href") + "/required_actions")
    tab.see(words)
    tab.click(answer)


def test_a_reprocessing_is_filed_previewed_approved_compared_and_rolled_back(
    observatory: Sandbox, operator: Browser, failed: dict[str, str]
) -> None:
    page(observatory, operator, "reprocessing")
    operator.click("reprocess")
    operator.wait("location.pathname == '/dags/reprocess'")

    def fill() -> None:
        operator.fill("#element_nights", failed["night"])
        operator.fill("#element_settings", "difference.candidates.threshold = 6.5")
        operator.fill("#element_rcids", "20")
        operator.fill("#element_reason", "fewer false candidates")

    fill_form(operator, "reprocess", fill)
    decide(operator, "→ 6.5", "Approve")
    until(observatory, operator, "select 1 from reprocessing_requests where state = 'done'", (), "the request is done")
    (row,) = observatory.query("select * from reprocessing_requests order by request_id desc limit 1")
    assert row["author"] == "operator" and row["outcome"].endswith("2 done")
    page(observatory, operator, "reprocessing")
    operator.click(str(row["request_id"]))
    operator.see("scatter of the change")
    operator.click("Roll back")
    operator.see("Started")
    until(
        observatory,
        operator,
        "select 1 from reprocessing_requests where state = 'rolled_back'",
        (),
        "it is rolled back",
    )
    page(observatory, operator, "reprocessing")
    operator.click(str(row["request_id"]))
    operator.see("2 files are served as before")


def test_a_reference_is_retired_with_all_that_depends_on_it_and_taken_back(
    observatory: Sandbox, operator: Browser, failed: dict[str, str]
) -> None:
    (row,) = observatory.query(
        "select d.*, r.rfid, r.field, r.fid from diffimages d join references_ r using (reference_id) where exposure = %s and d.rcid = 20",
        (failed["exposure"],),
    )
    page(observatory, operator, "references")
    operator.click(str(row["field"]), number=row["fid"] - 1)
    operator.click(str(row["rfid"]))
    for action, query in (("retire", "retired"), ("undo", "not retired")):
        operator.see("Ask for it")
        operator.ask(
            f"document.querySelector('iframe').contentDocument.querySelector('[name=reason]').value = '{action} it, a test'"
        )
        operator.click("Ask for it")
        operator.click("Started: see the run, and decide")
        operator.wait("location.pathname.startsWith('/dags/retire_reference/runs/')")
        operator.see("depend on it")
        operator.click("Approve")
        until(
            observatory,
            operator,
            f"select 1 from references_ where reference_id = %s and {query}",
            (row["reference_id"],),
            action,
        )
        marks = observatory.count(
            "select count(*) from product_marks m join products p using (product_id) where p.exposure = %s",
            (failed["exposure"],),
        )
        assert (marks > 0) == (action == "retire")
        operator.open(f"{observatory.state.api_url}/plugin/ztfds-references/ztfds/reference/{row['reference_id']}")
    assert observatory.query("select who from reference_retirements order by 1 desc limit 1") == [{"who": "operator"}]


def test_a_verdict_is_given_shown_and_withdrawn_and_a_viewer_may_not(
    observatory: Sandbox, operator: Browser, failed: dict[str, str]
) -> None:
    url = f"{observatory.state.api_url}/plugin/ztfds-tonight/ztfds/exposure/{failed['exposure']}/20"
    good = "select 1 from products where exposure = %s and rcid = 20 and kind = 'sciimg' and vbest > 0 and status = %s"
    with logged_in(observatory, "viewer") as viewer:
        viewer.open(url)
        viewer.see("Give the verdict")
        viewer.ask(
            "document.querySelector('iframe').contentDocument.querySelector('[name=comment]').value = 'not mine to say'"
        )
        viewer.click("Give the verdict")
        viewer.see("Your role may not do this")
    operator.open(url)
    operator.see("Give the verdict")
    operator.ask(
        "document.querySelector('iframe').contentDocument.querySelector('[name=comment]').value = 'a trail of a satellite'"
    )
    operator.click("Give the verdict")
    operator.see("Started")
    until(observatory, operator, good, (failed["exposure"], 0), "the image is defective")
    operator.click(failed["exposure"])
    operator.see("a trail of a satellite")
    operator.click("Withdraw")
    until(observatory, operator, good, (failed["exposure"], 1), "the image is as before")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_change_of_settings_is_rehearsed_refused_to_an_operator_and_approved_by_who_may(
    observatory: Sandbox, operator: Browser
) -> None:
    page(observatory, operator, "changes")
    operator.click("change_request")
    operator.wait("location.pathname == '/dags/change_request'")

    def fill() -> None:
        operator.fill("#element_purpose", "fewer false candidates")
        operator.fill("#element_risk", "faint transients are lost: seen in the completeness")
        operator.fill("#element_settings", "difference.candidates.threshold = 5.5")

    blocked = observatory.context.archive.parent / "rehearsal"
    assert not blocked.exists()
    blocked.write_text("a file where the rehearsal wants its folder: it cannot begin")
    run = fill_form(operator, "change_request", fill)
    undecided = "select 1 from setting_changes where state = 'failed' and comment ~ 'no end$'"
    until(observatory, operator, undecided, (), "the rehearsal fails, and the change stays")
    blocked.unlink()
    page(observatory, operator, "changes")
    operator.see("its rehearsal came to no end")
    operator.click("Rehearse again")
    operator.see("tasks run again")
    where = f"{observatory.state.api_url}/dags/change_request/runs/{quote(run, safe='')}/required_actions"
    validated = "select 1 from setting_changes where state = 'validated'"
    observatory.wait(lambda: bool(observatory.query(validated)), "the change is rehearsed", 3000)
    operator.open(where)
    operator.see("May decide: admin")
    assert "The rehearsal has no new problem" in operator.text() and "injected transients alerted" in operator.text()
    operator.click("Approve")
    operator.see("You do not have permission")
    assert observatory.query(validated), "nothing has been decided"
    with logged_in(observatory, "admin") as admin:
        admin.open(where)
        admin.see("May decide: admin")
        admin.click("Approve")
        in_force = (
            "select 1 from setting_changes where state = 'in_force' and decided_by = 'admin' and author = 'operator'"
        )
        observatory.wait(lambda: bool(observatory.query(in_force)), "the change is in force")
    page(observatory, operator, "changes")
    operator.see("in force")
    number = observatory.count("select max(change_id) from setting_changes")
    changes.withdraw(observatory.context, number, "admin", "the test is over")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_drills_are_started_by_their_dags_and_their_scores_shown(observatory: Sandbox, operator: Browser) -> None:
    for name in ("night_resent", "broker_down"):
        operator.open(f"{observatory.state.api_url}/dags/drill_{name}")
        operator.click("Trigger Dag")
        operator.click("Trigger", number=-1)
        query = "select 1 from drills where name = %s and passed"
        observatory.wait(
            lambda q=query, n=name: bool(observatory.query(q, (n,))), f"the drill {name} is survived", 2400
        )
    page(observatory, operator, "drills")
    operator.see("survived")
