"""What the subtraction tools are given: science image and reference registered, scaled and bridged, kept on disk beside the pair.

They are what our own first half leaves: the reference resampled through both WCS, its residual warp taken out, brought to the flux
scale and sky of the science image, bad pixels bridged. With them come the variances, the pixels that nobody may use, and both
PSFs in sixteen tiles. Our own rows start from the products instead and do all this themselves.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

ROOT = Path(__file__).resolve().parents[2] / "var" / "bench" / "pairs"
JUDGES = {"quiet": "quiet-1011", "plane": "plane-1012"}
"""Pairs that judge; seeds below 1000 are for tuning."""
N_EPOCHS = 20
"""Earlier difference images that each alert is measured on."""

if TYPE_CHECKING:  # processes that measure the tools of others do without the pipeline in their memory
    from benchmarks.difference.pairs import Pair
    from ztfds.difference.products import DifferenceInputs


@dataclass(frozen=True)
class PairInputs:
    """Inputs of the subtraction tools for one pair.

    Attributes
    ----------
    name : str
    folder : Path
        new, ref, var_new, var_ref (float32), blocked (bool), psf_new, psf_ref ((n_tiles, size, size) float32) as .npy; new.fits,
        ref.fits, noise_new.fits, noise_ref.fits, bad.fits; facts.json.
    """

    name: str
    folder: Path

    @cached_property
    def pair(self) -> Pair:
        """The pair that they come from."""
        from benchmarks.difference.pairs import load

        return load(self.name)

    def array(self, name: str) -> np.ndarray:
        """One of the arrays."""
        return np.load(self.folder / f"{name}.npy")

    @cached_property
    def facts(self) -> dict[str, Any]:
        """tiles (cores: y0, y1, x0, x1), dx, dy (registration noise, px), ratio_rms, gain, gain_ref (e- per DN of
        the science image), fwhm (px), saturate (DN)."""
        return json.loads((self.folder / "facts.json").read_text())

    @property
    def earlier(self) -> list[Path]:
        """Twenty earlier difference images with their PSFs beside them: one's files under other names."""
        return sorted(self.folder.glob("earlier/*_scimrefdiffimg.fits.fz"))

    @property
    def middle(self) -> int:
        """Number of the tile in the middle."""
        return len(self.facts["tiles"]) // 2


def pair_inputs(name: str) -> PairInputs:
    """Inputs of the subtraction tools, made on first use."""
    made = PairInputs(name, ROOT / name / "steps")
    if not (made.folder / "facts.json").exists():
        made.folder.mkdir(parents=True, exist_ok=True)
        _write(made)
    return made


def _write(made: PairInputs) -> None:
    """Write all files, the facts last."""
    from ztfds.difference.prepare import prepare

    pair = made.pair
    inputs = pair.difference_inputs()
    ready = prepare(inputs, pair.config.difference)
    arrays = {
        "new": ready.new, "ref": ready.ref, "var_new": ready.var_new, "var_ref": ready.var_ref,
        "blocked": ready.blocked | ready.no_data,
        "psf_new": np.stack([tile.psf_new for tile in ready.tiles]), "psf_ref": np.stack([tile.psf_ref for tile in ready.tiles]),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(made.folder / f"{name}.npy", array)
    for name in ("new", "ref"):
        fits.writeto(made.folder / f"{name}.fits", arrays[name], overwrite=True)
        fits.writeto(made.folder / f"noise_{name}.fits", np.sqrt(arrays[f"var_{name}"]), overwrite=True)
    fits.writeto(made.folder / "bad.fits", arrays["blocked"].astype(np.int16), overwrite=True)
    low, high = np.percentile(ready.match.ratio, [15.865, 84.135])
    dx, dy = ready.warp.scatter
    header = inputs.science.header
    facts = {
        "tiles": [list(map(int, tile.core)) for tile in ready.tiles],
        "dx": float(dx),
        "dy": float(dy),
        "ratio_rms": float(0.5 * (high - low) / np.median(ready.match.ratio)),
        "gain": float(header["GAIN"]),
        "gain_ref": float(inputs.reference.header["GAIN"]) / ready.gain,
        "saturate": float(header["SATURATE"]),
        "fwhm": float(header["SEEING"]),
    }
    _write_earlier(pair, inputs, made.folder / "earlier")
    (made.folder / "facts.json").write_text(json.dumps(facts))


def _write_earlier(pair: Pair, inputs: DifferenceInputs, folder: Path) -> None:
    """The difference image as the archive has it, under the names of twenty epochs, for forced photometry."""
    from ztfds.difference.run import run
    from ztfds.operations import storage

    folder.mkdir(exist_ok=True)
    for file in storage.difference_files(run(inputs, pair.config.difference), lambda suffix: lambda version: suffix):
        if file.kind not in ("scimrefdiffimg", "diffimgpsf"):
            continue
        name = Path(file.path(1)).name
        file.write(folder / f"00_{name}")
        for k in range(1, N_EPOCHS):
            (folder / f"{k:02d}_{name}").unlink(missing_ok=True)
            os.link(folder / f"00_{name}", folder / f"{k:02d}_{name}")
