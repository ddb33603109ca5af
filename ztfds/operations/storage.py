"""Products of the image steps as files, and back: which suffix each part of a product has and how it is written and read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from ztfds.config.photometry import PhotometryConfig
from ztfds.difference.products import DifferenceProducts
from ztfds.formats import ades, streakfiles
from ztfds.formats.atomic import Written, write_atomic
from ztfds.formats.images import read_image, write_image
from ztfds.formats.psf import read_psf, write_psf
from ztfds.formats.tables import read_psfcat, read_table, write_psfcat, write_table
from ztfds.photometry import background
from ztfds.photometry.measure import usable_pixels
from ztfds.photometry.psf import PsfModel
from ztfds.reference.products import ReferenceProducts
from ztfds.registry.database import json_safe
from ztfds.registry.runner import OutputFile
from ztfds.science.run import ScienceProducts
from ztfds.science.tracks import TRACK_PIXEL_COLUMNS, TRACK_UNITS
from ztfds.survey import names
from ztfds.survey.errors import BadData, FilesMissing
from ztfds.survey.names import RawName

log = logging.getLogger(__name__)

SECTION_TILE = (128, 128)
"""Rows and columns of the tiles of difference images: a stamp of 31 pixels touches one and a half of them."""
STREAK_KINDS = ("streaks", "strkades", "strkcutouts")
"""Kinds of the products of streaks: they live in the depot, for some nights only."""
Place = Callable[[str], Callable[[int], str]]
"""From a suffix to the function from version to path."""


@contextmanager
def reading(what: str, rcid: int) -> Iterator[None]:
    """Read what a step needs besides its exposure; that it is damaged or absent says nothing against the exposure.

    Raises
    ------
    FilesMissing
        Try again, when somebody has put it right.
    """
    try:
        yield
    except (BadData, OSError, ValueError, KeyError) as error:
        why = f"{error.code}: {error.message}" if isinstance(error, BadData) else f"{type(error).__name__}: {error}"
        raise FilesMissing(f"{what} cannot be read: {why}", rcid=rcid) from error


def science_place(name: RawName, qid: int) -> Place:
    """Places of the products of one quadrant of an exposure."""
    return lambda suffix: lambda version: names.sci_path(name, qid, suffix, version)


def reference_place(field: int, filtercode: str, ccdid: int, qid: int) -> Place:
    """Places of the products of one reference."""
    return lambda suffix: lambda version: names.ref_path(field, filtercode, ccdid, qid, suffix, version)


def header_values(header: fits.Header) -> dict[str, Any]:
    """Cards of a header as JSON: keyword to value, without comments and history."""
    return {
        card.keyword: json_safe(card.value)
        for card in header.cards
        if card.keyword.strip() and card.keyword not in ("COMMENT", "HISTORY")
    }


def _text(lines: Sequence[str], path: Path) -> Written:
    """Write a log."""
    return write_atomic(path, ("\n".join(lines) + "\n").encode())


def _image(pixels: np.ndarray, header: fits.Header, path: Path) -> Written:
    """Write an image; masks keep the cards that say where and when."""
    return write_image(path, pixels, header)


def _sections(pixels: np.ndarray, header: fits.Header, path: Path) -> Written:
    """Write an image of which later alerts read small sections: in square tiles."""
    return write_image(path, pixels, header, tile=SECTION_TILE)


def _psfcat(catalog: np.ndarray, header: fits.Header, path: Path) -> Written:
    """Write a PSF-fit catalog."""
    return write_psfcat(path, catalog, header)


def _table(rows: np.ndarray, header: fits.Header, path: Path) -> Written:
    """Write an aperture catalog."""
    return write_table(path, rows, header, extname="APERTURE_CATALOG")


def _tracks(rows: np.ndarray, header: fits.Header, path: Path) -> Written:
    """Write the table of satellite tracks."""
    return write_table(path, rows, header, extname="TRACKS", units=TRACK_UNITS, pixel_columns=TRACK_PIXEL_COLUMNS)


def science_files(made: ScienceProducts, place: Place) -> list[OutputFile]:
    """Files of a calibrated quadrant; catalogs and PSF are left out where they could not be made, tracks where none are."""
    files = [
        OutputFile("sciimg", place("sciimg.fits"), partial(_image, made.pixels, made.header)),
        OutputFile("mskimg", place("mskimg.fits"), partial(_image, made.mask, made.header)),
        OutputFile("sciimlog", place("sciimlog.txt"), partial(_text, made.log)),
    ]
    if made.psfcat is not None:
        files.append(OutputFile("psfcat", place("psfcat.fits"), partial(_psfcat, made.psfcat, made.header)))
    if made.sexcat is not None:
        files.append(OutputFile("sexcat", place("sexcat.fits"), partial(_table, made.sexcat, made.header)))
    if made.tracks is not None and len(made.tracks):
        files.append(OutputFile("findtracks", place("findtracks.fits"), partial(_tracks, made.tracks, made.header)))
    if made.psf is not None:
        files.append(OutputFile("sciimgdao", place("sciimgdao.psf"), partial(_psf, made.psf)))
        stamp = made.psf.centre_stamp()
        files.append(
            OutputFile("sciimgdaopsfcent", place("sciimgdaopsfcent.fits"), partial(_image, stamp, fits.Header()))
        )
    return files


def _psf(model: Any, path: Path) -> Written:
    """Write a PSF model."""
    return write_psf(path, model)


def _path(archive: Path, rows: Mapping[str, Mapping[str, Any]], kind: str) -> Path:
    """Where the file of one kind is."""
    if kind not in rows:
        raise FilesMissing(f"no product of kind {kind} is registered")
    return archive / rows[kind]["path"]


def read_science(archive: Path, rows: Mapping[str, Mapping[str, Any]], config: PhotometryConfig) -> ScienceProducts:
    """Read the products of a calibrated quadrant back; the sky is measured again from the image.

    Parameters
    ----------
    archive : Path
    rows : mapping of kind to row of `products`
    config : PhotometryConfig
        Its background settings.

    Raises
    ------
    FilesMissing
    """
    pixels, header = read_image(_path(archive, rows, "sciimg"))
    mask = read_image(_path(archive, rows, "mskimg"))[0].astype(np.uint16)
    gain, noise = header.get("GAIN"), header.get("READNOI")
    sky = background.estimate(pixels, usable_pixels(pixels, mask), config.background, gain, noise)
    return ScienceProducts(
        pixels=pixels,
        mask=mask,
        header=header,
        psfcat=read_psfcat(_path(archive, rows, "psfcat"))[0],
        sexcat=read_table(_path(archive, rows, "sexcat"))[0],
        psf=PsfModel.from_arrays(read_psf(_path(archive, rows, "sciimgdao"))),
        background=sky,
        infobits=int(rows["sciimg"]["infobits"]),
        status=int(rows["sciimg"]["status"]),
        reasons=[],
        qa={},
        log=[],
    )


def difference_files(made: DifferenceProducts, place: Place) -> list[OutputFile]:
    """Files of a difference image."""
    lines = [f"{key} = {value:.6g}" for key, value in sorted(made.qa.items())]
    state = f"status {made.status}" + (f": {made.reason}" if made.reason else "")
    notes = [f"streaks: {made.streaks.note}"] if made.streaks.note else []
    return [
        OutputFile("scimrefdiffimg", place("scimrefdiffimg.fits.fz"), partial(_sections, made.pixels, made.header)),
        OutputFile("diffimgpsf", place("diffimgpsf.fits"), partial(_image, made.psf, fits.Header())),
        OutputFile("diffimlog", place("diffimlog.txt"), partial(_text, [state, *notes, *lines])),
    ]


def streak_files(made: DifferenceProducts, name: RawName, qid: int, image: str) -> list[OutputFile]:
    """Files of the streaks of a difference image called `image`, for the depot: table, ADES observations, cutouts; none without.

    Streaks that cannot be written are an error in the log: they must not cost the exposure its alerts.
    """
    if not len(made.streaks.table):
        return []
    try:
        contents = _streak_contents(made, name, qid, image)
    except (BadData, ValueError, KeyError):
        log.exception("the streaks of %s were not written", image)
        return []
    return [
        OutputFile(kind, _depot_place(name, qid, suffix), partial(_bytes, content))
        for kind, (suffix, content) in zip(STREAK_KINDS, contents.items(), strict=True)
    ]


def _streak_contents(made: DifferenceProducts, name: RawName, qid: int, image: str) -> dict[str, bytes]:
    """Contents of the files of streaks by suffix, in the order of `STREAK_KINDS`."""
    table = made.streaks.table
    rms = [float(made.header.get(keyword) or 0.0) for keyword in ("ASTRRMS1", "ASTRRMS2")]
    degrees = float(np.nan_to_num(np.mean(rms)))
    observations = ades.write_psv(ades.streak_observations(table, 3600.0 * degrees))
    text = streakfiles.text_table(table, image)
    member = names.product_filename(name, qid, "streaks.psv")
    archive = streakfiles.cutout_archive(table, made.streaks.cutouts, {member: observations})
    return {"streaks.txt": text, "streaks.psv": observations, "strkcutouts.tar.gz": archive}


def _depot_place(name: RawName, qid: int, suffix: str) -> Callable[[int], str]:
    """Place of a short-lived product of one quadrant, from its version; later ones live in a folder of their own."""
    filename = names.product_filename(name, qid, suffix)

    def place(version: int) -> str:
        return names.depot_path(name.date, filename if version <= 1 else f"v{version:03d}/{filename}")

    return place


def _bytes(content: bytes, path: Path) -> Written:
    """Write a file that is in memory."""
    return write_atomic(path, content)


def reference_files(made: ReferenceProducts, place: Place) -> list[OutputFile]:
    """Files of a reference image."""
    lines = [f"{key} = {value:.6g}" for key, value in sorted(made.qa.items())]
    state = f"status {made.status}" + (f": {made.reason}" if made.reason else "")
    images = (("refimg", made.pixels), ("refcov", made.coverage), ("refunc", made.uncertainty), ("refmsk", made.mask))
    files = [OutputFile(kind, place(f"{kind}.fits"), partial(_image, data, made.header)) for kind, data in images]
    files.append(OutputFile("refimlog", place("refimlog.txt"), partial(_text, [state, *lines])))
    if made.psf is None:
        return files
    return [
        *files,
        OutputFile("refpsfcat", place("refpsfcat.fits"), partial(_psfcat, made.psfcat, made.header)),
        OutputFile("refsexcat", place("refsexcat.fits"), partial(_table, made.sexcat, made.header)),
        OutputFile("refimgdao", place("refimgdao.psf"), partial(_psf, made.psf)),
    ]


def read_reference(archive: Path, rows: Mapping[str, Mapping[str, Any]], *, whole: bool = True) -> ReferenceProducts:
    """Read a reference back.

    Parameters
    ----------
    archive : Path
    rows : mapping
        Its products by kind.
    whole : bool
        False leaves out what differencing does not look at: coverage and aperture catalog are empty.

    Raises
    ------
    FilesMissing
    """
    pixels, header = read_image(_path(archive, rows, "refimg"))
    return ReferenceProducts(
        pixels=pixels,
        coverage=read_image(_path(archive, rows, "refcov"))[0] if whole else np.empty((0, 0), np.float32),
        uncertainty=read_image(_path(archive, rows, "refunc"))[0],
        mask=read_image(_path(archive, rows, "refmsk"))[0].astype(np.uint16),
        header=header,
        psf=PsfModel.from_arrays(read_psf(_path(archive, rows, "refimgdao"))),
        psfcat=read_psfcat(_path(archive, rows, "refpsfcat"))[0],
        sexcat=read_table(_path(archive, rows, "refsexcat"))[0] if whole else np.empty(0),
    )
