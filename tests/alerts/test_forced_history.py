"""Forced photometry of candidates on the difference images in the archive: values, access, and files that are not there."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from test_forced import star

from ztfds.alerts.packet import complete
from ztfds.config.alerts import ForcedConfig
from ztfds.difference.candidates import blank_table
from ztfds.difference.products import DifferenceProducts
from ztfds.formats.images import write_image
from ztfds.formats.tables import PSFCAT_DTYPE, write_psfcat
from ztfds.operations.forced import forced_photometry
from ztfds.registry import candidates, exposures
from ztfds.registry import database as db
from ztfds.survey import ids

JD, SHAPE, SCALE = 2458454.8, (420, 400), 1.012 / 3600
FLUX = np.array([5000.0, -1500.0, 0.0, 3000.0])
PLACES = np.array([[100.3, 200.4], [250.0, 90.75], [333.3, 222.2], [3.2, 200.0]])
"""Rows y, x of the candidates in the present image; the last one is at the edge."""
HEADER = {"GAIN": 6.2, "SEEING": 2.2, "MEDSKY": 150.5, "SKYSIG": 6.5, "ASTRRMS1": 2e-5, "ASTRRMS2": 3e-5}
CONFIG = ForcedConfig()


def world(shift: tuple[float, float] = (0.0, 0.0)) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 30.0]
    wcs.wcs.crpix, wcs.wcs.cd = [200.0 + shift[1], 210.0 + shift[0]], [[-SCALE, 0.0], [0.0, SCALE]]
    return wcs


@dataclass
class Archive:
    """Difference images in a folder and in the database."""

    root: Path
    dsn: str
    rng: np.random.Generator

    def add(self, days: float, *, program: int = 1, shift: tuple[float, float] = (0, 0), rcid: int = 20,
            reference: int | None = None, zero: float = 1.0) -> dict[str, Any]:  # fmt: skip
        """An image `days` before the present one, moved by `shift` rows and columns, with the candidates' stars."""
        wcs, jd = world(shift), JD - days
        x, y = wcs.all_world2pix(*positions().T, 0)
        pixels = self.rng.normal(0, 7, SHAPE)
        for k in range(len(FLUX)):
            j, i = int(np.rint(y[k])), int(np.rint(x[k]))
            if 16 < j < SHAPE[0] - 16 and 16 < i < SHAPE[1] - 16:
                stamp = star(2.2, np.array([y[k] - j]), np.array([x[k] - i]), 31)[0]
                pixels[j - 15 : j + 16, i - 15 : i + 16] += zero * FLUX[k] * stamp
        header = wcs.to_header()
        header.update(HEADER)
        stem, files = f"diff_{days:.4f}_{rcid}", {}
        files["scimrefdiffimg"] = write_image(
            self.root / f"{stem}.fits.fz", pixels.astype(np.float32), header, tile=(128, 128)
        )
        psf = star(2.2, np.zeros(1), np.zeros(1), 25)[0].astype(np.float32)
        files["diffimgpsf"] = write_image(self.root / f"{stem}_psf.fits", psf)
        corners = wcs.all_pix2world([0, SHAPE[1], SHAPE[1], 0], [0, 0, SHAPE[0], SHAPE[0]], 0)
        ra, dec = wcs.all_pix2world(SHAPE[1] / 2, SHAPE[0] / 2, 0)
        pid = ids.pid(jd, rcid)
        with db.transaction(self.dsn) as cursor:
            exposure = f"ztf_{ids.filefracday(jd)}"
            exposures.ensure_night(cursor, ids.nid(jd))
            base = {"exposure": exposure, "nid": ids.nid(jd), "field": 600, "filtercode": "zg", "imgtype": "o"}
            exposures.register_exposure(cursor, {**base, "obsjd": jd, "expected": 1})
            rows = [self._product(cursor, f"p{pid}", kind, written) for kind, written in files.items()]
            values = {"pid": pid, "provenance_id": f"p{pid}", "product_id": rows[0], "exposure": exposure, "jd": jd,
                      "nid": ids.nid(jd), "field": 600, "fid": 1, "rcid": rcid, "programid": program, "status": 1,
                      "diffmaglim": 20.5, "magzpsci": 26.25, "exptime": 30.0, "ra": float(ra), "dec": float(dec),
                      "reference_id": reference, "corners": np.column_stack(corners).ravel()}  # fmt: skip
            candidates.register_difference(cursor, values)
        return {"pid": pid, "jd": jd, "path": files["scimrefdiffimg"].path}

    def add_reference(self) -> int:
        """A reference with a source 2 arcsec from the first candidate and one 7 arcsec from the second."""
        catalog = np.zeros(2, PSFCAT_DTYPE)
        at = positions()[:2]
        catalog["ra"], catalog["dec"] = at[:, 0], at[:, 1] + np.array([2.0, 7.0]) / 3600
        catalog["mag"], catalog["sigmag"], catalog["chi"], catalog["sharp"] = -8.0, 0.02, 1.25, 0.5
        written = write_psfcat(self.root / "refpsfcat.fits", catalog, fits.Header({"MAGZP": 26.0}))
        with db.transaction(self.dsn) as cursor:
            product = self._product(cursor, "r1", "refpsfcat", written)
            cursor.execute(
                "insert into references_ (rfid, field, rcid, fid, version, status, nframes, jdstart, jdend,"
                " provenance_id, product_id) values (1, 600, 20, 1, 1, 1, 15, 1, 2, 'r1', %s) returning reference_id",
                (product,),
            )
            return int(cursor.fetchone()[0])

    def _product(self, cursor: Any, provenance: str, kind: str, written: Any) -> int:
        values = {"provenance_id": provenance, "kind": kind, "dataset": provenance, "step": "difference", "version": 1,
                  "filename": written.path.name, "path": written.path.name, "bytes": written.bytes,
                  "sha256": written.sha256, "swversion": "x"}  # fmt: skip
        return int(db.insert(cursor, "products", values, "returning product_id")["product_id"])

    def measured(self, program: int = 1, config: ForcedConfig = CONFIG) -> dict[int, list[dict[str, Any]]]:
        """Forced photometry of the present candidates."""
        made = present(program)
        ra, dec = made.candidates["ra"], made.candidates["dec"]
        with db.transaction(self.dsn) as cursor:
            earlier = candidates.covering(cursor, ra, dec, JD - 60, JD, 0.2)
        return forced_photometry(self.dsn, self.root, made, range(len(ra)), earlier, config)


def positions() -> np.ndarray:
    return np.column_stack(world().all_pix2world(PLACES[:, 1], PLACES[:, 0], 0))


def present(program: int) -> DifferenceProducts:
    table = blank_table(len(FLUX))
    table["ra"], table["dec"] = positions().T
    table["jd"], table["programid"], table["field"], table["rcid"], table["fid"] = JD, program, 600, 20, 1
    empty = np.zeros((1, 1), np.float32)
    return DifferenceProducts(empty, empty, empty, empty, fits.Header(), table, {})


@pytest.fixture
def archive(database: Any, tmp_path: Path, rng: np.random.Generator) -> Archive:
    return Archive(tmp_path, database.pipeline, rng)


def test_fluxes_are_those_that_were_there(archive: Archive) -> None:
    images = [
        archive.add(20.0),
        archive.add(3.0, shift=(12.3, -7.6)),
        archive.add(0.01, zero=2.0, reference=archive.add_reference()),
    ]
    found = archive.measured()
    assert sorted(found) == [0, 1, 2, 3]
    for k in range(3):
        assert [row["pid"] for row in found[k]] == [image["pid"] for image in images]
        assert [row["procstatus"] for row in found[k]] == ["0"] * 3
        for row, zero in zip(found[k], (1, 1, 2), strict=True):
            assert abs(row["forcediffimflux"] - zero * FLUX[k]) < 4.5 * row["forcediffimfluxunc"] + 2e-3 * abs(FLUX[k])
            assert 20 < row["forcediffimfluxunc"] < 60
    assert [row["procstatus"] for row in found[3]] == ["61", "0", "61"]  # 12 rows further in, it is away from the edge
    first, last = found[0][0], complete("fp_hist", found[0][2])
    assert first["sciinpseeing"] == 2.2 and first["adpctdif2"] == pytest.approx(0.108) and first["magzpsci"] == 26.25
    assert (last["field"], last["rcid"], last["fid"], last["exptime"]) == (600, 20, 1, 30.0)
    assert last["rfid"] == ids.rfid(600, 1, 20) and last["jd"] == images[2]["jd"]
    assert last["distnr"] == pytest.approx(2.0, abs=1e-3) and last["magnr"] == pytest.approx(18.0)
    assert (last["chinr"], last["sharpnr"]) == (1.25, 0.5) and "distnr" not in found[0][0]
    assert complete("fp_hist", found[1][2])["distnr"] == -99999.0  # 7 arcsec are too far
    edge = complete("fp_hist", found[3][0])
    assert edge["forcediffimflux"] == edge["forcediffimfluxunc"] == -99999.0


def test_files_that_are_away_or_damaged_are_a_status_and_a_warning(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    images = [archive.add(days, reference=archive_reference) for days, archive_reference in ((5.0, None), (4.0, None))]
    gone, short, psf, good = *images, archive.add(3.0), archive.add(2.0)
    gone["path"].unlink()
    short["path"].write_bytes(short["path"].read_bytes()[:-5000])
    psf["path"].with_name(psf["path"].name.replace(".fits.fz", "_psf.fits")).write_bytes(b"not fits")
    with caplog.at_level(logging.WARNING):
        found = archive.measured()
    assert [row["procstatus"] for row in found[0]] == ["64", "64", "64", "0"]
    assert found[0][3]["pid"] == good["pid"]
    assert complete("fp_hist", found[0][0])["forcediffimflux"] == -99999.0
    assert sum("no forced photometry" in r.message for r in caplog.records) == 3
    caplog.clear()
    good["path"].write_bytes(bytes(good["path"].stat().st_size))
    assert archive.measured()[0][3]["procstatus"] == "64"


def test_a_lost_reference_catalog_leaves_the_flux(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    archive.add(5.0, reference=archive.add_reference())
    (archive.root / "refpsfcat.fits").unlink()
    row = archive.measured()[0][0]
    assert row["procstatus"] == "0" and "distnr" not in row and "no reference sources" in caplog.text


def test_private_images_are_not_even_opened_for_the_public(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [archive.add(5.0 - program, program=program) for program in (1, 2, 3)]
    from ztfds.operations import forced

    opened: list[str] = []
    plain = forced.open_sections
    monkeypatch.setattr(forced, "open_sections", lambda path, *more: (opened.append(path.name), plain(path, *more))[1])
    for program, seen in ((1, 1), (2, 2), (3, 3)):
        opened.clear()
        assert [row["programid"] for row in archive.measured(program)[0]] == [1, 2, 3][:seen]
        assert opened == [image["path"].name for image in images[:seen]]


def test_look_back_and_limits(archive: Archive) -> None:
    for days in (31.0, 29.0, 2.0, 1.0):
        archive.add(days)
    assert [round(JD - row["jd"], 3) for row in archive.measured()[0]] == [29.0, 2.0, 1.0]
    fewer = CONFIG.model_copy(update={"max_epochs": 2})
    assert [round(JD - row["jd"], 3) for row in archive.measured(config=fewer)[0]] == [2.0, 1.0]
    assert archive.measured(config=CONFIG.model_copy(update={"enabled": False})) == {}
    short = replace(archive)
    assert short.measured(config=CONFIG.model_copy(update={"history_days": 1.5}))[0][0]["jd"] == JD - 1.0
