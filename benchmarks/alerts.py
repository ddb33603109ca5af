"""What alerts cost: history from the database, forced photometry from files, packets.

``python -m benchmarks.alerts history --per-night 100000`` fills the tables of a private PostgreSQL with thirty nights of
candidates at the real density on the sky (a patch of it, so large that it has so many a night; rows lie together by quadrant,
as they are registered) and asks for the history of whole quadrants; with ``--keep FOLDER`` the filled database stays there and
is used again (``--per-night 1000000``: 30 million rows, 30 GB); ``--cold`` takes its files out of memory before every quadrant;
``packets`` builds complete packets side by side with astropy, gzip and fastavro; ``forced`` measures
full-size difference images. CPU seconds of this process and, for the database, of the server's process are added.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import psycopg2
from astropy.io import fits
from astropy.wcs import WCS

from benchmarks.packets import JD0, arguments, by_hand
from ztfds.alerts.forced import measure
from ztfds.alerts.history import select_history
from ztfds.alerts.packet import build_packet
from ztfds.astrometry.tpv import Distortion
from ztfds.config.alerts import AlertConfig, ForcedConfig
from ztfds.formats.alertschema import alert_schema
from ztfds.formats.images import read_image, write_image
from ztfds.formats.sections import open_sections
from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.operations.storage import SECTION_TILE
from ztfds.reference.grid import wcs_of
from ztfds.registry import candidates, database, sky
from ztfds.registry.migrate import migrate
from ztfds.survey import ids
from ztfds.survey.camera import ZTF
from ztfds.survey.fields import all_fields, separation_deg

NIGHTS, VISITS = 30, 2
FULL_NIGHT, FULL_AREA_DEG2 = 1_000_000, 15_000.0
"""Candidates of a real night, and the sky that it covers."""
QUADRANT_ALERTS = 30
INDEXES = """
    select indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index
     where indrelid = 'ztf.candidates'::regclass and not indisprimary"""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


# -- history -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Footprints:
    """Quadrants of the fields of a patch of sky: number of the field and channel, corners (n, 4, 2) and centres (n, 2), deg."""

    field: np.ndarray
    rcid: np.ndarray
    corners: np.ndarray
    centre: np.ndarray

    def inside(self, which: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Random positions, (n, 2) deg, one in each of the given quadrants."""
        u, v = rng.uniform(0.01, 0.99, (2, which.size, 1))
        c = self.corners[which]
        return (1 - v) * ((1 - u) * c[:, 0] + u * c[:, 1]) + v * ((1 - u) * c[:, 3] + u * c[:, 2])


def patch_of(per_night: int) -> Footprints:
    """The patch of sky that has so many candidates a night."""
    return patch(FULL_AREA_DEG2 * per_night / FULL_NIGHT)


def patch(area_deg2: float) -> Footprints:
    """The quadrants of the fields nearest to (150, +35) that cover an area, main and secondary grid."""
    number = max(2, round(area_deg2 / 47.0))
    near = sorted(all_fields().values(), key=lambda f: separation_deg(f.ra, f.dec, 150.0, 35.0))[:number]
    rows = [(f, c, q) for f in near for c in range(1, 17) for q in (1, 2, 3, 4)]
    corners = np.array([ZTF.corners(f.ra, f.dec, c, q) for f, c, q in rows])
    field, rcid = (
        np.array(values) for values in zip(*((f.fieldid, 4 * (c - 1) + q - 1) for f, c, q in rows), strict=True)
    )
    return Footprints(field, rcid, corners, corners.mean(axis=1))


@contextmanager
def server(keep: Path | None) -> Iterator[EmbeddedPostgres]:
    """A private PostgreSQL: in a scratch folder, removed afterwards, or in `keep`, only stopped afterwards."""
    home = keep or Path(tempfile.mkdtemp(prefix="ztfds-bench-pg-"))
    home.mkdir(exist_ok=True)
    home.chmod(0o755)
    postgres = EmbeddedPostgres(home)
    try:
        postgres.start()
        migrate(postgres.dsn("ztf_owner"))
        yield postgres
    finally:
        if keep:
            postgres.stop()
        else:
            postgres.destroy()
            shutil.rmtree(home, ignore_errors=True)


def fill(postgres: EmbeddedPostgres, per_night: int, survey_nights: int, rng: np.random.Generator) -> Footprints:
    """Thirty nights of candidates and `survey_nights` of difference images."""
    where = patch_of(per_night)
    owner = psycopg2.connect(postgres.dsn("ztf_owner"))
    owner.autocommit = True
    with owner.cursor() as cursor:  # rows without the products, exposures and references that they would refer to
        cursor.execute("set search_path = ztf")
        for column in ("product_id", "exposure", "reference_id"):
            cursor.execute(f"alter table diffimages drop constraint diffimages_{column}_fkey")
        _fill_the_rest(cursor)
    objects = rng.integers(where.field.size, size=3 * per_night)
    position = where.inside(objects, rng)
    names = np.array([ids.object_name(k, 2019) for k in range(objects.size)], object)
    with owner.cursor() as cursor:  # made once over all rows, which is faster than with every row
        cursor.execute(INDEXES)
        indexes = cursor.fetchall()
        for name, _ in indexes:
            cursor.execute(f"drop index {name}")
    for night in range(-survey_nights + NIGHTS, NIGHTS):
        _fill_images(postgres.dsn("ztf_pipeline"), where, night)
        if night >= 0:
            _fill_night(postgres.dsn("ztf_pipeline"), where, names, objects, position, night, rng)
    _fill_objects(postgres.dsn("ztf_pipeline"), where, names, objects, position)
    with owner.cursor() as cursor:
        cursor.execute("set maintenance_work_mem = '1GB'")
        for _, definition in indexes:
            cursor.execute(definition.replace(" ON ONLY ", " ON "))
        cursor.execute("analyze")
    owner.close()
    return where


def _fill_the_rest(cursor: Any) -> None:
    """Let the server fill the columns of candidates that no query looks at: rows are as wide as real ones."""
    filler = {"text": "'ztf_20200101302500'", "boolean": "true", "real": "18.125", "double precision": "150.5"}
    for name, kind in candidates.column_types(cursor).items():
        cursor.execute(f"alter table candidates alter column {name} set default {filler.get(kind, '7')}")


def _pids(where: Footprints, jd: np.ndarray) -> np.ndarray:
    """Processing numbers of all footprints."""
    expid = {int(f): ids.expid(t) for f, t in zip(where.field, jd, strict=True)}
    return (np.array([expid[int(f)] for f in where.field]) * 100 + where.rcid) * 100 + ids.PIPELINE_DIFFERENCE


def _visit_jd(where: Footprints, night: int, visit: int) -> np.ndarray:
    """Start of the exposures of a visit to each footprint; every field at a time of its own."""
    order = np.unique(where.field, return_inverse=True)[1]
    return JD0 + night + 0.02 + 0.1 * visit + 1e-4 * order


def _fill_images(dsn: str, where: Footprints, night: int) -> None:
    """Rows of `diffimages` of one night."""
    for visit in range(VISITS):
        jd = _visit_jd(where, night, visit)
        n, pid = jd.size, _pids(where, jd)
        values: dict[str, tuple[str, np.ndarray]] = {
            "pid": ("bigint", pid), "provenance_id": ("text", pid), "product_id": ("bigint", pid),
            "exposure": ("text", pid // 10**4), "nid": ("integer", np.full(n, ids.nid(jd[0]))),
            "field": ("integer", where.field), "fid": ("smallint", np.full(n, visit + 1)),
            "rcid": ("smallint", where.rcid), "jd": ("double precision", jd), "programid": ("smallint", np.full(n, 1)),
            "status": ("smallint", np.full(n, 1)), "reference_id": ("bigint", where.field * 100 + where.rcid),
            "diffmaglim": ("real", np.full(n, 20.5)), "pdiffimfilename": ("text", np.full(n, "x" * 50, object)),
            "magzpsci": ("real", np.full(n, 26.2)), "ra": ("double precision", where.centre[:, 0]),
            "dec": ("double precision", where.centre[:, 1]), "hpx": ("bigint", sky.cell(*where.centre.T)),
        }  # fmt: skip
        with database.transaction(dsn) as cursor:
            _copy_with_corners(cursor, values, where.corners)


def _copy_with_corners(cursor: Any, values: dict[str, tuple[str, np.ndarray]], corners: np.ndarray) -> None:
    """Load rows by text COPY, which knows arrays."""
    texts = [values[name][1].tolist() for name in values]
    arrays = ["{" + ",".join(f"{v:.9f}" for v in c.ravel()) + "}" for c in corners]
    lines = ("\t".join(map(str, row)) for row in zip(*texts, arrays, strict=True))
    columns = ", ".join([*values, "corners"])
    cursor.copy_expert(f"copy ztf.diffimages ({columns}) from stdin", io.StringIO("\n".join(lines) + "\n"))


def _fill_night(
    dsn: str,
    where: Footprints,
    names: np.ndarray,
    objects: np.ndarray,
    position: np.ndarray,
    night: int,
    rng: np.random.Generator,
) -> None:
    """Candidates of one night: a sixth of the objects at each visit, quadrant by quadrant."""
    number = 0
    for visit in range(VISITS):
        seen = np.flatnonzero(rng.random(objects.size) < 1 / 3 / VISITS)
        seen = seen[np.argsort(objects[seen], kind="stable")]
        n, spot = seen.size, objects[seen]
        jd = _visit_jd(where, night, visit)[spot]
        ra, dec = (position[seen] + rng.normal(0, 0.15 / 3600, (n, 2))).T
        with database.transaction(dsn) as cursor:
            cursor.execute("select ensure_night(%s)", (ids.nid(jd[0]),))
            known: dict[str, Any] = {
                "objectid": names[seen], "hpx": sky.cell(ra, dec), "jd": jd, "fid": np.full(n, visit + 1),
                "programid": np.full(n, 1), "pid": _pids(where, _visit_jd(where, night, visit))[spot],
                "candid": ids.nid(jd[0]) * 10**12 + number + np.arange(n), "nid": np.full(n, ids.nid(jd[0])),
                "rcid": where.rcid[spot], "field": where.field[spot], "ra": ra, "dec": dec,
            }  # fmt: skip
            types = candidates.column_types(cursor)
            values = {name: (types[name], column) for name, column in known.items()}
            database.copy_rows(cursor, "candidates", values)
        number += n


def _fill_objects(dsn: str, where: Footprints, names: np.ndarray, objects: np.ndarray, position: np.ndarray) -> None:
    """Names and histories of all objects."""
    n = objects.size
    ra, dec = position.T
    with database.transaction(dsn) as cursor:
        known: dict[str, tuple[str, np.ndarray]] = {
            "objectid": ("text", names), "ra": ("double precision", ra), "dec": ("double precision", dec),
            "hpx": ("bigint", sky.cell(ra, dec)), "jd": ("double precision", np.full(n, JD0)),
            "candid": ("bigint", np.arange(n)), "year": ("smallint", np.full(n, 2019)),
        }  # fmt: skip
        database.copy_rows(cursor, "object_names", known)
        history: dict[str, tuple[str, np.ndarray]] = {
            "objectid": ("text", names), "field": ("integer", where.field[objects]),
            "rcid": ("integer", where.rcid[objects]), "ndet": ("integer", np.full(n, 20)),
            "jdfirst": ("double precision", np.full(n, JD0 - 300)), "jdlast": ("double precision", np.full(n, JD0 + 29)),
        }  # fmt: skip
        database.copy_rows(cursor, "object_history", history)


@dataclass
class Cost:
    """Seconds of CPU, here and in the database server, and of the clock."""

    here: float = 0.0
    server: float = 0.0
    wall: float = 0.0


def _server_cpu(pid: int) -> float:
    """CPU seconds that a server process has used."""
    values = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(values[11]) + int(values[12])) * TICK_S


def forget(folder: Path) -> None:
    """Take the files of a database out of the operating system's memory (clean pages only: after a checkpoint)."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def ask(
    dsn: str, where: Footprints, quadrants: int, rng: np.random.Generator, data: Path | None = None
) -> dict[str, Cost]:
    """Ask for the history of random quadrants of the night after the last; `data` is taken out of memory before each."""
    costs: dict[str, Cost] = {}
    reach, rows = ZTF.radius_deg() * 1.1, 0
    with database.session(dsn), database.transaction(dsn) as cursor:
        cursor.execute("select pg_backend_pid()")
        (server_pid,) = cursor.fetchone() or (0,)

        def timed(name: str, work: Callable[[], Any]) -> Any:
            cost, cpu, wall = costs.setdefault(name, Cost()), time.process_time(), time.perf_counter()
            there = _server_cpu(server_pid)
            value = work()
            cost.here += time.process_time() - cpu
            cost.server += _server_cpu(server_pid) - there
            cost.wall += time.perf_counter() - wall
            return value

        for k in rng.choice(where.field.size, quadrants, replace=False):
            cursor.execute(
                "select ra, dec from candidates where pid = %s limit %s",
                (ids.pid(float(_visit_jd(where, NIGHTS - 1, 0)[k]), int(where.rcid[k])), QUADRANT_ALERTS // 2),
            )
            known = np.array(cursor.fetchall()).reshape(-1, 2)
            fresh = where.inside(np.full(QUADRANT_ALERTS - len(known), k), rng)
            ra, dec = np.concatenate([known, fresh]).T
            jd, field, rcid = JD0 + NIGHTS + 0.05, int(where.field[k]), int(where.rcid[k])
            if data:
                forget(data)
            found = timed("detections", lambda: candidates.near(cursor, ra, dec, jd - 30, jd))  # noqa: B023
            limits = timed("limits", lambda: candidates.covering(cursor, ra, dec, jd - 30, jd, reach))  # noqa: B023
            timed("counts", lambda: candidates.detection_counts(cursor, ra, dec, field, rcid, jd))  # noqa: B023
            timed("coverage", lambda: candidates.coverage_counts(cursor, ra, dec, jd, reach))  # noqa: B023
            rows += sum(map(len, timed("choosing", lambda: _choose(found, limits, ra, dec, jd))))  # noqa: B023
    print(f"rows of history per alert: {rows / quadrants / QUADRANT_ALERTS:.1f}")
    return costs


def _choose(found: Any, limits: Any, ra: np.ndarray, dec: np.ndarray, jd: float) -> list[list[Any]]:
    """What goes into each packet."""
    return [
        select_history(found[i], limits[i], ra=float(ra[i]), dec=float(dec[i]), jd=jd, programid=1)
        for i in range(len(ra))
    ]


def history(per_night: int, survey_nights: int, quadrants: int, keep: Path | None = None, cold: bool = False) -> None:
    """Fill, ask, print."""
    rng = np.random.default_rng(1001)
    with server(keep) as postgres:
        began, where, dsn = time.perf_counter(), patch_of(per_night), postgres.dsn("ztf_pipeline")
        if not database.fetch_one(dsn, "select exists (select from object_names) as filled")["filled"]:
            fill(postgres, per_night, survey_nights, rng)
        sizes = database.fetch_one(
            dsn,
            "select (select count(*) from object_names) as objects, (select count(*) from diffimages) as images,"
            " (select sum(reltuples)::bigint from pg_class where relname like 'candidates%%' and relkind = 'r') as candidates,"
            " pg_database_size(current_database()) / 1e9 as gb",
        )
        print(f"{sizes}, filled in {time.perf_counter() - began:.0f} s", flush=True)
        rng = np.random.default_rng(1002)
        ask(dsn, where, 5, rng)
        costs = ask(dsn, where, quadrants, rng, postgres.data / "base" if cold else None)
    per = 1000.0 / (quadrants * QUADRANT_ALERTS)
    for name, cost in costs.items():
        print(
            f"{name:12s} here {cost.here * per:6.3f}  server {cost.server * per:6.3f}  wall {cost.wall * per:6.3f} ms per alert"
        )
    total = [sum(getattr(c, part) for c in costs.values()) * per for part in ("here", "server", "wall")]
    print(f"{'all':12s} here {total[0]:6.3f}  server {total[1]:6.3f}  wall {total[2]:6.3f} ms per alert")


# -- packets -----------------------------------------------------------------------------------------------------------


def packets(number: int = 60) -> None:
    """Complete packets per second of CPU, ours and by hand in turns."""
    rng, schema = np.random.default_rng(1001), fastavro.parse_schema(alert_schema())
    alerts, config = arguments(number, rng), AlertConfig()
    ways: dict[str, Callable[[dict[str, Any]], bytes]] = {
        "ztfds": lambda alert: build_packet(**alert, config=config).content,
        "astropy + gzip + fastavro": lambda alert: by_hand(alert, schema),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    sizes: dict[str, int] = {}
    for _ in range(5):
        for name, make in ways.items():
            began = time.process_time()
            sizes[name] = sum(len(make(alert)) for alert in alerts)
            spent[name].append((time.process_time() - began) / number)
    for name, times in spent.items():
        best = min(times)
        print(f"{name:28s} {1e3 * best:6.2f} ms, {1 / best:5.0f} a second, {sizes[name] / number / 1e3:.1f} kB")


# -- forced photometry -------------------------------------------------------------------------------------------------


def forced(epochs: int = 30) -> None:
    """A full-size quadrant's alerts on earlier difference images, in small and in whole-row tiles."""
    rng = np.random.default_rng(1001)
    distortion = rng.normal(0, 1e-4, (15, 2))
    distortion[:3] = [[0, 0], [1, 0], [0, 1]]
    scale = np.diag([-1.012, 1.012]) / 3600
    header = fits.Header(
        Distortion(1536.0, 1540.0, 150.0, 35.0, scale, distortion).cards() | {"GAIN": 6.2, "SEEING": 2.2}
    )
    header.update({f"FILL{k:04d}": k for k in range(250)})
    pixels = rng.normal(0, 6.5, (3080, 3072)).astype(np.float32)
    y, x = np.indices((25, 25)) - 12.0
    psf = np.exp(-(y * y + x * x) / 1.75)
    folder = Path(tempfile.mkdtemp(prefix="ztfds-bench-forced-"))
    write_image(folder / "psf.fits", (psf / psf.sum()).astype(np.float32))
    for name, tile in (("tiles of 128 x 128", SECTION_TILE), ("tiles of whole rows", None)):
        began = time.process_time()
        written = write_image(folder / "diff.fits.fz", pixels, header, tile=tile)
        write_s, spent = time.process_time() - began, np.zeros(4)
        for _ in range(epochs):
            spent += _one_epoch(folder, written.bytes, wcs_of(header), rng)
        each = 1e3 * spent / epochs
        parts = dict(zip(("open", "wcs", "stamps", "fit"), np.round(each, 2).tolist(), strict=True))
        per = each.sum() / QUADRANT_ALERTS
        print(
            f"{name}: write {write_s:.3f} s, {written.bytes / 1e6:.2f} MB; ms per epoch {parts}, per alert and epoch {per:.3f}"
        )
    shutil.rmtree(folder)


def _one_epoch(folder: Path, size: int, wcs: WCS, rng: np.random.Generator) -> np.ndarray:
    """CPU seconds of opening, world coordinates, reading stamps, and fitting, for thirty alerts on one image."""
    config = ForcedConfig()
    at = rng.uniform(40, 3030, (2, QUADRANT_ALERTS))
    ra, dec = wcs.all_pix2world(at[1], at[0], 0)
    times = [time.process_time()]
    image = open_sections(folder / "diff.fits.fz", ("GAIN", "SEEING"), size)
    psf = read_image(folder / "psf.fits")[0]
    times.append(time.process_time())
    x, y = wcs_of(fits.Header(image.header)).all_world2pix(ra, dec, 0)
    row, column = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
    times.append(time.process_time())
    stamps = image.stamps(row, column, config.stamp_half_px)
    times.append(time.process_time())
    measure(stamps, psf, y - row, x - column, 6.2, config)
    times.append(time.process_time())
    return np.diff(times)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["history", "packets", "forced"])
    parser.add_argument("--per-night", type=int, default=100_000, help="candidates of a night (real: 1,000,000)")
    parser.add_argument("--survey-nights", type=int, default=300, help="nights of difference images")
    parser.add_argument("--quadrants", type=int, default=40)
    parser.add_argument("--keep", type=Path, help="folder of a database that stays there, and is used again")
    parser.add_argument("--cold", action="store_true", help="files of the database not in memory")
    options = parser.parse_args()
    if options.what == "history":
        history(options.per_night, options.survey_nights, options.quadrants, options.keep, options.cold)
    elif options.what == "packets":
        packets()
    else:
        forced()


if __name__ == "__main__":
    main()
