"""The real/bogus models: what is shipped, what they say of clear cases, and what happens when they are damaged."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import analytic_sky as sky
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ztfds.alerts.packet import as_mapping, complete
from ztfds.config.difference import DifferenceConfig
from ztfds.difference import score
from ztfds.difference.candidates import DTYPE, blank_table
from ztfds.difference.features import FEATURES, LARGEST, features, stamps
from ztfds.difference.products import DifferenceInputs, DifferenceProducts
from ztfds.difference.run import run

PSF = sky.MoffatPsf(2.2)
NOISE = 8.0
Stamps = tuple[np.ndarray, np.ndarray, np.ndarray]


def three(rng: np.random.Generator, difference: np.ndarray, template: np.ndarray | float = 0.0) -> Stamps:
    """Noisy cutouts with sky of which science minus template is `difference`."""
    base = sky.SKY + template + np.zeros((63, 63))
    images = (base + difference + rng.normal(0, NOISE, (63, 63)), base + rng.normal(0, 0.3 * NOISE, (63, 63)))
    return images[0].astype("f4"), images[1].astype("f4"), (images[0] - images[1]).astype("f4")


def star(flux: float, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    return flux * PSF.draw(0, 0, 63, dx, dy)


def network(*given: Stamps) -> np.ndarray:
    return score.load(score.model_folder(), "drb").scores(stamps(given))


@pytest.mark.parametrize("name", score.SCORES)
def test_shipped_model_is_that_of_its_card(name: str) -> None:
    card = score.read_card()
    content = (score.model_folder() / card[name]["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == card[name]["sha256"]
    assert len(content) == card[name]["bytes"] < 1_000_000
    model = score.load(score.model_folder(), name)
    assert model.version == card[name]["version"] != score.UNKNOWN
    assert len(model.version) <= 16
    assert not set(card["training"]["scenes"]) & set(card["training"]["calibration_scenes"])
    assert max(card["training"]["scenes"]) < 1000 <= min(card["judged"]["scenes"])


def test_point_sources_score_high_hits_and_dipoles_low(rng: np.random.Generator) -> None:
    real = [three(rng, star(flux, *rng.uniform(-0.5, 0.5, 2))) for flux in np.geomspace(600, 6000, 20)]
    on_host = [three(rng, star(flux), star(3 * flux, 2.0, 1.0)) for flux in np.geomspace(800, 6000, 10)]
    hit = np.zeros((63, 63))
    hit[31, 31] = 1.0
    hits = [three(rng, flux * hit) for flux in np.geomspace(300, 4000, 20)]
    dipoles = [three(rng, star(f, 0.25, 0) - star(f, -0.25, 0), star(f, -0.25, 0)) for f in np.geomspace(4e3, 4e4, 20)]
    assert np.median(network(*real)) > 0.9
    assert np.mean(network(*real) > 0.5) >= 0.9
    assert np.median(network(*on_host)) > 0.7
    assert np.median(network(*hits)) < 0.1
    assert np.mean(network(*dipoles) < 0.5) >= 0.9


def test_any_turn_of_a_stamp_says_the_same(rng: np.random.Generator) -> None:
    given = [three(rng, star(flux, 0.2, 0.1)) for flux in np.linspace(100, 400, 8)]
    turned = [tuple(np.rot90(plane) for plane in stamp) for stamp in given]
    mirrored = [tuple(plane[:, ::-1] for plane in stamp) for stamp in given]
    plain = network(*given)
    np.testing.assert_allclose(network(*turned), plain, atol=1e-4)  # type: ignore[arg-type]
    np.testing.assert_allclose(network(*mirrored), plain, atol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["half", "centre", "science", "everything", "flat", "huge", "small stamp"])
def test_stamps_with_little_in_them_still_get_a_score(rng: np.random.Generator, what: str) -> None:
    science, template, difference = three(rng, star(2000.0))
    if what == "half":
        difference[:, 32:] = np.nan
    elif what == "centre":
        difference[25:38, 25:38] = np.nan
    elif what == "science":
        science[:] = np.nan
    elif what == "everything":
        science[:] = template[:] = difference[:] = np.nan
    elif what == "flat":
        difference[:] = 0.0
    elif what == "huge":
        difference[3, 3], science[4, 4] = 3e38, np.inf
    else:
        science, template, difference = (plane[10:, 5:60] for plane in (science, template, difference))
    planes = stamps([(science, template, difference)])
    assert np.isfinite(planes).all()
    assert np.abs(planes).max() <= LARGEST
    assert 0 <= network((science, template, difference))[0] <= 1


def test_a_smaller_stamp_keeps_its_centre(rng: np.random.Generator) -> None:
    given = three(rng, star(2000.0))
    whole, cut = stamps([given])[0], stamps([tuple(plane[5:-5, 5:-5] for plane in given)])[0]
    assert (cut[3].sum(), whole[3].sum()) == (53 * 53, 63 * 63)
    assert np.unravel_index(cut[2].argmax(), (63, 63)) == np.unravel_index(whole[2].argmax(), (63, 63))
    np.testing.assert_allclose(cut[2, 31, 31], whole[2, 31, 31], rtol=0.1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(width=32) | st.just(-999.0), min_size=8, max_size=8))
def test_features_of_any_numbers_get_a_score(values: list[float]) -> None:
    table = blank_table(2)
    names = ("sigmapsf", "scorr", "magpsf", "magap", "distnr", "magnr", "chipsf", "sumrat")
    for name, value in zip(names, values, strict=True):
        table[name] = value
    out = score.load(score.model_folder(), "rb").scores(features(table))
    assert ((out >= 0) & (out <= 1)).all()


def test_features_know_nulls_and_ratios() -> None:
    table = blank_table(1)
    table["sigmapsf"], table["scorr"], table["magpsf"], table["magap"], table["magapbig"] = (
        0.1,
        10.857,
        18.0,
        18.1,
        18.05,
    )
    table["distnr"], table["magnr"], table["isdiffpos"] = -999, -999, "t"
    row = dict(zip(FEATURES, features(table)[0], strict=True))
    assert row["snr"] == pytest.approx(10.857, rel=1e-3)
    assert row["scorr_per_snr"] == pytest.approx(1.0, rel=1e-3)
    assert row["growth"] == pytest.approx(-0.05, abs=1e-4)
    assert row["positive"] == 1
    assert np.isnan([row["distnr"], row["reference_contrast"], row["sgscore1"]]).all()


def difference_of(scene: sky.Scene) -> DifferenceProducts:
    """The step as if nothing but the scores told hits from stars."""
    config = DifferenceConfig.tiny()
    blind = config.candidates.model_copy(update={"spike_chi": 1e9, "min_local_snr": 0.0})
    config = config.model_copy(update={"candidates": blind, "max_asymmetry": 1.0})
    return run(DifferenceInputs(scene.science, scene.reference, *sky.empty_catalogs()), config)


def test_scores_tell_transients_from_unmasked_hits_on_an_analytic_sky() -> None:
    """Neither the sky nor the point-spread function is the simulator's."""
    rng = np.random.default_rng(5)
    truth = sky.make_truth(rng, (264, 256), 150, 16, snr=25.0)
    scene = sky.make_scene(rng, truth, psf_new=sky.MoffatPsf(2.4), psf_ref=sky.MoffatPsf(2.1))
    hy, hx = rng.integers(20, 240, (2, 30))
    scene.science.pixels[hy, hx] += rng.uniform(150, 1500, 30).astype("f4")
    table = difference_of(scene).candidates
    real = np.hypot(table["x"][:, None] - truth.tx, table["y"][:, None] - truth.ty).min(axis=1) < 1.5
    bogus = np.hypot(table["x"][:, None] - hx, table["y"][:, None] - hy).min(axis=1) < 1.5
    assert real.sum() >= 14
    assert bogus.sum() >= 10
    for name in score.SCORES:
        assert np.median(table[name][real]) > 0.8, name
        assert np.median(table[name][bogus & ~real]) < 0.2, name


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return Path(shutil.copytree(score.model_folder(), tmp_path / "models"))


def two_candidates(rng: np.random.Generator) -> tuple[np.ndarray, dict[int, Stamps]]:
    table = np.zeros(2, DTYPE)
    table["tblid"] = [0, 1]
    return table, {k: three(rng, star(2000.0)) for k in range(2)}


@pytest.mark.parametrize("damage", ["none", "cut", "replaced", "gone", "no card", "bad card", "other shape"])
def test_a_damaged_model_means_a_null_score_and_one_line(
    rng: np.random.Generator, models: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, card = models / "drb.onnx", models / "card.json"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "replaced":
        path.write_bytes(b"#!/bin/sh\n")
    elif damage == "gone":
        path.unlink()
    elif damage == "no card":
        card.unlink()
    elif damage == "bad card":
        card.write_text('{"rb": {"file": "rb.onnx"')
    elif damage == "other shape":  # a valid model of the wrong kind
        facts = json.loads(card.read_text())
        card.write_text(json.dumps(facts | {"drb": facts["rb"]}))
    table, cutouts = two_candidates(rng)
    with caplog.at_level(logging.WARNING):
        score.attach(table, cutouts, models)
    lines = [record.getMessage() for record in caplog.records if record.name == score.log.name]
    if damage == "none":
        assert np.isfinite(table["drb"]).all()
        assert not lines
        return
    assert np.isnan(table["drb"]).all()
    assert set(table["drbversion"]) == {score.UNKNOWN}
    assert sum("no drb" in line for line in lines) == 1
    assert all("\n" not in line and len(line) < 260 for line in lines)
    assert np.isfinite(table["rb"]).all() == ("card" not in damage)


@pytest.mark.parametrize("known", [True, False])
def test_scores_reach_the_packet(rng: np.random.Generator, tmp_path: Path, known: bool) -> None:
    table, cutouts = two_candidates(rng)
    for name in ("jd", "ra", "dec", "magpsf", "sigmapsf", "jdstartref", "jdendref"):
        table[name] = 1.0
    score.attach(table, cutouts, score.model_folder() if known else tmp_path)
    record = complete("candidate", {**as_mapping(table[0]), "candid": 1, "ndethist": 1, "ncovhist": 1})
    card = score.read_card()
    for name in score.SCORES:
        assert record[name] == (pytest.approx(float(table[name][0])) if known else None)
        assert record[f"{name}version"] == (card[name]["version"] if known else "none")


def test_no_candidates_need_no_model(tmp_path: Path) -> None:
    score.attach(blank_table(0), {}, tmp_path)


def test_a_forked_worker_scores_as_its_parent_does(rng: np.random.Generator, tmp_path: Path) -> None:
    table, cutouts = two_candidates(rng)
    score.attach(table, cutouts)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            again = np.zeros(2, DTYPE)
            again["tblid"] = [0, 1]
            score.attach(again, cutouts)
            np.save(tmp_path / "scores.npy", again["drb"])
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), table["drb"])


def test_importing_the_step_loads_neither_runtime_nor_models() -> None:
    """The process that forks workers imports the step: it must have no threads of the runtime."""
    code = "import sys, ztfds.difference.run; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
