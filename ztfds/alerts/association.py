"""Which name a detection gets: the nearest known one within the radius, or a new one shared by its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ztfds.survey.fields import unit_vector

RADIUS_ARCSEC = 1.5
ARCSEC_PER_RAD = 206264.80624709636


@dataclass(frozen=True)
class KnownName:
    """A name that was given before.

    Attributes
    ----------
    objectid : str
    ra, dec : float
        Where the first alert of that name was, deg.
    """

    objectid: str
    ra: float
    dec: float


@dataclass(frozen=True)
class Association:
    """The name of one detection.

    Attributes
    ----------
    objectid : str
    is_new : bool
        True for the one detection that brought the name into being (it has to be registered).
    separation_arcsec : float
        Distance from the name's position; 0 for a new one.
    """

    objectid: str
    is_new: bool
    separation_arcsec: float


def separations_arcsec(ra: float, dec: float, others_ra: np.ndarray, others_dec: np.ndarray) -> np.ndarray:
    """Distances (arcsec) of one position (deg) from others (deg); exact at all scales."""
    chord = np.linalg.norm(unit_vector(np.asarray(others_ra), np.asarray(others_dec)) - unit_vector(ra, dec), axis=-1)
    return 2 * np.arcsin(np.clip(chord / 2, 0, 1)) * ARCSEC_PER_RAD


def nearest_name(
    ra: float, dec: float, known: Sequence[KnownName], radius_arcsec: float = RADIUS_ARCSEC
) -> tuple[KnownName, float] | None:
    """The nearest known name within the radius and its distance in arcsec; of two equally near ones the first in order."""
    if not known:
        return None
    distances = separations_arcsec(ra, dec, np.array([k.ra for k in known]), np.array([k.dec for k in known]))
    best = int(np.argmin(distances))
    return (known[best], float(distances[best])) if distances[best] <= radius_arcsec else None


def associate(
    ra: Sequence[float],
    dec: Sequence[float],
    known: Sequence[KnownName],
    new_name: Callable[[], str],
    radius_arcsec: float = RADIUS_ARCSEC,
) -> list[Association]:
    """Name detections in the given order.

    Parameters
    ----------
    ra, dec : sequence of float
        Detections, deg, in an order that does not depend on chance (candidate number).
    known : sequence of KnownName
        Names given before near any of them.
    new_name : callable
        Gives the next unused name; called once per new object.
    radius_arcsec : float
        Detections this close to a name's position are of that object.

    Returns
    -------
    list of Association
        In the order of the detections. A detection near an earlier one of the same call shares its new name.
    """
    names = list(known)
    named: list[Association] = []
    for one_ra, one_dec in zip(ra, dec, strict=True):
        found = nearest_name(one_ra, one_dec, names, radius_arcsec)
        if found:
            named.append(Association(found[0].objectid, False, found[1]))
            continue
        names.append(KnownName(new_name(), float(one_ra), float(one_dec)))
        named.append(Association(names[-1].objectid, True, 0.0))
    return named
