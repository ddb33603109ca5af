"""The operators' pages on a processed exposure: what they say must be what the database says."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from prepared import CCD, process

from ztfds.operations import realtime, report
from ztfds.operations.pages import exposure as pages
from ztfds.operations.pages.channels import channels_page
from ztfds.operations.pages.coverage import coverage_fields
from ztfds.operations.pages.quality import field_page, night_page
from ztfds.operations.pages.references import references_page
from ztfds.operations.pages.render import ROOT, bars, binned, png
from ztfds.operations.pages.reports import report as one_report
from ztfds.operations.pages.reports import reports_page
from ztfds.operations.pages.tonight import disks, focal_plane, tonight, with_unmade
from ztfds.registry import database as db
from ztfds.survey import ids
from ztfds.survey.camera import CAMERAS, ZTF
from ztfds.survey.errors import FilesMissing
from ztfds.survey.figures import all_figures
from ztfds.survey.states import CcdState


class Links(HTMLParser):
    """Gathers where a page points to and what it loads."""

    def __init__(self, html):
        super().__init__()
        self.targets = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.targets += [value for name, value in attrs if name in ("href", "src")]


def text_of(html):
    """Words of a page without tags, style sheets and white space."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.S))


@pytest.fixture
def night(ready, mountain):
    """One science exposure more, closed; the context, its name and its night."""
    index = mountain.of_kind("o", 1)[0]
    outcome = process(ready, mountain, index)
    assert outcome.state is CcdState.processed
    realtime.close_exposure(ready, outcome.exposure)
    row = db.fetch_one(ready.dsn, "select nid from exposures where exposure = %s", (outcome.exposure,))
    return ready, outcome.exposure, row["nid"]


def test_tonight_counts_what_the_tables_hold(night):
    context, exposure, nid = night
    html = tonight(context.dsn, context.camera, {"archive": context.archive}, nid)
    words = text_of(html)
    alerts = db.fetch_one(context.dsn, "select count(*)::int as n from alert_outbox where exposure = %s", (exposure,))[
        "n"
    ]
    assert alerts > 0
    assert f"{alerts} alerts" in words and f"{alerts}, " in words  # made; all of them wait: there is no broker
    assert "1 exposures on sky" in words
    assert f"{ROOT}/exposure/{exposure}" in Links(html).targets
    assert "Nothing: no file is bad" in words
    assert html.count("1 of 1 images usable") == 4


def test_tonight_without_a_night_and_with_trouble(night, database):
    assert "nothing has arrived" in tonight(database.pipeline, ZTF, {})
    context, exposure, nid = night
    with db.transaction(context.dsn) as cursor:
        cursor.execute("update ccdfiles set state = 'bad', reason = 'clouds <b>&' where exposure = %s", (exposure,))
    html = tonight(context.dsn, context.camera, {"gone": context.archive / "gone"}, nid)
    assert "clouds &lt;b&gt;&amp;" in html
    assert "No such file" in html


def test_an_exposure_shows_its_quadrants_and_the_way_to_run_it_again(night):
    context, exposure, _ = night
    html = pages.exposure_page(context.dsn, context.camera, exposure)
    links = Links(html).targets
    quadrants = [f"{ROOT}/exposure/{exposure}/{rcid}" for rcid in context.camera.rcids]
    assert set(quadrants) <= set(links)
    assert "/dags/exposure/runs/run" in links
    assert html.count("difference made") == 4
    with pytest.raises(FilesMissing):
        pages.exposure_page(context.dsn, context.camera, "ztf_20200101000000")


def test_a_quadrant_shows_candidates_with_three_cutouts_products_and_pictures(night):
    context, exposure, _ = night
    query = "select rcid, count(*)::int as n from candidates where exposure = %s and alerted group by 1 order by 2 desc limit 1"
    best = db.fetch_one(context.dsn, query, (exposure,))
    html = pages.quadrant_page(context.dsn, exposure, best["rcid"])
    assert html.count("data:image/png;base64,") == 3 * min(best["n"], pages.MOST_CUTOUTS)
    for kind in ("sciimg", "scimrefdiffimg", "psfcat"):
        assert kind in html
    assert "from " in text_of(html) and "seeing_arcsec" in html
    for which in ("science", "difference"):
        assert f"{ROOT}/picture/{exposure}/{best['rcid']}/{which}.png" in Links(html).targets
        assert pages.picture(context.dsn, context.archive, exposure, best["rcid"], which).startswith(b"\x89PNG")
    with db.transaction(context.dsn) as cursor:
        cursor.execute(
            "update products set infobits = 4194304, meta = meta || '{\"doubts\": \"too noisy\"}' where kind = 'sciimg' and exposure = %s",
            (exposure,),
        )
    words = text_of(pages.quadrant_page(context.dsn, exposure, best["rcid"]))
    assert "sciimg: bit 22:" in words and "history: too noisy" in words
    with pytest.raises(FilesMissing):
        pages.picture(context.dsn, context.archive, exposure, best["rcid"], "../../etc/passwd")


def test_references_and_reports(night):
    context, _, nid = night
    words = text_of(references_page(context.dsn))
    assert "usable" in words and "None was tried in vain" in words
    assert "None has been written yet" in reports_page(context.dsn)
    report.write_report(context, nid)
    assert f"{ROOT}/report/{nid}" in Links(reports_page(context.dsn)).targets
    assert f"Night {ids.night_date(nid)}" in one_report(context.dsn, context.archive, nid)
    with pytest.raises(FilesMissing):
        one_report(context.dsn, context.archive, nid + 1)


def test_channels_show_departures(night):
    context, exposure, _ = night
    words = text_of(channels_page(context.dsn))
    assert words.count(exposure) == 4 and "overscan_mean_dn" in words and "gain_e_per_dn" in words
    with db.transaction(context.dsn) as cursor:
        cursor.execute(
            "update split_quality set flags = 1, reasons = 'overscan level 9 sigma off' where exposure = %s",
            (exposure,),
        )
    assert text_of(channels_page(context.dsn)).count("overscan level 9 sigma off") == 8


def test_no_page_asks_another_host(night):
    context, exposure, nid = night
    made = [
        tonight(context.dsn, context.camera, {}, nid),
        pages.exposure_page(context.dsn, context.camera, exposure),
        pages.quadrant_page(context.dsn, exposure, 4 * (CCD - 1)),
        references_page(context.dsn),
        reports_page(context.dsn),
        channels_page(context.dsn),
    ]
    for html in made:
        assert all(
            t.startswith((ROOT, "/dags/", "/required_actions", "#", "data:image/png")) for t in Links(html).targets
        )


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=lambda camera: camera.name)
def test_each_quadrant_has_its_own_place_in_the_focal_plane(camera):
    cells = focal_plane(camera, {})
    assert len({(cell["x"], cell["y"]) for cell in cells}) == len(camera.rcids)
    columns, rows = (1 + max(cell[axis] for cell in cells) for axis in "xy")
    assert columns * rows == len(camera.rcids)
    north = max(cells, key=lambda cell: camera.quadrant_centre_deg(cell["ccdid"], cell["qid"])[1])
    east = max(cells, key=lambda cell: camera.quadrant_centre_deg(cell["ccdid"], cell["qid"])[0])
    assert north["y"] == 0 and east["x"] == 0


def test_an_image_that_was_never_made_shows_in_the_focal_plane():
    files = [
        {"state": "failed", "ccdid": 2, "imgtype": "o", "n": 1}, {"state": "processed", "ccdid": 2, "imgtype": "o", "n": 3},
        {"state": "processed", "ccdid": 1, "imgtype": "o", "n": 1}, {"state": "ingested", "ccdid": 2, "imgtype": "b", "n": 9},
    ]  # fmt: skip
    seen = with_unmade({4: {"rcid": 4, "n": 3, "good": 3}, 5: {"rcid": 5, "n": 4, "good": 4}}, files)
    assert (seen[4]["n"], seen[4]["good"]) == (4, 3) and (seen[5]["n"], seen[5]["good"]) == (4, 4)
    assert (seen[7]["n"], seen[7]["good"], seen[0]["n"]) == (4, 0, 1) and set(seen) == set(range(8))


def test_drawing():
    plot = bars([1.0, float("nan"), 4.0], limit=2.0, width=30, height=100)
    assert [rect[3] for rect in plot["rects"]] == [25.0, 0.0, 100.0]
    assert plot["line"] == 50.0 and plot["top"] == 4.0
    pixels = np.ones((5, 4), np.float32)
    pixels[:2, :2] = np.nan
    pixels[0, 2] = 3.0
    assert np.array_equal(binned(pixels, 2), np.array([[np.nan, 1.5], [1, 1]], np.float32), equal_nan=True)
    assert png(np.full((3, 3), np.nan)).startswith(b"\x89PNG")
    assert disks({}) == []


def test_closing_an_exposure_sums_up_its_quality_and_counts_the_visit(night):
    context, exposure, nid = night
    found = db.fetch_all(context.dsn, "select * from exposure_quality where exposure = %s", (exposure,))
    assert {row["name"] for row in found} == {figure.name for figure in all_figures()}
    for row in found:
        values = db.fetch_all(
            context.dsn,
            "select rcid, value from qa_metrics where exposure = %s and name = %s order by value",
            (exposure, row["name"]),
        )
        assert row["n"] == len(values) == 4
        assert row["median"] == pytest.approx(np.median([v["value"] for v in values]), rel=1e-5)
        assert row["low"] <= row["median"] <= row["high"]
        assert values[0]["value"] == next(v["value"] for v in values if v["rcid"] == row["lowest_rcid"])
    one = db.fetch_one(context.dsn, "select field, fid, programid from exposures where exposure = %s", (exposure,))
    seen = coverage_fields(context.dsn, context.camera, nid)["fields"]
    visits = [v for f in seen if f["field"] == one["field"] for v in f["visits"]]
    assert [v[:4] for v in visits] == [[one["fid"], one["programid"], 1, 4]] and visits[0][4] is not None
    assert f"{ROOT}/exposure/{exposure}" in Links(field_page(context.dsn, context.camera, one["field"])).targets
    assert "1 exposures with figures" in text_of(night_page(context.dsn, nid))
