"""The training set: candidates of P6 on simulated pairs, as they are and with artefacts that masks and registration missed."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ztfds.config.difference import DifferenceConfig
from ztfds.difference.candidates import passes_trigger
from ztfds.difference.features import features, stamps
from ztfds.difference.products import DifferenceInputs
from ztfds.difference.run import run
from ztfds.formats.atomic import write_atomic
from ztfds.survey import bits
from ztfds.survey.errors import ZtfdsError
from ztfds.training.labels import BOGUS, KINDS, UNCLEAR, label
from ztfds.training.scenes import Pair, SceneSpec, make_pairs

log = logging.getLogger(__name__)

NOMINAL, LOW, UNMASKED, MISREGISTERED, WRONG_PSF = "nominal", "low", "unmasked", "misregistered", "wrong psf"
VARIANTS = (NOMINAL, LOW, UNMASKED, MISREGISTERED, WRONG_PSF)
LOW_THRESHOLD = 4.6
MOST_BOGUS, MOST_VARIABLES = 70, 15
"""Bogus candidates and variable stars kept of one difference of an artefact-rich scene: some have thousands."""
STEP = 1 / 32
NULL = -128
_EXTRA_BITS = (bits.NOISY | bits.LOW_RESPONSE | bits.HIGH_RESPONSE, bits.DEAD, bits.SATURATED, bits.GHOST | bits.HALO)

META = np.dtype(
    [
        ("seed", "i4"),
        ("plane", "?"),
        ("rich", "?"),
        ("variant", "i1"),
        ("kind", "i1"),
        ("label", "i1"),
        ("trigger", "?"),
    ]
    + [("scorr", "f4"), ("fwhm", "f4"), ("pair", "i4")]
)
"""What is known of a sample: its night, how the difference was altered (`VARIANTS`), truth, |Scorr|, FWHM of the image (px)."""


@dataclass(frozen=True)
class Samples:
    """Candidates with their truth.

    Attributes
    ----------
    features : (n, k) float32
    stamps : (n, 3, 63, 63) int8
        Science, template, difference as `features.stamps` makes them, in steps of 1/32; -128 is null.
    meta : structured array (`META`)
    """

    features: np.ndarray
    stamps: np.ndarray
    meta: np.ndarray

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self.meta)

    def __getitem__(self, rows: np.ndarray) -> Samples:
        """Some of the candidates."""
        return Samples(self.features[rows], self.stamps[rows], self.meta[rows])

    @property
    def real(self) -> np.ndarray:
        """(n,) bool."""
        return np.asarray(self.meta["label"] == 1)


def joined(parts: Iterable[Samples]) -> Samples:
    """All candidates of several sets."""
    every = list(parts)
    return Samples(
        np.concatenate([p.features for p in every]),
        np.concatenate([p.stamps for p in every]),
        np.concatenate([p.meta for p in every]),
    )


def packed(planes: np.ndarray) -> np.ndarray:
    """Network input (n, 4, 63, 63) as (n, 3, 63, 63) int8."""
    whole = np.rint(planes[:, :3] / STEP).astype(np.int8)
    return np.where(planes[:, 3:] > 0, whole, np.int8(NULL))


def unpacked(small: np.ndarray) -> np.ndarray:
    """The reverse of `packed`, float32."""
    valid = (small[:, :1] != NULL).astype(np.float32)
    return np.concatenate([np.where(small == NULL, 0, small).astype(np.float32) * np.float32(STEP), valid], axis=1)


def write(path: Path, samples: Samples) -> None:
    """Write one compressed file."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def save(temporary: Path) -> None:
        with Path(temporary).open("wb") as out:
            np.savez_compressed(out, features=samples.features, stamps=samples.stamps, meta=samples.meta)

    write_atomic(path, save)


def read(path: Path) -> Samples:
    """Read what `write` wrote."""
    with np.load(path, allow_pickle=False) as data:
        return Samples(data["features"], data["stamps"], data["meta"])


def of_scene(spec: SceneSpec) -> Samples:
    """Candidates of all pairs of a scene; of an artefact-rich one each is differenced as it is and in one altered way."""
    rng = np.random.default_rng([spec.seed, 303])
    parts, pairs = [empty()], list(make_pairs(spec))
    for k, pair in enumerate(pairs):
        other = pairs[int(rng.integers(len(pairs)))]
        parts.append(of_pair(pair, NOMINAL, rng, other, k))
        if spec.rich:
            parts.append(of_pair(pair, VARIANTS[1 + (k + spec.seed) % (len(VARIANTS) - 1)], rng, other, k))
    return joined(parts)


def empty() -> Samples:
    """No candidates."""
    return Samples(features(np.zeros(0)), np.zeros((0, 3, 63, 63), np.int8), np.zeros(0, META))


def of_pair(pair: Pair, variant: str, rng: np.random.Generator, other: Pair | None = None, number: int = 0) -> Samples:
    """Candidates of one difference; unclear ones and, of altered differences, surplus bogus ones left out.

    Parameters
    ----------
    pair : Pair
    variant : str
        One of `VARIANTS`.
    rng : Generator
    other : Pair, optional
        Whose science PSF is taken for 'wrong psf'.
    number : int
        Noted in the meta table.
    """
    inputs, config = altered(pair.inputs, variant, rng, other or pair)
    try:
        out = run(inputs, config)
    except ZtfdsError as error:
        log.warning("seed %d, %s: no difference: %s", pair.spec.seed, variant, error)
        return empty()
    if out.status != 1:
        log.warning("seed %d, %s: bad difference: %s", pair.spec.seed, variant, out.reason)
        return empty()
    labels, kinds = label(pair, out.candidates)
    keep = np.flatnonzero(labels != UNCLEAR)
    if pair.spec.rich:
        keep = _thinned(keep, labels == BOGUS, MOST_BOGUS, rng)
        keep = _thinned(keep, kinds == KINDS.index("variable"), MOST_VARIABLES, rng)
    table = out.candidates[keep]
    meta = np.zeros(keep.size, META)
    meta["seed"], meta["plane"], meta["rich"] = pair.spec.seed, pair.spec.sky == "plane", pair.spec.rich
    meta["variant"], meta["kind"], meta["label"] = VARIANTS.index(variant), kinds[keep], labels[keep]
    meta["trigger"] = [passes_trigger(row, config.candidates) for row in table]
    meta["scorr"], meta["fwhm"], meta["pair"] = table["scorr"], pair.epoch.science.psf.fwhm_px, number  # type: ignore[union-attr]
    planes = stamps([out.cutouts[int(row["tblid"])] for row in table])
    return Samples(features(table), packed(planes), meta)


def _thinned(keep: np.ndarray, which: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Rows without those of one kind that are too many."""
    these = keep[which[keep]]
    return keep if these.size <= most else np.setdiff1d(keep, rng.choice(these, these.size - most, replace=False))


def altered(
    inputs: DifferenceInputs, variant: str, rng: np.random.Generator, other: Pair
) -> tuple[DifferenceInputs, DifferenceConfig]:
    """Inputs and configuration of a difference in which something went wrong.

    No difference is called bad: small scenes with so many events look odd. nominal: nothing else. All others: the threshold is
    4.6 sigma and no shape is dropped. low: nothing else. unmasked: hits and tracks are not masked, nor is each other kind of
    defect with probability 1/2. misregistered: the world coordinates are off by 0.1 to 0.6 px and not repaired, the flux scale
    by up to 8 %. wrong psf: the PSF is that of another image.
    """
    if variant == NOMINAL:
        return inputs, DifferenceConfig().model_copy(update=_NO_LIMITS)
    config = _tolerant(DifferenceConfig())
    science = inputs.science
    if variant == UNMASKED:
        missed = bits.SPIKE | bits.TRACK | sum(bit for bit in _EXTRA_BITS if rng.random() < 0.5)
        science = dataclasses.replace(science, mask=science.mask & np.uint16(0xFFFF & ~missed))  # type: ignore[type-var]
    elif variant == MISREGISTERED:
        science = dataclasses.replace(science, header=_shifted(science.header.copy(), rng))  # type: ignore[type-var]
        config = config.model_copy(update={"warp_significance": 1e9, "min_matches": 10**6})
    elif variant == WRONG_PSF:
        science = dataclasses.replace(science, psf=other.epoch.science.psf)  # type: ignore[type-var]
    return dataclasses.replace(inputs, science=science), config


_NO_LIMITS: dict[str, Any] = {
    "min_scorr_width": 0.1, "max_scorr_width": 10.0, "max_registration_px": 10.0, "gain_tolerance_mag": 9.0, "max_warp_px": 9.0,
    "max_star_residual": 9.0, "max_star_width": 99.0, "max_dipole_rate": 1.0, "min_noise_ratio": 0.01, "max_noise_ratio": 99.0,
    "max_asymmetry": 1.0, "min_matched": 0.0,
}  # fmt: skip


def _tolerant(config: DifferenceConfig) -> DifferenceConfig:
    """Configuration that calls no difference bad, finds fainter candidates and drops none for its shape."""
    most = {"threshold": LOW_THRESHOLD, "max_candidates": 20_000, "min_local_snr": 0.0, "spike_chi": 1e9}
    return config.model_copy(update={**_NO_LIMITS, "candidates": config.candidates.model_copy(update=most)})


def _shifted(header, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    """Header with wrong world coordinates and zero point."""
    size, angle = rng.uniform(0.1, 0.6), rng.uniform(0, 2 * np.pi)
    header["CRPIX1"] += size * np.cos(angle)
    header["CRPIX2"] += size * np.sin(angle)
    header["MAGZP"] += rng.uniform(-0.08, 0.08)
    return header
