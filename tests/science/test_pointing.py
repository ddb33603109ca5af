"""Where a quadrant may lie: its header first, then the camera's layout, and catalogs around both."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from ztfds.science.pointing import boresight, centre_of, pointing
from ztfds.survey.camera import TINY
from ztfds.survey.errors import MissingKeyword
from ztfds.survey.fields import separation_deg

RA, DEC = 157.78274, 40.55
PRIMARY = fits.Header({"RAD": RA, "DECD": DEC})


def test_without_world_coordinates_the_layout_counts() -> None:
    found = pointing(PRIMARY, fits.Header(), TINY, 6, 2)
    assert len(found.guesses) == 1
    assert found.centres[0] == pytest.approx(TINY.quadrant_centre_sky(RA, DEC, 6, 2))
    assert found.radius_deg == pytest.approx(TINY.radius_deg(), rel=1e-3)


def test_world_coordinates_that_agree_with_the_layout_are_the_only_guess() -> None:
    header = TINY.approximate_wcs(RA + 0.005, DEC, 6, 2).to_header()
    found = pointing(PRIMARY, header, TINY, 6, 2)
    assert len(found.guesses) == 1
    assert found.guesses[0].wcs.crval[0] == pytest.approx(header["CRVAL1"])


@pytest.mark.parametrize("away", [0.2, 3.0])
def test_world_coordinates_elsewhere_come_first_and_catalogs_cover_both(away: float) -> None:
    header = TINY.approximate_wcs(RA, DEC + away, 6, 2).to_header()
    found = pointing(PRIMARY, header, TINY, 6, 2)
    assert [guess.wcs.crval[1] for guess in found.guesses] == pytest.approx(
        [TINY.quadrant_centre_sky(RA, DEC + shift, 6, 2)[1] for shift in (away, 0.0)]
    )
    stars = np.zeros(3000, [("source_id", "i8"), ("ra", "f8"), ("dec", "f8")])
    stars["source_id"], stars["ra"], stars["dec"] = np.arange(3000), found.centres[0][0], np.linspace(38, 47, 3000)

    def query(ra: float, dec: float, radius: float) -> np.ndarray:
        return stars[np.array([separation_deg(ra, dec, s["ra"], s["dec"]) <= radius for s in stars])]

    rows = found.catalog(query, 0.1)
    assert len(np.unique(rows["source_id"])) == len(rows)
    for centre in found.centres:
        near = stars[np.array([separation_deg(*centre, s["ra"], s["dec"]) < 0.1 for s in stars])]
        assert len(near) and np.isin(near["source_id"], rows["source_id"]).all()


@pytest.mark.parametrize(
    "change",
    [
        {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"},
        {"CD1_1": 0.0, "CD1_2": 0.0},
        {"CRVAL2": 200.0},
        {"CD1_1": 5.0},
    ],
)
def test_world_coordinates_that_make_no_sense_are_left_out(change: dict[str, object]) -> None:
    header = fits.Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": RA, "CRVAL2": DEC, "CRPIX1": 128.0, "CRPIX2": 132.0,
         "CD1_1": -2.8e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": -2.8e-4}
    )  # fmt: skip
    assert len(pointing(PRIMARY, header, TINY, 6, 2).guesses) == 2
    header.update(change)
    assert len(pointing(PRIMARY, header, TINY, 6, 2).guesses) == 1


def test_the_boresight_is_the_readback_if_it_agrees() -> None:
    assert boresight(fits.Header({"RAD": RA, "DECD": DEC, "TELRAD": RA + 0.01, "TELDECD": DEC})) == (RA + 0.01, DEC)
    assert boresight(fits.Header({"RAD": RA, "DECD": DEC, "TELRAD": RA + 5, "TELDECD": DEC})) == (RA, DEC)
    with pytest.raises(MissingKeyword):
        boresight(fits.Header({"RAD": RA}))


def test_the_centre_of_a_solved_image() -> None:
    header = TINY.approximate_wcs(RA, DEC, 6, 1).to_header()
    assert centre_of(header, TINY.quadrant_shape) == pytest.approx(TINY.quadrant_centre_sky(RA, DEC, 6, 1))
