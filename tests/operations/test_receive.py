"""Reception of raw files: every file in one place with one receipt, whatever happens."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import receive_once
from astropy.io import fits
from tiny import deliver

from ztfds.formats.atomic import sha256_of
from ztfds.operations import receive as receive_module
from ztfds.operations.receive import FAULT_POINTS, Verdict, move, receive
from ztfds.registry import database as db
from ztfds.registry import exposures, products
from ztfds.survey.errors import ChecksumMismatch, FilesMissing
from ztfds.survey.names import RawName, raw_path

WHEN = datetime(2018, 12, 3, 4, tzinfo=UTC)


def _science(mountain):
    return mountain.files(mountain.of_kind("o")[0], 6)[0]


def _receipts(context):
    return db.fetch_all(context.dsn, "select * from receipts order by receipt_id")


def _assert_account(context):
    """Each receipt's file is where the receipt says, with its checksum, and nothing else lies in the inbox."""
    assert list(context.inbox.iterdir()) == []
    for receipt in _receipts(context):
        path = context.archive / receipt["path"]
        assert (path.stat().st_size, sha256_of(path)) == (receipt["bytes"], receipt["sha256"])


def test_a_good_file_is_archived_and_registered(context, mountain):
    path = _science(mountain)
    deliver(context, path)
    received = receive(context, path.name, WHEN, "ztf_run")
    assert received.verdict is Verdict.accepted and received.raw is not None
    _assert_account(context)
    name = RawName.parse(path.name)
    row = exposures.find_ccdfile(context.dsn, path.name)
    assert row["state"] == "ingested" and row["path"] == raw_path(name) and row["sha256"] == sha256_of(path)
    assert row["header"]["CCD_ID"] == 6 and row["arrival"] == WHEN and row["ingested"] is not None
    exposure = exposures.find(context.dsn, name.exposure)
    header = received.raw.header
    assert exposure["state"] == "arriving" and exposure["expected"] == 2 and exposure["fid"] == 2
    assert exposure["obsjd"] == header["OBSJD"] and exposure["programid"] == header["PROGRMID"]
    assert (exposure["ra"], exposure["exptime"]) == (header["RAD"], header["EXPTIME"])
    assert products.by_filename(context.dsn, path.name)["kind"] == "raw"
    assert db.fetch_one(context.dsn, "select * from jobs")["step"] == "ingest"


def test_receiving_it_again_changes_nothing(context, mountain):
    path = _science(mountain)
    deliver(context, path)
    receive(context, path.name, WHEN)
    before = exposures.find_ccdfile(context.dsn, path.name)
    again = receive(context, path.name, WHEN)
    assert again.verdict is Verdict.known and again.row == before
    assert len(_receipts(context)) == 1


def test_a_second_copy_is_a_duplicate_and_is_kept(context, mountain):
    path = _science(mountain)
    for wanted in (Verdict.accepted, Verdict.duplicate, Verdict.duplicate):
        deliver(context, path)
        assert receive(context, path.name, WHEN).verdict is wanted
    assert [r["verdict"] for r in _receipts(context)] == ["accepted", "duplicate", "duplicate"]
    _assert_account(context)
    assert exposures.find_ccdfile(context.dsn, path.name)["state"] == "ingested"


def test_other_content_under_the_same_name_is_quarantined(context, mountain, tmp_path):
    first, other = mountain.files(mountain.of_kind("o")[0], 6)[0], mountain.files(mountain.of_kind("o")[0], 6)[0]
    deliver(context, first)
    receive(context, first.name, WHEN)
    changed = tmp_path / other.name
    _edit(other, changed, OBSERVER="somebody else")
    deliver(context, changed)
    received = receive(context, changed.name, WHEN)
    assert (received.verdict, received.error_code) == (Verdict.quarantined, "conflicting_duplicate")
    _assert_account(context)
    assert exposures.find_ccdfile(context.dsn, first.name)["sha256"] == sha256_of(first)


def _edit(source, target, **cards):
    """A copy of a raw file with other header values and a right checksum."""
    with fits.open(source, disable_image_compression=True) as hdus:
        hdus[0].header.update(cards)
        hdus[0].add_checksum()
        hdus.writeto(target)
    return target


def test_two_spellings_of_a_name_are_one_file(context, mountain, tmp_path):
    path = _science(mountain)
    plain = tmp_path / path.name.removesuffix(".fz")
    shutil.copyfile(path, plain)
    deliver(context, plain)
    received = receive(context, plain.name, WHEN)
    assert (received.verdict, received.row["filename"]) == (Verdict.accepted, path.name)
    assert received.row["path"] == raw_path(RawName.parse(path.name))
    assert receive(context, plain.name, WHEN).verdict is Verdict.known
    deliver(context, path)
    assert receive(context, path.name, WHEN).verdict is Verdict.duplicate
    other = _edit(path, tmp_path / path.name, OBSERVER="somebody else")
    deliver(context, other)
    assert receive(context, other.name, WHEN).error_code == "conflicting_duplicate"
    assert db.fetch_one(context.dsn, "select count(*)::int as n from ccdfiles")["n"] == 1
    _assert_account(context)


def test_one_opening_of_the_shutter_has_one_exposure(context, mountain, tmp_path):
    path = _science(mountain)
    deliver(context, path)
    receive(context, path.name, WHEN)
    name = RawName.parse(path.name)
    twin = tmp_path / path.name.replace(name.ffd, f"{int(name.ffd) - 5}")
    shutil.copyfile(path, twin)
    deliver(context, twin)
    received = receive(context, twin.name, WHEN)
    assert (received.verdict, received.error_code) == (Verdict.quarantined, "conflicting_duplicate")
    assert name.exposure in received.reason
    assert exposures.find_ccdfile(context.dsn, twin.name)["state"] == "quarantined"
    _assert_account(context)


def test_what_was_lost_from_the_archive_is_taken_again(context, mountain):
    path = _science(mountain)
    deliver(context, path)
    (context.archive / receive(context, path.name, WHEN).row["path"]).unlink()
    deliver(context, path)
    received = receive(context, path.name, WHEN)
    assert received.verdict is Verdict.accepted and (context.archive / received.row["path"]).is_file()
    assert [r["verdict"] for r in _receipts(context)] == ["quarantined", "accepted"]
    assert db.fetch_one(context.dsn, "select count(*)::int as n from products")["n"] == 1


def test_a_file_from_before_the_survey_is_quarantined(context, mountain, tmp_path):
    path = _science(mountain)
    old = context.inbox / path.name.replace(RawName.parse(path.name).date, "20160101")
    shutil.copyfile(path, old)
    received = receive(context, old.name, WHEN)
    assert (received.verdict, received.row) == (Verdict.quarantined, None)
    _assert_account(context)


def test_what_the_registry_cannot_take_is_quarantined(context, mountain, tmp_path, monkeypatch):
    path = _science(mountain)
    deliver(context, path)
    given = receive_module.exposure_values
    monkeypatch.setattr(
        receive_module,
        "exposure_values",
        lambda c, n, h, a: {**given(c, n, h, a), **({"programid": 10**6} if h else {})},
    )
    received = receive(context, path.name, WHEN)
    assert (received.verdict, received.error_code) == (Verdict.quarantined, "missing_keyword")
    assert "the registry cannot take it" in received.reason and received.row["state"] == "quarantined"
    _assert_account(context)


def test_a_name_in_no_encoding_is_quarantined(context):
    name = os.fsdecode(b"ztf_\xff.fits")
    (context.inbox / name).write_bytes(b"x")
    assert receive(context, name, WHEN).verdict is Verdict.quarantined
    assert receive(context, name, WHEN).verdict is Verdict.known
    _assert_account(context)


@pytest.mark.parametrize("point", FAULT_POINTS[:3])
def test_a_file_that_is_replaced_while_it_is_received_is_received_as_it_is_now(context, mountain, tmp_path, point):
    path = _science(mountain)
    newer = _edit(path, tmp_path / path.name, OBSERVER="somebody else")
    deliver(context, path)

    def replaced(reached):
        if reached == f"ingest:{point}" and not done:
            done.append(reached)
            deliver(context, newer)

    done = []
    received = receive(replace(context, fault=replaced), path.name, WHEN)
    assert done and received.verdict is Verdict.accepted and received.row["sha256"] == sha256_of(newer)
    assert list(context.inbox.iterdir()) == []
    assert sha256_of(context.archive / received.row["path"]) == sha256_of(newer)
    verdicts = [(r["verdict"], r["sha256"]) for r in _receipts(context)]
    lost = (
        [("quarantined", sha256_of(path))] if point == "committed" else []
    )  # registered, but overwritten by its sender
    assert verdicts == [*lost, ("accepted", sha256_of(newer))]


def test_a_truncated_file_is_quarantined_and_a_good_one_takes_its_place(context, mountain):
    path = _science(mountain)
    (context.inbox / path.name).write_bytes(path.read_bytes()[:20000])
    received = receive(context, path.name, WHEN)
    assert (received.verdict, received.error_code) == (Verdict.quarantined, "truncated")
    row = exposures.find_ccdfile(context.dsn, path.name)
    assert (row["state"], row["error_code"]) == ("quarantined", "truncated") and "quarantine/" in row["path"]
    deliver(context, path)
    assert receive(context, path.name, WHEN).verdict is Verdict.accepted
    row = exposures.find_ccdfile(context.dsn, path.name)
    assert (row["state"], row["error_code"], row["reason"]) == ("ingested", None, None)
    _assert_account(context)
    (context.inbox / path.name).write_bytes(path.read_bytes()[:20000])  # and a bad copy does not displace a good file
    assert receive(context, path.name, WHEN).verdict is Verdict.quarantined
    assert exposures.find_ccdfile(context.dsn, path.name)["state"] == "ingested"
    _assert_account(context)


def test_a_name_that_says_nothing_is_quarantined_with_a_receipt(context):
    (context.inbox / "holiday.jpg").write_bytes(b"not from here")
    received = receive(context, "holiday.jpg", None)
    assert (received.verdict, received.error_code, received.row) == (Verdict.quarantined, "bad_name", None)
    _assert_account(context)
    assert receive(context, "holiday.jpg", None).verdict is Verdict.known


def test_what_never_came_is_missing_files(context):
    with pytest.raises(FilesMissing):
        receive(context, "ztf_20181203300000_000500_zr_c06_o.fits.fz", WHEN)


def test_names_do_not_lead_out_of_the_inbox(context, tmp_path):
    (tmp_path / "secret").write_text("x")
    with pytest.raises(FilesMissing):
        receive(context, "../secret", WHEN)
    assert (tmp_path / "secret").exists()


@pytest.mark.parametrize("content", ["good", "truncated"])
@pytest.mark.parametrize("point", FAULT_POINTS)
def test_killed_at_any_point_the_file_is_in_the_inbox_or_in_its_place(context, mountain, point, content):
    path = _science(mountain)
    deliver(context, path)
    if content == "truncated":
        os.truncate(context.inbox / path.name, 20000)
    checksum = sha256_of(context.inbox / path.name)
    places = {"archive": context.archive, "inbox": context.inbox, "catalogs": context.catalogs, "camera": "tiny"}
    script = Path(receive_once.__file__)
    arguments = [context.dsn, json.dumps({k: str(v) for k, v in places.items()}), path.name, f"ingest:{point}"]
    killed = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=120)
    assert killed.returncode == -9, killed.stderr
    in_inbox = (context.inbox / path.name).exists()
    receipts = _receipts(context)
    in_place = bool(receipts) and (context.archive / receipts[0]["path"]).exists()
    assert in_inbox != in_place
    assert bool(receipts) is (point in ("committed", "moved"))
    again = receive(context, path.name, WHEN)
    wanted = {"good": Verdict.accepted, "truncated": Verdict.quarantined}[content]
    assert again.verdict in (wanted, Verdict.known)
    receipts = _receipts(context)
    assert [(r["verdict"], r["sha256"]) for r in receipts] == [(wanted.value, checksum)]
    _assert_account(context)
    state = exposures.find_ccdfile(context.dsn, path.name)["state"]
    assert state == ("ingested" if content == "good" else "quarantined")


def test_moving_across_file_systems_copies_and_compares(tmp_path):
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    source = memory / f"ztfds-move-{os.getpid()}"
    source.write_bytes(b"light" * 1000)
    try:
        checksum = sha256_of(source)
        with pytest.raises(ChecksumMismatch):
            move(source, tmp_path / "a" / "file", "0" * 64)
        assert source.exists() and list((tmp_path / "a").iterdir()) == []
        move(source, tmp_path / "a" / "file", checksum)
        assert not source.exists() and sha256_of(tmp_path / "a" / "file") == checksum
        move(source, tmp_path / "a" / "file", checksum)  # gone already, and there: done
    finally:
        source.unlink(missing_ok=True)


def test_move_replaces_what_an_unregistered_attempt_left(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "f").write_text("new")
    shutil.copy(tmp_path / "in" / "f", tmp_path / "out" / "f")
    move(tmp_path / "in" / "f", tmp_path / "out" / "f", sha256_of(tmp_path / "in" / "f"))
    assert (tmp_path / "out" / "f").read_text() == "new" and not (tmp_path / "in" / "f").exists()
