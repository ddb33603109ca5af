"""Satellite and aircraft tracks: long straight lines found in a binned image and followed pixel by pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from scipy.ndimage import uniform_filter

from ztfds.config.detrend import MaskConfig
from ztfds.kernels import lines as kernels

TRACK_DTYPE = np.dtype(
    [
        *[("x0", "f8"), ("y0", "f8"), ("x1", "f8"), ("y1", "f8")],
        *[("ra0", "f8"), ("dec0", "f8"), ("ra1", "f8"), ("dec1", "f8")],
        *[("leaves0", "?"), ("leaves1", "?"), ("length", "f4"), ("half_width", "f4")],
        *[("peak", "f4"), ("sigma", "f4"), ("filled", "f4")],
    ]
)
"""Table of tracks: both ends in pixels (0-based in memory) and deg (NaN without a solution); whether the track leaves
the image at that end; length and masked half-width, pixels; brightness along its middle, DN per pixel; significance; share
of pieces between the ends that show it."""
TRACK_UNITS = {
    **dict.fromkeys(("x0", "y0", "x1", "y1", "length", "half_width"), "pixel"),
    **dict.fromkeys(("ra0", "dec0", "ra1", "dec1"), "deg"),
    "peak": "DN",
}
TRACK_PIXEL_COLUMNS = ("x0", "y0", "x1", "y1")
Line = tuple[float, float, float, float]
"""x0, y0, x1, y1 of the two ends."""
View = tuple[bool, bool]
"""Whether an image is transposed and mirrored, which turns a quarter of all slopes into steep lines that drift right."""

_VIEWS: tuple[View, ...] = ((False, False), (False, True), (True, False), (True, True))
_PROMISING = 0.8
"""Views whose best line stays below this share of the least significance are not searched again: erasing a line changes
the others' significance by its share of their cells only."""

_STRIP_HALF_WIDTH = 32
_SEARCH_REACH = 10
_SIGNAL_HALF_WIDTH = 1
_SIDE_WIDTH = 12
_PIECE_SCALES = (1, 3)
"""Pieces are judged at the configured length, and three times longer for lines too faint for that."""


@dataclass(frozen=True)
class Track:
    """One straight track.

    Attributes
    ----------
    x0, y0, x1, y1 : float
        Ends, pixels (0-based).
    half_width : float
        Pixels to be masked on both sides of the line.
    sigma : float
        Significance of the whole line in the binned image.
    peak_dn : float
        Median brightness along its middle, DN per pixel.
    filled_fraction : float
        Pieces between the ends that show it.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    half_width: float
    sigma: float
    peak_dn: float
    filled_fraction: float

    @property
    def length(self) -> float:
        """Length, pixels."""
        return math.hypot(self.x1 - self.x0, self.y1 - self.y0)


def track_table(tracks: list[Track], shape: tuple[int, ...], wcs: WCS | None) -> np.ndarray:
    """Tracks as rows of `TRACK_DTYPE`.

    Parameters
    ----------
    tracks : list of Track
    shape : (ny, nx)
        Of the image.
    wcs : WCS or None
        Solution of the image; without one the sky positions are NaN.

    Returns
    -------
    (n,) structured array
    """
    table = np.zeros(len(tracks), TRACK_DTYPE)
    for row, track in zip(table, tracks, strict=True):
        row["x0"], row["y0"], row["x1"], row["y1"] = track.x0, track.y0, track.x1, track.y1
        row["length"], row["half_width"] = track.length, track.half_width
        row["peak"], row["sigma"], row["filled"] = track.peak_dn, track.sigma, track.filled_fraction
    for end in "01":
        x, y = table[f"x{end}"], table[f"y{end}"]
        inside = np.minimum(np.minimum(x, shape[1] - 1 - x), np.minimum(y, shape[0] - 1 - y))
        table[f"leaves{end}"] = inside < 1.0
        sky = (np.nan, np.nan) if wcs is None else wcs.all_pix2world(x, y, 0) if len(table) else ((), ())
        table[f"ra{end}"], table[f"dec{end}"] = sky
    return table


def find_tracks(
    pixels: np.ndarray, level: np.ndarray, state: np.ndarray, noise: float, config: MaskConfig
) -> list[Track]:
    """Find straight tracks across an image.

    The sky-subtracted image is binned, with every pixel's significance clipped so that stars weigh little; the fast
    Radon transform sums it along all lines; the best line is cut out as a strip, straightened, and judged piece by
    piece with medians, which a chance row of stars does not pass. Then it is removed and the next one is looked for.

    Parameters
    ----------
    pixels, level : (ny, nx) float32
        Image and sky level, DN.
    state : (ny, nx) uint8
        Pixels that are not 0 are left out.
    noise : float
        Sky noise, DN.
    config : MaskConfig

    Returns
    -------
    list of Track
        The most significant first.
    """
    side = config.track_cell_px
    cells = np.zeros((pixels.shape[0] // side, pixels.shape[1] // side), np.float32)
    if config.track_max == 0 or min(cells.shape) < 8 or not noise > 0:
        return []
    kernels.bin_significance(pixels, level, state, noise, config.track_clip_sigma, side, cells)
    cells = _flatten(cells, config)
    tracks: list[Track] = []
    failures, views = 0, _VIEWS
    while len(tracks) < config.track_max and failures < 2:
        sigma, ends, views = _best_line(cells, views, config)
        if sigma < config.track_min_sigma:
            break
        track = _judge(pixels, level, state, noise, sigma, ends, config)
        if track is None:
            failures += 1
        else:
            tracks.append(track)
        _erase(cells, ends, track, config)
    return tracks


def _flatten(cells: np.ndarray, config: MaskConfig) -> np.ndarray:
    """Remove large structure, clip, and scale to unit variance; empty cells stay 0."""
    empty = cells == 0
    clipped = np.clip(cells, -config.track_clip_sigma, config.track_clip_sigma)
    clipped -= uniform_filter(clipped, config.track_smooth_cells, mode="nearest")
    clipped[empty] = 0.0
    scale = float(clipped[~empty].std()) if (~empty).any() else 0.0
    return clipped / np.float32(scale) if scale > 0 else clipped


def _best_line(cells: np.ndarray, views: tuple[View, ...], config: MaskConfig) -> tuple[float, Line, tuple[View, ...]]:
    """Most significant line: its significance, its ends on the border in cells, and the views worth searching again."""
    least = max(4, int(config.track_min_length_px / config.track_cell_px / math.sqrt(2.0)))
    best, ends, again = 0.0, (0.0, 0.0, 0.0, 0.0), []
    for transpose, mirror in views:
        view = cells.T if transpose else cells
        view = view[:, ::-1] if mirror else view
        sigma, x0, x1 = _steep_line(view, least)
        if sigma > _PROMISING * config.track_min_sigma:
            again.append((transpose, mirror))
        if sigma > best:
            x0, x1 = (view.shape[1] - 1 - x0, view.shape[1] - 1 - x1) if mirror else (x0, x1)
            y0, y1 = 0.0, view.shape[0] - 1.0
            best, ends = sigma, (y0, x0, y1, x1) if transpose else (x0, y0, x1, y1)
    return best, ends, tuple(again)


def _steep_line(view: np.ndarray, least: int) -> tuple[float, float, float]:
    """Best line that crosses all rows drifting right by less than a column per row: significance, first and last column."""
    rows, columns = view.shape
    n = 1 << max(rows - 1, 1).bit_length()
    table = np.zeros((n, n + columns), np.float32)
    table[:rows, n:] = view
    kernels.radon_half(table, np.zeros_like(table), rows, columns)
    sigma, slope, start, spread = kernels.best_line(table, rows, columns, least)
    return float(sigma) / max(spread, 1.0), float(start), start + slope * (rows - 1) / (n - 1)


def _judge(
    pixels: np.ndarray,
    level: np.ndarray,
    state: np.ndarray,
    noise: float,
    sigma: float,
    ends: Line,
    config: MaskConfig,
) -> Track | None:
    """Follow a line through the pixels; None unless it is a track."""
    side = config.track_cell_px
    x0, y0, x1, y1 = (value * side + (side - 1) / 2.0 for value in ends)
    line = _clip_to_image((x0, y0, x1, y1), pixels.shape)
    if line is None or _span(line) < config.track_min_length_px:
        return None
    for _ in range(2):
        strip = _strip(pixels, level, state, line)
        d0, d1, _ = kernels.best_offsets(
            np.clip(strip, -config.track_clip_sigma * noise, config.track_clip_sigma * noise), _SEARCH_REACH
        )
        # Moved sideways, the ends have left the border: the line goes on to it, or stops there.
        line = _clip_to_image(_shifted(line, d0, d1), pixels.shape) or line
    strip = _strip(pixels, level, state, line)
    seen = _best_part(strip, noise, config)
    if seen is None:
        return None
    low, high, shown = seen
    part = strip[int(low * strip.shape[0]) : int(high * strip.shape[0])]
    profile = _profile(part)
    half_width = _half_width(profile, noise, part.shape[0], config)
    if _is_defect(line, profile, config):
        return None
    x0, y0, x1, y1 = line
    ends = x0 + low * (x1 - x0), y0 + low * (y1 - y0), x0 + high * (x1 - x0), y0 + high * (y1 - y0)
    return Track(*ends, half_width + config.track_margin_px, float(sigma), float(profile[_STRIP_HALF_WIDTH]), shown)


def _span(line: Line) -> float:
    """Length of a line, pixels."""
    return math.hypot(line[2] - line[0], line[3] - line[1])


def _clip_to_image(line: Line, shape: tuple[int, ...]) -> Line | None:
    """Part of the infinite line through two points inside the image (Liang-Barsky); None if it misses it."""
    x0, y0, x1, y1 = line
    dx, dy = x1 - x0, y1 - y0
    low, high = -math.inf, math.inf
    for delta, start, size in ((dx, x0, shape[1]), (dy, y0, shape[0])):
        if abs(delta) < 1e-9:
            if not -0.5 <= start <= size - 0.5:
                return None
            continue
        a, b = sorted(((-0.5 - start) / delta, (size - 0.5 - start) / delta))
        low, high = max(low, a), min(high, b)
    if low >= high:
        return None
    return x0 + low * dx, y0 + low * dy, x0 + high * dx, y0 + high * dy


def _strip(pixels: np.ndarray, level: np.ndarray, state: np.ndarray, line: Line) -> np.ndarray:
    """Straightened strip about a line: (length, 2 * half width + 1) float32, DN above the sky."""
    strip = np.empty((max(int(_span(line)) + 1, 8), 2 * _STRIP_HALF_WIDTH + 1), np.float32)
    kernels.strip_along(pixels, level, state, *line, strip)
    return strip


def _shifted(line: Line, d0: float, d1: float) -> Line:
    """The line with its ends moved perpendicularly by d0 and d1 pixels."""
    x0, y0, x1, y1 = line
    span = _span(line)
    ux, uy = (x1 - x0) / span, (y1 - y0) / span
    return x0 - d0 * uy, y0 + d0 * ux, x1 - d1 * uy, y1 + d1 * ux


def _pieces(strip: np.ndarray, noise: float, length: int) -> np.ndarray:
    """Significance of the line in each piece of about `length` rows; 0 where too few pixels."""
    pieces = np.empty(max(strip.shape[0] // length, 2))
    kernels.piece_significance(strip, _SIGNAL_HALF_WIDTH, _SIDE_WIDTH, noise, pieces)
    return pieces


def _longest(pieces: np.ndarray, config: MaskConfig) -> tuple[int, int] | None:
    """Interval [first, last) of pieces in which the line is seen best: Kadane's maximum of the clipped excess."""
    score = np.clip(pieces - config.track_segment_sigma, -2.0, 2.0)
    best, best_interval, total, start = 0.0, None, 0.0, 0
    for i, value in enumerate(score):
        if total <= 0:
            total, start = 0.0, i
        total += float(value)
        if total > best:
            best, best_interval = total, (start, i + 1)
    return best_interval


def _best_part(strip: np.ndarray, noise: float, config: MaskConfig) -> tuple[float, float, float] | None:
    """`_seen_part` with the shortest pieces that see at least four fifths of what the best length of piece sees.

    Short pieces place the ends best; long ones see lines too faint for short ones.
    """
    found = [_seen_part(strip, noise, scale, config) for scale in _PIECE_SCALES]
    parts = [part for part in found if part is not None]
    longest = max((high - low for low, high, _ in parts), default=0.0)
    return next((part for part in parts if part[1] - part[0] >= 0.8 * longest), None)


def _seen_part(strip: np.ndarray, noise: float, scale: int, config: MaskConfig) -> tuple[float, float, float] | None:
    """Part of a strip in which the line is seen, as fractions of its length, and how much of it shows it; or None.

    The whole chord counts as seen when most of it is; an end within two pieces of the border is moved to the border.
    """
    pieces = _pieces(strip, noise, scale * config.track_segment_px)
    n = len(pieces)
    interval = _longest(pieces, config)
    if interval is None:
        return None
    first, last = interval
    shown = float(np.mean(pieces[first:last] > config.track_segment_sigma))
    if (last - first) / n * strip.shape[0] < config.track_min_length_px or shown < config.track_filled_fraction:
        return None
    if last - first >= config.track_whole_fraction * n:
        first, last = 0, n
    return 0.0 if first <= 2 else (first - 1) / n, 1.0 if last >= n - 2 else (last + 1) / n, shown


def _profile(strip: np.ndarray) -> np.ndarray:
    """Median brightness per perpendicular offset, DN, less that of the outermost offsets."""
    every = strip[:: max(1, strip.shape[0] // 1024)]
    every = np.where(np.isfinite(every), every, np.nanmedian(every) if np.isfinite(every).any() else 0.0)
    profile = np.median(every, axis=0)
    return profile - np.median(np.concatenate((profile[:8], profile[-8:])))


def _half_width(profile: np.ndarray, noise: float, rows: int, config: MaskConfig) -> float:
    """Distance (px) from the middle at which a profile of `rows` rows stays below the light that may be left unmasked.

    Where crowding or a short track make the profile noisier than that, twice its error takes the limit's place.
    """
    middle = profile.size // 2
    sides = np.concatenate((profile[: middle // 2], profile[-(middle // 2) :]))
    scatter = max(kernels.MEDIAN_NOISE * noise / math.sqrt(rows), 1.4826 * float(np.median(np.abs(sides))))
    floor = max(config.track_left_sigma * noise, 2.0 * scatter)
    reach = 1
    for side in (profile[middle:], profile[middle::-1]):
        below = np.flatnonzero(side < floor)
        reach = max(reach, int(below[0]) if below.size else side.size)
    return float(min(reach, config.track_max_half_width_px))


def _is_defect(line: Line, profile: np.ndarray, config: MaskConfig) -> bool:
    """Whether a line runs so exactly along a column or row, and is so narrow, that it belongs to the detector."""
    drift = min(abs(line[2] - line[0]), abs(line[3] - line[1]))
    middle = profile.size // 2
    core = profile[middle - 5 : middle + 6]
    return drift < config.track_axis_px and int((core > 0.5 * core.max()).sum()) <= 2


def _erase(cells: np.ndarray, ends: Line, track: Track | None, config: MaskConfig) -> None:
    """Set cells along a line to 0 so that the next search does not find it again."""
    half_width = 1.5 if track is None else track.half_width / config.track_cell_px + 2.0
    gone = np.zeros(cells.shape, np.uint16)
    kernels.paint_line(gone, 1, *ends, half_width)
    cells[gone != 0] = 0.0
