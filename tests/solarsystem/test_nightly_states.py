"""A prepared night: the search misses nothing, survives its file, and tags candidates."""

import numpy as np
import pytest
from test_orbits import random_orbits

from ztfds.config.difference import CandidateConfig
from ztfds.config.solarsystem import SolarSystemConfig
from ztfds.difference.candidates import blank_table
from ztfds.difference.neighbours import add_known
from ztfds.formats.arrays import read_arrays, write_arrays
from ztfds.simulator import events, minorplanets
from ztfds.simulator.schedule import make_plan
from ztfds.solarsystem import mpc, planets
from ztfds.solarsystem import night as nights
from ztfds.survey import ids
from ztfds.survey.camera import get_camera
from ztfds.survey.errors import UnreadableFile

CONFIG = SolarSystemConfig(faintest_mag=50.0)
JD = 2461000.5


def orbits(n, seed):
    table = np.zeros(n, mpc.ORBIT)
    near = n // 10
    table["state"] = np.concatenate([random_orbits(n - near, seed), random_orbits(near, seed + 1, a=(0.9, 1.6))])
    table["epoch"], table["g"], table["name"] = JD - 3.0, 0.15, np.arange(1, n + 1).astype("S16")
    table["h"] = np.random.default_rng(seed).uniform(14, 20, n)
    return table


@pytest.fixture(scope="module")
def night():
    return nights.prepare([orbits(6000, 5)], JD, CONFIG, planets.PALOMAR)


def brute(night, ra, dec, radius, jd):
    observer = planets.observer(jd)
    seen = nights._places(night.states["state"], night.tt, observer)
    inside = seen[:, :3] @ np.array(nights._unit(ra, dec)) >= np.cos(np.radians(radius))
    return set(np.char.decode(night.states["name"][inside]).tolist())


@pytest.mark.parametrize("after", [-5.0, 0.05, 0.7, 4.0])
def test_the_search_finds_all_that_going_through_every_orbit_finds(night, after):
    rng, total = np.random.default_rng(8), 0
    for ra, dec in [*zip(rng.uniform(0, 360, 12), rng.uniform(-40, 60, 12), strict=True), (0.0, 89.7), (359.9, 0.0)]:
        found = nights.known_objects(night, ra, dec, 3.0, JD + after, CONFIG, planets.PALOMAR)
        assert set(found["name"].tolist()) == brute(night, ra, dec, 3.0, JD + after)
        total += len(found)
    assert total > 20


def test_fast_objects_are_found_wherever_they_are_and_faint_ones_left_out(night):
    fast = night.states[night.starts[-2] :]
    assert len(fast) > 5
    observer = planets.observer(JD + 0.6)
    ra, dec = nights.sky_of(nights._places(fast["state"], night.tt, observer))
    for a, d, name in zip(ra[:5], dec[:5], fast["name"][:5], strict=True):
        table = nights.known_objects(night, a, d, 0.01, JD + 0.6, CONFIG, planets.PALOMAR)
        row = table[table["name"] == name.decode()][0]
        assert np.hypot(row["rate_ra"], row["rate_dec"]) > 0.8 * 3600 / 24
        dim = CONFIG.model_copy(update={"faintest_mag": float(row["mag"]) - 0.1})
        assert name.decode() not in nights.known_objects(night, a, d, 0.01, JD + 0.6, dim, planets.PALOMAR)["name"]


def test_rates_are_what_the_places_do(night):
    found = nights.known_objects(night, 60.0, 20.0, 5.0, JD + 0.4, CONFIG, planets.PALOMAR)
    later = nights.known_objects(night, 60.0, 20.0, 5.5, JD + 0.4 + 0.01, CONFIG, planets.PALOMAR)
    assert len(found) > 3
    for row in found:
        then = later[later["name"] == row["name"]][0]
        assert (then["dec"] - row["dec"]) * 3600 == pytest.approx(row["rate_dec"] * 0.24, abs=0.01)
        moved = (then["ra"] - row["ra"]) * 3600 * np.cos(np.radians(row["dec"]))
        assert moved == pytest.approx(row["rate_ra"] * 0.24, abs=0.02)


def test_a_night_without_objects_and_undefined_orbits_give_nothing():
    empty = nights.prepare([orbits(0, 1)], JD, CONFIG, planets.PALOMAR)
    assert not len(nights.known_objects(empty, 10.0, 10.0, 5.0, JD + 0.3, CONFIG, planets.PALOMAR))
    bad = orbits(20, 2)
    bad["state"][3] = np.nan
    assert len(nights.prepare([bad], JD, CONFIG, planets.PALOMAR).states) == 19


def test_the_file_gives_the_night_back_and_a_cut_file_is_refused(night, tmp_path):
    path = tmp_path / "night.npy"
    write_arrays(path, {"tt": night.tt}, [night.starts, night.states])
    about, (starts, states) = read_arrays(path, 2)
    assert about == {"tt": night.tt} and isinstance(states, np.memmap)
    np.testing.assert_array_equal(states, night.states)
    np.testing.assert_array_equal(starts, night.starts)
    content = path.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(UnreadableFile):
            read_arrays(path, 2)


def test_candidates_carry_the_nearest_known_object_within_30_arcsec():
    table, known = blank_table(4), np.zeros(3, nights.KNOWN)
    table["ra"], table["dec"] = [10.0, 10.1, 10.2, 10.3], 40.0
    known["ra"], known["dec"] = [10.0, 10.1, 10.1], [40.0 + 29 / 3600, 40.0 + 3 / 3600, 40.0 - 2 / 3600]
    known["name"], known["mag"] = ["2007TA418", "433", "7"], [19.0, 18.0, 17.5]
    add_known(table, known, CandidateConfig())
    assert table["ssnamenr"].tolist() == ["2007TA418", "7", "null", "null"]
    np.testing.assert_allclose(table["ssdistnr"], [29, 2, -999, -999], rtol=1e-4)
    assert table["ssmagnr"].tolist() == [19.0, 17.5, -999.0, -999.0]
    for nothing in (None, known[:0]):
        add_known(table, nothing, CandidateConfig())
        assert set(table["ssnamenr"]) == {"null"} and set(table["ssdistnr"]) == {-999.0}


def test_simulated_asteroids_are_where_their_published_orbits_say(tmp_path):
    plan = make_plan(
        get_camera("ccd"), "20240311", seed=9, filter_codes=("zr",), n_exposures=3, n_reference=2, n_bias=2, n_flat=2
    )
    paths = minorplanets.write_orbits(tmp_path, plan)
    parsed = mpc.parse_mpcorb(paths["mpcorb"].read_bytes())
    names, table = minorplanets.known_names(plan), events.asteroids(plan)
    assert parsed.bad == 0 and sorted(parsed.orbits["name"].tolist()) == sorted(n.encode() for n in names.values())
    assert 0 < len(names) < table.size
    site = mpc.parse_obscodes(paths["obscodes"].read_bytes())["I41"]
    assert (site.rho_cos, site.rho_sin) == (pytest.approx(0.836322, abs=2e-6), pytest.approx(0.546875, abs=2e-6))
    tonight = ids.NID_ZERO_JD + ids.nid_of_date(plan.dates[-1])
    night = nights.prepare([parsed.orbits], tonight, SolarSystemConfig(), site)
    for exposure in plan.science():
        jd = exposure.jd + exposure.exptime / 2 / 86400.0
        for number, ra, dec, r in zip(table["id"], *events.asteroid_positions(plan, jd), strict=True):
            found = nights.known_objects(night, ra, dec, 0.3 / 3600, jd, SolarSystemConfig(), site)
            assert found["name"].tolist() == ([names[int(number)]] if int(number) in names else [])
            assert np.all(np.abs(found["mag"] - r - minorplanets.V_MINUS_R) < 0.1)
