"""Refreshing, refusing and rolling back orbits; prepared nights; what an image learns of known objects."""

import gzip
import http.server
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import psycopg2
import pytest
from prepared import process

from ztfds.formats.alerts import read_container
from ztfds.formats.alertschema import alert_schema
from ztfds.kernels import orbits as kernels
from ztfds.operations import download, ephemeris
from ztfds.operations.context import Context
from ztfds.registry import database as db
from ztfds.registry import ephemerides as registry
from ztfds.simulator import minorplanets
from ztfds.solarsystem import planets
from ztfds.survey import ids
from ztfds.survey.errors import BadData, ConfigurationError, NoWork, ServiceDown, TruncatedFile, WrongSize

NIGHT, NOW = "20261121", datetime(2026, 11, 20, 18, tzinfo=UTC)
JD = ids.NID_ZERO_JD + ids.nid_of_date(NIGHT) + 0.3
SITES = {
    "I41": {"Longitude": 243.14022, "cos": 0.836322, "sin": 0.546875},
    "X05": {"Longitude": 289.25, "cos": 0.86, "sin": -0.5},
}
COMET = (
    "0002P         2027 02 10.1231  0.339161  0.847036  187.2812  334.0176   11.3810  20261121  11.5  6.0  2P/Encke\n"
)


def orbit_lines(n, seed=1, a_step=0.0, last="20261119"):
    """Lines of n numbered asteroids (columns as the MPC describes them)."""
    rng = np.random.default_rng(seed)
    for k in range(n):
        m, peri, node = rng.uniform(0, 360, 3)
        incl, e, a = rng.uniform(0, 20), rng.uniform(0, 0.3), rng.uniform(2.1, 3.2) + a_step
        head = f"{k + 1:05d}   {15 + k % 4:5.2f}  0.15 K26BL {m:9.5f}  {peri:9.5f}  {node:9.5f}  {incl:9.5f}  {e:9.7f}"
        yield f"{head} {0.2:11.8f} {a:11.7f}  0 ".ljust(194) + last


def mpcorb(path, n=400, **more):
    lines = ["MINOR PLANET CENTER ORBIT DATABASE", "-" * 160, *orbit_lines(n, **more), ""]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def context(database, tmp_path):
    places = {name: tmp_path / name for name in ("archive", "inbox", "catalogs")}
    for folder in places.values():
        folder.mkdir()
    return Context.build(database.pipeline, {**places, "camera": "tiny"})


@pytest.fixture
def server():
    """A server on the loopback whose answers are what `pages` holds: path to (status, promised length, content)."""
    pages = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, promised, content = pages.get(self.path, (404, 0, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield pages, f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def refresh(context, **sources):
    return ephemeris.refresh(context, sources, NIGHT, "run", NOW)


def used(context, kind="mpcorb"):
    row = registry.current(context.dsn, kind)
    return row["set_id"] if row else None


def files(context):
    folder = context.archive / ephemeris.FOLDER
    return sorted(str(path.relative_to(context.archive)) for path in folder.rglob("*") if path.is_file())


def test_a_first_refresh_prepares_the_night_and_an_image_learns_of_its_objects(context, tmp_path):
    (tmp_path / "comets").write_text(COMET)
    (tmp_path / "codes").write_text(json.dumps(SITES))
    done = refresh(
        context, mpcorb=mpcorb(tmp_path / "orbits"), comets=str(tmp_path / "comets"), obscodes=str(tmp_path / "codes")
    )
    assert done.state == "ok" and "400 orbits (new)" in done.line and "prepared with 401 objects" in done.line
    night = registry.night(context.dsn, ids.nid_of_date(NIGHT))
    assert night["objects"] == 401 and (night["mpcorb_id"], night["comets_id"]) == (
        used(context),
        used(context, "comets"),
    )
    assert sorted(files(context)) == sorted(
        [night["path"], *(registry.current(context.dsn, kind)["path"] for kind in registry.KINDS)]
    )
    everything = ephemeris.known_objects(context, 0.0, 0.0, 180.0, JD, 30.0)
    assert {"1", "400", "2P"} <= set(everything.table["name"]) and everything.figures["ephemeris_stale"] == 0
    target = everything.table[everything.table["name"] == "7"][0]
    found = ephemeris.known_objects(context, target["ra"], target["dec"], 1 / 3600, JD, 30.0)
    assert found.table["name"].tolist() == ["7"] and found.figures["known_objects"] == 1
    assert found.figures["ephemeris_age_d"] == 2 and "20261121" in found.note
    assert ephemeris.readiness(context, NIGHT) == []


def test_the_same_again_changes_nothing_and_half_an_exposure_is_added(context, tmp_path):
    source = mpcorb(tmp_path / "orbits")
    refresh(context, mpcorb=source)
    before, first = files(context), used(context)
    done = refresh(context, mpcorb=source)
    assert done.state == "ok" and "(unchanged)" in done.line and files(context) == before and used(context) == first
    assert len(registry.history(context.dsn, "mpcorb")) == 1
    row = registry.current(context.dsn, "mpcorb")
    assert row["checked"] > row["fetched"]
    early, late = (
        ephemeris.known_objects(context, 0, 0, 180, jd, t).table for jd, t in ((JD, 600.0), (JD + 300 / 86400, 0.0))
    )
    np.testing.assert_allclose(np.sort(early["ra"]), np.sort(late["ra"]), atol=1e-9)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"n": 380}, "380 records after 400: a loss"),
        ({"n": 700}, "700 records after 400: a gain"),
        ({"last": "20260901"}, "80 d ago"),
        ({"last": "20261118"}, "it is older"),
        ({"last": "        "}, "no date"),
        ({"a_step": 0.05}, "400 of 400 well-known orbits moved"),
    ],
)
def test_a_set_outside_the_limits_is_refused_with_its_reason_and_the_last_good_one_stays(
    context, tmp_path, more, reason
):
    refresh(context, mpcorb=mpcorb(tmp_path / "orbits"))
    before, kept = used(context), files(context)
    done = refresh(context, mpcorb=mpcorb(tmp_path / "other", **more))
    assert done.state == "failed" and reason in done.line and f"set {before} stays in use" in done.line
    assert "prepared with 400 objects" in done.line
    assert used(context) == before and files(context) == kept
    newest = registry.newest(context.dsn, "mpcorb")
    assert newest["state"] == "refused" and reason in newest["reason"] and newest["path"] is None
    assert any(reason in problem for problem in ephemeris.readiness(context, NIGHT))
    refresh(context, mpcorb=str(tmp_path / "other"))
    assert len(registry.history(context.dsn, "mpcorb")) == 2  # the same refusal is kept once
    recovered = refresh(context, mpcorb=mpcorb(tmp_path / "good", n=402, last="20261120"))
    assert recovered.state == "ok" and used(context) > before and ephemeris.readiness(context, NIGHT)


def test_damaged_files_are_refused(context, tmp_path):
    source = mpcorb(tmp_path / "orbits")
    good = (tmp_path / "orbits").read_bytes()
    refresh(context, mpcorb=source)
    lines = good.decode().split("\n")
    damaged = "\n".join(line if k % 20 else line[:60] for k, line in enumerate(lines)).encode()
    packed = gzip.compress(good)
    for content, reason in (
        (damaged, "lines cannot be read"), (b"", "no orbit"), (b"<html>busy</html>", "no orbit"), (packed[: len(packed) // 2], "cut off"),
        (packed[:40] + b"\0\0\0" + packed[43:], "damaged"),
    ):  # fmt: skip
        (tmp_path / "bad").write_bytes(content)
        done = refresh(context, mpcorb=str(tmp_path / "bad"))
        assert done.state == "failed" and reason in done.line
    (tmp_path / "codes").write_text(json.dumps({"X05": SITES["X05"]}))
    done = refresh(context, obscodes=str(tmp_path / "codes"))
    assert done.state == "failed" and "I41 is not in it" in done.line
    assert len([row for row in registry.history(context.dsn, "mpcorb") if row["state"] == "good"]) == 1


def test_a_url_is_read_gzipped_and_a_dead_one_is_named_after_everything_else_was_done(context, tmp_path, server):
    pages, address = server
    packed = gzip.compress((mpcorb(tmp_path / "orbits") and (tmp_path / "orbits")).read_bytes())
    pages["/good"] = (200, len(packed), packed)
    pages["/short"] = (200, len(packed), packed[:-50])
    refresh_config = context.config.solarsystem.refresh.model_copy(update={"pause_s": 0.0, "timeout_s": 2.0})
    solar = context.config.solarsystem.model_copy(update={"refresh": refresh_config})
    context = replace(context, config=context.config.model_copy(update={"solarsystem": solar}))
    assert "400 orbits (new)" in refresh(context, mpcorb=f"{address}/good").line
    (tmp_path / "codes").write_text(json.dumps(SITES))
    for page, reason in (("/none", "404"), ("/short", "broke off")):
        with pytest.raises(ServiceDown, match=reason):
            refresh(context, mpcorb=f"{address}{page}", obscodes=str(tmp_path / "codes"))
        assert registry.newest(context.dsn, "mpcorb")["state"] == "refused" and used(context, "obscodes")
    with pytest.raises(ServiceDown, match="absent"):
        refresh(context, mpcorb=str(tmp_path / "absent"))


def test_limits_of_downloads(tmp_path, context):
    config = context.config.solarsystem.refresh.model_copy(update={"max_bytes": 1000})
    (tmp_path / "large").write_bytes(b"x" * 1001)
    with pytest.raises(WrongSize):
        download.get(str(tmp_path / "large"), config)
    with pytest.raises(WrongSize):
        download.unpacked(gzip.compress(b"x" * 1001), 1000)
    with pytest.raises(TruncatedFile):
        download.unpacked(gzip.compress(bytes(range(256)))[:-9], 1000)
    for odd in ("relative/path", "ftp://host/file", "file:///etc/passwd"):
        with pytest.raises(ConfigurationError):
            download.get(odd, config)
    with pytest.raises(BadData):
        download.unpacked(b"\x1f\x8b\x08\x00garbage garbage garbage", 1000)


def test_a_roll_back_uses_the_older_set_and_the_withdrawn_one_is_not_taken_again(context, tmp_path):
    first = mpcorb(tmp_path / "first", n=400)
    second = mpcorb(tmp_path / "second", n=405)
    refresh(context, mpcorb=first)
    old = used(context)
    refresh(context, mpcorb=second)
    new = used(context)
    assert new != old and registry.night(context.dsn, ids.nid_of_date(NIGHT))["objects"] == 405
    done = ephemeris.roll_back(context, old, "ghosts in it", NIGHT)
    assert done.state == "ok" and "1 newer ones withdrawn" in done.line and used(context) == old
    assert registry.night(context.dsn, ids.nid_of_date(NIGHT))["objects"] == 400
    again = refresh(context, mpcorb=second)
    assert again.state == "warn" and "ghosts in it" in again.line and used(context) == old
    forward = ephemeris.roll_back(context, new, "they were real", NIGHT)
    assert used(context) == new and "405 objects" in forward.line
    for wrong, reason in ((999, "x"), (old, "  ")):
        with pytest.raises(ConfigurationError):
            ephemeris.roll_back(context, wrong, reason, NIGHT)


def test_old_files_go_and_the_one_in_use_stays(context, tmp_path):
    refresh_config = context.config.solarsystem.refresh.model_copy(update={"keep_sets": 2, "keep_nights": 1})
    solar = context.config.solarsystem.model_copy(update={"refresh": refresh_config})
    context = replace(context, config=context.config.model_copy(update={"solarsystem": solar}))
    for k in range(4):
        refresh(context, mpcorb=mpcorb(tmp_path / "orbits", n=400 + k))
    kept = [row for row in registry.history(context.dsn, "mpcorb") if row["path"]]
    assert len(kept) == 2 and all((context.archive / row["path"]).is_file() for row in kept)
    assert len([path for path in files(context) if "/sets/" in path]) == 2
    for night in ("20261122", "20261123"):
        ephemeris.prepare_night(context, night)
    ephemeris.prepare_night(context, "20180501")  # an old one, to be reprocessed, is not the first to go
    assert [path.split("/")[-1][:8] for path in files(context) if "/nights/" in path] == ["20180501"]
    assert registry.night(context.dsn, ids.nid_of_date(NIGHT))["path"] is None


def test_without_orbits_images_go_on_and_say_so_and_old_ones_are_stale(context, tmp_path):
    nothing = ephemeris.known_objects(context, 10.0, 10.0, 1.0, JD, 30.0)
    assert not len(nothing.table) and nothing.figures == {"ephemeris_missing": 1.0} and "not searched" in nothing.note
    with pytest.raises(NoWork):
        ephemeris.prepare_night(context, NIGHT)
    assert any("no good set of orbits" in problem for problem in ephemeris.readiness(context, NIGHT))
    refresh(context, mpcorb=mpcorb(tmp_path / "orbits"))
    nearby = ephemeris.known_objects(context, 0.0, 0.0, 180.0, JD + 8, 30.0)
    assert len(nearby.table) and nearby.figures["ephemeris_stale"] == 1 and nearby.note.startswith("stale")
    assert any("not prepared" in problem for problem in ephemeris.readiness(context, "20261129"))
    assert ephemeris.known_objects(context, 0.0, 0.0, 180.0, JD + 12, 30.0).figures == {"ephemeris_missing": 1.0}
    path = context.archive / registry.night(context.dsn, ids.nid_of_date(NIGHT))["path"]
    ephemeris._opened.cache_clear()
    path.write_bytes(path.read_bytes()[:-10])
    assert ephemeris.known_objects(context, 0.0, 0.0, 180.0, JD, 30.0).figures == {"ephemeris_missing": 1.0}


def test_the_form_asks_for_a_refresh_or_a_roll_back_and_the_daily_run_for_the_usual_sources(context, tmp_path):
    form = {"mpcorb": "", "comets": "", "obscodes": "", "night": NIGHT, "set_id": 0, "reason": ""}
    with pytest.raises(NoWork, match="no sources"):
        ephemeris.from_form(context, form, "run", by_hand=False)
    last = datetime.now(UTC).strftime("%Y%m%d")
    source = mpcorb(tmp_path / "orbits", last=last)
    usual = replace(context, places={"ephemerides": {"mpcorb": source}})
    assert "400 orbits (new)" in ephemeris.from_form(usual, form, "run", by_hand=False).line
    assert (
        "prepared" in ephemeris.from_form(context, form, "run", by_hand=True).line
    )  # nothing named: the night is prepared
    back = ephemeris.from_form(context, {**form, "set_id": used(context), "reason": "again"}, "run", by_hand=True)
    assert back.line.startswith("mpcorb set") and "0 newer ones withdrawn" in back.line
    with pytest.raises(ConfigurationError):
        ephemeris.refresh(context, {"moons": "x"}, NIGHT)


def test_operators_change_states_only(database, context, tmp_path):
    refresh(context, mpcorb=mpcorb(tmp_path / "orbits"))
    assert db.fetch_one(database.reader, "select count(*)::int as n from ephemeris_sets")["n"] == 1
    with db.transaction(database.operator) as cursor:
        cursor.execute("update ephemeris_sets set state = 'withdrawn', reason = 'tried'")
    for dsn in (database.operator, database.reader):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), db.transaction(dsn) as cursor:
            cursor.execute("update ephemeris_sets set path = 'x'")


def passing_by(ra, dec, jd, number):
    """A line of MPCORB for an asteroid 1.6 AU from Palomar that is at a place at a time, moving slowly."""
    observer, (a, d) = planets.observer(jd), np.radians([ra, dec])
    place = observer.position + 1.6 * np.array([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    across = np.cross([0.0, -0.4, 0.92], place)
    speed = np.sqrt(kernels.GM_SUN / np.linalg.norm(place))
    state = np.concatenate([place, speed * across / np.linalg.norm(across)])[None]
    epoch = np.floor(jd - 0.5) + 0.5
    kernels.kepler_many(state, np.array([epoch - (observer.tt - 1.6 / kernels.LIGHT_AU_PER_DAY)]))
    e = minorplanets.elements_of(state[0, :3], state[0, 3:])
    angles = "  ".join(f"{e[name]:9.5f}" for name in ("M", "peri", "node", "incl"))
    head = f"{number:05d}   {15:5.2f}  0.15 {minorplanets.pack_day(epoch)} {angles}"
    return f"{head}  {e['e']:9.7f} {e['n']:11.8f} {e['a']:11.7f}  0 ".ljust(194) + ids.night_date(ids.nid(epoch) - 1)


FOUND = "select candid, ra, dec, ssnamenr, ssdistnr, ssmagnr, alerted from candidates where abs(jd - %s) < 1e-4 order by scorr desc"


def test_candidates_of_known_objects_carry_their_names_to_the_packets(ready, mountain, tmp_path):
    first, second = mountain.of_kind("o", 1)
    process(ready, mountain, first)
    before = db.fetch_all(ready.dsn, FOUND, (mountain.plan.exposures[first].jd,))
    assert {(row["ssnamenr"], row["ssdistnr"], row["ssmagnr"]) for row in before} == {("null", -999, -999)}
    exposure, night = mountain.plan.exposures[second], mountain.plan.dates[-1]
    middle = exposure.jd + exposure.exptime / 2 / 86400
    targets = [row for row in before if row["alerted"]][:8]
    north = [2.0, 20.0, 28.0, 33.0] * 2
    lines = [
        passing_by(t["ra"], t["dec"] + d / 3600, middle, k + 1)
        for k, (t, d) in enumerate(zip(targets, north, strict=False))
    ]
    (tmp_path / "orbits").write_text("-----\n" + "\n".join(lines) + "\n")
    assert ephemeris.refresh(ready, {"mpcorb": str(tmp_path / "orbits")}, night, "run").state == "ok"
    process(ready, mountain, second)
    found, tagged = db.fetch_all(ready.dsn, FOUND, (exposure.jd,)), []
    for k, (target, distance) in enumerate(zip(targets, north, strict=False)):
        cos = np.cos(np.radians(target["dec"]))
        apart = [np.hypot((row["ra"] - target["ra"]) * cos, row["dec"] - target["dec"]) * 3600 for row in found]
        row = found[int(np.argmin(apart))]
        if min(apart) < 1:
            assert (row["ssnamenr"] == str(k + 1)) == (distance < 30)
            tagged += [(row, distance)] if distance < 30 else []
    assert len(tagged) >= 3
    for row, distance in tagged:
        assert row["ssdistnr"] == pytest.approx(distance, abs=1) and 15 < row["ssmagnr"] < 20
    packets = {
        row["candid"]: read_container(bytes(row["packet"]), alert_schema()).records[0]["candidate"]
        for row in db.fetch_all(ready.dsn, "select candid, packet from alert_outbox")
    }
    alerted = [row for row, _ in tagged if row["alerted"]]
    assert alerted and all(packets[row["candid"]]["ssnamenr"] == row["ssnamenr"] for row in alerted)
    names = "select distinct name from qa_metrics where name like 'ephemeris%' or name = 'known_objects'"
    expected = {"known_objects", "ephemeris_age_d", "ephemeris_stale", "ephemeris_missing"}
    assert {row["name"] for row in db.fetch_all(ready.dsn, names)} == expected
    notes = db.fetch_all(ready.dsn, "select meta->>'known_objects' as note from products where kind = 'scimrefdiffimg'")
    assert any(row["note"].startswith("orbits of night") for row in notes) and any(
        "not searched" in row["note"] for row in notes
    )
