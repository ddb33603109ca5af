"""Multi-order coverage maps (MOC) as FITS files: which cells of the sky are covered.

IVOA Recommendation "MOC: HEALPix Multi-Order Coverage map", version 2.0, section 4.3.1: a binary table with one column of
NUNIQ numbers, 4 · 4^order + cell, of nested cells, with four covered siblings replaced by their parent.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from astropy.io import fits

from ztfds.formats.atomic import Written, write_atomic
from ztfds.survey.errors import UnreadableFile


def to_nuniq(cells: np.ndarray, order: int) -> np.ndarray:
    """Cells of one order as a well-formed MOC.

    Parameters
    ----------
    cells : int64 array of shape (n,)
        Nested cells.
    order : int
        Their order.

    Returns
    -------
    int64 array
        Sorted NUNIQ numbers; whatever is whole is said in larger cells.
    """
    found, here = [], np.unique(np.asarray(cells, np.int64))
    for level in range(order, 0, -1):
        first = here % 4 == 0
        first[-3:] = False
        at = np.flatnonzero(first)
        whole = at[(here[at + 3] - here[at]) == 3]
        inside = np.zeros(len(here), bool)
        inside[(whole[:, None] + np.arange(4)).ravel()] = True
        found.append(4 * 4**level + here[~inside])
        here = here[whole] // 4
        if not len(here):
            break
    else:
        found.append(4 + here)
    return np.sort(np.concatenate(found))


def from_nuniq(nuniq: np.ndarray, order: int) -> np.ndarray:
    """Cells of one order that a MOC covers, sorted (int64 array)."""
    number = np.asarray(nuniq, np.int64)
    level = (np.floor(np.log2(number / 4)) // 2).astype(np.int64)
    first, shift = number - 4 * 4**level, 2 * (order - level)
    if len(number) and shift.min() < 0:
        raise UnreadableFile(f"the map has cells finer than order {order}")
    spans = [np.arange(a << s, (a + 1) << s) for a, s in zip(first.tolist(), shift.tolist(), strict=True)]
    return np.unique(np.concatenate(spans)) if spans else np.empty(0, np.int64)


def write_moc(path: Path, cells: np.ndarray, order: int) -> Written:
    """Write cells of one order as a MOC (equatorial coordinates)."""
    numbers = to_nuniq(cells, order)
    table = fits.BinTableHDU.from_columns([fits.Column(name="UNIQ", format="1K", array=numbers)])
    cards = {
        "MOCVERS": ("2.0", "MOC version"),
        "MOCDIM": ("SPACE", "physical dimension"),
        "ORDERING": ("NUNIQ", "coding"),
        "COORDSYS": ("C", "reference frame: ICRS"),
        "PIXTYPE": ("HEALPIX", "nested HEALPix"),
        "MOCORD_S": (order, "order of the map"),
        "MOCORDER": (order, "order of the map, for readers of MOC 1"),
        "MOCTOOL": ("ztfds", "who made it"),
    }
    table.header.update(cards)
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(stream)
    return write_atomic(path, stream.getvalue())


def read_moc(path: Path) -> tuple[np.ndarray, int]:
    """Cells that a MOC of NUNIQ numbers covers, at its own order, and that order.

    Raises
    ------
    UnreadableFile
        It is no such file.
    """
    try:
        with fits.open(path) as hdus:
            header, numbers = hdus[1].header, np.array(hdus[1].data.field(0), np.int64)
            order = int(header.get("MOCORD_S", header.get("MOCORDER", -1)))
    except (OSError, IndexError, AttributeError) as error:
        raise UnreadableFile(f"{path.name} is no coverage map: {error}") from error
    if header.get("ORDERING") != "NUNIQ" or order < 0:
        raise UnreadableFile(f"{path.name} is no coverage map of NUNIQ numbers")
    return from_nuniq(numbers, order), order
