"""SWarp and reproject: a reference onto the grid of a science image, and co-adds of calibrated images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from benchmarks.measure import call

if TYPE_CHECKING:
    from benchmarks.difference.pairs import Pair

Result = dict[str, Any]
PROGRAM = "SWarp"
_WCS = ("CTYPE", "CUNIT", "CRVAL", "CRPIX", "CD", "PV", "RADESYS", "EQUINOX")


def geometry(header: fits.Header, shape: tuple[int, ...]) -> fits.Header:
    """The cards of a header that say where the image lies, with its size."""
    out = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", shape[1]), ("NAXIS2", shape[0])])
    for card in header.cards:
        if card.keyword.startswith(_WCS) and not card.keyword.startswith("CDELT"):
            out.append((card.keyword, card.value))
    return out


def write_input(path: Path, pixels: np.ndarray, weight: np.ndarray, header: fits.Header, scale: float = 1.0) -> None:
    """An image and its weight map; pixels without a number become 0 of weight 0."""
    lost = ~np.isfinite(pixels)
    cards = geometry(header, pixels.shape)
    cards["FLXSCALE"] = scale
    fits.writeto(path, np.where(lost, 0, pixels).astype(np.float32), cards, overwrite=True)
    fits.writeto(path.with_suffix(".weight.fits"), np.where(lost, 0, weight).astype(np.float32), overwrite=True)


def write_head(path: Path, header: fits.Header, shape: tuple[int, ...]) -> None:
    """The grid of the output, as SWarp reads it."""
    path.write_text(geometry(header, shape).tostring(sep="\n", endcard=False) + "\nEND     \n")


def swarp(images: list[Path], folder: Path, shape: tuple[int, ...], **more: Any) -> np.ndarray:
    """Run SWarp; returns the co-add, NaN where its weight is 0."""
    settings = {
        "IMAGEOUT_NAME": folder / "coadd.fits", "WEIGHTOUT_NAME": folder / "coadd.weight.fits", "WEIGHT_TYPE": "MAP_WEIGHT",
        "RESCALE_WEIGHTS": "N", "COMBINE_TYPE": "WEIGHTED", "RESAMPLING_TYPE": "LANCZOS3", "SUBTRACT_BACK": "N",
        "FSCALASTRO_TYPE": "FIXED", "RESAMPLE_DIR": folder, "IMAGE_SIZE": f"{shape[1]},{shape[0]}", "WRITE_XML": "N",
        "VERBOSE_TYPE": "QUIET", "NTHREADS": 1, "VMEM_DIR": folder, "COPY_KEYWORDS": "OBJECT",
    }  # fmt: skip
    options = [word for name, value in (settings | more).items() for word in (f"-{name}", str(value))]
    call([PROGRAM, *map(str, images), *options], folder)
    pixels, weight = (fits.getdata(folder / name) for name in ("coadd.fits", "coadd.weight.fits"))
    return np.where(weight > 0, pixels, np.nan).astype(np.float32)


# -- rows --------------------------------------------------------------------------------------------------------------


def reference_by_swarp(pair: Pair, folder: Path) -> Any:
    """The reference and its weight, Lanczos-3."""
    made, target = pair.reference(), pair.right_header()
    weight = np.where(made.uncertainty > 0, 1 / made.uncertainty**2, 0)
    write_input(folder / "ref.fits", made.pixels, weight, made.header)
    shape = made.pixels.shape
    write_head(folder / "coadd.head", target, shape)
    return lambda: {"pixels": swarp([folder / "ref.fits"], folder, shape)}


def reference_by_reproject(pair: Pair, how: str) -> Any:
    """The reference by reproject: 'bicubic' interpolation or 'adaptive'."""
    made, target = pair.reference(), pair.right_header()
    old, new = (WCS(geometry(header, made.pixels.shape)) for header in (made.header, target))
    pixels = np.where(np.isfinite(made.pixels), made.pixels, 0).astype(np.float64)

    def work() -> Result:
        import reproject

        if how == "adaptive":
            out = reproject.reproject_adaptive(
                (pixels, old), new, shape_out=pixels.shape, conserve_flux=True, return_footprint=False
            )
        else:
            out = reproject.reproject_interp(
                (pixels, old), new, shape_out=pixels.shape, order=how, return_footprint=False
            )
        return {"pixels": np.asarray(out, np.float32)}

    return work


def coadd_by_swarp(pair: Pair, folder: Path, combine: str) -> Any:
    """The reference's inputs, scaled to its zero point, sky taken out, WEIGHTED or CLIPPED."""
    from ztfds.survey import bits

    inputs, paths = pair.inputs(), []
    zeropoint = pair.config.reference.reference_zeropoint_mag
    for k in range(len(inputs)):
        item, path = inputs[k], folder / f"input{k:02d}.fits"
        bad = (item.mask & (bits.HARD_BAD & ~bits.SATURATED)) != 0
        weight = np.where(bad, 0.0, 1 / float(item.header["SKYSIG"]) ** 2)
        write_input(path, item.pixels, weight, item.header, 10 ** (-0.4 * (float(item.header["MAGZP"]) - zeropoint)))
        paths.append(path)
    made = pair.reference()
    shape = made.pixels.shape
    write_head(folder / "coadd.head", made.header, shape)
    return lambda: {"pixels": swarp(paths, folder, shape, COMBINE_TYPE=combine, SUBTRACT_BACK="Y")}
