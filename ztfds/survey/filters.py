"""The three filters of the survey: numbers, codes, names, colours and Pan-STARRS1 bands."""

from __future__ import annotations

from dataclasses import dataclass

from ztfds.survey.errors import BadName


@dataclass(frozen=True)
class Filter:
    """One filter.

    Attributes
    ----------
    fid : int
        Filter number: 1, 2, 3.
    code : str
        Two letters used in file names, e.g. ``zg``.
    name : str
        Name in headers, e.g. ``ZTF_g``.
    band : str
        Pan-STARRS1 band it is calibrated against.
    pcolor : str
        Colour of the calibration's linear term as written in headers, e.g. ``g - r``.
    color_bands : tuple of str
        The two Pan-STARRS1 bands of that colour, blue first.
    wavelength_nm : float
        Transmission-weighted mean wavelength, nm (integrated from the filter curves).
    leds : tuple of int
        Numbers of the flat-screen LEDs that serve it.
    """

    fid: int
    code: str
    name: str
    band: str
    pcolor: str
    color_bands: tuple[str, str]
    wavelength_nm: float
    leds: tuple[int, ...]


FILTERS = (
    Filter(1, "zg", "ZTF_g", "g", "g - r", ("g", "r"), 481.4, (2, 3, 4, 5)),
    Filter(2, "zr", "ZTF_r", "r", "g - r", ("g", "r"), 642.2, (7, 8, 9, 10)),
    Filter(3, "zi", "ZTF_i", "i", "r - i", ("r", "i"), 788.3, (11, 12, 13)),
)


def by_fid(fid: int) -> Filter:
    """Find a filter by its number; raise `BadName` if there is none."""
    for item in FILTERS:
        if item.fid == fid:
            return item
    raise BadName(f"no filter has number {fid}: known are 1, 2, 3")


def by_code(code: str) -> Filter:
    """Find a filter by its code (``zg``), its name (``ZTF_g``) or its band letter (``g``); raise `BadName`."""
    for item in FILTERS:
        if code in (item.code, item.name, item.band):
            return item
    raise BadName(f"no filter is called {code!r}: known are zg, zr, zi")
