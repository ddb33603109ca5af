"""Where streaks may be on a difference image: sums of its significance along lines of many directions and lengths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ztfds.config.streaks import StreakConfig
from ztfds.difference.candidates import MeasuredImages
from ztfds.kernels import streaks as kernels

NOISE_REACH = 9
"""Pixels to which the noise of the significance image is correlated."""
MERGE_PX = 5.0
"""Lines whose middle lies this near a stronger line are the same."""
SAMPLED = 64
"""Every so manyth line is measured for the width of the sums."""
LINE = np.dtype([(name, "f8") for name in ("sum", "x", "y", "angle", "length")])
"""A line: significance of its sum; middle, 0-based pixels; direction from +x to +y, rad; length, pixels."""


@dataclass(frozen=True)
class LineNoise:
    """Width of the sums along lines of an image over that of white noise: large structure adds to long lines.

    Attributes
    ----------
    lengths, widths : (n,) float64
        Lengths, pixels, ascending; robust widths of sums normalised for white noise.
    """

    lengths: np.ndarray
    widths: np.ndarray

    def at(self, length: float) -> float:
        """Width for a length, pixels: at least 1, linear in its logarithm."""
        width = np.interp(np.log(max(length, 1.0)), np.log(self.lengths), self.widths)
        return float(max(width, 1.0))


def find_lines(images: MeasuredImages, config: StreakConfig) -> tuple[np.ndarray, LineNoise]:
    """Lines along which Scorr adds up, each once, the most significant first.

    The sum of Scorr along a line is the matched filter of a trailed point source: Scorr is filtered by the PSF already, and
    filters commute. Pairs of rows are summed for steep lines, pairs of columns for flat ones, in four lengths at a time.

    Parameters
    ----------
    images : MeasuredImages
    config : StreakConfig

    Returns
    -------
    lines : structured array (LINE)
        At most `max_fits` rows.
    noise : LineNoise
    """
    ny, nx = images.scorr.shape
    pad = int(2 * max(config.long_lengths_px)) + 16
    rows = np.zeros((ny // 2, nx + pad), np.int16)
    columns = np.zeros((nx // 2, ny + pad), np.int16)
    kernels.halve(images.scorr, images.blocked, config.clip_sigma, rows, columns)
    noise = _correlation(images.psfs[len(images.psfs) // 2].stamp)
    parts, widths = [], []
    for pairs, correlation, flat in ((rows, noise, False), (columns, noise.T, True)):
        for count, lengths in (
            (config.short_directions, config.short_lengths_px),
            (config.long_directions, config.long_lengths_px),
        ):
            found, width = _search(pairs, np.ascontiguousarray(correlation), flat, count, lengths, config)
            parts.append(found)
            widths.append(width)
    lines = np.concatenate(parts)
    inside = (lines["x"] >= 0) & (lines["y"] >= 0) & (lines["x"] < nx) & (lines["y"] < ny)
    lines = lines[inside]
    noise_of = LineNoise(
        np.array([*config.short_lengths_px, *config.long_lengths_px]),
        0.5 * (np.concatenate(widths[:2]) + np.concatenate(widths[2:])),
    )
    return _distinct(lines[np.argsort(-lines["sum"], kind="stable")], config.max_fits), noise_of


def _correlation(psf: np.ndarray) -> np.ndarray:
    """Autocorrelation of white noise filtered by a PSF (n, n): (2 r + 1, 2 r + 1) float32, 1 in the middle."""
    size, reach = 64, NOISE_REACH
    power = np.abs(np.fft.fft2(psf, (size, size))) ** 2
    whole = np.roll(np.fft.ifft2(power).real, (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    return (whole / whole[reach, reach]).astype(np.float32)


@lru_cache(maxsize=16)
def _directions(n: int, count: int, lengths: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angles (rad) from the direction across the pairs, column drifts per row, and rows in each length."""
    angles = np.radians((np.arange(count) + 0.5) / count * 90.0 - 45.0)
    drifts = np.rint(2.0 * np.arange(n)[None, :] * np.tan(angles)[:, None]).astype(np.int64)
    rows = np.maximum(np.rint(0.5 * np.array(lengths)[None, :] * np.cos(angles)[:, None]), 2).astype(np.int64)
    return angles, drifts, rows


def _search(
    pairs: np.ndarray, noise: np.ndarray, flat: bool, count: int, lengths: tuple[float, ...], config: StreakConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Lines of one orientation and one set of lengths (LINE), one per cell; widths of the sums of each length."""
    n, width = pairs.shape
    angles, drifts, rows = _directions(n, count, lengths)
    norms = np.empty(rows.shape, np.float32)
    kernels.line_norms(noise, count, drifts, rows, norms)
    cell = config.cell_px // 2
    hits = np.zeros(((n // cell + 1) * (width // (2 * cell) + 1), kernels.HIT_COLUMNS), np.float32)
    kernels.search(pairs, drifts, rows, norms, config.coarse_threshold, cell, hits)
    hits = hits[hits[:, 0] > 0]
    which = hits[:, 1].astype(int)
    out = np.zeros(len(hits), LINE)
    along, across = 2.0 * hits[:, 3] + 0.5, hits[:, 4]
    out["sum"], out["length"] = hits[:, 0], 2.0 * hits[:, 2] / np.cos(angles[which])
    out["x"], out["y"] = (along, across) if flat else (across, along)
    out["angle"] = angles[which] if flat else 0.5 * np.pi - angles[which]
    return out, _widths(pairs, drifts[count // 4], rows[count // 4], norms[count // 4])


def _widths(pairs: np.ndarray, drift: np.ndarray, rows: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Robust widths, one per length, of the sums along every 64th line of one direction; 1 where there are too few."""
    n, width = pairs.shape
    columns = (np.arange(0, width, SAMPLED)[None, :] + drift[:, None]) % width
    sums = np.cumsum(np.take_along_axis(pairs, columns, axis=1), axis=0, dtype=np.int64)
    out = np.ones(len(rows))
    for k, length in enumerate(rows):
        values = sums[length::2] - sums[: n - length : 2]
        values = values[values != 0]
        if values.size >= 2000:
            low, high = np.percentile(values, [15.865, 84.135])
            out[k] = 0.5 * (high - low) * norms[k] / kernels.QUANTUM
    return out


def _distinct(lines: np.ndarray, most: int) -> np.ndarray:
    """Lines, strongest first, without those whose middle lies on a stronger one."""
    keep, count = np.ones(len(lines), bool), 0
    for k, line in enumerate(lines):
        if not keep[k]:
            continue
        count += 1
        if count == most:
            keep[k + 1 :] = False
            break
        keep[k + 1 :] &= ~on_line(lines[k + 1 :], line, MERGE_PX)
    return lines[keep]


def on_line(places: np.ndarray, line: np.ndarray | np.void, margin: float) -> np.ndarray:
    """Whether places (fields x, y) lie within `margin` pixels of a line (fields x, y, angle, length); bool array."""
    dx, dy = places["x"] - line["x"], places["y"] - line["y"]
    c, s = np.cos(line["angle"]), np.sin(line["angle"])
    return np.asarray((np.abs(dy * c - dx * s) < margin) & (np.abs(dx * c + dy * s) < 0.5 * line["length"] + margin))
