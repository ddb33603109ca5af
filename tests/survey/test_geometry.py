"""Camera and field geometry against the real grid, alerts and header."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import fastavro
import numpy as np
import pytest

from ztfds.survey import camera, fields
from ztfds.survey.camera import CCD, TINY, ZTF
from ztfds.survey.errors import ConfigurationError, Mislabelled, OffGridField


def gnomonic(ra: float, dec: float, ra0: float, dec0: float) -> np.ndarray:
    a, d, d0 = np.radians(ra - ra0), np.radians(dec), np.radians(dec0)
    down = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
    xi = np.cos(d) * np.sin(a) / down
    return np.degrees([xi, (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)) / down])


def test_numbering() -> None:
    assert camera.rcid(1, 1) == 0
    assert camera.rcid(8, 3) == 30
    assert camera.rcid(16, 4) == 63
    assert [camera.rcid(*camera.ccd_qid(k)) for k in range(64)] == list(range(64))
    assert ZTF.rcids == tuple(range(64))
    assert CCD.rcids == (20, 21, 22, 23)
    assert TINY.rcids == tuple(range(20, 28))
    for wrong in ((0, 1), (17, 1), (1, 0), (1, 5)):
        with pytest.raises(ConfigurationError):
            camera.rcid(*wrong)
    with pytest.raises(ConfigurationError):
        camera.ccd_qid(64)


@pytest.mark.realdata
def test_quadrant_centres_are_those_of_the_grid_on_the_sky(real_data: Path) -> None:
    corners = defaultdict(list)
    with (real_data / "grid" / "ztf_ccd_quad_layout.tbl").open() as table:
        for row in csv.DictReader(table):
            corners[int(row["Quad"])].append((float(row["EW"]), float(row["NS"])))
    for rcid, points in corners.items():
        lon, lat = np.mean(points, axis=0)
        # A boresight at (0, 0) makes boresight longitude and latitude the same as right ascension and declination.
        ra, dec = ZTF.quadrant_centre_sky(0.0, 0.0, *camera.ccd_qid(rcid))
        assert fields.separation_deg(ra, dec, lon % 360, lat) * 3600 < 10
    assert len(corners) == 64


@pytest.mark.realdata
def test_corners_are_those_of_the_grid_on_the_sky(real_data: Path) -> None:
    corners = defaultdict(list)
    with (real_data / "grid" / "ztf_ccd_quad_layout.tbl").open() as table:
        for row in csv.DictReader(table):
            corners[int(row["Quad"])].append((float(row["EW"]), float(row["NS"])))
    for rcid, points in corners.items():
        ours = ZTF.corners(0.0, 0.0, *camera.ccd_qid(rcid))
        for lon, lat in points:
            assert min(fields.separation_deg(a, d, lon % 360, lat) for a, d in ours) * 3600 < 45


def test_orientation_of_ccds_quadrants_and_axes() -> None:
    centre = {(c, q): ZTF.quadrant_centre_deg(c, q) for c in range(1, 17) for q in range(1, 5)}
    assert centre[1, 1][0] > 0 > centre[1, 1][1]
    assert centre[4, 1][0] < 0 > centre[4, 1][1]
    assert centre[16, 1][0] < 0 < centre[16, 1][1]
    for ccd in range(1, 17):
        east, north = zip(*(centre[ccd, q] for q in (1, 2, 3, 4)), strict=True)
        assert min(east[0], east[3]) > max(east[1], east[2])
        assert min(north[0], north[1]) > max(north[2], north[3])
    cd = ZTF.approximate_wcs(10.0, 0.0, 6, 1).wcs.cd
    assert cd[0, 0] < 0 and cd[1, 1] < 0


@pytest.mark.realdata
def test_nominal_coordinates_lie_within_a_few_arcmin_of_real_alerts(real_data: Path) -> None:
    offsets = []
    for path in sorted((real_data / "alerts").glob("*/*.avro")):
        with path.open("rb") as stream:
            row = next(iter(fastavro.reader(stream)))["candidate"]
        field = fields.get(row["field"])
        wcs = ZTF.approximate_wcs(field.ra, field.dec, *camera.ccd_qid(row["rcid"]))
        ra, dec = wcs.pixel_to_world_values(row["xpos"] - 1, row["ypos"] - 1)
        offsets.append(fields.separation_deg(float(ra), float(dec), row["ra"], row["dec"]) * 3600)
    assert len(offsets) == 72
    assert max(offsets) < 240  # pointing errors of the real telescope included
    assert np.median(offsets) < 90


def test_nominal_coordinates_match_the_real_header() -> None:
    # Field 712, CCD 8, quadrant 3: CRVAL and PC matrix of the astrometric solution of a real science image.
    wcs = ZTF.approximate_wcs(157.784, 40.5499, 8, 3)
    assert fields.separation_deg(*wcs.wcs.crval, 153.6380897764, 39.08566747959) * 3600 < 60
    real = np.array([[-2.808968855351e-04, 1.391746168666e-05], [-1.388342571183e-05, -2.808703705843e-04]])
    assert np.allclose(wcs.wcs.cd, real, atol=1.5e-6)
    assert wcs.wcs.crpix.tolist() == [1536.5, 1540.5]


@pytest.mark.parametrize("dec", [-30.0, 0.0, 60.0, 87.4, 90.0])
def test_convergence_is_right_even_near_the_pole(dec: float) -> None:
    wcs = ZTF.approximate_wcs(200.0, dec, 1, 4)
    x, y = ZTF.centre_pixel
    ra, de = wcs.pixel_to_world_values([x, x], [y + 1000, y - 1000])
    xi, eta = np.transpose([gnomonic(a, d, 200.0, dec) for a, d in zip(ra, de, strict=True)])
    # A column of the detector is a meridian about the boresight; those are straight lines of constant xi.
    assert abs(xi[1] - xi[0]) * 3600 < 5
    assert eta[1] > eta[0]


def test_the_small_camera_is_the_real_one_shrunk() -> None:
    for ccd in TINY.ccdids:
        for quadrant in (1, 2, 3, 4):
            big, small = ZTF.quadrant_centre_deg(ccd, quadrant), TINY.quadrant_centre_deg(ccd, quadrant)
            assert small[0] / big[0] == pytest.approx(256 / 3072, rel=2e-3)
            assert small[1] / big[1] == pytest.approx(264 / 3080, rel=2e-3)
    assert TINY.area_fraction == pytest.approx(256 * 264 / (3072 * 3080))
    corners = TINY.corners(100.0, 30.0, 6, 1)
    diagonal = fields.separation_deg(*corners[0], *corners[2])
    assert diagonal == pytest.approx(2 * TINY.radius_deg(), rel=1e-3)


def test_cameras_are_found() -> None:
    assert camera.get_camera("TINY") is TINY
    assert camera.camera_for_shape((3080, 3072)) is ZTF
    assert camera.camera_for_shape((264, 256)) is TINY
    other = camera.camera_for_shape((512, 500))
    assert other.quadrant_shape == (512, 500) and len(other.rcids) == 64
    with pytest.raises(ConfigurationError, match="known are"):
        camera.get_camera("hubble")


@pytest.mark.realdata
def test_fields_are_those_of_the_grid(real_data: Path) -> None:
    with (real_data / "grid" / "ztf_fields.txt").open() as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == len(fields.all_fields())
    for row in rows:
        field = fields.get(int(row["ID"]))
        assert (field.ra, field.dec) == (float(row["RA"]), float(row["Dec"]))


def test_fields_are_found() -> None:
    field = fields.get(712)
    assert (field.ra, field.dec, field.grid) == (157.78274, 40.55, 0)
    assert fields.nearest(157.8, 40.5)[0] == field
    assert fields.nearest(157.8, 40.5, grid=1)[0].grid == 1
    assert fields.nearest(359.9, -89.5)[1] < 1
    with pytest.raises(OffGridField, match="field 5000"):
        fields.get(5000)


def test_pointing_must_match_its_field() -> None:
    assert fields.check_pointing(712, 157.784, 40.5499).fieldid == 712
    with pytest.raises(Mislabelled, match="nearest is field"):
        fields.check_pointing(712, 165.0, 40.55)
    with pytest.raises(OffGridField):
        fields.check_pointing(0, 157.784, 40.5499)
    # All right ascensions are near at the pole.
    assert fields.separation_deg(0.0, 90.0, 180.0, 90.0) == pytest.approx(0.0, abs=1e-9)
