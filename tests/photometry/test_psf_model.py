from __future__ import annotations

import moffat_scenes as scenes
import numpy as np
import pytest
from moffat_scenes import measured

from ztfds.config.photometry import PhotometryConfig
from ztfds.formats.psf import read_psf, write_psf
from ztfds.kernels import psf as kernels
from ztfds.photometry import measure
from ztfds.photometry.psf import PsfModel, evaluate, moffat
from ztfds.survey.errors import PsfFailed, UnreadableFile


def test_stamp_sums_to_one_at_any_phase_and_size(isolated):
    _, _, psf = isolated
    for size, dx, dy in ((25, 0, 0), (25, 0.5, -0.31), (15, -0.2, 0.4), (31, 0.1, 0.1)):
        stamp = psf.stamp(100.0, 300.0, size, dx, dy)
        assert stamp.shape == (size, size)
        assert stamp.dtype == np.float32
        assert stamp.sum(dtype=float) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ValueError, match="odd"):
        psf.stamp(0, 0, 24)
    with pytest.raises(ValueError, match="within"):
        psf.stamp(0, 0, 25, 0.7)


def test_stamp_matches_the_true_profile_all_over_the_field(isolated):
    """Peak to 1.5 % and flux within 3 pixels to 0.6 % although the true width changes by 8 %."""
    _, _, psf = isolated
    yy, xx = np.mgrid[-12:13, -12:13]
    near = np.hypot(xx, yy) < 3.2
    for x, y in ((40, 60), (326, 320), (610, 590)):
        truth = scenes.moffat_stamp(12, 12, 2.2 * (1 + 0.08 * (x / 652 - 0.5)), 3.0, 0.93, 0.6, 12)[2]
        stamp = psf.stamp(x, y)
        assert stamp.max() == pytest.approx(truth.max() / truth.sum(), rel=0.015)
        assert stamp[near].sum() == pytest.approx(truth[near].sum() / truth.sum(), rel=0.006)


def test_subpixel_offset_moves_the_light(isolated):
    _, _, psf = isolated
    yy, xx = np.mgrid[-12:13, -12:13]
    weight = np.exp(-0.5 * (xx**2 + yy**2) / 4.0)
    centre = [
        (stamp * weight * xx).sum() / (stamp * weight).sum()
        for stamp in (psf.stamp(300, 300, dx=0.4), psf.stamp(300, 300))
    ]
    assert centre[0] - centre[1] == pytest.approx(0.4 * 0.8, abs=0.08)


def test_rendering_agrees_with_the_formula_and_its_derivative(rng):
    psf = moffat(2.5, (200, 220))
    plain = psf.coefficients[0].astype(float)
    local, rows = np.zeros((2, 56, 28), np.float32), np.empty((2, 56, kernels.PAD), np.float32)
    value, by_x, by_y = (np.zeros(kernels.PAD**2, np.float32) for _ in range(3))
    kernels.local_psf(psf.phased, 70.0, 60.0, 220, 200, 12.0, np.empty(6), local)
    for x, y in rng.uniform(60, 70, (10, 2)):
        kernels.render(local, x, y, int(x) - 4, int(y) - 4, 9, 9, value, by_x, by_y, rows, True)
        jj, ii = np.mgrid[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5]

        def at(dx, dy):
            return evaluate(plain, (ii - x - dx).ravel(), (jj - y - dy).ravel()).reshape(9, 9)  # noqa: B023

        np.testing.assert_allclose(value[:81].reshape(9, 9), at(0, 0), atol=2e-7)
        np.testing.assert_allclose(by_x[:81].reshape(9, 9), (at(1e-4, 0) - at(-1e-4, 0)) / 2e-4, atol=3e-6)
        np.testing.assert_allclose(by_y[:81].reshape(9, 9), (at(0, 1e-4) - at(0, -1e-4)) / 2e-4, atol=3e-6)


def test_fwhm_is_that_of_the_sampled_profile(isolated):
    _, _, psf = isolated
    assert psf.fwhm_px == pytest.approx(np.hypot(2.2, 0.87), rel=0.01)
    assert psf.fwhm_at(620, 300) > psf.fwhm_at(30, 300) * 1.04


def test_heavy_wings_and_wide_seeing_are_followed(rng):
    scene = scenes.make(rng, shape=(500, 500), n=150, fwhm=2.8, beta=2.3, slope=0.5, half=40)
    _, psf = measured(scene)
    truth = scenes.moffat_stamp(12, 12, 2.8, 2.3, 1.0, 0.6, 12)[2]
    yy, xx = np.mgrid[-12:13, -12:13]
    for radius in (2.0, 4.0, 7.0):
        near = np.hypot(xx, yy) < radius
        assert psf.centre_stamp()[near].sum() == pytest.approx(truth[near].sum() / truth.sum(), rel=0.015)


def test_arrays_and_file_round_trip(isolated, tmp_path):
    _, _, psf = isolated
    again = PsfModel.from_arrays(psf.to_arrays())
    np.testing.assert_array_equal(again.stamp(50, 60), psf.stamp(50, 60))
    write_psf(tmp_path / "x_sciimgdao.psf", psf)
    loaded = PsfModel.from_arrays(read_psf(tmp_path / "x_sciimgdao.psf"))
    np.testing.assert_array_equal(loaded.stamp(600, 20), psf.stamp(600, 20))
    assert (loaded.fwhm_px, loaded.n_stars, loaded.shape) == (psf.fwhm_px, psf.n_stars, psf.shape)


def test_the_recipe_in_the_file_is_true(isolated, tmp_path):
    """Evaluate the product by the header's own words only, without this library."""
    from astropy.io import fits

    _, _, psf = isolated
    write_psf(tmp_path / "p.psf", psf)
    with fits.open(tmp_path / "p.psf") as file:
        cube, header = file[0].data.astype(float), file[0].header

    def spline(t):
        t = np.abs(t)
        return np.where(t < 1, 2 / 3 - t * t + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0.0))

    x, y, dx, dy = 500.0, 100.0, 1.3, -0.6
    u = (x - (header["PSFNX"] - 1) / 2) / (header["PSFNX"] / 2)
    v = (y - (header["PSFNY"] - 1) / 2) / (header["PSFNY"] / 2)
    phi = np.array([1, u, v, u * u, u * v, v * v])[: cube.shape[0]]
    node = np.arange(cube.shape[1])
    across = spline(header["PSFSAMP"] * dx + header["PSFCEN"] - node)
    along = spline(header["PSFSAMP"] * dy + header["PSFCEN"] - node)
    value = np.einsum("k,kji,j,i", phi, cube, along, across)
    # the pixel one to the right and one up of a star that sits at (-0.3, -0.4) of the stamp's centre
    assert value == pytest.approx(psf.stamp(x, y, dx=-0.3, dy=-0.4)[11, 13], rel=2e-3)


def test_the_product_is_a_psfex_file_too(isolated, tmp_path):
    """Evaluate PSF_DATA as PSFEx's readers do: a polynomial of planes, sampled every half pixel, sum 1."""
    from astropy.io import fits

    _, _, psf = isolated
    write_psf(tmp_path / "p.psf", psf)
    with fits.open(tmp_path / "p.psf") as file:
        hdu = file["PSF_DATA"]
        planes, header = hdu.data["PSF_MASK"][0].astype(float), hdu.header
    assert planes.shape == (header["PSFAXIS3"], header["PSFAXIS2"], header["PSFAXIS1"])
    x, y = 500.0, 100.0
    u = (x + 1 - header["POLZERO1"]) / header["POLSCAL1"]
    v = (y + 1 - header["POLZERO2"]) / header["POLSCAL2"]
    terms = np.array([u**i * v**j for j in range(header["POLDEG1"] + 1) for i in range(header["POLDEG1"] + 1 - j)])
    image = np.einsum("k,kji->ji", terms, planes)
    assert image.sum() == pytest.approx(1.0, abs=0.01)
    middle = header["PSFAXIS1"] // 2
    pixels = image[middle - 24 : middle + 25 : 2, middle - 24 : middle + 25 : 2] / header["PSF_SAMP"] ** 2
    np.testing.assert_allclose(pixels, psf.stamp(x, y), atol=2e-4 * pixels.max())


def test_the_error_map_says_how_good_the_model_is(isolated, tmp_path):
    _, _, psf = isolated
    write_psf(tmp_path / "p.psf", psf)
    error = PsfModel.from_arrays(read_psf(tmp_path / "p.psf")).error_map
    np.testing.assert_array_equal(error, psf.error_map)
    truth = scenes.moffat_stamp(12, 12, 2.2, 3.0, 0.93, 0.6, 12)[2]
    pull = (psf.centre_stamp() - truth / truth.sum()) / error
    assert 0.2 < pull.std() < 1.5
    assert (error > 0).all()


def test_a_file_that_is_no_psf_is_refused(tmp_path):
    from ztfds.formats.images import write_image

    write_image(tmp_path / "a.fits", np.zeros((5, 5), np.float32))
    with pytest.raises(UnreadableFile, match="no PSF product"):
        read_psf(tmp_path / "a.fits")


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_stars_fail_with_the_number(rng, n):
    xy = [(60.0 + 60 * k, 100.0) for k in range(n)]
    scene = scenes.make(rng, xy=np.array(xy).reshape(-1, 2), flux=np.full(n, 20_000.0))
    config = PhotometryConfig.tiny()
    prepared = measure.prepare(scene.pixels, scene.mask, scenes.GAIN, scenes.READNOISE, scenes.SATURATE, config)
    with pytest.raises(PsfFailed, match="stars usable"):
        measure.model_psf(prepared, config)


@pytest.mark.parametrize("n", [3, 5])
def test_a_handful_of_stars_still_make_a_psf(rng, n):
    xy = rng.uniform(40, 220, (1, 2)) + np.array([(35.0 * k, (50.0 * k) % 130) for k in range(n)]) * 0.9
    scene = scenes.make(rng, xy=xy % 200 + 20, flux=np.full(n, 25_000.0))
    _, psf = measured(scene, PhotometryConfig.tiny())
    assert psf.order == 0
    assert psf.fwhm_px == pytest.approx(2.36, rel=0.05)
