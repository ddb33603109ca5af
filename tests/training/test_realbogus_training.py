"""Training of the real/bogus models: figures of merit, labels by truth, and the whole command on one very small scene."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from ztfds.config.difference import DifferenceConfig
from ztfds.difference import score
from ztfds.difference.run import run
from ztfds.survey.errors import BugOrConfiguration, FilesMissing
from ztfds.training import evaluate, realbogus, samples
from ztfds.training.labels import BOGUS, KINDS, REAL, UNCLEAR, label, true_changes
from ztfds.training.samples import META, Samples
from ztfds.training.scenes import Pair, SceneSpec, make_pairs

SPEC = SceneSpec(901, "plane", rich=True, side_px=320)
MISSING = [name for name in ("jax", "onnx", "sklearn") if importlib.util.find_spec(name) is None]
needs_fitting = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (dependency group 'training')"
)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return list(make_pairs(SPEC))


@pytest.fixture(scope="module")
def made(pairs: list[Pair]) -> Samples:
    rng = np.random.default_rng(1)
    parts = [samples.of_pair(p, samples.VARIANTS[k % 5], rng, pairs[-1 - k], k) for k, p in enumerate(pairs)]
    return samples.joined(parts)


def test_packed_stamps_come_back(rng: np.random.Generator) -> None:
    planes = rng.uniform(-3.9, 3.9, (5, 4, 63, 63)).astype("f4")
    planes[:, 3] = rng.random((5, 63, 63)) < 0.9
    back = samples.unpacked(samples.packed(planes))
    np.testing.assert_array_equal(back[:, 3], planes[:, 3])
    valid = np.broadcast_to(planes[:, 3:] > 0, (5, 3, 63, 63))
    np.testing.assert_allclose(back[:, :3][valid], planes[:, :3][valid], atol=samples.STEP / 2 + 1e-6)
    assert (back[:, :3][~valid] == 0).all()


def test_area_and_rates_by_hand(rng: np.random.Generator) -> None:
    real = np.arange(400) % 2 == 0
    scores = np.round(rng.normal(0, 1, 400) + 1.5 * real, 1)
    difference = scores[real][:, None] - scores[~real]
    assert evaluate.area_under_curve(scores, real) == pytest.approx(np.mean((difference > 0) + 0.5 * (difference == 0)))
    cut = evaluate.threshold_of_false_positives(scores, real)
    assert np.mean(scores[~real] > cut) <= 0.02
    assert evaluate.false_negatives(scores, real) == np.mean(scores[real] <= cut)
    assert evaluate.false_negatives(real.astype(float), real) == 0.0


def test_false_candidates_per_quadrant_by_hand() -> None:
    meta = np.zeros(300, META)
    meta["label"][:200] = 1
    scores = np.concatenate([np.linspace(0.5, 1.0, 200), np.linspace(0.0, 1.0, 100)])
    found = evaluate.false_per_quadrant(scores, meta, 2 * evaluate.FULL_MPX)
    assert found["before"] == pytest.approx(50.0)
    assert np.mean(scores[:200] >= found["cut"]) >= 0.99
    assert found["after"] == pytest.approx(np.sum(scores[200:] >= found["cut"]) / 2)


def test_calibration_recovers_slope_and_offset(rng: np.random.Generator) -> None:
    odds = rng.normal(0, 2, 40_000)
    meta = np.zeros(odds.size, META)
    meta["label"] = rng.random(odds.size) < 1 / (1 + np.exp(-(0.5 * odds)))
    meta["kind"] = np.where(meta["label"] == 1, 0, KINDS.index("noise"))
    held = Samples(np.zeros((odds.size, 1), "f4"), np.zeros((odds.size, 1), "i1"), meta)
    slope, offset = realbogus.calibration(3 * odds + 1, held)
    assert slope * 3 == pytest.approx(0.5, abs=0.03)
    assert offset + slope == pytest.approx(0.0, abs=0.05)
    values = 1 / (1 + np.exp(-(slope * (3 * odds + 1) + offset)))
    for point in evaluate.reliability(values, held.real):
        assert point["real"] == pytest.approx(point["score"], abs=0.03 + 3 * point["error"])


def test_weights_balance_real_and_bogus() -> None:
    meta = np.zeros(130, META)
    meta["kind"] = KINDS.index("noise")
    meta["label"][:30], meta["kind"][:30] = 1, [0] * 25 + [3] * 5
    meta["kind"][30:34] = KINDS.index("hit")
    weights = evaluate.balanced(meta)
    assert weights[:30].sum() == pytest.approx(65)
    assert weights[30:].sum() == pytest.approx(65)
    assert weights[25] / weights[0] == pytest.approx(np.sqrt(5))


def test_training_and_judging_seeds_are_apart() -> None:
    training, judging = realbogus.training_scenes(200), realbogus.judging_scenes(50, 50)
    assert max(s.seed for s in training) < 1000 <= min(s.seed for s in judging)
    assert len({s.seed for s in judging}) == 100
    assert {s.sky for s in training} == {s.sky for s in judging} == {"quiet", "plane"}


def test_bright_transients_are_real_on_either_night(pairs: list[Pair]) -> None:
    """New on the second night, gone on the first: every candidate at a clear change is labelled real, and of its kind."""
    signs = set()
    for pair in (pairs[0], pairs[-1]):
        table = run(
            pair.inputs, samples.altered(pair.inputs, samples.LOW, np.random.default_rng(0), pair)[1]
        ).candidates
        labels, kinds = label(pair, table)
        changes = true_changes(pair)
        new = changes[np.isin(changes["kind"], (0, 1)) & (np.abs(changes["change"]) > 10 * np.median(table["fluxunc"]))]
        apart = np.hypot(table["x"] - new["x"][:, None], table["y"] - new["y"][:, None])
        near = apart.min(axis=1) < 1.5
        assert near.mean() > 0.6
        assert (labels[apart.argmin(axis=1)[near]] == REAL).all()
        assert set(kinds[labels == REAL]) <= {0, 1, 2, 3}
        assert (kinds[labels == UNCLEAR] == KINDS.index("unclear")).all()
        signs |= set(np.sign(new["change"][near]))
    assert signs == {-1.0, 1.0}


def test_labels_follow_the_truth(pairs: list[Pair]) -> None:
    pair = pairs[0]
    table = run(pair.inputs, samples.altered(pair.inputs, samples.LOW, np.random.default_rng(0), pair)[1]).candidates
    labels, _ = label(pair, table)
    assert (labels == REAL).any()
    quiet = dataclasses.replace(pair.epoch, truth=pair.epoch.truth[pair.epoch.truth["kind"] == "star"])
    nothing = dataclasses.replace(pair, epoch=quiet, reference_truth=[quiet.truth])
    assert (label(nothing, table)[0] == BOGUS).all()
    flipped = table.copy()
    flipped["flux"] *= -1
    assert not (label(pair, flipped)[0][labels == REAL] == REAL).any()


def test_altered_differences_have_artefacts(made: Samples) -> None:
    assert np.isfinite(made.features[:, 0]).all()
    assert made.stamps.shape == (len(made), 3, 63, 63)
    assert set(made.meta["label"]) == {BOGUS, REAL}
    bogus = made.meta[~made.real]
    assert {KINDS[k] for k in bogus["kind"]} & {"hit", "defect"}
    assert {KINDS[k] for k in bogus["kind"]} & {"star", "bright star"}
    assert (made.meta["kind"][made.real] < 4).all()


def test_samples_survive_the_disk(made: Samples, tmp_path: Path) -> None:
    path = realbogus.scene_path(tmp_path, realbogus.training_scenes(1)[0])
    samples.write(path, made)
    back = realbogus.gathered(tmp_path, realbogus.training_scenes(3))
    np.testing.assert_array_equal(back.features, made.features)
    np.testing.assert_array_equal(back.stamps, made.stamps)
    assert (back.meta == made.meta).all()
    with pytest.raises(FilesMissing, match="make"):
        realbogus.gathered(tmp_path / "nothing", realbogus.training_scenes(3))


def test_a_difference_that_fails_gives_no_candidates(pairs: list[Pair]) -> None:
    broken = dataclasses.replace(pairs[0].epoch.science, psf=None)
    pair = dataclasses.replace(pairs[0], epoch=dataclasses.replace(pairs[0].epoch, science=broken))
    assert len(samples.of_pair(pair, samples.NOMINAL, np.random.default_rng(0))) == 0


@needs_fitting
def test_fit_and_judge_end_to_end(made: Samples, tmp_path: Path) -> None:
    """Files with their card; the fitted models and the files agree (checked inside `fit`); the trees have learnt something."""
    made.meta["seed"] = np.where(made.meta["pair"] % 3 == 0, 901, 902)
    card = realbogus.fit(made, tmp_path, release=7, epochs=12 * 128 / len(made))
    assert card["rb"]["version"] == "trees_7"
    assert card["drb"]["version"] == "net_7"
    assert card["training"]["calibration_scenes"] == [901]
    assert score.read_card(tmp_path) == card
    made.meta["rich"] = made.meta["pair"] % 2 == 0
    judged = realbogus.judge(made, tmp_path, tmp_path / "pictures")
    assert judged["rb"]["all"]["auc"] > 0.9
    assert judged["rb"]["ordinary plane"]["per_quadrant"]["before"] > 0
    assert score.read_card(tmp_path)["judged"] == judged
    for name in ("rates", "kinds"):
        assert 2_000 < (tmp_path / "pictures" / f"realbogus-{name}.jpg").stat().st_size < 60_000


@needs_fitting
def test_trees_of_the_same_samples_are_the_same(made: Samples) -> None:
    weights = evaluate.balanced(made.meta)
    one, two = (realbogus._fit_trees(made, made, weights, 1, 0.0)[0] for _ in range(2))
    assert one == two


@needs_fitting
def test_fit_needs_both_kinds(made: Samples, tmp_path: Path) -> None:
    only = made[made.real]
    with pytest.raises(BugOrConfiguration, match="real and bogus"):
        realbogus.fit(only, tmp_path, release=1)
    assert not list(tmp_path.iterdir())


def test_candidates_of_nominal_differences_are_found_as_at_night() -> None:
    config = samples.altered(None, samples.NOMINAL, np.random.default_rng(0), None)[1]  # type: ignore[arg-type]
    assert config.candidates == DifferenceConfig().candidates
