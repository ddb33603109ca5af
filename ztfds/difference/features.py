"""What the real/bogus models look at: numbers of a candidate row, and its three cutouts brought to a common scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NONE = -999.0
"""What candidate tables and packets say where there is no neighbour."""
MAG_PER_RELATIVE = 2.5 / np.log(10)
STAMP_PX = 63
CHANNELS = 4
SOFTENING_SIGMA, COMPRESSION, LARGEST = 2.0, 3.0, 3.9

FEATURES = (
    "snr", "scorr", "scorr_per_snr", "ssnrms", "sharpness", "chipsf", "magdiff", "magdiff_pull", "growth", "depth",
    "aperture_depth", "seeratio", "fwhm", "aimage", "bimage", "elong", "nneg", "nbad", "sumrat", "distnr",
    "reference_contrast", "sigmagnr", "chinr", "sharpnr", "neargaia", "gaia_contrast", "neargaiabright", "maggaiabright",
    "distpsnr1", "ps1_contrast", "sgscore1", "positive",
)  # fmt: skip
"""Names of the features, in the order of the columns that the tree model takes."""


def features(table: np.ndarray) -> np.ndarray:
    """Features of candidates; each is null (NaN) where what it is made of is.

    None knows where on the detector or when a candidate is, so that a model cannot learn where a training set put its sources.

    ================================ =========================================================================
    snr, scorr, ssnrms               significance: 1.0857 / sigmapsf; peak of Scorr; peak of S over its noise
    scorr_per_snr, sharpness         scorr / snr; dsnrms / ssnrms (how much of the significance is one pixel's)
    magdiff, magdiff_pull, growth    magap - magpsf, the same over sigmagap, magapbig - magap
    depth, aperture_depth            diffmaglim - magpsf, diffmaglim - magap
    *_contrast                       magnitude of the nearest catalog source - magpsf
    positive                         1 for isdiffpos t, else 0
    ================================ =========================================================================

    The others are the columns of the same name.

    Parameters
    ----------
    table : structured array
        Columns of `candidates.DTYPE` (or of the packet's candidate record).

    Returns
    -------
    (n, len(FEATURES)) float32
    """
    out = np.full((len(table), len(FEATURES)), np.nan, np.float32)
    if not len(table):
        return out
    columns = _plain(table) | _derived(table)
    for k, name in enumerate(FEATURES):
        out[:, k] = columns[name]
    out[~np.isfinite(out)] = np.nan
    return out


_SAME = (
    "scorr", "ssnrms", "chipsf", "magdiff", "seeratio", "fwhm", "aimage", "bimage", "elong", "nneg", "nbad", "sumrat", "distnr",
    "sigmagnr", "chinr", "sharpnr", "neargaia", "neargaiabright", "maggaiabright", "distpsnr1", "sgscore1",
)  # fmt: skip


def _plain(table: np.ndarray) -> dict[str, np.ndarray]:
    """Columns taken as they are."""
    return {name: _known(table[name]) for name in _SAME}


def _known(values: np.ndarray) -> np.ndarray:
    """Values as float64, with NaN where there is no such neighbour."""
    values = np.asarray(values, np.float64)
    return np.where(values <= NONE, np.nan, values)


def _derived(table: np.ndarray) -> dict[str, np.ndarray]:
    """Features made of several columns."""
    mag, limit, magap = (_known(table[name]) for name in ("magpsf", "diffmaglim", "magap"))
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = MAG_PER_RELATIVE / _known(table["sigmapsf"])
        return {
            "snr": snr,
            "scorr_per_snr": _known(table["scorr"]) / snr,
            "sharpness": _known(table["dsnrms"]) / _known(table["ssnrms"]),
            "magdiff_pull": _known(table["magdiff"]) / _known(table["sigmagap"]),
            "growth": _known(table["magapbig"]) - magap,
            "depth": limit - mag,
            "aperture_depth": limit - magap,
            "reference_contrast": _known(table["magnr"]) - mag,
            "gaia_contrast": _known(table["maggaia"]) - mag,
            "ps1_contrast": _known(table["srmag1"]) - mag,
            "positive": np.isin(table["isdiffpos"], ("t", "1")).astype(float),
        }


def stamps(cutouts: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Cutouts as the network takes them.

    Each loses its median; all three are divided by the robust noise sigma of the difference, because they share one flux scale,
    and compressed: y = asinh(x / (2 sigma)) / 3, between -3.9 and 3.9. Null pixels and what is off a smaller stamp are 0; the
    fourth channel is 1 where all three have a number.

    Parameters
    ----------
    cutouts : sequence of (science, template, difference)
        Two-dimensional float arrays of equal shape up to 63 x 63, centred on the candidate, DN.

    Returns
    -------
    (n, 4, 63, 63) float32
    """
    out = np.zeros((len(cutouts), CHANNELS, STAMP_PX, STAMP_PX), np.float32)
    for plane, three in zip(out, cutouts, strict=True):
        _fill(plane, [_square(pixels) for pixels in three])
    return out


def _fill(plane: np.ndarray, three: list[np.ndarray]) -> None:
    """One candidate's channels."""
    finite = [np.isfinite(pixels) for pixels in three]
    unit = SOFTENING_SIGMA * _robust_sigma(three[2][finite[2]])
    with np.errstate(over="ignore", invalid="ignore"):
        for channel, pixels, known in zip(plane, three, finite, strict=False):
            if known.any():
                scaled = np.arcsinh((pixels - _median(pixels[known])) / unit) / np.float32(COMPRESSION)
                channel[:] = np.where(known, np.clip(scaled, -LARGEST, LARGEST), 0)
    plane[3] = finite[0] & finite[1] & finite[2]


def _median(values: np.ndarray) -> np.float32:
    """The middle value, of an even number the upper one of the two: eight times as fast as `np.median`."""
    middle = values.size // 2
    return np.float32(np.partition(values, middle)[middle])


def _robust_sigma(values: np.ndarray) -> np.float32:
    """1.4826 times the median absolute deviation of finite values; 1 where that says nothing."""
    if not values.size:
        return np.float32(1.0)
    sigma = np.float32(1.4826) * _median(np.abs(values - _median(values)))
    return sigma if np.isfinite(sigma) and sigma > 0 else np.float32(1.0)


def _square(pixels: np.ndarray) -> np.ndarray:
    """63 x 63 float32 with the image in the middle; NaN around a smaller one, the rim of a larger one cut off."""
    pixels = np.asarray(pixels, np.float32)
    if pixels.shape == (STAMP_PX, STAMP_PX):
        return pixels
    out = np.full((STAMP_PX, STAMP_PX), np.nan, np.float32)
    to, of = zip(*(_overlap(n) for n in pixels.shape), strict=True)
    out[to] = pixels[of]
    return out


def _overlap(n: int) -> tuple[slice, slice]:
    """Where n pixels go in a stamp when the centres coincide, and which of them."""
    offset = STAMP_PX // 2 - n // 2
    start, end = max(offset, 0), min(offset + n, STAMP_PX)
    return slice(start, end), slice(start - offset, end - offset)
