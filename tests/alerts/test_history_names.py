"""History of a position, and names of objects."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest

from ztfds.alerts import association, history
from ztfds.alerts.association import KnownName, associate, nearest_name
from ztfds.survey import ids
from ztfds.survey.camera import ZTF

JD = 2458559.8
ARCSEC = 1 / 3600


def detection(days: float, offset_arcsec: float = 0.0, **other: Any) -> dict[str, Any]:
    jd = JD - days
    pid = ids.pid(jd, 30)
    made = {"jd": jd, "pid": pid, "candid": ids.candid(pid, True, 1), "programid": 1, "field": 712, "rcid": 30}
    return {**made, "ra": 157.0, "dec": 40.0 + offset_arcsec * ARCSEC, **other}


def limit(days: float, **other: Any) -> dict[str, Any]:
    return {"jd": JD - days, "pid": ids.pid(JD - days, 31), "programid": 1, "diffmaglim": 20.5, **other}


def chosen(detections: list[Any], limits: list[Any], **other: Any) -> list[float]:
    arguments: dict[str, Any] = {"ra": 157.0, "dec": 40.0, "jd": JD, "programid": 1, **other}
    rows = history.select_history(detections, limits, **arguments)
    assert [r["jd"] for r in rows] == sorted(r["jd"] for r in rows)
    return [round(JD - r["jd"], 3) for r in rows]


def test_radius_and_look_back() -> None:
    rows = [detection(1, 1.49), detection(2, 1.51), detection(29.9), detection(30.1), detection(0), detection(-1)]
    assert chosen(rows, []) == [29.9, 1.0]
    assert chosen(rows, [], days=31, radius_arcsec=2) == [30.1, 29.9, 2.0, 1.0]


def test_limits_fill_the_gaps_and_carry_no_number() -> None:
    rows = history.select_history(
        [detection(3)],
        [limit(5), {**limit(3), "pid": ids.pid(JD - 3, 30)}, limit(40)],
        ra=157.0,
        dec=40.0,
        jd=JD,
        programid=1,
    )
    assert [row["candid"] is None for row in rows] == [True, False]


def test_a_hidden_detection_does_not_become_an_upper_limit() -> None:
    private = detection(3, programid=3)
    public_limit = {**limit(3), "pid": private["pid"], "programid": 3}
    assert chosen([private], [public_limit]) == []
    assert chosen([private], [public_limit], programid=3) == [3.0]


def test_programs_of_history() -> None:
    rows = [detection(k, programid=k) for k in (1, 2, 3)]
    limits = [limit(k + 10, programid=k) for k in (1, 2, 3)]
    assert chosen(rows, limits) == [11.0, 1.0]
    assert chosen(rows, limits, programid=2) == [12.0, 11.0, 2.0, 1.0]
    assert chosen(rows, limits, programid=3) == [13.0, 12.0, 11.0, 3.0, 2.0, 1.0]
    assert chosen([{**rows[2], "released": True}], []) == [3.0]


def test_counts_are_of_the_same_field_and_channel_and_include_the_present() -> None:
    rows = [
        detection(400),
        detection(2),
        detection(1, field=713),
        detection(1, rcid=31),
        detection(1, 2.0),
        detection(0),
    ]
    counts = history.detection_counts(rows, ra=157.0, dec=40.0, jd=JD, field=712, rcid=30)
    assert (counts.ndethist, counts.jdstarthist, counts.jdendhist) == (3, JD - 400, JD)
    alone = history.detection_counts([], ra=157.0, dec=40.0, jd=JD, field=712, rcid=30)
    assert (alone.ndethist, alone.jdstarthist) == (1, JD)


@pytest.mark.parametrize(("ra", "dec"), [(157.0, 40.0), (0.0, 0.0), (10.0, 89.5)])
def test_a_quadrant_covers_what_its_coordinates_say(rng: np.random.Generator, ra: float, dec: float) -> None:
    wcs = ZTF.approximate_wcs(ra, dec, 6, 2)
    corners = ZTF.corners(ra, dec, 6, 2)
    inside = wcs.pixel_to_world_values(rng.uniform(0, 3071, 50), rng.uniform(0, 3079, 50))
    outside = wcs.pixel_to_world_values([-20, 3100, 1500, 1500], [1500, 1500, -20, 3100])
    assert all(history.covers(corners, a, d) for a, d in zip(*inside, strict=True))
    assert not any(history.covers(corners, a, d) for a, d in zip(*outside, strict=True))
    assert not history.covers(corners, (ra + 180) % 360, -dec)


def test_the_nearest_name_within_the_radius_wins() -> None:
    known = [KnownName("far", 10.0, 5.0 + 1.4 * ARCSEC), KnownName("near", 10.0, 5.0 - 1.0 * ARCSEC)]
    found = nearest_name(10.0, 5.0, known)
    assert found is not None
    assert found[0].objectid == "near"
    assert found[1] == pytest.approx(1.0, abs=1e-6)
    assert nearest_name(10.0, 5.1, known) is None
    assert nearest_name(10.0, 5.0, []) is None


def test_neighbours_of_one_call_share_a_new_name() -> None:
    numbers = count()
    ra, dec = [10.0, 10.0, 10.0, 359.99999, 0.00001], [5.0, 5.0 + 1.0 * ARCSEC, 5.0 + 2.4 * ARCSEC, 0.0, 0.0]
    named = associate(ra, dec, [], lambda: ids.object_name(next(numbers), 2019))
    assert [a.objectid[-1] for a in named] == ["a", "a", "b", "c", "c"]
    assert [a.is_new for a in named] == [True, False, True, True, False]
    assert next(numbers) == 3
    again = associate(ra[:1], dec[:1], [KnownName("ZTF19aaaaaaa", 10.0, 5.0)], lambda: "never")
    assert again == [association.Association("ZTF19aaaaaaa", False, 0.0)]


def test_separations_are_exact_at_all_scales() -> None:
    ra, dec = np.array([10.0, 10.0 + 1e-6, 190.0]), np.array([89.0, 89.0, -89.0])
    found = association.separations_arcsec(10.0, 89.0, ra, dec)
    assert found[0] == 0
    assert found[1] == pytest.approx(1e-6 * 3600 * np.cos(np.radians(89)), rel=1e-4)
    assert found[2] == pytest.approx(180 * 3600, rel=1e-6)
