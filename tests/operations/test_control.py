"""What people decide: degraded modes, verdicts with their cascade, reprocessing with comparison and roll-back; on real products."""

from __future__ import annotations

import pytest
from prepared import CCD, process

from ztfds.operations import realtime
from ztfds.operations.control import modes, reprocessing, verdicts
from ztfds.operations.pages.reprocessing import reprocessing_page, request_page
from ztfds.registry import database, references
from ztfds.survey import ids
from ztfds.survey.camera import rcid
from ztfds.survey.errors import ConfigurationError, NoWork
from ztfds.survey.states import CcdState

WHO = {"author": "A. Operator", "reason": "a test of reprocessing"}


def rows(context, query, *parameters):
    return database.fetch_all(context.dsn, query, parameters)


def one_exposure(context, mountain):
    index = mountain.of_kind("o", 1)[0]
    return process(context, mountain, index), mountain.plan.dates[1]


def served(context, exposure):
    found = rows(
        context,
        "select kind, rcid, product_id from products where exposure = %s and vbest > 0 and kind <> 'raw'",
        exposure,
    )
    return {(row["kind"], row["rcid"]): row["product_id"] for row in found}


def candidates(context, exposure):
    return rows(context, "select * from candidates where exposure = %s order by candid", exposure)


def test_modes_are_heeded_from_the_next_task_on_and_switched_off_again(ready, mountain):
    nid = ids.nid_of_date(mountain.plan.dates[1])
    assert "is on" in modes.switch(ready.dsn, nid, "calibrate_only", True, "A. Operator", "disk is slow")
    assert "already" in modes.switch(ready.dsn, nid, "calibrate_only", True, "A. Operator", "disk is slow")
    outcome, _ = one_exposure(ready, mountain)
    assert outcome.state is CcdState.calibrated and "switched off" in outcome.reason
    modes.switch(ready.dsn, nid, "calibrate_only", False, "A. Operator", "disk is well")
    modes.switch(ready.dsn, nid, "no_alerts", True, "A. Operator", "brokers asked for a pause")
    again = realtime.process_ccd(ready, outcome.filename)
    assert again.state is CcdState.processed and sum(q.alerts for q in again.quadrants) == 0
    assert candidates(ready, outcome.exposure) and rows(ready, "select 1 from alert_outbox") == []
    with pytest.raises(ConfigurationError, match="not a mode"):
        modes.switch(ready.dsn, nid, "no_pixels", True, "A. Operator", "why not")


def test_a_defective_exposure_is_used_for_nothing_and_its_references_are_made_anew(ready, mountain):
    epoch = rows(ready, "select exposure from reference_members limit 1")[0]["exposure"]
    quadrant, other = rcid(CCD, 1), rcid(CCD, 2)
    before = len(references.inputs(ready.dsn, mountain.plan.fields[0], quadrant, 2))
    given = verdicts.give(ready.dsn, epoch, quadrant, "defective", "A. Scientist", "focus was lost")
    assert given.images == 1 and len(given.references) == 1
    assert len(references.inputs(ready.dsn, mountain.plan.fields[0], quadrant, 2)) == before - 1
    assert len(references.inputs(ready.dsn, mountain.plan.fields[0], other, 2)) == before
    queued = rows(ready, "select rcid, reason from references_ where regenerate")
    assert [row["rcid"] for row in queued] == [quadrant] and "focus was lost" in queued[0]["reason"]
    later = verdicts.give(ready.dsn, epoch, None, "blessed", "B. Scientist", "it is a good image after all")
    assert later.images == 1
    with pytest.raises(ConfigurationError, match="later verdict"):
        verdicts.withdraw(ready.dsn, given.verdict_id, "A. Scientist")
    assert verdicts.withdraw(ready.dsn, later.verdict_id, "B. Scientist").images == 1
    assert verdicts.withdraw(ready.dsn, given.verdict_id, "A. Scientist").images == 1
    assert len(references.inputs(ready.dsn, mountain.plan.fields[0], quadrant, 2)) == before
    assert [row["withdrawn_by"] for row in verdicts.of_exposure(ready.dsn, epoch)] == ["B. Scientist", "A. Scientist"]


def test_verdicts_that_make_no_sense_change_nothing(ready):
    epoch = rows(ready, "select exposure from reference_members limit 1")[0]["exposure"]
    for exposure, verdict, comment, words in (
        ("ztf_20200101000000", "defective", "x", "no images"),
        (epoch, "so-so", "x", "not a verdict"),
        (epoch, "blessed", " ", "a name and a comment"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            verdicts.give(ready.dsn, exposure, None, verdict, "A. Scientist", comment)
    assert rows(ready, "select 1 from verdicts") == []


def filed(context, night, **more):
    form = {
        "nights": [night],
        "steps": ["difference"],
        "settings": {"difference": {"candidates": {"threshold": 6.0}}},
        **WHO,
        **more,
    }
    return reprocessing.file_request(context, form)


def worked(context):
    (share,) = reprocessing.begin(context)
    lines = reprocessing.work(context, **share, run_id="reprocess")
    return lines, reprocessing.finish(context, share["request_id"])


def test_a_request_makes_new_versions_which_are_compared_and_rolled_back(ready, mountain):
    outcome, night = one_exposure(ready, mountain)
    assert outcome.state is CcdState.processed
    before, found = served(ready, outcome.exposure), candidates(ready, outcome.exposure)
    image = rows(ready, "select * from diffimages where exposure = %s order by rcid", outcome.exposure)
    alerts = rows(ready, "select candid from alert_outbox order by 1")
    number, line = filed(ready, night)
    made_by_p6 = {kind for kind, _ in before} & {
        row["kind"] for row in rows(ready, "select distinct kind from products where step = 'difference'")
    }
    replaced = sum(kind in made_by_p6 for kind, _ in before)
    assert f"request {number}: 1 CCD files of 1 exposures; replaces {replaced} products" in line
    lines, said = worked(ready)
    assert lines == [f"{outcome.filename}: done"] and said == f"request {number}: 1 done"
    now = served(ready, outcome.exposure)
    changed = {kind for (kind, channel), product in now.items() if before.get((kind, channel)) != product}
    assert (
        {"scimrefdiffimg", "diffimgpsf", "diffimlog"} <= changed <= made_by_p6 | {"streaks", "strkades", "strkcutouts"}
    ), "calibrated images stay as they are"
    fewer = candidates(ready, outcome.exposure)
    assert 0 < len(fewer) < len(found)
    assert {row["candid"] for row in fewer} < {row["candid"] for row in found}, "a detection keeps its number"
    assert len(rows(ready, "select 1 from former_candidates")) == len(found)
    assert rows(ready, "select candid from alert_outbox order by 1") == alerts, "nothing is sent again unasked"
    compared = {row["name"]: row for row in reprocessing.compare(ready.dsn, number)}
    assert compared["n_candidates"]["n"] == 4 and compared["n_candidates"]["change"] <= 0
    assert compared["scorr_width_raw"]["change"] == pytest.approx(0, abs=0.02), "images read back are quantised"
    assert "n_candidates" in request_page(ready.dsn, number) and WHO["reason"] in reprocessing_page(ready.dsn)
    assert "1 files are served as before" in reprocessing.control(ready, number, "roll_back")
    assert served(ready, outcome.exposure) == before
    assert candidates(ready, outcome.exposure) == found
    assert rows(ready, "select * from diffimages where exposure = %s order by rcid", outcome.exposure) == image
    with pytest.raises(ConfigurationError, match="rolled back"):
        reprocessing.control(ready, number, "roll_back")


def test_the_same_settings_make_nothing_and_alerts_are_sent_when_asked_for(ready, mountain):
    outcome, night = one_exposure(ready, mountain)
    before, n_alerts = served(ready, outcome.exposure), len(rows(ready, "select 1 from alert_outbox"))
    filed(ready, night, settings={})
    assert worked(ready)[0] == [f"{outcome.filename}: unchanged"]
    assert served(ready, outcome.exposure) == before
    number, _ = filed(ready, night, resend=True, settings={"difference": {"candidates": {"threshold": 5.5}}})
    assert worked(ready)[1] == f"request {number}: 1 done"
    sent = rows(ready, "select candid from alert_outbox")
    assert len(sent) > n_alerts and len({row["candid"] for row in sent}) == len(sent)


def test_pause_resume_cancel_and_priority(ready, mountain):
    one_exposure(ready, mountain)
    night = mountain.plan.dates[1]
    slow, _ = filed(ready, night, priority=7)
    fast, _ = filed(ready, night, priority=2, settings={"difference": {"star_snr": 31.0}})
    (share,) = reprocessing.begin(ready)
    assert share["request_id"] == fast
    reprocessing.control(ready, fast, "pause")
    assert reprocessing.work(ready, **share) == [f"{share['filenames'][0]}: paused"]
    assert reprocessing.finish(ready, fast) == f"request {fast}: 1 waiting"
    reprocessing.control(ready, slow, "cancel")
    assert reprocessing.begin(ready) == [], "what is paused or cancelled is not begun"
    reprocessing.control(ready, fast, "resume")
    assert worked(ready)[1] == f"request {fast}: 1 done"
    with pytest.raises(ConfigurationError, match="cannot be"):
        reprocessing.control(ready, fast, "pause")


def test_a_run_takes_short_tasks_only_and_leaves_the_rest_to_the_next(ready, mountain, monkeypatch):
    one_exposure(ready, mountain)
    process(ready, mountain, mountain.of_kind("o", 1)[1])
    monkeypatch.setattr(reprocessing, "MOST_TASKS", 1)
    monkeypatch.setattr(reprocessing, "MOST_FILES", 1)
    number, _ = filed(ready, mountain.plan.dates[1], settings={})
    assert not reprocessing.more(ready), "nothing is begun"
    lines, said = worked(ready)
    assert len(lines) == 1 and said == f"request {number}: 1 unchanged, 1 waiting"
    assert reprocessing.more(ready)
    assert worked(ready)[1] == f"request {number}: 2 unchanged" and not reprocessing.more(ready)


def test_a_failure_leaves_what_is_served(ready, mountain, monkeypatch):
    outcome, night = one_exposure(ready, mountain)
    before, state = (
        served(ready, outcome.exposure),
        rows(ready, "select state, reason from ccdfiles where filename = %s", outcome.filename),
    )
    number, _ = filed(ready, night)

    def broken(*_: object) -> None:
        raise RuntimeError("a bug of the new version")

    monkeypatch.setattr(realtime.difference, "run", broken)
    assert worked(ready)[1] == f"request {number}: 1 failed"
    assert served(ready, outcome.exposure) == before
    assert rows(ready, "select state, reason from ccdfiles where filename = %s", outcome.filename) == state
    (item,) = rows(ready, "select state, reason from reprocessing_items where request_id = %s", number)
    assert item["state"] == "failed" and "a bug of the new version" in item["reason"]


def test_requests_that_make_no_sense_are_refused_with_the_reason(ready, mountain):
    for change, words in (
        ({"nights": []}, "at least one night"),
        ({"nights": ["tonight"]}, "not understood"),
        ({"rcids": [99]}, "not understood"),
        ({"reason": " "}, "a name and a reason"),
        ({"settings": {"difference": {"no_such": 1}}}, "no such setting: no_such"),
        ({"settings": {"difference": {"candidates": {"threshold": -1}}}}, "not allowed"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            filed(ready, mountain.plan.dates[0], **change)
    with pytest.raises(NoWork):
        filed(ready, "20300101")
    assert rows(ready, "select 1 from reprocessing_requests") == []
