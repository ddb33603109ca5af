from __future__ import annotations

import moffat_scenes as scenes
import numpy as np
import pytest
from moffat_scenes import match, measured

from ztfds.config.photometry import PhotometryConfig
from ztfds.formats.tables import PSFCAT_DTYPE
from ztfds.photometry.fit import neighbour_lists, source_flags
from ztfds.survey import bits


def truth_and_fit(fields):
    """Relative flux error, pull and S/N of matched, clean stars that have no neighbour within 10 pixels."""
    rows = []
    for scene, photometry, _ in fields:
        catalog = photometry.catalog
        i, j = match(scene, catalog)
        start, _ = neighbour_lists(scene.x, scene.y, 10.0)
        good = (np.diff(start)[i] == 0) & (catalog["flags"][j] == 0)
        i, j = i[good], j[good]
        error = catalog["flux"][j] - scene.flux[i]
        rows.append(np.c_[error / scene.flux[i], error / catalog["sigflux"][j], catalog["snr"][j]])
    return np.concatenate(rows).T


def test_flux_bias_below_one_percent_and_pulls_of_unit_width(isolated):
    relative, pull, snr = truth_and_fit([isolated])
    for low, high in ((5, 15), (15, 50), (50, 150), (150, 350)):
        inside = (snr > low) & (snr < high)
        assert inside.sum() > 50
        width = pull[inside].std()
        assert 0.8 < width < 1.2, f"S/N {low} to {high}: pull width {width:.2f}"
        noise = 1.25 * relative[inside].std() / np.sqrt(inside.sum())
        assert abs(np.median(relative[inside])) < 0.01 + 2 * noise * (high <= 15)


def test_bright_stars_scatter_by_less_than_half_a_percent(isolated):
    relative, _, snr = truth_and_fit([isolated])
    bright = snr > 250
    assert bright.sum() > 20
    assert relative[bright].std() < 0.005


def test_positions_and_their_errors(isolated):
    scene, photometry, _ = isolated
    catalog = photometry.catalog
    i, j = match(scene, catalog)
    for column, true, error in (("xpos", scene.x, photometry.x_error), ("ypos", scene.y, photometry.y_error)):
        pull = (catalog[column][j] - true[i]) / error[j]
        assert 0.85 < 1.4826 * np.median(np.abs(pull - np.median(pull))) < 1.15
        bright = catalog["snr"][j] > 100
        assert np.abs(np.mean((catalog[column][j] - true[i])[bright])) < 0.01


def test_chi_is_one_and_sharp_is_zero_for_stars(isolated):
    catalog = isolated[1].catalog
    good = catalog["flags"] == 0
    assert np.median(catalog["chi"][good]) == pytest.approx(1.0, abs=0.05)
    assert abs(np.median(catalog["sharp"][good & (catalog["snr"] > 50)])) < 0.01


def test_catalog_columns_and_magnitudes(isolated):
    catalog = isolated[1].catalog
    assert catalog.dtype == PSFCAT_DTYPE
    assert (np.diff(catalog["flux"]) <= 0).all()
    np.testing.assert_allclose(catalog["mag"], -2.5 * np.log10(catalog["flux"]), rtol=1e-5)
    np.testing.assert_allclose(catalog["snr"], catalog["flux"] / catalog["sigflux"], rtol=1e-4)
    assert np.isnan(catalog["ra"]).all()


def test_tiny_quadrants_are_as_good(tiny_field):
    relative, pull, snr = truth_and_fit(tiny_field)
    faint, bright = (snr > 5) & (snr < 50), snr > 50
    assert 0.8 < pull[faint].std() < 1.2
    assert 0.6 < pull[bright].std() < 1.3
    assert abs(np.median(relative[bright])) < 0.01


def test_residual_image_is_noise(tiny_field):
    for scene, photometry, _ in tiny_field:
        expected = np.sqrt(photometry.background.mesh_variance.mean())
        assert photometry.residual[10:-10, 10:-10].std() < 1.08 * expected
        assert np.abs(photometry.residual.mean()) < 0.4
        assert photometry.residual.shape == scene.pixels.shape


def test_completeness_is_high_in_a_crowd(rng):
    """6 stars per 1000 pixels, as in the plane: at S/N 8 to 15, 90 % are found, and few sources are false."""
    from scipy.spatial import cKDTree

    scene = scenes.make(rng, shape=(500, 500), n=1500, slope=0.8, faint=300.0)
    photometry, _ = measured(scene)
    catalog = photometry.catalog
    i, _ = match(scene, catalog)
    some = (scene.flux > 400) & (scene.flux < 750)
    assert np.isin(np.flatnonzero(some), i).mean() > 0.87
    away, _ = cKDTree(np.c_[scene.x, scene.y]).query(np.c_[catalog["xpos"], catalog["ypos"]])
    assert (away > 1.5).sum() < 0.03 * len(catalog)
    assert abs(photometry.background.median_level - 700.0) < 0.6


@pytest.mark.parametrize(("separation", "ratio"), [(2.6, 1.0), (3.2, 0.3)])
def test_crowded_pair_is_split_with_honest_errors(rng, separation, ratio):
    """Pairs at 1.1 and 1.4 FWHM: both members' fluxes within errors, and errors larger than those of single stars."""
    side = np.arange(30.0, 490.0, 46.0)
    a = np.array([(x, y) for y in side for x in side]) + rng.uniform(-0.5, 0.5, (side.size**2, 2))
    angle = rng.uniform(0, 2 * np.pi, len(a))
    b = a + separation * np.c_[np.cos(angle), np.sin(angle)]
    n = len(a)
    single = a + 23.0
    xy = np.concatenate([a, b, single])
    flux = np.r_[np.full(n, 6000.0), np.full(n, 6000.0 * ratio), np.full(n, 6000.0 * ratio)]
    flux[-n // 2 :] = 25_000.0
    scene = scenes.make(rng, shape=(540, 540), xy=xy, flux=flux)
    photometry, _ = measured(scene)
    catalog = photometry.catalog
    i, j = match(scene, catalog, radius=0.6)
    second = (i >= n) & (i < 2 * n)
    assert second.sum() > 0.95 * n
    relative = catalog["flux"][j] / scene.flux[i] - 1
    assert abs(np.median(relative[second])) < 0.02
    pull = (catalog["flux"][j] - scene.flux[i]) / catalog["sigflux"][j]
    assert 0.75 < pull[second].std() < 1.3
    alone = (i >= 2 * n) & (scene.flux[i] < 10_000)
    assert np.median(catalog["sigflux"][j][second]) > 1.03 * np.median(catalog["sigflux"][j][alone])


def test_masked_pixels_are_not_used(rng):
    """A dead column and spikes through stars: fluxes stay right, flags say why errors are larger."""
    side = np.arange(25.0, 380.0, 30.0)
    xy = np.array([(x, y) for y in side for x in side]) + rng.uniform(-0.4, 0.4, (side.size**2, 2))
    scene = scenes.make(rng, shape=(400, 400), xy=xy, flux=np.full(len(xy), 8000.0))
    hit = np.arange(len(xy)) % 3 == 0
    ix, iy = np.rint(scene.x[hit]).astype(int), np.rint(scene.y[hit]).astype(int)
    scene.pixels[iy, ix + 1] = 30_000.0
    scene.mask[iy, ix + 1] |= bits.SPIKE
    scene.pixels[:, 85] = np.nan
    scene.mask[:, 85] |= bits.NAN
    catalog = measured(scene)[0].catalog
    i, j = match(scene, catalog)
    struck = np.isin(i, np.flatnonzero(hit))
    pull = (catalog["flux"][j] - scene.flux[i]) / catalog["sigflux"][j]
    assert struck.sum() > 40
    assert 0.7 < pull[struck].std() < 1.35
    assert abs(np.median(catalog["flux"][j][struck] / 8000.0 - 1)) < 0.01
    assert (catalog["flags"][j][struck] & bits.SPIKE).all()
    assert np.median(catalog["sigflux"][j][struck]) > 1.05 * np.median(catalog["sigflux"][j][~struck])
    assert np.isfinite(catalog["flux"]).all()


def test_flags_at_edges_and_of_the_mask():
    mask = np.zeros((50, 60), np.uint16)
    mask[20, 30] = bits.GHOST | bits.PSF_SOURCE
    flags = source_flags(mask, np.array([1.0, 30.0, 32.4, 33.0, 58.0]), np.array([25.0, 20.0, 21.6, 20.0, 25.0]), 3)
    assert flags.tolist() == [-1, bits.GHOST, bits.GHOST, 0, -1]


def test_stars_at_the_edge_are_measured_or_left_out_but_never_break(rng):
    along = np.arange(10.0, 250.0, 12.0)
    xy = np.array(
        [(-0.4, v) for v in along]
        + [(255.3, v) for v in along]
        + [(v, 1.2) for v in along]
        + [(v, 130.0) for v in along]
    )
    scene = scenes.make(rng, xy=xy, flux=np.full(len(xy), 9000.0))
    catalog = measured(scene, PhotometryConfig.tiny())[0].catalog
    edge = catalog["flags"] == -1
    assert edge.sum() >= 15
    assert np.isfinite(catalog["sigflux"]).all()
    assert (catalog["xpos"] > -0.5).all()
    assert (catalog["xpos"] < 255.5).all()


def test_a_saturated_star_is_measured_from_its_wings(rng):
    xy = np.r_[[(130.3, 120.6)], rng.uniform(20, 236, (40, 2))]
    xy = xy[(np.hypot(*(xy - xy[0]).T) > 30) | (np.arange(41) == 0)]
    flux = np.r_[1.5e6, np.full(len(xy) - 1, 15_000.0)]
    scene = scenes.make(rng, xy=xy, flux=flux, half=40)
    yy, xx = np.nonzero(scene.mask)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            scene.mask[yy + dy, xx + dx] |= bits.SATURATED
    scene.pixels[(scene.mask & bits.SATURATED) != 0] = scenes.SATURATE
    catalog = measured(scene, PhotometryConfig.tiny())[0].catalog
    near = np.hypot(catalog["xpos"] - 130.3, catalog["ypos"] - 120.6) < 1.0
    assert near.sum() == 1
    assert catalog["flux"][near][0] == pytest.approx(1.5e6, rel=0.15)
    assert catalog["flags"][near][0] & bits.SATURATED
    halo = np.hypot(catalog["xpos"] - 130.3, catalog["ypos"] - 120.6) < 20
    assert halo.sum() <= 4


def test_image_without_sources_gives_an_empty_catalog(rng):
    from ztfds.photometry import measure
    from ztfds.photometry.psf import moffat

    scene = scenes.make(rng, n=1, flux=[0.0])
    config = PhotometryConfig.tiny()
    prepared = measure.prepare(scene.pixels, scene.mask, scenes.GAIN, scenes.READNOISE, scenes.SATURATE, config)
    photometry, _ = measure.fit_scene(prepared, moffat(2.4, scene.pixels.shape), config)
    assert len(photometry.catalog) < 30
    assert (photometry.catalog["snr"] > 5).sum() <= 1
    assert photometry.catalog.dtype == PSFCAT_DTYPE


def test_same_image_gives_the_same_catalog(rng):
    scene = scenes.make(rng, n=70)
    first = measured(scene, PhotometryConfig.tiny())[0].catalog
    second = measured(scene, PhotometryConfig.tiny())[0].catalog
    assert first.tobytes() == second.tobytes()


def test_a_galaxy_is_one_source(rng):
    """Broad sources among stars: one row each, with sharp and chi that say what it is; no star is lost."""
    side = np.arange(40.0, 480.0, 44.0)
    xy = np.array([(x, y) for y in side for x in side]) + rng.uniform(-0.5, 0.5, (side.size**2, 2))
    galaxy = np.arange(len(xy)) % 10 == 3
    scene = scenes.make(rng, shape=(520, 520), xy=xy[~galaxy], flux=np.full((~galaxy).sum(), 9000.0))
    wide = scenes.make(rng, shape=(520, 520), xy=xy[galaxy], flux=np.full(galaxy.sum(), 60_000.0), fwhm=5.5, sky=0.0)
    scene.pixels += wide.pixels
    catalog = measured(scene)[0].catalog
    near = np.hypot(catalog["xpos"] - xy[:, :1], catalog["ypos"] - xy[:, 1:]) < 9.0
    strong = catalog["snr"] > 8
    rows = (near & strong).sum(axis=1)[galaxy]
    assert rows.max() <= 2
    assert (rows == 1).mean() >= 0.7
    assert ((near & strong).sum(axis=1)[~galaxy] == 1).all()
    row = np.argmax(near & strong, axis=1)
    assert (catalog["sharp"][row][galaxy] > 0.25).all()


def test_fluxes_hold_the_light_beyond_the_stamp(rng):
    """Heavy wings (Moffat exponent 2.5): the PSF ends at 12 pixels, the fluxes are total to 0.4 %."""
    xy = np.array([(x, y) for y in np.arange(50.0, 600.0, 62.0) for x in np.arange(50.0, 600.0, 62.0)])
    flux = np.where(np.arange(len(xy)) % 4 == 0, 3.0e5, 60_000.0)
    scene = scenes.make(rng, shape=(640, 640), xy=xy, flux=flux, fwhm=3.2, beta=2.5, half=60)
    catalog = measured(scene)[0].catalog
    i, j = match(scene, catalog)
    stamp = scenes.moffat_stamp(12, 12, 3.2, 2.5, 1.0, 0.6, 12)[2].sum()
    assert stamp < 0.9935
    assert np.median(catalog["flux"][j] / scene.flux[i]) == pytest.approx(1.0, abs=0.004)


def test_faint_stars_beside_a_very_bright_one(rng):
    """The wings of a star of 1.5 million DN are subtracted: neighbours 14 to 30 pixels away keep their fluxes."""
    angle = rng.uniform(0, 2 * np.pi, 12)
    around = 130.0 + np.linspace(15.0, 30.0, 12)[:, None] * np.c_[np.cos(angle), np.sin(angle)]
    far = rng.uniform(20, 236, (60, 2))
    far = far[np.hypot(*(far - 130.0).T) > 45]
    xy = np.concatenate([[(130.2, 129.7)], around, far])
    flux = np.r_[1.5e6, np.full(len(xy) - 1, 6000.0)]
    flux[-20:] = 60_000.0
    scene = scenes.make(rng, shape=(260, 260), xy=xy, flux=flux, beta=2.5, half=60)
    catalog = measured(scene, PhotometryConfig.tiny())[0].catalog
    i, j = match(scene, catalog)
    beside = (i >= 1) & (i <= 12)
    assert beside.sum() >= 9
    assert np.median((catalog["flux"][j] / scene.flux[i])[beside]) == pytest.approx(1.0, abs=0.03)
