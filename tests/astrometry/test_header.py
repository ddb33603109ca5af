"""The solved world coordinates survive the product header, the file and whatever world coordinates the raw header had."""

from __future__ import annotations

import numpy as np
import pytest
from astrometric_scenes import FULL, make_scene, matrix
from astropy.io import fits
from astropy.wcs import WCS

from ztfds.astrometry.solve import solve
from ztfds.astrometry.tpv import Distortion
from ztfds.config.astrometry import AstrometryConfig
from ztfds.formats.images import read_image, write_image
from ztfds.science import header as cards

FOREIGN = {
    "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 5.0, "CRPIX2": 5.0,
    "CDELT1": 1e-3, "CDELT2": 1e-3, "CROTA1": 10.0, "CROTA2": 12.0, "PC1_1": 0.5, "PV1_17": 1e-3, "PV2_11": 1e-3,
    "A_ORDER": 2, "B_ORDER": 2, "A_0_2": 1e-5, "B_2_0": 1e-5, "AP_ORDER": 1, "BP_ORDER": 1, "AP_0_1": 1e-5,
    "CTYPE1A": "RA---TAN", "CTYPE2A": "DEC--TAN", "CRVAL1A": 3.0, "CD1_1A": 1.0, "RADECSYS": "FK5", "EQUINOX": 1950.0,
    "CPDIS1": "LOOKUP", "LONPOLE": 90.0,
}  # fmt: skip


def difference_mas(header: fits.Header, model: Distortion, shape=FULL) -> float:
    """Largest difference of the header's sky, by astropy, from the model's over the whole quadrant."""
    ny, nx = shape
    x, y = (g.ravel() for g in np.meshgrid(np.linspace(-0.5, nx - 0.5, 25), np.linspace(-0.5, ny - 0.5, 25)))
    ra, dec = WCS(header).all_pix2world(x, y, 0)
    ra0, dec0 = model.sky(x, y)
    east = ((ra - ra0 + 180) % 360 - 180) * np.cos(np.radians(dec0))
    return float(max(np.abs(east).max(), np.abs(dec - dec0).max()) * 3.6e6)


@pytest.mark.parametrize("foreign", [{}, FOREIGN])
@pytest.mark.parametrize("rice", [True, False])
def test_solved_cards_through_the_product_header_and_file(tmp_path, foreign, rice):
    rng = np.random.default_rng(40)
    coefficients = np.vstack([np.zeros(2), np.eye(2), rng.normal(0, 5e-4, (12, 2))])
    model = Distortion(1535.5, 1539.5, 359.951234567891, -29.012345678912, matrix(0.7123456789), coefficients)
    header = cards.start(fits.Header({"OBJRAD": 1.0, **foreign}), fits.Header({"GAIN": 6.2, **foreign}))
    cards.set_astrometry(header, model.cards())
    write_image(tmp_path / "a.fits", np.zeros((264, 256), np.float32), header, rice=rice)
    _, read = read_image(tmp_path / "a.fits")
    assert difference_mas(header, model) < 1e-3 and difference_mas(read, model) < 1e-3
    assert read["OBJRAD"] == 1.0 and read["GAIN"] == 6.2


def test_a_solution_and_its_inverse_through_the_header():
    rng = np.random.default_rng(41)
    scene = make_scene(rng, FULL, 800, center=(0.01, 75.0))
    solution = solve(
        scene.x, scene.y, scene.flux, FULL, scene.guess, scene.gaia, AstrometryConfig(), snr=scene.snr, fwhm_px=2.2
    )
    header = cards.start(fits.Header(), fits.Header(FOREIGN))
    cards.set_astrometry(header, solution.header)
    text = fits.Header.fromstring(header.tostring())
    assert difference_mas(text, solution.distortion) < 1e-3
    x, y = rng.uniform(0, 3070, (2, 200))
    there = WCS(text).all_pix2world(x, y, 0)
    np.testing.assert_allclose(WCS(text).all_world2pix(*there, 0), [x, y], atol=1e-4)
