"""The benchmark of references and differences: pairs agree with their truth, judgements give the right answer where it is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import marks, rows, run, table
from benchmarks.difference import judge, pairs
from benchmarks.difference import marks as difference_marks
from benchmarks.difference.inputs import PairInputs
from benchmarks.tools import install, subtraction
from ztfds.reference.grid import wcs_of
from ztfds.simulator.truth import truth_rows
from ztfds.survey.camera import TINY


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pairs.Pair]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "N_REFERENCE", 6)
        yield pairs.load("quiet-2", root=tmp_path_factory.mktemp("pairs"), camera=replace(TINY, ccdids=(6,)))


def test_stars_of_the_science_image_lie_where_the_truth_says_and_its_header_is_off(pair):
    stars = pair.truth[(pair.truth["kind"] == "star") & (pair.truth["snr"] > 30)]
    off = {}
    for name, header in (("right", pair.right_header()), ("wrong", pair.science().header)):
        x, y = wcs_of(header).all_world2pix(stars["ra"], stars["dec"], 0)
        off[name] = np.median([x - stars["x"], y - stars["y"]], axis=1)
    assert np.hypot(*off["right"]) < 0.06
    np.testing.assert_allclose(off["wrong"] - off["right"], pairs.SHIFT_PX, atol=0.02)


def test_reference_and_blank_pixels_belong_to_the_pair(pair):
    reference = pair.reference()
    assert reference.status == 1
    assert reference.header["NFRAMES"] == len(pair.inputs()) >= 5
    assert pair.blank.shape == reference.pixels.shape
    rows_ = pair.truth[(pair.truth["kind"] == "star") & (pair.truth["snr"] > 50)]
    assert not pair.blank[np.rint(rows_["y"]).astype(int), np.rint(rows_["x"]).astype(int)].any()


def test_a_pair_is_made_again_when_a_step_has_changed(pair, monkeypatch):
    again = pairs.load(pair.name, root=pair.folder.parent, camera=pair.camera)
    kept = (pair.folder / "reference" / "products.json").stat().st_mtime_ns
    assert again.facts == pair.facts
    monkeypatch.setitem(pairs.VERSIONS, "reference", "another")
    monkeypatch.setattr(pairs, "N_REFERENCE", 6)
    again = pairs.load(pair.name, root=pair.folder.parent, camera=pair.camera)
    assert (again.folder / "reference" / "products.json").stat().st_mtime_ns > kept
    assert json.loads((again.folder / "versions.json").read_text())["reference"] == "another"


# -- judgement ---------------------------------------------------------------------------------------------------------


def _inputs(truth: np.ndarray, shape: tuple[int, int], blocked: np.ndarray | None = None) -> Any:
    fake = SimpleNamespace(truth=truth, movers=np.zeros((0, 2)), blank=np.ones(shape, bool))
    mask = np.zeros(shape, bool) if blocked is None else blocked
    return SimpleNamespace(pair=fake, array=lambda name: mask)


def _transients(x: list[float], y: list[float], snr: list[float]) -> np.ndarray:
    out = truth_rows(len(x), "transient")
    out["x"], out["y"], out["snr"] = x, y, snr
    return out


def test_peaks_of_both_signs_are_found_once():
    image = np.zeros((200, 300), np.float32)
    image[100, 100], image[102, 101], image[50, 200], image[150, 150], image[5, 5] = 9, 7, -6, 4.9, 20
    found = judge.peaks(image, np.ones(image.shape, bool))
    assert found.tolist() == [[100, 100, 9], [200, 50, -6]]
    usable = np.ones(image.shape, bool)
    usable[100, 100] = False
    assert [102 in row or 101 in row for row in judge.peaks(image, usable).tolist()].count(True) == 1


def test_shares_found_and_false_peaks_are_counted():
    shape = (300, 300)
    truth = _transients([100.3, 200.0, 150.0, 60.0], [100.0, 200.0, 80.0, 250.0], [6.0, 6.5, 20.0, 20.0])
    truth["near_saturated"][3] = True
    image = np.zeros(shape, np.float32)
    image[100, 100], image[80, 150], image[250, 60], image[220, 90] = 6, 20, 9, -7
    numbers = judge.significance_numbers(_inputs(truth, shape), image)
    assert (numbers["found_snr5"], numbers["found_snr10"], numbers["n_snr10"]) == (0.5, 1.0, 1.0)
    assert numbers["false_peaks"] == 1  # the one at (90, 220); that of the transient beside a saturated star is real
    blocked = np.zeros(shape, bool)
    blocked[200, 200] = True
    assert judge.significance_numbers(_inputs(truth, shape, blocked), image)["found_snr5"] == 1.0


def test_a_streak_is_nothing_false():
    truth = truth_rows(1, "fast")
    truth["x"], truth["y"], truth["x2"], truth["y2"] = 50.0, 50.0, 90.0, 50.0
    places = np.array([[70.0, 51.0], [70.0, 56.0]])
    assert judge.false_ones(_inputs(truth, (200, 200)).pair, places).tolist() == [False, True]


def test_scores_are_cut_where_one_in_a_hundred_alerts_is_lost():
    truth = _transients(np.linspace(40, 250, 100).tolist(), [100.0] * 100, [20.0] * 100)
    x, y = np.append(truth["x"], [150.0, 150.0]), np.append(truth["y"], [200.0, 250.0])
    score = np.append(np.linspace(0.01, 1.0, 100), [0.001, 0.5])
    made = {"x": x, "y": y, "alerted": np.ones(102, bool), "score": score, "warp_px": 0.2, "width_raw": 1.0}
    numbers = judge.candidate_numbers(_inputs(truth, (300, 300)), made)
    assert (numbers["false_alerts"], numbers["false_after_score"]) == (2, 1)
    assert numbers["score_cut"] == pytest.approx(0.02, abs=0.002)


def test_the_matched_filter_of_a_plain_difference_has_unit_width_and_the_right_height():
    rng = np.random.default_rng(3)
    offset = np.arange(-7, 8)
    psf = np.exp(-0.5 * np.add.outer(offset**2, offset**2) / 0.9**2)
    psf /= psf.sum()
    noise = np.full((400, 400), 5.0, np.float32)
    diff = rng.normal(0, 5, noise.shape).astype(np.float32)
    flux = 20 * 5.0 / np.sqrt(np.sum(psf**2))  # S/N 20
    diff[193:208, 193:208] += (flux * psf).astype(np.float32)
    every = np.ones(noise.shape, bool)
    image = judge.filtered_significance(diff, noise, psf, every, every)
    assert judge.half_width(image[::3, ::3].ravel()) == pytest.approx(1.0, abs=0.03)
    assert image[200, 200] == pytest.approx(20, abs=3.5)


def test_the_noise_filter_knows_its_own_gain():
    from scipy import ndimage

    white = np.random.default_rng(4).normal(0, 3.0, (900, 900))
    near, far = (ndimage.gaussian_filter(white, sigma) for sigma in judge.NOISE_FILTER_PX)
    assert np.std(near - far) / (3.0 * judge._filter_gain()) == pytest.approx(1.0, abs=0.03)


def test_aperture_fluxes_of_known_stars():
    y, x = np.mgrid[:120, :120]
    image = 50.0 + 1000.0 / (2 * np.pi * 1.2**2) * np.exp(-0.5 * ((x - 60.3) ** 2 + (y - 59.8) ** 2) / 1.2**2)
    flux = judge.aperture_fluxes(image, np.array([60.3]), np.array([59.8]))
    assert flux[0] == pytest.approx(1000.0, rel=2e-3)
    image[60, 60] = np.nan
    assert np.isnan(judge.aperture_fluxes(image, np.array([60.3]), np.array([59.8]))[0])


# -- tools, rows, table ------------------------------------------------------------------------------------------------


def test_a_tool_that_is_not_here_is_named_with_its_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("ZTFDS_BENCH_ZOGY", str(tmp_path))
    assert install.place("ZOGY") is None
    assert install.missing(("ZOGY",)) == ["ZOGY ($ZTFDS_BENCH_ZOGY)"]
    (tmp_path / "zogy.py").write_text("")
    assert install.place("ZOGY") == tmp_path
    assert install.missing(("ZOGY",)) == []


def test_parts_for_zogy_cover_the_image_once():
    seen = np.zeros((264, 257), int)
    for y0, y1, x0, x1 in subtraction._parts(seen.shape):
        seen[y0:y1, x0:x1] += 1
    assert (seen == 1).all()
    tiles = [[0, 132, 0, 257], [132, 264, 0, 257]]
    assert [subtraction._tile_of(tiles, core) for core in subtraction._parts(seen.shape)] == [0] * 8 + [1] * 8


def test_rows_of_pairs_have_ours_and_their_own_judges():
    every = rows.all_rows()
    assert len({(row.step, row.tool) for row in every}) == len(every)
    mine = [row for row in every if row.judges is not rows.JUDGES]
    assert {row.step for row in mine if row.tool == "ours"} == {row.step for row in mine}
    assert rows.find("subtraction", "ZOGY").judges["quiet"] == "quiet-1011"
    assert set(difference_marks.WORDS) == {row.step for row in mine}


def test_marks_of_differences_are_held_against_the_results_of_the_same_run(tmp_path: Path):
    def entry(step: str, tool: str, cpu_s: float, field: str = "quiet", **numbers: float) -> dict[str, Any]:
        cost = {"wall_s": cpu_s, "peak_mb": 1250.0, "date": "2020-01-01T00:00:00", "load": 0.1, "machine": "m"}
        return {"step": step, "tool": tool, "field": field, "cpu_s": cpu_s, "accuracy": numbers} | cost

    entries = [
        entry("P6", "ours", 1.4, candidates_found_snr5=0.72, false_candidates=21.0),
        entry("P6", "ours", 4.4, "plane", candidates_found_snr5=0.60),
        entry("P2 + P5 + P6", "ours", 2.9),
        entry("subtraction", "ours", 0.5),
        entry("subtraction", "PyZOGY", 20.0),
        entry("subtraction", "ZOGY", 1.1, "plane", found_snr5=0.65),
        entry("60 alert packets", "ours", 0.1),
    ]
    lines = marks.lines(entries, difference_marks.MARKS)
    text = "\n".join(lines)
    assert "| P6 complete, CPU s | 1.40 | ≤ 1.5: reached | 4.40 | ≤ 4: **missed** |" in text
    assert "| times faster than PyZOGY | 40.0 | ≥ 25: reached |" in text
    assert "| transients found, S/N 5 to 7 | 0.720 | ≥ 0.70: reached | 0.600 | best of all tools: **missed** |" in text
    assert "| false above 5 sigma in a quadrant | 21 | ≤ 20: **missed** |" in text
    assert "| peak memory of P2 + P5 + P6, MB | 1250 | ≤ 1200: **missed** |" in text
    assert "| packets a second and core | 600 | ≥ 300: reached |" in text
    page = tmp_path / "page.md"
    page.write_text(f"{table.BEGIN}\n{table.END}\n")
    table.place(run.merged([], entries), page)
    assert "| P6 | **ours** | 1.40 |" in page.read_text()


def test_rows_are_chosen_by_part_of_their_name_or_by_all_of_it():
    assert run._named("zogy", "PyZOGY") and run._named("zogy", "ZOGY") and run._named(None, "ZOGY")
    assert run._named("=ZOGY", "ZOGY")
    assert not run._named("=ZOGY", "PyZOGY")


def test_inputs_name_the_tile_in_the_middle():
    made = PairInputs("quiet-1", Path())
    made.__dict__["facts"] = {"tiles": [[0, 1, 0, 1]] * 49}
    assert made.middle == 24
