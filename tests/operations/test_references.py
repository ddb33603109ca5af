"""References end to end: the queue's outcome, a better set of images, retirement by the form, and what the pages say of it."""

import re

import pytest

from ztfds.operations import reference_service, references
from ztfds.operations.pages.references import reference_page, references_page
from ztfds.reference.quality import METRICS
from ztfds.registry import database as db
from ztfds.registry import reference_queue
from ztfds.registry import references as registry
from ztfds.survey import ids
from ztfds.survey.errors import ConfigurationError, FilesMissing, NoWork
from ztfds.survey.limits import limits_version

ANN = {"who": "ann", "reason": "doubled stars"}


def text_of(html):
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.S))


@pytest.fixture
def one(ready):
    """The context and the row of one of its references."""
    return ready, db.fetch_one(ready.dsn, "select * from references_ where vbest > 0 order by rcid limit 1")


def where(row):
    return {"field": row["field"], "rcid": row["rcid"], "fid": row["fid"]}


def test_metrics_limits_and_reasons_are_kept(one):
    context, row = one
    assert row["status"] == 1 and row["fwhm_px"] > 1 and row["limits_version"] == limits_version()
    kept = db.fetch_all(
        context.dsn, "select name, value from qa_metrics where provenance_id = %s", (row["provenance_id"],)
    )
    assert {metric["name"] for metric in kept} == set(METRICS)
    words = text_of(reference_page(context.dsn, row["reference_id"]))
    assert all(name in words for name in METRICS)
    assert words.count("ztf_20") >= row["nframes"] and str(row["rfid"]) in words
    with pytest.raises(FilesMissing):
        reference_page(context.dsn, 10**9)


def test_a_rejected_image_keeps_its_reason(one):
    context, row = one
    with db.transaction(context.dsn) as cursor:
        cursor.execute(
            "update products set meta = meta || '{\"SEEING\": 9.5}' where kind = 'sciimg' and product_id ="
            " (select max(product_id) from reference_members where reference_id = %s) returning exposure",
            (row["reference_id"],),
        )
        ((exposure,),) = cursor.fetchall()
        cursor.execute("update references_ set vbest = 0 where reference_id = %s", (row["reference_id"],))
    images = registry.inputs(context.dsn, **where(row))
    if len(images) <= context.config.reference.min_inputs:
        with pytest.raises(NoWork, match="are needed"):
            references.build(context, **where(row))
    else:
        references.build(context, **where(row))
    (left,) = db.fetch_one(context.dsn, "select rejected from reference_tries where rcid = %s", (row["rcid"],))[
        "rejected"
    ]
    assert left["exposure"] == exposure and "seeing" in left["reason"] and "9.5" in left["reason"]


def test_the_same_images_are_refused_with_a_line(one):
    context, row = one
    form = {"field": row["field"], "fid": row["fid"], "rcids": [row["rcid"]], **ANN}
    assert "1 references" in reference_service.order(context, form)
    assert references.wanted(context)[0] == where(row)
    assert references.build(context, **where(row)).skipped
    (entry,) = reference_queue.latest(context.dsn)
    assert entry["state"] == "refused" and "nothing new" in entry["outcome"]
    assert registry.usable(context.dsn, **where(row))["reference_id"] == row["reference_id"]
    with pytest.raises(ConfigurationError, match="channels"):
        reference_service.order(context, {**form, "rcids": [99]})
    with pytest.raises(ConfigurationError, match="reason and a name"):
        reference_service.order(context, {**form, "who": " "})


def test_much_better_images_are_queued_after_the_night_and_make_a_new_version(one):
    context, row = one
    night = db.fetch_one(context.dsn, "select max(nid) as nid from products where kind = 'sciimg'")["nid"]
    assert references.fill_queue(context, ids.night_date(night).replace("-", "")) == []
    members = reference_queue.members(context.dsn, row["reference_id"])
    with db.transaction(context.dsn) as cursor:  # what is in it was blunt: the images that there are now are sharper
        cursor.execute("delete from reference_members where reference_id = %s", (row["reference_id"],))
        for member in members[:2]:
            cursor.execute(
                "insert into reference_members (reference_id, product_id) values (%s, %s)",
                (row["reference_id"], member["product_id"]),
            )
    lines = references.fill_queue(context, ids.night_date(night).replace("-", ""))
    assert len(lines) == 1 and "deeper" in lines[0]
    with db.transaction(context.dsn) as cursor:
        cursor.execute("update references_ set provenance_id = 'old' where reference_id = %s", (row["reference_id"],))
        cursor.execute("update products set provenance_id = 'old' where provenance_id = %s", (row["provenance_id"],))
    built = references.build(context, **where(row))
    assert not built.skipped and built.version == 2
    (entry,) = reference_queue.latest(context.dsn)
    assert entry["state"] == "done" and entry["made_version"] == 2
    served = registry.usable(context.dsn, **where(row))
    assert served["version"] == 2
    assert reference_queue.find(context.dsn, row["rfid"], 1)["vbest"] == 0  # the older one remains readable
    assert (context.archive / served["products"]["refimg"]["path"]).exists()


def test_retiring_by_the_form_marks_lists_and_queues_and_is_undone_by_it(one):
    context, row = one
    form = {"rfid": row["rfid"], "version": None, "action": "retire", **ANN}
    assert "0 differences" in reference_service.preview(context, form)
    assert "is retired" in reference_service.decide(context, form)
    with pytest.raises(NoWork, match="retired"):  # the same images may not bring it back
        references.build(context, **where(row))
    page = text_of(references_page(context.dsn))
    assert "doubled stars" in page and "refused" in page and "retired" in page
    assert "served again" in reference_service.decide(context, {**form, "action": "undo"})
    assert registry.usable(context.dsn, **where(row))["reference_id"] == row["reference_id"]
    assert "locked" in reference_service.decide(context, {**form, "action": "lock"})
    assert "no longer locked" in reference_service.decide(context, {**form, "action": "release"})
    with pytest.raises(ConfigurationError):
        reference_service.decide(context, {**form, "action": "delete"})
    with pytest.raises(ConfigurationError):
        reference_service.preview(context, {**form, "reason": ""})
