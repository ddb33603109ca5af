"""Fields off the grid: quarantined until they are prepared, then processed by the same code as every other."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from prepared import CCD
from tiny import deliver

from ztfds.formats.catalogs import StaticCatalogs
from ztfds.formats.raw import read_raw, write_raw
from ztfds.operations import realtime
from ztfds.operations.day.fields import prepare
from ztfds.operations.receive import receive
from ztfds.registry import database as db
from ztfds.survey import fields
from ztfds.survey.errors import BadCatalog, ConfigurationError
from ztfds.survey.names import RawName
from ztfds.survey.states import CcdState

NUMBER = 2017


@pytest.fixture
def off_grid(mountain, tmp_path):
    """The raw file of an exposure, under a field number that is not on the grid."""
    (path,) = mountain.files(mountain.of_kind("o", 1)[0], CCD)
    raw = read_raw(path, mountain.plan.camera.quadrant_shape)
    raw.header["FIELDID"] = NUMBER
    name = replace(RawName.parse(path.name), field=NUMBER)
    write_raw(tmp_path / name.filename, raw.header, raw.quadrants)
    return tmp_path / name.filename


def form(field, **more):
    return {"field": NUMBER, "ra": field.ra, "dec": field.dec, "words": "a test", "author": "Ada", "least": 5, **more}


def centre(mountain):
    return fields.get(mountain.plan.exposures[mountain.of_kind("o", 0)[0]].fieldid)


def elsewhere(context, tmp_path):
    """The context with a folder of catalogs that has no star near the field."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return replace(context, catalogs=folder)


def test_a_prepared_field_is_processed_after_its_file_was_quarantined(ready, mountain, off_grid, tmp_path):
    (name,) = deliver(ready, off_grid)
    got = receive(ready, name, None)
    assert (got.verdict, got.error_code) == ("quarantined", "off_grid")
    context = elsewhere(ready, tmp_path)
    field = centre(mountain)
    with pytest.raises(BadCatalog, match=f"a quadrant of field {NUMBER} has 0 gaia stars"):
        prepare(context, form(field))
    assert db.fetch_all(ready.dsn, "select 1 from prepared_fields") == []
    outcome = prepare(context, form(field, source=str(mountain.root / "catalogs"), release=True))
    assert "1 files sent again" in outcome.line and (context.inbox / name).is_file()
    assert {table["name"] for table in outcome.figures["added"]} == {
        f"gaia_field{NUMBER:06d}.parquet", f"ps1_field{NUMBER:06d}.parquet",
    }  # fmt: skip
    done = realtime.process_ccd(context, name, None, "run")
    assert done.state is CcdState.calibrated and "no reference" in done.reason
    row = db.fetch_one(
        ready.dsn,
        "select c.state, c.error_code, field from ccdfiles c join exposures using (exposure) where filename = %s",
        (name,),
    )
    assert (row["state"], row["error_code"], row["field"]) == ("calibrated", "reference_missing", NUMBER)
    verdicts = db.fetch_all(ready.dsn, "select verdict from receipts where filename = %s order by receipt_id", (name,))
    assert [row["verdict"] for row in verdicts] == ["quarantined", "accepted"]
    images = db.fetch_all(
        ready.dsn, "select 1 from products where kind = 'sciimg' and exposure = %s and vbest > 0", (name[:18],)
    )
    assert len(images) == 4
    assert "0 files sent again" in prepare(context, form(field, release=True)).line, (
        "what is accepted is not sent again"
    )


def test_stars_that_are_there_are_not_added_twice(context, mountain):
    field = centre(mountain)
    shared = replace(context, catalogs=context.archive / "catalogs")
    shutil.copytree(mountain.root / "catalogs", shared.catalogs)
    outcome = prepare(shared, form(field, source=str(mountain.root / "catalogs")))
    assert "no table was needed" in outcome.line and outcome.figures["added"] == []
    assert prepare(shared, form(field)).line == outcome.line
    partly = replace(context, catalogs=context.archive / "partly")
    partly.catalogs.mkdir()
    prepare(partly, form(field, source=str(mountain.root / "catalogs")))
    radius = context.camera.radius_deg()
    for ask in ("gaia", "ps1"):
        whole = getattr(StaticCatalogs(shared.catalogs), ask)(field.ra, field.dec, radius)
        cut = getattr(StaticCatalogs(partly.catalogs), ask)(field.ra, field.dec, radius)
        assert len(whole) == len(cut) > 0 and (whole == cut).all() if ask == "gaia" else len(whole) == len(cut)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"field": 600}, "numbers off the grid are"),
        ({"field": 1999}, "numbers off the grid are"),
        ({"ra": 400.0}, "is no position"),
        ({"author": " "}, "somebody who prepares it"),
    ],
)
def test_what_is_no_field_off_the_grid_is_refused(context, mountain, changed, words):
    with pytest.raises(ConfigurationError, match=words):
        prepare(context, {**form(centre(mountain)), **changed})


def test_a_number_means_one_place(context, mountain):
    field = centre(mountain)
    prepare(context, form(field))
    with pytest.raises(ConfigurationError, match="take another number"):
        prepare(context, {**form(field), "ra": field.ra + 0.01})


def test_a_prepared_field_still_refuses_a_pointing_elsewhere(context, mountain, off_grid):
    field = centre(mountain)
    with db.transaction(context.dsn) as cursor:
        values = {"field": NUMBER, "ra": (field.ra + 5) % 360, "dec": field.dec, "words": "", "gaia_least": 1, "ps1_least": 1,
                  "catalogs": {}, "author": "Ada"}  # fmt: skip
        db.insert(cursor, "prepared_fields", values)
    (name,) = deliver(context, off_grid)
    assert receive(context, name, None).error_code == "mislabelled"
