"""PyZOGY, ZOGY, hotpants and sfft on images that are registered, scaled and bridged already (`benchmarks.difference.inputs`).

None but sfft can be installed from a package index: the others are used where a user has put them, see `benchmarks.tools.install`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from astropy.io import fits
from scipy import fft

from benchmarks.difference.inputs import PairInputs
from benchmarks.measure import call
from benchmarks.tools.install import place

Result = dict[str, Any]
ZOGY_PARTS, _ZOGY_BORDER_PX = 4, 40
_ZOGY_IMPORTS = ("fitsio", "lmfit", "sip_tpv", "healpy", "google.cloud", "psutil", "skimage", "skimage.restoration", "skimage.util",
                 "skimage.util.shape", "matplotlib", "matplotlib.pyplot")  # fmt: skip
"""Modules that zogy.py imports and that its subtraction does not use."""
SFFT_PART = (770, 2310, 768, 2304)
"""Rows and columns that sfft works on: on whole quadrants it takes 16 GB."""
SFFT_HALF_PX = 4


def pyzogy(inputs: PairInputs, folder: Path) -> Any:
    """PyZOGY as its documentation shows: one PSF for the image, corrected matched filter; the flux ratio is given."""
    sys.path.insert(0, str(place("PyZOGY")))
    from PyZOGY.subtract import run_subtraction

    names = ("new", "ref", "var_new", "var_ref", "blocked")
    new, ref, var_new, var_ref, bad = (inputs.array(name) for name in names)
    psf_new, psf_ref = (inputs.array(name)[inputs.middle].astype(float) for name in ("psf_new", "psf_ref"))
    filtered = folder / "filtered.fits"

    def work() -> Result:
        run_subtraction(
            new, ref, psf_new, psf_ref, science_mask=bad.astype(float), reference_mask=bad.astype(float),
            science_variance=var_new, reference_variance=var_ref, matched_filter=str(filtered), corrected=True,
            gain_ratio=1.0, normalization="science",
        )  # fmt: skip
        return {"significance": fits.getdata(filtered).astype(np.float32)}

    return work


def zogy(inputs: PairInputs, folder: Path) -> Any:
    """The subtraction of ZOGY (its run_ZOGY) on sixteen parts with their own PSFs, as it cuts images itself; in electrons."""
    module = _zogy_module(folder)
    facts, gains = inputs.facts, (inputs.facts["gain_ref"], inputs.facts["gain"])
    ref, new = (np.float32(gain) * inputs.array(name) for gain, name in zip(gains, ("ref", "new"), strict=True))
    noise = [gain * np.sqrt(inputs.array(name)) for gain, name in zip(gains, ("var_ref", "var_new"), strict=True)]
    psf_new, psf_ref = inputs.array("psf_new"), inputs.array("psf_ref")

    def work() -> Result:
        out = np.full(new.shape, np.nan, np.float32)
        for core in _parts(new.shape):
            k, block = _tile_of(facts["tiles"], core), _block(core, new.shape)
            box = np.s_[block[0] : block[1], block[2] : block[3]]
            shape = (block[1] - block[0], block[3] - block[2])
            parts = [_padded(image[box]) for image in (ref, new)]
            stds = [np.full(parts[0].shape, np.median(image[box]), np.float32) for image in noise]
            psfs = [_cornered(stamps[k], parts[0].shape) for stamps in (psf_ref, psf_new)]
            made = module.run_ZOGY(
                k,
                *parts,
                *psfs,
                *stds,
                gains[1] / gains[0],
                facts["ratio_rms"],
                facts["dx"],
                facts["dy"],
                use_FFTW=True,
                nthreads=1,
            )
            score = np.load(made[1])[: shape[0], : shape[1]]
            y0, y1, x0, x1 = core
            out[y0:y1, x0:x1] = score[y0 - block[0] : y1 - block[0], x0 - block[2] : x1 - block[2]]
        return {"significance": out}

    return work


def _zogy_module(folder: Path) -> Any:
    """zogy.py, with empty stand-ins for what its subtraction does not need and the settings that it expects."""
    home = str(place("ZOGY"))
    os.environ["ZOGYHOME"] = home  # where its settings look for their files
    sys.path.insert(0, home)
    for name in _ZOGY_IMPORTS:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = mock.MagicMock()
    module = importlib.import_module("zogy")
    settings = importlib.import_module("Settings.set_zogy")
    settings.timing = settings.verbose = settings.display = False
    settings.dir_numpy = ""
    module.set_zogy, module.tel, module.base_newref = settings, "ML1", str(folder / "part")
    return module


def _parts(shape: tuple[int, ...]) -> list[list[int]]:
    """Cores of four by four parts: y0, y1, x0, x1."""
    rows, columns = ([round(j * n / ZOGY_PARTS) for j in range(ZOGY_PARTS + 1)] for n in shape)
    return [[*rows[j : j + 2], *columns[i : i + 2]] for j in range(ZOGY_PARTS) for i in range(ZOGY_PARTS)]


def _tile_of(tiles: list[list[int]], core: list[int]) -> int:
    """The tile, whose PSFs are given, around the centre of a part."""
    y, x = (core[0] + core[1]) // 2, (core[2] + core[3]) // 2
    return next(k for k, (y0, y1, x0, x1) in enumerate(tiles) if y0 <= y < y1 and x0 <= x < x1)


def _block(core: list[int], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    y0, y1, x0, x1 = core
    b = _ZOGY_BORDER_PX
    return max(0, y0 - b), min(shape[0], y1 + b), max(0, x0 - b), min(shape[1], x1 + b)


def _padded(image: np.ndarray) -> np.ndarray:
    """An image extended by zeros to a size that transforms fast."""
    return np.pad(image, [(0, fft.next_fast_len(n, real=True) - n) for n in image.shape])


def _cornered(stamp: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A PSF in an image, its centre at pixel (0, 0)."""
    out = np.zeros(shape, np.float32)
    out[: stamp.shape[0], : stamp.shape[1]] = stamp
    return np.roll(out, (-(stamp.shape[0] // 2), -(stamp.shape[1] // 2)), (0, 1))


def hotpants(inputs: PairInputs, folder: Path) -> Any:
    """hotpants with the usual three Gaussians and second-order variation; the reference is convolved (left to choose, it did worse)."""
    program = f"{place('hotpants')}/hotpants"
    source, facts = inputs.folder, inputs.facts
    sigma = facts["fwhm"] / 2.355
    half = max(7, round(2.5 * facts["fwhm"]))
    options = {
        "-inim": source / "new.fits", "-tmplim": source / "ref.fits", "-outim": folder / "diff.fits", "-oni": folder / "noise.fits",
        "-ini": source / "noise_new.fits", "-tni": source / "noise_ref.fits", "-imi": source / "bad.fits",
        "-tmi": source / "bad.fits", "-iu": facts["saturate"], "-tu": facts["saturate"], "-il": -500, "-tl": -500,
        "-ig": facts["gain"], "-tg": facts["gain"], "-r": half, "-rss": 2 * half, "-nsx": 15, "-nsy": 15, "-ko": 2, "-bgo": 1,
        "-c": "t", "-n": "i", "-v": 0, "-fi": 0, "-fin": 1e6,
    }  # fmt: skip
    gaussians = ["-ng", "3", "6", f"{0.5 * sigma:.2f}", "4", f"{sigma:.2f}", "2", f"{2 * sigma:.2f}"]
    argv = [program, *(str(word) for pair in options.items() for word in pair), *gaussians]

    def work() -> Result:
        call(argv, folder)
        diff, noise = (fits.getdata(folder / f"{name}.fits") for name in ("diff", "noise"))
        noise = np.where((noise > 0) & (noise < 1e5), noise, np.nan)
        return {"diff": diff.astype(np.float32), "noise": noise.astype(np.float32)}

    return work


def sfft_cpu(inputs: PairInputs, folder: Path) -> Any:
    """sfft on the processor, on a quarter of the quadrant; pixels that nobody may use are kept out of its fit."""
    from sfft.CustomizedPacket import Customized_Packet

    y0, y1, x0, x1 = SFFT_PART
    box = np.s_[y0:y1, x0:x1]
    bad, names = inputs.array("blocked")[box], {}
    for name in ("new", "ref"):
        image = inputs.array(name)[box]
        for suffix, pixels in (("", image), ("_masked", np.where(bad, np.float32(0), image))):
            names[name + suffix] = str(folder / f"{name}{suffix}.fits")
            fits.writeto(names[name + suffix], pixels, overwrite=True)
    noise = np.sqrt(inputs.array("var_new")[box] + inputs.array("var_ref")[box])

    def work() -> Result:
        with contextlib.redirect_stdout(io.StringIO()):  # it talks
            made = Customized_Packet.CP(
                FITS_REF=names["ref"], FITS_SCI=names["new"], FITS_mREF=names["ref_masked"], FITS_mSCI=names["new_masked"],
                ForceConv="REF", GKerHW=SFFT_HALF_PX, KerPolyOrder=2, BGPolyOrder=1, BACKEND_4SUBTRACT="Numpy",
                NUM_CPU_THREADS_4SUBTRACT=1, VERBOSE_LEVEL=0,
            )  # fmt: skip
        return {"diff": np.asarray(made[1]).T.astype(np.float32), "noise": noise}

    return work
