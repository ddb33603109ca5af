"""Epochs solved together: artificial ones against truth, and the three real PTF catalogs, of which one is bad."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pytest
from astropy.io import fits

from ztfds.config.astrometry import ZeropointConfig
from ztfds.formats.catalogs import PS1_DTYPE
from ztfds.formats.tables import PSFCAT_DTYPE
from ztfds.kernels.match import match_mutual
from ztfds.photometry.relative import solve_together
from ztfds.photometry.zeropoint import calibrate
from ztfds.survey.bits import CLOUDY, PATCHY, flags
from ztfds.survey.filters import by_code


def test_zero_points_and_stars_come_out_within_their_errors(rng):
    n_stars, n_epochs = 300, 6
    truth, zero = rng.uniform(15, 19, n_stars), np.concatenate([[0.0], rng.normal(0, 0.3, n_epochs - 1)])
    star, epoch = (part.ravel() for part in np.meshgrid(np.arange(n_stars), np.arange(n_epochs)))
    sigma = np.full(star.size, 0.01)
    extra = np.array([0.0, 0.0, 0.02, 0.0, 0.15, 0.0])
    mag = truth[star] - zero[epoch] + rng.normal(0, np.hypot(sigma, extra[epoch]))
    mag[rng.random(mag.size) < 0.03] += rng.uniform(0.3, 2.0)  # variables, blends
    mag[rng.random(mag.size) < 0.1] = np.nan
    result = solve_together(star, epoch, mag, sigma)
    assert result.zero[0] == 0 and np.abs(result.zero - zero).max() < 5 * result.zero_error.max() < 0.06
    assert np.abs(result.zero - zero)[[1, 3, 5]].max() < 0.003
    np.testing.assert_allclose(result.scatter[[2, 4]], extra[[2, 4]], rtol=0.25)
    assert result.scatter[[0, 1, 3, 5]].max() < 0.006
    assert 0.8 < np.nanstd((result.mag - truth) / result.mag_error) < 1.3
    assert result.used.mean() == pytest.approx(0.9 * 0.97, abs=0.02)


def test_an_epoch_without_stars_has_no_zero_point():
    star, epoch = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 0, 0, 2, 2, 2])
    result = solve_together(star, epoch, np.array([1.0, 2, 3, 1.5, 2.5, 3.5]), np.full(6, 0.01))
    assert np.isnan(result.zero[1]) and result.zero[2] == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="no magnitudes"):
        solve_together(star[:0], epoch[:0], np.zeros(0), np.zeros(0))


def _ptf(folder):
    """The catalogs of three epochs of one PTF CCD: stars as a PSF catalog has them, image header, PTF zero points."""
    epochs = []
    for path in sorted((folder / "ptf").glob("*.ctlg.gz")):
        with gzip.open(path) as stream, fits.open(io.BytesIO(stream.read())) as hdus:
            rows, header = hdus[1].data, hdus[2].header
            snr = rows["FLUX_AUTO"] / np.maximum(rows["FLUXERR_AUTO"], 1e-3)
            # IMAFLAGS 2 marks the pixels of detected objects; a saturated PTF core is brighter than MU_MAX -11.7.
            star = (rows["FLAGS"] == 0) & ((rows["IMAFLAGS_ISO"] & ~2) == 0) & (rows["CLASS_STAR"] > 0.8) & (snr > 20)
            star &= rows["MU_MAX"] > -11.7
            cat = np.zeros(int(star.sum()), PSFCAT_DTYPE)
            for name, source in (("xpos", "XWIN_IMAGE"), ("ypos", "YWIN_IMAGE"), ("ra", "X_WORLD"), ("dec", "Y_WORLD")):
                cat[name] = rows[source][star]
            cat["flux"], cat["sigflux"], cat["snr"] = rows["FLUX_AUTO"][star], rows["FLUXERR_AUTO"][star], snr[star]
            cat["mag"], cat["sigmag"] = -2.5 * np.log10(cat["flux"]), 1.0857 / cat["snr"]
            epochs.append((cat, dict(header), rows["ZEROPOINT"][star]))
    return epochs


def _measurements(epochs):
    """Stars of the first epoch found in the others (whose positions may be off as a whole): star, epoch, mag, sigma."""
    first, parts = epochs[0][0], []
    for number, (cat, *_) in enumerate(epochs):
        i, j, _ = match_mutual(first["ra"], first["dec"], cat["ra"], cat["dec"], 8 / 3600)
        for axis in ("ra", "dec"):
            cat[axis] -= np.median(cat[axis][j] - first[axis][i])
        i, j, _ = match_mutual(first["ra"], first["dec"], cat["ra"], cat["dec"], 1 / 3600)
        parts.append((i, np.full(i.size, number), cat["mag"][j].astype(float), cat["sigmag"][j].astype(float)))
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


@pytest.mark.realdata
def test_two_good_ptf_epochs_agree_and_the_bad_one_is_flagged(real_data):
    epochs = _ptf(real_data)
    star, epoch, mag, sigma = _measurements(epochs)
    result = solve_together(star, epoch, mag, np.hypot(sigma, 0.003))
    assert result.number.min() > 500
    first, second = (dict(zip(star[epoch == k], mag[epoch == k] + result.zero[k], strict=True)) for k in (0, 1))
    bright = [s for s in first if s in second and epochs[0][0]["snr"][s] > 100]
    difference = np.array([first[s] - second[s] for s in bright])
    assert len(bright) > 500 and 1.4826 * np.median(np.abs(difference)) <= 0.015
    assert abs(np.median(difference)) < 0.002
    # The relative zero point of the good pair is that of PTF's own absolute calibration.
    assert np.median(epochs[1][2]) - np.median(epochs[0][2]) == pytest.approx(result.zero[1], abs=0.005)
    # The bad one: fainter by 1.6 mag than airmass explains, with gradients: our rules say clouds and patches.
    assert result.zero[2] == pytest.approx(-1.62, abs=0.03) and result.scatter[2] > 0.05 > 5 * result.scatter[:2].max()
    assert epochs[2][1]["IMAGEZPT"] == 0.0
    found = [_judged(cat, epochs[0][0], result, 2048 * 4096 / (3072 * 3080)) for cat, *_ in epochs]
    assert found[:2] == [0, 0]
    assert found[2] & CLOUDY and found[2] & PATCHY


def _judged(cat, first, result, area):
    """Database bits of an epoch whose zero point is tied to the common magnitudes of all epochs by `calibrate`."""
    stars = np.flatnonzero(np.isfinite(result.mag) & (result.mag_error < 0.02))
    catalog = np.zeros(stars.size, PS1_DTYPE)
    catalog["ra"], catalog["dec"], catalog["sgscore"] = first["ra"][stars], first["dec"][stars], 1.0
    for band, color in (("g", 0.6), ("r", 0.0), ("i", -0.2), ("z", -0.3)):
        catalog[band], catalog[f"{band}_err"] = result.mag[stars] + 27.6 + color, result.mag_error[stars]
    zp = calibrate(cat, catalog, by_code("zr"), ZeropointConfig(), shape=(4096, 2048), airmass=1.5)
    # Not the zero point itself: that of another camera, with another scale of DN, says nothing here.
    return flags({name: value for name, value in zp.metrics.items() if name != "zp_clear_mag"}, 2, area)[0]
