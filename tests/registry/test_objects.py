"""Naming of objects under concurrency."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import name_many
import numpy as np
import pytest

from ztfds.registry import database as db
from ztfds.registry import objects, sky
from ztfds.survey import ids

JD = 2458454.8  # 2018


def _associate(dsn, ra, dec, candid, jd=JD):
    with db.transaction(dsn) as cursor:
        return objects.associate(cursor, np.atleast_1d(ra), np.atleast_1d(dec), np.atleast_1d(candid).tolist(), jd)


def test_names_count_from_the_first_of_the_year(database):
    assert _associate(database.pipeline, [10.0, 11.0], [20.0, 20.0], [2, 1]) == ["ZTF18aaaaaab", "ZTF18aaaaaaa"]
    assert _associate(database.pipeline, 50.0, 20.0, 3, JD + 365.25) == [ids.object_name(0, 2019)]


def test_the_same_position_keeps_its_name_and_the_neighbourhood_ends_at_the_radius(database):
    (name,) = _associate(database.pipeline, 150.0, 60.0, 1)
    arcsec = 1 / 3600
    near = _associate(database.pipeline, 150.0 + 1.49 * arcsec / np.cos(np.radians(60)), 60.0, 2)
    far = _associate(database.pipeline, 150.0, 60.0 + 1.51 * arcsec, 3)
    assert near == [name] and far != [name]


def test_of_two_names_the_nearer_is_taken(database):
    arcsec = 1 / 3600
    (a,) = _associate(database.pipeline, 0.0, 0.0, 1)
    (b,) = _associate(database.pipeline, 0.0, 2.0 * arcsec, 2)
    assert _associate(database.pipeline, 0.0, 0.6 * arcsec, 3) == [a]
    assert _associate(database.pipeline, 0.0, 1.4 * arcsec, 4) == [b]


def test_detections_of_one_image_at_one_place_share_the_name_whatever_the_order(database):
    ra, dec, candid = np.array([5.0, 5.0001, 6.0]), np.array([0.0, 0.0, 0.0]), [3, 1, 2]
    names = _associate(database.pipeline, ra, dec, candid)
    assert names[0] == names[1] != names[2]
    assert _associate(database.pipeline, ra[::-1], dec[::-1], candid[::-1]) == names[::-1]
    assert (
        db.fetch_one(database.reader, "select candid from object_names where objectid = %s", (names[0],))["candid"] == 1
    )


@pytest.mark.parametrize("dec", [-30.0, 41.8103, 89.9998])
def test_many_at_once_agree_on_one_name_per_object(database, rng, dec):
    """Twelve writers name the same forty objects, each seeing them a little displaced and in another order."""
    n, writers = 40, 12
    ra0 = rng.random(n) * (0.5 if dec < 80 else 360.0) + 200.0
    dec0 = dec + rng.random(n) * 0.0001
    keep = [i for i in range(n) if i == 0 or np.min(sky.separation_arcsec(ra0[i], dec0[i], ra0[:i], dec0[:i])) > 5]
    ra0, dec0 = ra0[keep], dec0[keep]
    start, found, errors = threading.Barrier(writers), {}, []

    def write(k: int) -> None:
        shuffle = np.random.default_rng(k).permutation(len(ra0))
        shift = np.random.default_rng(100 + k).uniform(-0.3, 0.3, (2, len(ra0))) / 3600
        ra = (ra0 + shift[0] / np.cos(np.radians(dec0))) % 360
        candid = [10000 * k + int(i) for i in shuffle]
        start.wait(30)
        try:
            names = _associate(database.pipeline, ra[shuffle], (dec0 + shift[1])[shuffle], candid)
            found[k] = dict(zip(shuffle.tolist(), names, strict=True))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == [] and len(found) == writers
    for i in range(len(ra0)):
        assert len({names[i] for names in found.values()}) == 1
    count = db.fetch_one(database.reader, "select count(*)::int as n from object_names")["n"]
    assert count == len(ra0)


@pytest.mark.parametrize("dec", [15.0, 89.99])
def test_processes_that_re_run_and_die_agree_on_one_name_per_object(database, rng, tmp_path, dec):
    """Quadrants of overlapping fields in parallel processes, with repetitions and transactions that never commit."""
    sky_ra = (rng.random(200) * (0.3 if dec < 80 else 360.0) + 359.9) % 360
    sky_dec = dec + rng.uniform(-0.005, 0.005, 200)
    far = [i for i in range(200) if i == 0 or np.min(sky.separation_arcsec(
        sky_ra[i], sky_dec[i], sky_ra[:i], sky_dec[:i])) > 5][:60]  # fmt: skip
    np.save(tmp_path / "sky.npy", np.column_stack([sky_ra, sky_dec])[far])
    script = [sys.executable, str(Path(name_many.__file__)), database.pipeline]
    workers = [
        subprocess.Popen(
            [*script, str(k), "4", str(tmp_path / "sky.npy")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for k in range(1, 6)
    ]
    found = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 5, [err[-2000:] for _, err in found]
    names: dict[str, set[str]] = {}
    for line in "".join(out for out, _ in found).splitlines():
        for k, name in json.loads(line).items():
            names.setdefault(k, set()).add(name)
    assert names and all(len(given) == 1 for given in names.values())
    assert len(set().union(*names.values())) == len(names)
    rows = db.fetch_all(database.reader, "select objectid, ra, dec from object_names order by objectid")
    assert {row["objectid"] for row in rows} == set().union(*names.values())
    ra, at = (np.array([row[key] for row in rows]) for key in ("ra", "dec"))
    apart = sky.separation_arcsec(ra[:, None], at[:, None], ra, at) + 1e6 * np.eye(len(rows))
    assert apart.min() > 1.5
