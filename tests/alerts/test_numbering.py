"""Numbers of candidates: kept by the same detection through versions of its difference image, whatever its rank."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from ztfds.alerts.numbering import Earlier, assign, merged
from ztfds.config.alerts import AlertConfig
from ztfds.difference.candidates import blank_table
from ztfds.difference.products import DifferenceProducts
from ztfds.operations import alerting
from ztfds.registry import candidates
from ztfds.registry import database as db
from ztfds.survey import ids
from ztfds.survey.errors import BadName, LockedByOther

JD, RCID, FIELD = 2459000.8, 30, 600
PID = ids.pid(JD, RCID)
WHERE = {"field": FIELD, "rcid": RCID, "jd": JD}
CONFIG = AlertConfig()
EXPOSURE = "ztf_20200530300000"
SCALE_DEG = 1.012 / 3600


def entry(
    number: int, x: float = 0.0, y: float = 0.0, positive: bool = True, version: int = 1, **more: bool
) -> Earlier:
    return Earlier(
        ids.candid(PID, positive, number, version), positive, x, y, **{"alerted": True, "served": True, **more}
    )


def tblids(numbers: list[int]) -> list[int]:
    return [ids.split_candid(number)[3] for number in numbers]


def assigned(positive: list[bool], x: list[float], earlier: list[Earlier], version: int = 1) -> list[int]:
    return assign(positive, np.array(x), np.zeros(len(x)), earlier, PID, version, 1.5)


def test_a_first_version_is_numbered_by_rank() -> None:
    assert assigned([True, False, True], [5, 9, 40], []) == [
        ids.candid(PID, True, 0), ids.candid(PID, False, 1), ids.candid(PID, True, 2),
    ]  # fmt: skip
    assert assigned([], [], [entry(1)]) == []


def test_numbers_follow_positions_and_new_ones_are_unused() -> None:
    earlier = [entry(0, 10.0), entry(1, 20.0), entry(2, 30.0, served=False)]
    assert tblids(assigned([True] * 4, [20.3, 50.0, 9.0, 30.1], earlier)) == [1, 3, 0, 2]
    assert tblids(assigned([True] * 2, [50.0, 60.0], earlier)) == [3, 4], "rank 0 and 1 were given to others"


def test_sign_belongs_to_the_detection() -> None:
    assert assigned([False], [10.0], [entry(0, 10.0)]) == [ids.candid(PID, False, 0)]


def test_of_two_near_ones_the_nearer_keeps_the_number() -> None:
    assert tblids(assigned([True, True], [11.0, 10.2], [entry(7, 10.0)])) == [0, 7]
    assert tblids(assigned([True], [10.0], [entry(7, 9.0), entry(4, 11.0)])) == [4], "equally near: the smaller number"
    assert tblids(assigned([True], [10.0], [entry(7, 9.0), entry(4, 11.0, served=False)])) == [7], "the served one"


def test_a_higher_processing_version_gives_new_numbers_and_keeps_those_of_its_own() -> None:
    earlier = [entry(0, 10.0), entry(0, 10.0, version=3)]
    assert assigned([True], [10.0], earlier, 2) == [ids.candid(PID, True, 0, 3)]
    assert assigned([True], [10.0], earlier, 4) == [ids.candid(PID, True, 0, 4)]
    assert assigned([True], [10.0], earlier[:1], 2) == [ids.candid(PID, True, 0, 2)]


def test_numbers_without_a_position_are_taken_but_not_inherited() -> None:
    assert tblids(assigned([True], [10.0], [entry(0, np.nan, np.nan)])) == [1]
    known = merged([entry(3, np.nan, np.nan), entry(3, 5.0, alerted=False), entry(3, 6.0, alerted=False, served=False)])
    assert known == [entry(3, 5.0)]


def test_there_are_five_thousand_numbers_of_a_sign() -> None:
    earlier = [entry(k, 10.0 * k) for k in range(5000)]
    assert assigned([True, False], [19.0, 19.0], earlier) == [ids.candid(PID, True, 2), ids.candid(PID, False, 1)]
    with pytest.raises(BadName, match="does not fit"):
        assigned([True], [15.0], earlier)


places = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12), st.booleans()), min_size=1, max_size=25, unique=True
)


@settings(max_examples=150, deadline=None)
@given(places, st.integers(0, 2**32 - 1))
def test_any_order_and_any_jitter_below_half_the_distance_keep_every_number(
    grid: list[tuple[int, int, bool]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y, positive = (np.array(values) for values in zip(*grid, strict=True))
    first = assign(positive.tolist(), 3.0 * x, 3.0 * y, [], PID, 1, 1.5)
    earlier = [
        Earlier(c, bool(p), 3.0 * i, 3.0 * j, True, True) for c, p, i, j in zip(first, positive, x, y, strict=True)
    ]
    order = rng.permutation(len(grid))[: rng.integers(0, len(grid) + 1)]
    angle, shift = rng.uniform(0, 2 * np.pi, order.size), rng.uniform(0, 1.49, order.size)
    xs, ys = 3.0 * x[order] + shift * np.cos(angle), 3.0 * y[order] + shift * np.sin(angle)
    shuffled = [earlier[k] for k in rng.permutation(len(earlier))]
    again = assign(positive[order].tolist(), xs, ys, shuffled, PID, 1, 1.5)
    assert again == [first[k] for k in order]


def made(x: np.ndarray, y: np.ndarray, positive: np.ndarray, rng: np.random.Generator) -> DifferenceProducts:
    """A difference image with such candidates, strongest first; on the sky near (150, +20)."""
    table = blank_table(x.size)
    table["x"], table["y"], table["tblid"] = x, y, np.arange(x.size)
    table["ra"], table["dec"] = 150.0 + x * SCALE_DEG / np.cos(np.radians(20.0)), 20.0 + y * SCALE_DEG
    table["isdiffpos"] = np.where(positive, "t", "f")
    for name, value in (("jd", JD), ("rcid", RCID), ("field", FIELD), ("fid", 1), ("programid", 1), ("rfid", 1)):
        table[name] = value
    for name in ("magpsf", "sigmapsf", "flux", "fluxunc", "scorr", "jdstartref", "jdendref", "ranr", "decnr"):
        table[name] = 1.0
    header = fits.Header({"OBSJD": JD, "RCID": RCID})
    stamp = rng.normal(0, 1, (63, 63)).astype(np.float32)
    empty = np.zeros((1, 1), np.float32)
    cutouts = dict.fromkeys(range(x.size), (stamp, stamp, stamp))
    return DifferenceProducts(empty, empty.astype(np.uint16), empty, empty, header, table, cutouts)


Prepared = tuple[DifferenceProducts, list, dict]


def prepared(dsn: str, image: DifferenceProducts, config: AlertConfig = CONFIG) -> Prepared:
    """What a process makes before it registers: facts and packets of all candidates."""
    past = alerting.read_past(dsn, image, WHERE, 0.7, config)
    known = alerting.facts(image, past, "file.fits", config)
    return image, known, alerting.prepare(image, known, past, range(len(image.candidates)), {}, config)


def register(dsn: str, ready: Prepared, config: AlertConfig = CONFIG) -> dict[int, tuple[float, float, str]]:
    """Register, and tell what is served then: position and sign by number."""
    with db.transaction(dsn) as cursor:
        alerting.register_alerts(cursor, EXPOSURE, *ready, config)
    return {row["candid"]: (row["xpos"] - 1, row["ypos"] - 1, row["isdiffpos"]) for row in served(dsn)}


def served(dsn: str) -> list[dict]:
    return db.fetch_all(dsn, "select * from candidates where pid = %s order by candid", (PID,))


def sent(dsn: str) -> list[int]:
    return [row["candid"] for row in db.fetch_all(dsn, "select candid from alert_outbox order by candid")]


class Sky:
    """Sources well apart on a quadrant; every version of the difference sees some, elsewhere by a fraction of a pixel."""

    def __init__(self, rng: np.random.Generator, n: int = 30) -> None:
        cells = rng.permutation(400)[:n]
        self.x, self.y = 20.0 + 8.0 * (cells % 20), 20.0 + 8.0 * (cells // 20)
        self.positive, self.rng, self.new = rng.random(n) < 0.7, rng, 400

    def version(self, share: float = 0.8, n_new: int = 3) -> tuple[DifferenceProducts, np.ndarray]:
        """A version, and which source each of its candidates is (-1: in this version only)."""
        seen = self.rng.permutation(np.flatnonzero(self.rng.random(self.x.size) < share))
        which = self.rng.permutation(np.append(seen, np.full(n_new, -1)))
        x, y, positive = self.x[which].copy(), self.y[which].copy(), self.positive[which].copy()
        for k in np.flatnonzero(which < 0):
            self.new += 1
            x[k], y[k], positive[k] = 20.0 + 8.0 * (self.new % 20), 20.0 + 8.0 * (self.new // 20), True
        x, y = x + self.rng.uniform(-0.6, 0.6, x.size), y + self.rng.uniform(-0.6, 0.6, x.size)
        return made(x, y, positive, self.rng), which


@pytest.mark.parametrize("seed", range(3))
def test_one_number_and_one_alert_per_detection_through_random_versions(database, seed: int) -> None:
    """Sources come, go and come back, are displaced and change their rank; a bad version has none at all."""
    sky, dsn = Sky(np.random.default_rng(seed)), database.pipeline
    number: dict[int, int] = {}
    n_new, given = 0, set()
    for k in range(7):
        image, which = sky.version(0.0 if k == 3 else 0.8, 0 if k == 3 else 3)
        found = register(dsn, prepared(dsn, image))
        assert len(found) == len(which)
        for row, source in zip(image.candidates, which, strict=True):
            candid = min(found, key=lambda c: np.hypot(found[c][0] - row["x"], found[c][1] - row["y"]))
            assert ids.split_candid(candid)[2] == (row["isdiffpos"] == "t")
            if source >= 0:
                assert number.setdefault(int(source), candid) == candid
            else:
                assert candid not in given
                n_new += 1
            given.add(candid)
        assert sorted(given) == sent(dsn)
        assert all(row["alerted"] and row["tblid"] == ids.split_candid(row["candid"])[3] for row in served(dsn))
    assert len(sent(dsn)) == len(number) + n_new


def test_what_comes_back_without_a_packet_stays_alerted(database) -> None:
    dsn, rng = database.pipeline, np.random.default_rng(1)
    image = made(np.array([30.0, 60.0]), np.array([30.0, 60.0]), np.array([True, True]), rng)
    register(dsn, prepared(dsn, image))
    nothing = made(*(np.zeros(0),) * 2, np.zeros(0, bool), rng)
    register(dsn, prepared(dsn, nothing))
    assert served(dsn) == []
    turned = made(np.array([60.2, 30.2, 90.0]), np.array([60.2, 30.2, 90.0]), np.array([True] * 3), rng)
    image, known, _ = prepared(dsn, turned)
    register(dsn, (image, known, {}))
    assert [(row["tblid"], row["alerted"], round(row["xpos"] - 1, 1)) for row in served(dsn)] == [
        (0, True, 30.2), (1, True, 60.2), (2, False, 90.0),
    ]  # fmt: skip
    register(dsn, prepared(dsn, turned))
    assert len(sent(dsn)) == 3 and all(row["alerted"] for row in served(dsn))


def test_alerts_are_sent_again_only_with_a_higher_version(database) -> None:
    dsn, sky = database.pipeline, Sky(np.random.default_rng(5))
    image, which = sky.version(1.0, 0)
    register(dsn, prepared(dsn, image))
    higher = CONFIG.model_copy(update={"processing_version": 4})
    for _ in range(2):
        register(dsn, prepared(dsn, sky.version(1.0, 0)[0], higher), higher)
        assert Counter(ids.split_candid(c)[1] for c in sent(dsn)) == {1: which.size, 4: which.size}
    register(dsn, prepared(dsn, sky.version(1.0, 0)[0]))
    assert len(sent(dsn)) == 2 * which.size, "the survey's own version sends none again"
    assert {ids.split_candid(row["candid"])[1] for row in served(dsn)} == {4}


def test_numbers_of_alerts_whose_candidates_are_gone_are_not_given_again(database) -> None:
    """A database from before the replaced candidates were kept."""
    dsn, sky = database.pipeline, Sky(np.random.default_rng(6))
    image, which = sky.version(1.0, 0)
    register(dsn, prepared(dsn, image))
    before = sent(dsn)
    with db.transaction(dsn) as cursor:
        candidates.remove(cursor, ids.nid(JD), PID)
    with db.transaction(database.owner) as cursor:
        cursor.execute("delete from former_candidates")
    found = register(dsn, prepared(dsn, image))
    assert not set(found) & set(before) and len(found) == which.size


def test_versions_that_are_registered_at_the_same_time_do_not_mix_their_numbers(database) -> None:
    """Eight workers make versions of one quadrant at once; who numbered by what is no longer there tries again."""
    dsn, sky = database.pipeline, Sky(np.random.default_rng(7), 20)
    images = [sky.version(0.8, 1)[0] for _ in range(8)]
    start, late, errors = threading.Barrier(len(images)), [], []

    def work(image: DifferenceProducts) -> None:
        try:
            ready = prepared(dsn, image)
            start.wait(60)
            while True:
                try:
                    register(dsn, ready)
                    return
                except LockedByOther:
                    late.append(1)
                    ready = prepared(dsn, image)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(image,)) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == [] and late
    x, y = (np.concatenate([image.candidates[name] for image in images])[:, None] for name in "xy")
    seen = np.flatnonzero((np.hypot(x - sky.x, y - sky.y) < 2).any(axis=0))
    names = [row["objectid"] for row in db.fetch_all(dsn, "select objectid from alert_outbox")]
    assert len(names) == len(seen) + len(images)
    assert len(set(names)) == len(names), "two alerts of one object"


def test_a_roll_back_and_a_registration_wait_for_each_other(database) -> None:
    dsn, sky = database.pipeline, Sky(np.random.default_rng(8))
    image, _ = sky.version(1.0, 0)
    register(dsn, prepared(dsn, image))
    before = served(dsn)
    newer = prepared(dsn, replace(image, candidates=image.candidates[::-1].copy()))
    done = threading.Event()

    def later() -> None:
        register(dsn, newer)
        done.set()

    with db.transaction(dsn) as cursor:
        candidates.remove(cursor, ids.nid(JD), PID)
        thread = threading.Thread(target=later)
        thread.start()
        assert not done.wait(1.0), "it did not wait"
        names, alerted = ([row[key] for row in before] for key in ("objectid", "alerted"))
        candidates.insert_candidates(cursor, EXPOSURE, before, names, alerted)
    thread.join(60)
    assert done.is_set() and [row["candid"] for row in served(dsn)] == [row["candid"] for row in before]
