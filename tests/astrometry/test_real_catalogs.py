"""Real detections: three epochs of one PTF CCD, each solved blind with another's positions as its catalog."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from ztfds.astrometry.solve import AstrometricSolution, solve
from ztfds.config.astrometry import AstrometryConfig

pytestmark = pytest.mark.realdata
SHAPE = (4096, 2048)


@pytest.fixture(scope="module")
def epochs(real_data):
    return [fits.getdata(path, 1) for path in sorted((real_data / "ptf").glob("*.ctlg.gz"))]


def snr(epoch):
    error = epoch["FLUXERR_AUTO"]
    return epoch["FLUX_AUTO"] / np.where(error > 0, error, np.inf)


def as_catalog(epoch) -> np.ndarray:
    """Clean sources as a catalog: it lacks the saturated ones, which the other epoch's detections have."""
    clean = (epoch["FLAGS"] == 0) & (snr(epoch) > 20)
    table = np.zeros(clean.sum(), [("ra", "f8"), ("dec", "f8"), ("gmag", "f4")])
    for name, column in (("ra", "ALPHAWIN_J2000"), ("dec", "DELTAWIN_J2000"), ("gmag", "MAG_AUTO")):
        table[name] = epoch[column][clean]
    return table


def blind(epoch, catalog) -> AstrometricSolution:
    """Solve with a header that is 77 to 90 arcsec off and turned by 0.77 deg."""
    turn = np.radians(0.7)
    cards = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 1024.5, "CRPIX2": 2048.5,
        "CRVAL1": float(np.median(epoch["ALPHAWIN_J2000"])) + 0.02,
        "CRVAL2": float(np.median(epoch["DELTAWIN_J2000"])) - 0.02,
        "CD1_1": 2.81e-4 * np.cos(turn), "CD1_2": 2.81e-4 * np.sin(turn),
        "CD2_1": 2.81e-4 * np.sin(turn), "CD2_2": -2.81e-4 * np.cos(turn),
    }  # fmt: skip
    x, y = epoch["XWIN_IMAGE"] - 1.0, epoch["YWIN_IMAGE"] - 1.0
    return solve(
        x, y, epoch["FLUX_AUTO"], SHAPE, WCS(fits.Header(cards)), catalog, AstrometryConfig(), snr=snr(epoch),
        fwhm_px=2.1, usable=epoch["FLAGS"] == 0,
    )  # fmt: skip


def scatter(values: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


@pytest.mark.parametrize(("known", "new"), list(permutations(range(3), 2)))
def test_real_epochs_are_tied_to_each_other(epochs, known, new):
    catalog, epoch = as_catalog(epochs[known]), epochs[new]
    solution = blind(epoch, catalog)
    i, j = solution.detection_index, solution.gaia_index
    bright = snr(epoch)[i] > 100
    assert solution.n_matched > 0.6 * min(len(catalog), (snr(epoch) > 20).sum()) and bright.sum() > 250
    assert 60 < solution.shift_arcsec < 110 and solution.rotation_deg == pytest.approx(-0.77, abs=0.02)
    ours = [scatter(solution.residual_ra_mas[bright]), scatter(solution.residual_dec_mas[bright])]
    east = (epoch["ALPHAWIN_J2000"][i] - catalog["ra"][j]) * np.cos(np.radians(catalog["dec"][j]))
    theirs = [scatter(d[bright] * 3.6e6) for d in (east, epoch["DELTAWIN_J2000"][i] - catalog["dec"][j])]
    assert max(ours) < 40, "two epochs of 60 s: 20 to 25 mas of air and centroid each"
    assert sum(ours) < 1.05 * sum(theirs), "not worse than the solutions that the catalogs came with"
    assert solution.metrics["astrom_ingrid_resid_arcsec"] < 0.03
