"""The benchmark's own arithmetic: scenes agree with their raw files, judgements give the right answer where it is known."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import accuracy, marks, rows, run, table
from benchmarks.inputs import near_line
from benchmarks.scenes import BenchScene, load
from benchmarks.spawner import Spawner
from ztfds.survey.camera import TINY

TINY_CCD = replace(TINY, ccdids=(6,))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> BenchScene:
    return load("quiet-1", root=tmp_path_factory.mktemp("bench"), camera=TINY_CCD)


def test_truth_belongs_to_the_raw_file(scene):
    truth = scene.truth
    raw = scene.raw.quadrants[0].pixels
    assert truth.light.shape == raw.shape == TINY.quadrant_shape
    assert len(truth.sources) > 50
    x, y = truth.wcs.to_pixel(truth.sources["ra"], truth.sources["dec"])
    np.testing.assert_allclose(x, truth.sources["x"], atol=1e-3)
    np.testing.assert_allclose(y, truth.sources["y"], atol=1e-3)
    flux = 10 ** (-0.4 * (truth.sources["mag"] - truth.zeropoint - truth.colour_term * truth.sources["colour"]))
    stars = truth.sources["kind"] == "star"
    np.testing.assert_allclose(flux[stars], truth.sources["flux"][stars], rtol=1e-4)


def test_a_second_load_reads_what_the_first_one_wrote(scene):
    again = load("quiet-1", root=scene.folder.parent, camera=TINY_CCD)
    np.testing.assert_array_equal(again.truth.hit_index, scene.truth.hit_index)
    np.testing.assert_array_equal(again.flat.data, scene.flat.data)


def test_the_hits_of_the_truth_are_the_difference_between_pixels_and_light(scene):
    from ztfds.detrend.apply import detrend

    inputs, truth = scene.inputs(), scene.truth
    pixels, _ = detrend(inputs.split, inputs.bias, inputs.flat, scene.config.science.detrend)
    over = (pixels - truth.light).flat[truth.hit_index]
    strong = (truth.hit_dn > 60) & (truth.hit_dn < 5000)
    assert strong.any()
    assert np.median(over[strong] / truth.hit_dn[strong]) == pytest.approx(1.0, abs=0.1)


def test_the_scale_of_fluxes_is_that_of_the_flat_fielded_sky(scene):
    inputs, truth = scene.inputs(), scene.truth
    signal = (inputs.split.pixels - inputs.bias.data) / inputs.flat.data
    assert np.median(signal / truth.light) == pytest.approx(np.median(truth.flux_scale), abs=0.005)


def test_noise_of_a_median_and_planted_outliers():
    rng = np.random.default_rng(5)
    frames = rng.normal(0, 1.6, (20, 300, 300)).astype(np.float32)
    ideal, sigma = frames.mean(axis=0), 1.6 / np.sqrt(20)
    planted = np.array([7, 5000])
    spoilt = frames.copy()
    spoilt[0].flat[planted] += 500
    median = accuracy.stack_numbers(np.median(spoilt, axis=0), ideal, sigma, planted)
    # Efficiency of the median of 20 normal deviates: variance 1.47 times that of the mean.
    assert median["noise_over_ideal"] == pytest.approx(1.213, abs=0.03)
    assert median["got_through"] == 0
    assert accuracy.stack_numbers(spoilt.mean(axis=0), ideal, sigma, planted)["got_through"] == 2


def test_pixels_near_a_line():
    near = near_line((20, 30), 0, 10, 29, 10, 2.5)
    assert np.array_equal(np.flatnonzero(near.any(axis=1)), [8, 9, 10, 11, 12])
    assert near[10].all()


def test_memory_of_a_program_is_its_own(tmp_path):
    script = (
        "from pathlib import Path; from benchmarks.spawner import Spawner; spawner = Spawner.start()\n"
        "ballast = bytearray(200_000_000); print(spawner.call(['true'], Path('.')).peak_mb)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True
    )
    assert float(done.stdout) < 50


def test_a_program_that_fails_says_why(tmp_path):
    spawner = Spawner.start()
    with pytest.raises(RuntimeError, match="exit code 3: no luck"):
        spawner.call(["sh", "-c", "echo no luck; exit 3"], tmp_path)


def test_every_row_has_ours_and_the_table_shows_all(tmp_path):
    steps = {row.step for row in rows.ROWS}
    assert all(rows.find(step, "ours") for step in steps)
    assert len({(row.step, row.tool) for row in rows.ROWS}) == len(rows.ROWS)
    cost = {"cpu_s": 2.0, "wall_s": 2.5, "peak_mb": 300.0, "date": "2020-01-01T00:00:00", "load": 0.1, "machine": "m"}
    entries = [
        {"step": "sky", "tool": "ours", "field": "quiet", "accuracy": {"sky_bias_dn": 0.1}} | cost,
        {"step": "sky", "tool": "sep", "field": "quiet", "accuracy": {}} | cost | {"cpu_s": 5.0},
        {"step": "sky", "tool": "photutils", "field": "quiet", "skipped": "not installed: photutils"},
    ]
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.place(run.merged([], entries), page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| sky | **ours** | 2.00 | 2.50 | 300 |  | bias +0.100 DN |" in text
    assert "| sky | sep | 5.00 | 2.50 | 300 | 2.5 |" in text
    assert "not installed: photutils" in text


def test_marks_are_held_against_the_results_of_the_same_run():
    def entry(step, tool, cpu_s, **numbers):
        return {"step": step, "tool": tool, "field": "quiet", "cpu_s": cpu_s, "peak_mb": 900.0, "accuracy": numbers}

    entries = [
        entry("whole chain", "ours", 1.9, zp_error_mmag=-3.5),
        entry("whole chain", marks.CHAIN, 30.0),
        entry("cosmic rays", marks.SCRAPPY, 16.0),
        entry("astrometry", "SCAMP", 6.0),
        entry("PSF photometry", "ours", 1.0, bright_scatter_percent=0.3, complete_by_mag={"19.0": 1.0, "20.0": 0.7}),
        entry(
            "PSF photometry",
            "SExtractor + PSFEx",
            4.0,
            bright_scatter_percent=0.2,
            complete_by_mag={"19.0": 1.0, "20.0": 0.8},
        ),
    ]
    lines = marks.lines(entries)
    assert any("CPU s | 1.90 | ≤ 2.0: reached |" in line for line in lines)
    assert any("| 13.7 | ≥ 14: **missed** |" in line for line in lines)  # the steps one by one: 26 s
    assert any("| 0.30 | ≤ PSFEx's, ≤ 0.41: **missed** |" in line for line in lines)
    assert any("| -3.5 | ≤ 3: **missed** |" in line for line in lines)
    assert marks.Results(entries, "quiet").beaten_at() == ["20.0"]
