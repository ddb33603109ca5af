"""Bias and flat applied to a quadrant, with the masks combined and saturation grown."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ztfds.config.detrend import DetrendConfig
from ztfds.detrend.split import SplitQuadrant
from ztfds.kernels import detrend as kernels
from ztfds.survey import bits
from ztfds.survey.errors import WrongSize


class Correction(Protocol):
    """What is needed of a bias or flat (`ztfds.calibration.products.CalibrationImage` is one)."""

    @property
    def data(self) -> np.ndarray:
        """(ny, nx) float32: DN of a bias, relative response of a flat."""

    @property
    def cmask(self) -> np.ndarray:
        """(ny, nx) uint16: `survey.bits` of its bad pixels."""


def detrend(
    split: SplitQuadrant, bias: Correction, flat: Correction, config: DetrendConfig | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated pixels (S - bias) / flat and their mask, in one pass.

    Parameters
    ----------
    split : SplitQuadrant
        Signal of one quadrant.
    bias, flat : Correction
        Of the same readout channel; their cmasks enter the mask.
    config : DetrendConfig, optional

    Returns
    -------
    pixels : (ny, nx) float32
        DN of a pixel of unit response, sky still in; NaN where the response is nil or the input not finite.
    mask : (ny, nx) uint16
        `survey.bits`: SATURATED (grown along bleeds), NOISY, LOW_RESPONSE, HIGH_RESPONSE, DEAD, NAN.

    Raises
    ------
    WrongSize
        Shapes differ.
    """
    config = config or DetrendConfig()
    for name, image in (("bias", bias), ("flat", flat)):
        if image.data.shape != split.pixels.shape:
            raise WrongSize(f"the {name} is {image.data.shape}, the image {split.pixels.shape}", rcid=split.rcid)
    pixels, mask = np.empty_like(split.pixels), np.empty_like(split.mask)
    kernels.apply_bias_and_flat(
        split.pixels, split.mask, *_native(bias), *_native(flat),
        config.flat_floor, bits.DEAD, bits.NAN, pixels, mask,
    )  # fmt: skip
    kernels.grow_saturation(
        pixels, mask, bits.SATURATED, config.bleed_fraction * split.saturation_dn,
        config.bleed_reach_px, config.bleed_margin_px,
    )  # fmt: skip
    return pixels, mask


def _native(image: Correction) -> tuple[np.ndarray, np.ndarray]:
    """Data and cmask as the kernels want them: native, contiguous, float32 and uint16 (a file's arrays may be neither)."""
    return np.ascontiguousarray(image.data, np.float32), np.ascontiguousarray(image.cmask, np.uint16)
