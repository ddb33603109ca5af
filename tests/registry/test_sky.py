"""HEALPix ranges against brute force."""

import itertools

import numpy as np
import pytest

from ztfds.registry import sky


def _inside(spans, cells):
    return np.any([(cells >= a) & (cells <= b) for a, b in spans], axis=0) if spans else np.zeros(len(cells), bool)


def _around(rng, ra, dec, radius_deg, n):
    """Points spread evenly in a circle, and their true distances."""
    theta, phi = radius_deg * np.sqrt(rng.random(n)), rng.random(n) * 2 * np.pi
    d0, t = np.radians(dec), np.radians(theta)
    d = np.arcsin(np.sin(d0) * np.cos(t) + np.cos(d0) * np.sin(t) * np.cos(phi))
    a = np.radians(ra) + np.arctan2(np.sin(phi) * np.sin(t) * np.cos(d0), np.cos(t) - np.sin(d0) * np.sin(d))
    return np.degrees(a) % 360, np.degrees(d)


@pytest.mark.parametrize("radius", [0.01, 1.5, 30.0, 400.0, 7200.0])
@pytest.mark.parametrize("dec", [-89.9999, -42.0, -41.81, 0.0, 33.3, 66.44, 89.9995, 90.0])
def test_ranges_cover_every_point_of_the_circle(rng, radius, dec):
    for ra in (0.0, 0.00001, 45.0, 123.4, 359.99999):
        points = _around(rng, ra, dec, radius / 3600.0, 300)
        spans = sky.ranges(ra, dec, radius)
        assert _inside(spans, sky.cell(*points)).all()
        assert all(a <= b for a, b in spans)
        assert all(b < c for (_, b), (c, _) in itertools.pairwise(spans))
        assert len(spans) <= 100


def test_ranges_are_not_much_larger_than_the_circle(rng):
    points = _around(rng, 100.0, 20.0, 0.01, 20000)
    far = sky.separation_arcsec(100.0, 20.0, *points) > 30.0
    assert not _inside(sky.ranges(100.0, 20.0, 1.5), sky.cell(*points))[far].any()


def test_two_close_positions_always_share_a_lock(rng):
    for dec in (-89.99, 0.0, 41.8103, 66.44, 89.999):
        ra = rng.random(200) * 360
        one = np.array([_around(rng, r, dec, 1.5 / 3600, 1) for r in ra])[:, :, 0]
        for r, (a, d) in zip(ra, one, strict=True):
            assert set(sky.lock_keys(r, dec, 1.5)) & set(sky.lock_keys(a, d, 1.5))


def test_polygon_contains_its_inside_only():
    corners = [10.0, 60.0, 11.0, 60.0, 11.0, 60.5, 10.0, 60.5]
    inside = sky.inside_polygon(np.array([10.5, 10.5, 9.9, 190.5]), np.array([60.25, 60.7, 60.2, -60.25]), corners)
    assert inside.tolist() == [True, False, False, False]
    turned = np.reshape(corners, (4, 2))[::-1].ravel()
    assert sky.inside_polygon(10.5, 60.25, turned).tolist() == [True]


def test_ranges_of_many_positions_cover_each(rng):
    for dec in (-90.0, -41.8, 0.0, 66.44, 89.9999):
        ra = rng.random(40) * 360
        spans = sky.ranges(ra, np.full(40, dec), 1.5)
        assert len(spans) < 40 * 3
        for at in ra:
            assert _inside(spans, sky.cell(*_around(rng, at, dec, 1.5 / 3600.0, 200))).all()


def test_many_polygons_are_like_one_after_the_other(rng):
    centre = rng.uniform(0, 1, (20, 2))
    corners = np.concatenate([centre - 0.3, centre[:, :1] + 0.3, centre[:, 1:] - 0.3, centre + 0.3,
                              centre[:, :1] - 0.3, centre[:, 1:] + 0.3], axis=1)  # fmt: skip
    ra, dec = rng.uniform(0, 1, (2, 50))
    found = sky.inside_polygons(ra, dec, corners)
    assert np.array_equal(found, [sky.inside_polygon(ra, dec, c) for c in corners]) and 0 < found.mean() < 1


def test_separation_is_exact_at_both_scales():
    assert sky.separation_arcsec(0.0, 0.0, 0.0, 1e-7) == pytest.approx(3.6e-4, rel=1e-6)
    assert sky.separation_arcsec(0.0, 0.0, 180.0, 0.0) == pytest.approx(648000.0)
