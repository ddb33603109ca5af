"""A reduced version of benchmarks/astrometry_robustness.py: no wrong solution served, none lost with 30 stars visible."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ztfds.astrometry.solve import solve
from ztfds.config.astrometry import AstrometryConfig
from ztfds.survey.errors import AstrometryFailed

_PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "astrometry_robustness.py"
_SPEC = importlib.util.spec_from_file_location("astrometry_robustness", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
bench = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = bench
_SPEC.loader.exec_module(bench)

CONFIG = AstrometryConfig()
KINDS = {kind.name: kind for kind in bench.KINDS + bench.WRONG_KINDS}


def verdict(outcomes: list) -> None:
    bad = [o for o in outcomes if o.wrong or o.lost]
    assert not bad, bench.table(outcomes) + "\n" + "\n".join(f"{o.kind} {o.seed}: {o.reason}" for o in bad)


def test_two_dozen_varied_quadrants():
    """The plane has a fifth of its stars here; the full size is in the benchmark."""
    outcomes = bench.campaign(300, 20, CONFIG, size=0.4)
    assert sum(not o.must_fail for o in outcomes) >= 18 and sum(o.must_fail for o in outcomes) >= 4
    verdict(outcomes)
    assert bench.summary(outcomes)["solved_percent"] == 100.0
    named = [o.reason for o in outcomes if not o.served]
    assert all(reason and "\n" not in reason for reason in named)


@pytest.mark.slow
def test_two_hundred_varied_quadrants_of_full_size():
    outcomes = bench.campaign(1000, 200, CONFIG)
    assert bench.summary(outcomes)["wrong_served"] == 0
    assert bench.summary(outcomes)["solved_percent"] >= 99.5


def solved(quadrant):
    return solve(
        quadrant.x, quadrant.y, quadrant.flux, bench.SHAPE, quadrant.guess, quadrant.gaia, CONFIG, snr=quadrant.snr,
        fwhm_px=quadrant.fwhm_px,
    )  # fmt: skip


@pytest.mark.parametrize("n_lost", [200, 1500])
def test_saturated_stars_that_only_the_catalog_has(n_lost):
    """Bulge fields lose thousands of bright stars to saturation: the brightest detections are none of the brightest stars."""
    quadrant = bench.make_quadrant(replace(KINDS["quiet field"], n_stars=(6000, 6001)), 21)
    brightest = np.argsort(-quadrant.flux)[:n_lost]
    for name in ("x", "y", "flux", "snr"):
        setattr(quadrant, name, np.delete(getattr(quadrant, name), brightest))
    assert np.hypot(*quadrant.errors_mas(solved(quadrant).wcs).T).max() < 60


@pytest.mark.parametrize("share", [0.08, 0.25])
def test_artefacts_brighter_than_any_star(share):
    """A satellite, a comet or the fragments of a halo fill the top of the brightness list."""
    rng = np.random.default_rng(22)
    quadrant = bench.make_quadrant(replace(KINDS["quiet field"], n_stars=(4000, 4001)), 22)
    n = int(share * len(quadrant.x))
    quadrant.x, quadrant.y = (np.append(v, rng.uniform(0, 3000, n)) for v in (quadrant.x, quadrant.y))
    quadrant.flux = np.append(quadrant.flux, quadrant.flux.max() * rng.uniform(1, 9, n))
    quadrant.snr = np.append(quadrant.snr, np.full(n, quadrant.snr.max()))
    assert np.hypot(*quadrant.errors_mas(solved(quadrant).wcs).T).max() < 60


def test_too_few_visible_stars_are_a_named_failure():
    quadrant = bench.make_quadrant(replace(KINDS["sparse, high latitude"], n_stars=(5, 6), galaxies=0.0), 23)
    with pytest.raises(AstrometryFailed, match="needed"):
        solved(quadrant)
