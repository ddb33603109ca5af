"""The score of known asteroids counts names that are right, wrong, missing and undeserved."""

from __future__ import annotations

from pathlib import Path

from ztfds.simulator.score import Score, _score_asteroids
from ztfds.simulator.truth import truth_rows, write_truth

FILE = "ztf_20240311123456_000500_zr_c06_o.fits.fz"
ARCSEC = 1 / 3600


def test_alerts_of_asteroids_are_held_against_the_list(tmp_path: Path) -> None:
    rows = truth_rows(5, "asteroid")
    rows["id"], rows["rcid"], rows["ra"], rows["dec"] = [1, 2, 3, 4, 5], 20, [10.0, 10.1, 10.2, 10.3, 10.4], 5.0
    rows["snr"] = [20, 20, 20, 20, 5]
    write_truth(tmp_path, FILE, rows, {})
    alerts = [
        {"exposure": "x", "rcid": 20, "ra": ra, "dec": 5.0 + ARCSEC, "ssnamenr": name}
        for ra, name in ((10.0, "500000"), (10.1, "null"), (10.2, "500000"), (10.4, "null"))
    ]
    alerts.append({"exposure": "x", "rcid": 21, "ra": 10.3, "dec": 5.0, "ssnamenr": "500003"})  # another quadrant
    result = Score()
    known = {1: "500000", 2: "500001", 4: "500003", 5: "500004"}
    _score_asteroids(result, tmp_path, [{"exposure": "x", "filename": FILE}], alerts, known)
    assert (result.asteroids_known, result.asteroids_tagged) == (2, 1)
    assert (result.asteroids_unknown, result.asteroids_mistagged) == (1, 1)
    assert any("1 of 2 alerts of known asteroids" in line for line in result.out_of_bounds())
