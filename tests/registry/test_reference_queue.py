"""The queue of references, the rules that fill it, retirement with dependants, and its undoing."""

import pytest
from test_exposures import BASE, _image, _reference

from ztfds.registry import candidates, exposures, products, reference_queue, references
from ztfds.registry import database as db
from ztfds.registry.products import Parent, Subject
from ztfds.registry.reference_queue import Wish
from ztfds.survey.errors import NoWork, ReferenceMissing

WHERE = (600, 20, 1)
OPERATOR = Wish("operator", "stars look double", "ann", 4)


def queued(database):
    return [(r["origin"], r["reason"], r["state"]) for r in reference_queue.latest(database.reader)]


def enqueue(database, wish, where=WHERE):
    with db.transaction(database.pipeline) as cursor:
        return reference_queue.enqueue(cursor, *where, wish)


def _difference(cursor, i, status, reason, parent, reference_id):
    """A difference image with its product, whose parent is the reference's image."""
    exposure = f"ztf_20181203{i:06d}"
    exposures.register_exposure(cursor, {**BASE, "exposure": exposure, "obsjd": 2458455.5 + i / 1e3})
    subject = Subject(f"diff/{exposure}/rcid20", exposure=exposure, nid=700, field=600, fid=1, rcid=20)
    values = {"step": "difference", "filename": f"d{i}", "path": f"d{i}", "bytes": 1, "sha256": "0", "swversion": "x"}
    made = products.register(
        cursor, subject, {**values, "kind": "scimrefdiffimg", "provenance_id": f"d{i}", "version": 1, "status": status}
    )
    products.link(cursor, [made["product_id"]], [Parent(parent["product_id"], parent["provenance_id"])])
    sky = {"ra": 10.0, "dec": 20.0, "corners": [0.0] * 8, "ncandidates": 10 * i, "nalertpackets": i}
    candidates.register_difference(
        cursor,
        {"pid": i, "provenance_id": f"d{i}", "product_id": made["product_id"], "exposure": exposure, "nid": 700, "field": 600,
         "fid": 1, "rcid": 20, "jd": 2458455.5 + i / 1e3, "programid": 1, "status": status, "reason": reason,
         "reference_id": reference_id, **sky},
    )  # fmt: skip
    return made


@pytest.fixture
def served(database):
    """A usable reference of six images with its own product; its id and product row."""
    with db.transaction(database.pipeline) as cursor:
        images = [_image(cursor, i) for i in range(1, 7)]
        subject = Subject("ref/000600/1/rcid20", field=600, fid=1, rcid=20)
        values = {"step": "reference", "filename": "r", "path": "r", "bytes": 1, "sha256": "0", "swversion": "x"}
        image = products.register(cursor, subject, {**values, "kind": "refimg", "provenance_id": "r1", "version": 1})
        return _reference(cursor, 1, 1, images), image


def test_a_wish_is_kept_once_with_all_its_reasons_and_the_higher_priority(database):
    first = enqueue(database, OPERATOR)
    assert enqueue(database, Wish("bad differences", "3 of 5 are bad", "end of night", 2)) == first
    enqueue(database, OPERATOR)  # said before: no second time
    (row,) = reference_queue.waiting(database.reader)
    assert row["reason"] == "stars look double; 3 of 5 are bad" and row["priority"] == 4 and row["who"] == "ann"


def test_the_queue_goes_by_priority_and_age_and_ends_with_an_outcome(database, served):
    enqueue(database, Wish("better inputs", "sharper", "end of night"), (601, 20, 1))
    enqueue(database, Wish("failed quality", "newer images", "end of night", 1), (602, 20, 1))
    entry = enqueue(database, OPERATOR)
    assert [row["field"] for row in reference_queue.waiting(database.reader)] == [600, 602, 601]
    query = "select regenerate from references_"
    assert db.fetch_one(database.reader, query)["regenerate"]
    assert reference_queue.start(database.pipeline, *WHERE) == entry
    assert [row["field"] for row in reference_queue.waiting(database.reader)] == [602, 601]
    assert reference_queue.start(database.pipeline, *WHERE) == entry  # a second attempt of the same task
    reference_queue.finish(database.pipeline, entry, "done", "version 2 of 9 images")
    assert not db.fetch_one(database.reader, query)["regenerate"]
    assert reference_queue.start(database.pipeline, *WHERE) is None
    assert ("operator", "stars look double", "done") in queued(database)
    assert enqueue(database, OPERATOR) != entry  # a new wish is a new entry


def test_a_killed_run_leaves_its_entry_to_a_later_one(database):
    enqueue(database, OPERATOR)
    reference_queue.start(database.pipeline, *WHERE)
    with db.transaction(database.pipeline) as cursor:
        cursor.execute("update reference_queue set started = now() - interval '7 hours'")
    assert [row["field"] for row in reference_queue.waiting(database.reader)] == [600]


@pytest.mark.parametrize(("bad", "found"), [(2, 0), (3, 1)])
def test_repeated_bad_differences_are_told(database, served, bad, found):
    reference_id, image = served
    with db.transaction(database.pipeline) as cursor:
        for i in range(1, 4):
            _difference(cursor, i, 0, "misregistered by 2 px", image, reference_id)  # long ago
        for i in range(4, 9):
            _difference(cursor, i, int(i - 4 >= bad), "wrong PSF" if i - 4 < bad else None, image, reference_id)
    rows = reference_queue.with_bad_differences(database.reader, "misregistered|wrong PSF", 3, 5)
    assert [(row["rfid"], row["bad"], row["n"], row["reason"]) for row in rows] == [
        (600120120, 3, 5, "wrong PSF")
    ] * found
    assert reference_queue.with_bad_differences(database.reader, "no zero point", 1, 5) == []
    enqueue(database, OPERATOR)
    assert reference_queue.with_bad_differences(database.reader, "wrong PSF", 1, 5) == []


def test_a_failed_reference_with_newer_images_is_told(database):
    with db.transaction(database.pipeline) as cursor:
        images = [_image(cursor, i) for i in range(1, 7)]
        _reference(cursor, 1, 0, images)
    available = references.inputs(database.reader, *WHERE)
    references.note_try(database.pipeline, *WHERE, available, "FWHM", [{"product_id": 1, "reason": "blunt"}])
    assert reference_queue.failed_with_newer_inputs(database.reader) == []
    with db.transaction(database.pipeline) as cursor:
        _image(cursor, 8)
        _image(cursor, 9, status=0)
    assert [row["newer"] for row in reference_queue.failed_with_newer_inputs(database.reader)] == [1]
    assert db.fetch_one(database.reader, "select rejected from reference_tries")["rejected"][0]["reason"] == "blunt"


def test_retirement_lists_and_marks_every_dependant_and_can_be_undone(database, served):
    reference_id, image = served
    with db.transaction(database.pipeline) as cursor:
        made = [_difference(cursor, i, 1, None, image, reference_id) for i in (1, 2)]
        late = {
            "kind": "lightcurve",
            "provenance_id": "l1",
            "version": 1,
            "step": "match",
            "filename": "l",
            "path": "l",
        }
        child = products.register(cursor, Subject("lc/1"), {**late, "bytes": 1, "sha256": "0", "swversion": "x"})
        products.link(cursor, [child["product_id"]], [Parent(made[0]["product_id"], "d1")])
    before = db.fetch_all(database.reader, "select * from products order by product_id")
    found = reference_queue.dependants(database.reader, reference_id)
    assert {k["kind"]: k["n"] for k in found["products"]} == {"scimrefdiffimg": 2, "lightcurve": 1}
    assert (found["differences"], found["candidates"], found["alerts"]) == (2, 30, 3)
    assert found["nights"] == [{"nid": 700, "differences": 2, "candidates": 30, "alerts": 3}]
    done = reference_queue.retire(database.pipeline, reference_id, "doubled stars", "ann")
    assert done["marked"] == 3 and done["differences"] == 2
    marks = db.fetch_all(database.reader, "select product_id, mark from product_marks order by 1")
    assert [m["product_id"] for m in marks] == sorted([*(m["product_id"] for m in made), child["product_id"]])
    assert {m["mark"] for m in marks} == {"reference retired"}
    with pytest.raises(ReferenceMissing):
        references.usable(database.reader, *WHERE)
    assert queued(database)[0][0] == "retired"
    with pytest.raises(NoWork, match="already"):
        reference_queue.retire(database.pipeline, reference_id, "again", "ann")
    assert not references.serve_again(database.pipeline, reference_id)
    undone = reference_queue.unretire(database.pipeline, reference_id, "a mistake", "bob")
    assert undone == {"unmarked": 3, "served": 1}
    assert references.usable(database.reader, *WHERE)["reference_id"] == reference_id
    assert db.fetch_all(database.reader, "select * from products order by product_id") == before
    assert queued(database)[0][2] == "refused" and reference_queue.waiting(database.reader) == []
    with pytest.raises(NoWork, match="not retired"):
        reference_queue.unretire(database.pipeline, reference_id, "again", "bob")
    (kept,) = reference_queue.retirements(database.reader)
    assert kept["who"] == "ann" and kept["undone_by"] == "bob" and kept["summary"]["alerts"] == 3


def test_an_undone_retirement_does_not_push_out_the_newer_one(database, served):
    reference_id, _ = served
    reference_queue.retire(database.pipeline, reference_id, "doubled stars", "ann")
    with db.transaction(database.pipeline) as cursor:
        newer = _reference(cursor, 2, 1)
    assert reference_queue.unretire(database.pipeline, reference_id, "a mistake", "bob")["served"] == 0
    assert references.usable(database.reader, *WHERE)["reference_id"] == newer


def test_a_locked_reference_stays_and_the_older_one_remains_readable(database, served):
    first, _ = served
    with db.transaction(database.pipeline) as cursor:
        second = _reference(cursor, 2, 1)
    assert references.usable(database.reader, *WHERE)["reference_id"] == second
    assert reference_queue.find(database.reader, 600120120, 1)["reference_id"] == first
    reference_queue.lock(database.pipeline, first, True)
    with db.transaction(database.pipeline) as cursor:
        _reference(cursor, 3, 1)
    assert references.usable(database.reader, *WHERE)["reference_id"] == first
    query = "select vbest from products where provenance_id = 'r1'"
    assert db.fetch_one(database.reader, query)["vbest"] == 2
    reference_queue.lock(database.pipeline, first, False)
    assert references.usable(database.reader, *WHERE)["vbest"] == 1
    with pytest.raises(NoWork, match="no reference"):
        reference_queue.find(database.reader, 1)


def test_operators_may_queue_and_readers_may_not(database):
    with pytest.raises(Exception, match="permission denied"), db.transaction(database.reader) as cursor:
        reference_queue.enqueue(cursor, *WHERE, OPERATOR)
