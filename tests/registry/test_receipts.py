"""Manifests in the registry: which one counts, and what is refused."""

import pytest

from ztfds.registry import database as db
from ztfds.registry import receipts
from ztfds.survey.errors import UnreadableFile

NID = 700
FILES = {letter: {"filename": f"{letter}.fits.fz", "bytes": 5, "sha256": letter * 64} for letter in "abcd"}


def _store(database, sha256, letters, part="night"):
    name = f"ztf_20181202_{'manifest' if part == 'night' else 'calmanifest'}.json"
    return receipts.store_manifest(database.pipeline, NID, part, "tiny", name, sha256, [FILES[x] for x in letters])


def _named(database, part=None):
    return [row["filename"][0] for row in receipts.manifest_files(database.reader, NID, part)]


def _age(database, key):
    return db.fetch_one(
        database.reader, "select extract(epoch from now() - arrival) as s from manifests where manifest_id = %s", (key,)
    )["s"]


def test_the_current_manifest_again_changes_nothing(database):
    first = _store(database, "A", "ab")
    before = db.fetch_all(database.reader, "select * from manifests")
    assert _store(database, "A", "ab") == first
    assert db.fetch_all(database.reader, "select * from manifests") == before


def test_the_last_one_that_came_counts_even_if_it_came_before(database):
    other = _store(database, "C", "d", "calibration")
    first = _store(database, "A", "ab")
    second = _store(database, "B", "abc")
    assert _named(database, "night") == ["a", "b", "c"]
    with db.transaction(database.pipeline) as cursor:
        cursor.execute("update manifests set arrival = now() - interval '1 day'")
    assert _store(database, "A", "ab") == first
    assert _named(database, "night") == ["a", "b"] and _named(database, "calibration") == ["d"]
    assert receipts.current_manifest(database.reader, NID, "night")["manifest_id"] == first
    assert receipts.current_manifest(database.reader, NID, "calibration")["manifest_id"] == other
    assert _age(database, first) < 3600 < _age(database, second)
    assert _store(database, "B", "abc") == second and _named(database, "night") == ["a", "b", "c"]


def test_a_manifest_of_no_files_is_one_too(database):
    assert receipts.current_manifest(database.reader, NID, "night") is None
    key = _store(database, "A", "")
    assert _named(database) == [] and receipts.current_manifest(database.reader, NID, "night")["manifest_id"] == key


def test_the_same_entry_twice_counts_once(database):
    _store(database, "A", "aab")
    assert _named(database) == ["a", "b"]


def test_a_camera_that_cannot_be_stored_is_refused(database):
    with pytest.raises(UnreadableFile):
        receipts.store_manifest(database.pipeline, NID, "night", "tiny\0", "ztf_20181202_manifest.json", "D", [])


@pytest.mark.parametrize(
    "entry",
    [
        {"filename": "a.fits.fz", "bytes": 6, "sha256": "a" * 64},
        {"filename": "x", "bytes": 2**63, "sha256": "0"},
        {"filename": "x", "bytes": -1, "sha256": "0"},
        {"filename": "x\0y", "bytes": 1, "sha256": "0"},
        {"filename": "x", "bytes": 1, "sha256": "\0"},
        {"filename": "x\udcff", "bytes": 1, "sha256": "0"},
        {"filename": "x" * 10000, "bytes": 1, "sha256": "0"},
    ],
    ids=[
        "contradiction",
        "too large",
        "negative",
        "nul in name",
        "nul in checksum",
        "half a character",
        "endless name",
    ],
)
def test_a_damaged_one_is_refused_and_the_former_stays(database, entry):
    _store(database, "A", "ab")
    with pytest.raises(UnreadableFile):
        receipts.store_manifest(
            database.pipeline, NID, "night", "tiny", "ztf_20181202_manifest.json", "D", [FILES["a"], entry]
        )
    assert _named(database) == ["a", "b"]
