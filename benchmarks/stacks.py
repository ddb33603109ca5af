"""Stacks of calibration frames: frames with planted outliers, what other tools are given, and how a stack is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks import accuracy
from benchmarks.scenes import BenchScene, frames
from ztfds.calibration.bias import stack_bias
from ztfds.calibration.flat import stack_flat
from ztfds.detrend.overscan import model_overscan
from ztfds.formats.raw import RawQuadrant
from ztfds.survey.detector import READ_NOISE_E

Result = dict[str, Any]
Work = Callable[[], Result]
Combine = Callable[[Sequence[np.ndarray]], Result]
N_PLANTED = 4000
PLANTED_DN = (60.0, 20000.0)


def planted_outliers(scene: BenchScene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame, flat pixel index and DN of spoilt samples, each in another pixel."""
    rng = np.random.default_rng([scene.plan.seed, 99])
    ny, nx = scene.camera.quadrant_shape
    pixel = rng.choice(ny * nx, N_PLANTED, replace=False)
    value = np.exp(rng.uniform(*np.log(PLANTED_DN), N_PLANTED))
    return rng.integers(0, 20, N_PLANTED), pixel, value.astype(np.uint16)


def plant(scene: BenchScene, raws: Sequence[RawQuadrant]) -> list[RawQuadrant]:
    """Copies of calibration frames with outliers added."""
    out = [replace(raw, pixels=np.array(raw.pixels)) for raw in raws]
    for frame, pixel, value in zip(*planted_outliers(scene), strict=True):
        out[frame].pixels.flat[pixel] = min(65535, int(out[frame].pixels.flat[pixel]) + int(value))
    return out


def bias(scene: BenchScene) -> Work:
    """Our bias of 20 frames straight from raw integers, overscan models included."""
    raws = plant(scene, frames(scene, "bias")[0])
    return lambda: {"image": stack_bias(raws, scene.config.bias).data}


def flat(scene: BenchScene) -> Work:
    """Our flat of 20 frames straight from raw integers: overscan, linearity, bias, normalisation included."""
    raws, headers = frames(scene, "flat")
    planted, of_bias = plant(scene, raws), scene.bias
    return lambda: {"image": stack_flat(planted, of_bias, scene.config.flat, headers=headers).data}


def bias_by(scene: BenchScene, combine: Combine) -> Work:
    """The bias by another tool."""
    return partial(combine, _overscan_subtracted(scene, plant(scene, frames(scene, "bias")[0])))


def flat_by(scene: BenchScene, combine: Combine) -> Work:
    """The flat by another tool."""
    return partial(combine, _normalised(scene, plant(scene, frames(scene, "flat")[0])))


def _overscan_subtracted(scene: BenchScene, raws: Sequence[RawQuadrant]) -> list[np.ndarray]:
    """Frames without their overscan, float32: what other tools are given."""
    levels = [model_overscan(raw.overscan, raw.qid, scene.config.split).level for raw in raws]
    return [raw.pixels - level[:, None] for raw, level in zip(raws, levels, strict=True)]


def _normalised(scene: BenchScene, raws: Sequence[RawQuadrant]) -> list[np.ndarray]:
    """Flats without overscan and bias, divided by their median, float32 (not linearised: other tools cannot)."""
    pattern, out = scene.bias.data, []
    for frame in _overscan_subtracted(scene, raws):
        frame -= pattern
        frame /= np.float32(np.median(frame[::8, ::8]))
        out.append(frame)
    return out


def judge_bias(scene: BenchScene, made: Result) -> Result:
    """Noise over ideal and outliers of a bias."""
    clean = _overscan_subtracted(scene, frames(scene, "bias")[0])
    ideal = np.mean(clean, axis=0, dtype=np.float64)
    sigma = READ_NOISE_E / scene.truth.gain / np.sqrt(len(clean))
    return accuracy.stack_numbers(made["image"], ideal, sigma, planted_outliers(scene)[1], _quiet_pixels(scene, clean))


def _quiet_pixels(scene: BenchScene, clean: Sequence[np.ndarray]) -> np.ndarray:
    """(n,) bool: planted outliers in pixels whose clean samples scatter as they should (not hot, noisy, hit by radiation)."""
    samples = np.stack([frame.flat[planted_outliers(scene)[1]] for frame in clean])
    deviation = samples.std(axis=0)
    return deviation < 2.0 * np.median(deviation)


def judge_flat(scene: BenchScene, made: Result) -> Result:
    """Noise over ideal and outliers of a flat.

    A stack that is linearised and the plain mean of frames that are not differ by a smooth factor: it is taken out.
    """
    clean = _normalised(scene, frames(scene, "flat")[0])
    ideal = np.mean(clean, axis=0, dtype=np.float64)
    sigma = float(np.median(np.std(np.stack([f[::16, ::16] for f in clean]), axis=0))) / np.sqrt(len(clean))
    image = np.asarray(made["image"], float)
    image /= np.median(image[::8, ::8] / ideal[::8, ::8])
    return accuracy.stack_numbers(image, ideal, sigma, planted_outliers(scene)[1], _quiet_pixels(scene, clean))
