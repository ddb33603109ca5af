import json

import pytest

from ztfds.formats.manifests import ManifestFile, make_manifest, write_manifest
from ztfds.operations import afternoon
from ztfds.operations.context import Context
from ztfds.registry import receipts
from ztfds.survey.errors import BadData

DATE = "20181202"
NAME = f"ztf_{DATE}_manifest.json"


@pytest.fixture
def context(database, tmp_path):
    places = {n: tmp_path / n for n in ("archive", "inbox", "catalogs")}
    for folder in places.values():
        folder.mkdir()
    return Context.build(database.pipeline, {**places, "camera": "tiny"})


def _put(context, *names):
    files = [ManifestFile(n, 1, "0" * 64) for n in names]
    return write_manifest(context.inbox, make_manifest(DATE, "night", "tiny", "now", files))


def test_every_manifest_is_kept_and_the_last_one_counts(context):
    for names in ("a", "ab", "a", "ab", ""):
        _put(context, *names)
        assert afternoon.receive_manifest(context, NAME) == len(names)
        assert len(receipts.manifest_files(context.dsn, 700)) == len(names)
    assert afternoon.receive_manifest(context, NAME) == 0
    kept = sorted(p.name for p in (context.archive / "depot" / DATE).iterdir())
    assert len(kept) == 3 and NAME in kept
    assert [len(json.loads((context.archive / "depot" / DATE / NAME).read_text())["files"])] == [1]


GOOD = {"night": DATE, "nid": 700, "part": "night", "camera": "tiny", "files": []}
FILE = {"name": "a", "bytes": 1, "sha256": "0"}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[" * 200000,
        b"1" * 5000,
        b"null",
        b"[]",
        json.dumps({**GOOD, "nid": None}).encode(),
        json.dumps({**GOOD, "nid": "x"}).encode(),
        json.dumps({**GOOD, "nid": float("inf")}).encode(),
        json.dumps({**GOOD, "files": [FILE, {**FILE, "bytes": 2}]}).encode(),
        json.dumps({**GOOD, "files": [{**FILE, "name": "x\0"}]}).encode(),
        json.dumps({**GOOD, "files": [{**FILE, "bytes": 10**30}]}).encode(),
        json.dumps({**GOOD, "files": [{**FILE, "bytes": float("inf")}]}).encode(),
        json.dumps({**GOOD, "camera": "x\0"}).encode(),
        json.dumps({**GOOD, "nid": 701}).encode(),
        json.dumps({**GOOD, "night": "20189999"}).encode(),
    ],
    ids=range(16),
)
def test_damaged(context, text):
    (context.inbox / NAME).write_bytes(text)
    with pytest.raises(BadData):
        afternoon.receive_manifest(context, NAME)
    assert list(context.inbox.iterdir()) == []
    assert [r["verdict"] for r in receipts.of_name(context.dsn, NAME)] == ["quarantined"]
