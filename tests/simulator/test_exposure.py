"""Rendered exposures of the tiny camera: what is in them, what moves, what changes, and that a seed fixes all of it."""

from __future__ import annotations

import numpy as np
import pytest

from ztfds.simulator import events, schedule
from ztfds.simulator.config import SimulatorConfig
from ztfds.simulator.exposure import make_scene, quadrant_wcs, render
from ztfds.simulator.schedule import Plan, PlannedExposure, conditions, make_plan
from ztfds.survey.camera import TINY


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Two nights of the tiny camera."""
    return make_plan(TINY, "20240311", seed=4, n_exposures=8, n_reference=2, n_bias=2, n_flat=2)


@pytest.fixture(scope="module")
def science(plan: Plan) -> PlannedExposure:
    """The first science exposure."""
    return plan.science()[0]


def test_plan_has_the_asked_exposures_in_order(plan: Plan) -> None:
    assert plan.dates == ("20240308", "20240311")
    kinds = [(e.night, e.purpose) for e in plan.exposures]
    assert kinds.count((0, "reference")) == 4 and kinds.count((1, "science")) == 8
    assert kinds.count((0, "bias")) == kinds.count((1, "bias")) == 2 and kinds.count((1, "flat")) == 4
    assert [e.index for e in plan.exposures] == list(range(len(plan.exposures)))
    assert np.all(np.diff([e.jd for e in plan.exposures]) > 5 / 86400)
    assert len({e.ffd for e in plan.exposures}) == len(plan.exposures)
    for e in plan.exposures:
        hour = ((e.jd + 0.5) % 1) * 24
        assert 2.5 - 1e-3 < hour < 14 if e.kind == "o" else 5 / 60 - 1e-3 < hour < 51 / 60
    filters = [e.fid for e in plan.science()]
    assert filters.count(1) == filters.count(2) == 4
    assert {e.programid for e in plan.science()} == {1, 2}
    step = np.diff([e.jd for e in plan.science()])[[0, 1, 2]] * 86400
    assert np.all((step > 40) & (step < 45))


def test_reference_epochs_are_enough_for_every_field_and_filter() -> None:
    many = make_plan(TINY, "20240311", n_fields=3, n_reference=6, n_exposures=12, n_bias=0, n_flat=0)
    assert len(many.fields) == 3
    for field in many.fields:
        for fid in (1, 2):
            of = [e for e in many.exposures if (e.fieldid, e.fid, e.purpose) == (field, fid, "reference")]
            assert len(of) == 6


@pytest.mark.parametrize("date", ["20240115", "20240311", "20240601", "20240915"])
def test_fields_are_observable_and_at_the_asked_latitude(date: str) -> None:
    from ztfds.simulator.ephemeris import airmass, altitude_azimuth
    from ztfds.simulator.sky import galactic
    from ztfds.survey import fields

    for kind, test in (("quiet", lambda b: b > 45), ("plane", lambda b: b < (30 if date == "20240601" else 6))):
        found = schedule.visible_fields(date, 1, kind)
        field = fields.get(found[0])
        assert test(abs(galactic(field.ra, field.dec)[1]))
        plan = make_plan(TINY, date, fields=found, n_exposures=1, n_reference=0, n_bias=0, n_flat=0)
        assert airmass(altitude_azimuth(field.ra, field.dec, plan.exposures[0].jd)[0]) < 2.5


def test_the_same_seed_gives_the_same_counts_and_another_does_not(plan: Plan, science: PlannedExposure) -> None:
    one, two = render(plan, science, 21), render(plan, science, 21)
    assert np.array_equal(one.pixels, two.pixels) and np.array_equal(one.overscan, two.overscan)
    assert np.array_equal(one.truth["flux"], two.truth["flux"])
    other = make_plan(TINY, "20240311", seed=5, n_exposures=8, n_reference=2, n_bias=2, n_flat=2)
    assert not np.array_equal(one.pixels, render(other, other.science()[0], 21).pixels)
    assert not np.array_equal(one.pixels, render(plan, plan.science()[1], 21).pixels)


def test_sky_level_and_stars_of_a_tiny_quadrant(plan: Plan, science: PlannedExposure) -> None:
    for rcid in (20, 24, 27):
        made = render(plan, science, rcid)
        level = np.median(made.pixels) - np.median(made.overscan)
        assert level == pytest.approx(conditions(plan, science).sky_dn, rel=0.12)
        stars = made.truth[np.isin(made.truth["kind"], ["star", "variable"])]
        assert 50 <= np.sum(stars["snr"] > 5) <= 130
        assert np.sum(stars["snr"] > 20) >= 15


def test_pixels_agree_with_the_truth_table(plan: Plan, science: PlannedExposure) -> None:
    checked = 0
    for rcid in TINY.rcids:
        scene = make_scene(plan, science, rcid)
        for row in scene.truth[(scene.truth["snr"] > 40) & (scene.truth["kind"] == "star")]:
            distance = np.hypot(scene.truth["x"] - row["x"], scene.truth["y"] - row["y"])
            blend = scene.truth["flux"][(distance < 22) & (scene.truth["id"] != row["id"])].sum()
            jx, jy = round(row["x"]), round(row["y"])
            if blend > 0.03 * row["flux"] or not (14 < jx < 241 and 14 < jy < 249):
                continue
            box = scene.image[jy - 12 : jy + 13, jx - 12 : jx + 13].astype(float)
            box -= np.median(np.concatenate([box[0], box[-1], box[:, 0], box[:, -1]]))
            assert box.sum() == pytest.approx(row["flux"], rel=0.08)
            yy, xx = np.mgrid[-3:4, -3:4]
            core = box[9:16, 9:16]
            assert jx + (core * xx).sum() / core.sum() == pytest.approx(row["x"], abs=0.25)
            assert jy + (core * yy).sum() / core.sum() == pytest.approx(row["y"], abs=0.25)
            checked += 1
    assert checked >= 5


def test_transients_are_there_in_the_science_night_only(plan: Plan, science: PlannedExposure) -> None:
    for exposure, present in ((science, True), (next(e for e in plan.exposures if e.purpose == "reference"), False)):
        with_events, without = (make_scene(plan, exposure, 21, with_events=flag) for flag in (True, False))
        rows = with_events.truth[with_events.truth["kind"] == "transient"]
        assert (rows.size == plan.config.sky.transients_per_quadrant) is present
        difference = with_events.image - without.image
        for row in rows:
            jx, jy = round(row["x"]), round(row["y"])
            assert difference[jy - 5 : jy + 6, jx - 5 : jx + 6].sum() == pytest.approx(row["flux"], rel=0.06)
    separations = [np.hypot(a["x"] - b["x"], a["y"] - b["y"]) for i, a in enumerate(rows) for b in rows[:i]]
    assert not separations or min(separations) > 40


def test_transients_span_the_signal_to_noise_and_half_are_on_galaxies(plan: Plan) -> None:
    table = events.transients(plan)
    assert table.size == 8 * plan.config.sky.transients_per_quadrant
    assert 0.3 < np.mean(table["on_galaxy"]) < 0.7
    rows = np.concatenate([render(plan, plan.science()[-1], r).truth for r in TINY.rcids])
    snr = rows["snr"][rows["kind"] == "transient"]
    assert snr.min() < 12 and snr.max() > 40 and np.sum(snr > 10) > 0.4 * snr.size


def test_asteroids_move_like_main_belt_bodies(plan: Plan) -> None:
    jd = plan.science()[0].jd
    ra, dec, _ = events.asteroid_positions(plan, jd)
    ra2, dec2, _ = events.asteroid_positions(plan, jd + 1 / 24)
    rate = np.hypot((ra2 - ra) * np.cos(np.radians(dec)), dec2 - dec) * 3600
    assert ra.size >= 2 and np.all((rate > 3) & (rate < 70)), "arcsec per hour"
    table = events.asteroids(plan)
    energy = 0.5 * np.sum(table["vel"] ** 2, axis=1) - events.GM / np.linalg.norm(table["pos"], axis=1)
    axis = -events.GM / (2 * energy)
    assert np.all((axis > 1.6) & (axis < 4.0))
    period = 2 * np.pi * np.sqrt(axis[0] ** 3 / events.GM)
    back, _ = events._kepler(table["pos"][:1], table["vel"][:1], float(period))
    assert np.linalg.norm(back - table["pos"][:1]) < 1e-4


def test_a_fast_mover_leaves_a_streak_of_its_length() -> None:
    config = SimulatorConfig.tiny()
    config = config.model_copy(update={"sky": config.sky.model_copy(update={"fast_movers_per_quadrant": 3.0})})
    plan = make_plan(TINY, "20240311", seed=2, n_exposures=1, n_reference=0, n_bias=0, n_flat=0, config=config)
    rows = np.concatenate([make_scene(plan, plan.exposures[0], r).truth for r in TINY.rcids])
    streaks = rows[rows["kind"] == "fast"]
    assert streaks.size > 8
    length = np.hypot(streaks["x2"] - streaks["x"], streaks["y2"] - streaks["y"])
    assert np.all((length > 7) & (length < 66)) and np.ptp(length) > 10


def test_a_satellite_crosses_its_quadrants_in_one_line() -> None:
    config = SimulatorConfig.tiny()
    config = config.model_copy(update={"optics": config.optics.model_copy(update={"trails_per_ccd": 4.0})})
    plan = make_plan(TINY, "20240311", seed=2, n_exposures=1, n_reference=0, n_bias=0, n_flat=0, config=config)
    lines = []
    for rcid, shift in zip((20, 21, 22, 23), ((0, 0), (256, 0), (256, 264), (0, 264)), strict=True):
        scene = make_scene(plan, plan.exposures[0], rcid)
        for row in scene.truth[scene.truth["kind"] == "trail"]:
            lines.append(
                (row["id"], row["x"] + shift[0], row["y"] + shift[1], row["x2"] + shift[0], row["y2"] + shift[1])
            )
            t = np.linspace(0, 1, 4001)
            x, y = row["x"] + t * (row["x2"] - row["x"]), row["y"] + t * (row["y2"] - row["y"])
            on = (x > 5) & (y > 5) & (x < 250) & (y < 258)
            along = scene.image[np.rint(y[on]).astype(int), np.rint(x[on]).astype(int)]
            assert along.size == 0 or along.min() > scene.conditions.sky_dn + 5
    assert len(lines) > len({line[0] for line in lines}) >= 1
    for number in {line[0] for line in lines}:
        same = np.array([line[1:] for line in lines if line[0] == number])
        assert np.allclose(same, same[0])


def test_pointing_rotation_and_seeing_change_between_exposures(plan: Plan) -> None:
    states = [conditions(plan, e) for e in plan.science()]
    offsets = np.array(
        [(s.pointing[0] - e.ra, s.pointing[1] - e.dec) for s, e in zip(states, plan.science(), strict=True)]
    )
    assert 0.5 < np.std(offsets[:, 1]) * 3600 < 12
    assert np.std([s.rotation_deg for s in states]) > 1e-3
    assert len({round(s.seeing.core_fwhm_px, 5) for s in states}) == len(states)
    nominal = TINY.approximate_wcs(plan.exposures[-1].ra, plan.exposures[-1].dec, 6, 2)
    true = quadrant_wcs(plan, states[-1], 21)
    x, y = np.array([10.0, 250.0]), np.array([20.0, 200.0])
    ra, dec = true.to_sky(x, y)
    nx, ny = nominal.world_to_pixel_values(ra, dec)
    assert 0.2 < np.max(np.hypot(nx - x, ny - y)) < 25


def test_moon_and_cloud_do_what_they_should(plan: Plan) -> None:
    dark, bright = (
        make_plan(TINY, date, n_exposures=1, n_reference=0, n_bias=0, n_flat=0, fields=(710,))
        for date in ("20240311", "20240323")
    )
    assert conditions(bright, bright.exposures[0]).sky_dn > 2 * conditions(dark, dark.exposures[0]).sky_dn
    clear, cloudy = (conditions(plan, plan.science()[0], mag) for mag in (0.0, 3.0))
    assert clear.zeropoint - cloudy.zeropoint == pytest.approx(3.0)
    bare = render(plan, plan.science()[0], 21).truth
    covered = render(plan, plan.science()[0], 21, extra_cloud_mag=3.0).truth
    assert np.sum(covered["snr"] > 5) < 0.5 * np.sum(bare["snr"] > 5)


def test_zero_point_and_colour_term_are_in_the_fluxes(plan: Plan, science: PlannedExposure) -> None:
    scene = make_scene(plan, science, 21)
    stars = scene.truth[(scene.truth["kind"] == "star")]
    zp = stars["mag"] + 2.5 * np.log10(stars["flux"]) + 0.05 * stars["colour"]
    assert np.ptp(zp) < 1e-3
    assert abs(np.median(zp) - scene.conditions.zeropoint) < 0.1
    assert 25.9 < scene.conditions.zeropoint < 26.6
