"""The TPV distortion polynomial: terms, least squares, evaluation, header cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

from ztfds.astrometry.plane import to_plane, to_sky

FloatArray = NDArray[np.float64]

#: Powers (i, j) of u^i v^j in the order of PV1_k; k = 3 and 11 (odd powers of the radius) are not used by this camera.
TERMS: tuple[tuple[int, int], ...] = (
    (0, 0), (1, 0), (0, 1),
    (2, 0), (1, 1), (0, 2),
    (3, 0), (2, 1), (1, 2), (0, 3),
    (4, 0), (3, 1), (2, 2), (1, 3), (0, 4),
)  # fmt: skip
PV_INDEX: tuple[int, ...] = (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16)

_ITERATIONS, _CONVERGED_PX = 30, 1e-8


def n_terms(order: int) -> int:
    """Number of polynomial terms up to a total order: 3, 6, 10, 15."""
    return (order + 1) * (order + 2) // 2


def design(u: ArrayLike, v: ArrayLike, order: int) -> FloatArray:
    """Matrix (n, n_terms) of the powers u^i v^j."""
    u, v = np.asarray(u, np.float64), np.asarray(v, np.float64)
    columns = [np.ones_like(u)]
    for power in range(1, order + 1):
        previous = columns[-power:]
        columns += [u * column for column in previous] + [v * previous[-1]]
    return np.stack(columns, axis=-1)


def least_squares(
    matrix: FloatArray, values: FloatArray, weights: FloatArray, precision: FloatArray | None = None
) -> FloatArray:
    """Weighted least squares through the column-scaled normal equations, with a Gaussian prior about zero.

    matrix (n, k), values (n, m), weights (n,) = 1 / sigma^2, precision (k,) = 1 / (prior sigma)^2, 0 for free
    coefficients; returns (k, m): (A^T W A + P) c = A^T W b. Raises LinAlgError when singular.
    """
    scale = np.abs(matrix).max(axis=0)
    scale[scale == 0] = 1.0
    scaled = matrix / scale
    weighted = scaled * weights[:, None]
    normal = weighted.T @ scaled
    if precision is not None:
        normal[np.diag_indices_from(normal)] += precision / scale**2
    solution: FloatArray = np.linalg.solve(normal, weighted.T @ values)
    return solution / scale[:, None]


def leverage(matrix: FloatArray, used: NDArray[np.bool_], weights: FloatArray, precision: FloatArray) -> FloatArray:
    """Leverage h_i = w_i a_i^T (A^T W A + P)^-1 a_i of every row, used in the fit or not; (n,).

    A residual's variance is sigma_i^2 (1 - h_i) for a row that was used and sigma_i^2 (1 + h_i) for one that was not
    (weights (n,) = 1 / sigma^2; other parameters as in `least_squares`).
    """
    scale = np.abs(matrix).max(axis=0)
    scale[scale == 0] = 1.0
    scaled = matrix / scale
    normal = (scaled * (used * weights)[:, None]).T @ scaled
    normal[np.diag_indices_from(normal)] += precision / scale**2
    result: FloatArray = weights * (scaled * np.linalg.solve(normal, scaled.T).T).sum(axis=1)
    return result


@dataclass(frozen=True)
class Distortion:
    """A world coordinate system of the TPV kind.

    With (x, y) 0-based pixels: (u, v) = cd @ (x - x0, y - y0) deg; xi = sum xi_terms[k] u^i v^j, eta likewise, powers
    from `TERMS`; then the gnomonic projection about (ra0, dec0).

    Attributes
    ----------
    x0, y0 : reference pixel, 0-based.
    ra0, dec0 : tangent point, deg.
    cd : (2, 2) deg per pixel.
    coefficients : (n_terms, 2) for xi and eta in deg; both in powers of (u, v).
    """

    x0: float
    y0: float
    ra0: float
    dec0: float
    cd: FloatArray
    coefficients: FloatArray

    @property
    def order(self) -> int:
        """Polynomial order."""
        return {3: 1, 6: 2, 10: 3, 15: 4}[len(self.coefficients)]

    def intermediate(self, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Pixels, 0-based, to undistorted plane coordinates (u, v) in deg."""
        dx, dy = np.asarray(x, np.float64) - self.x0, np.asarray(y, np.float64) - self.y0
        return self.cd[0, 0] * dx + self.cd[0, 1] * dy, self.cd[1, 0] * dx + self.cd[1, 1] * dy

    def plane(self, x: ArrayLike, y: ArrayLike) -> FloatArray:
        """Pixels, 0-based, to the tangent plane: (n, 2) deg, East and North."""
        u, v = self.intermediate(x, y)
        return design(u, v, self.order) @ self.coefficients

    def linear_pixels(self, plane: FloatArray) -> tuple[FloatArray, FloatArray]:
        """0-based pixels of tangent-plane positions (n, 2) deg by the linear terms alone: good to some pixels."""
        pixel = plane @ np.linalg.inv(self.cd).T
        return pixel[:, 0] + self.x0, pixel[:, 1] + self.y0

    def sky(self, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Pixels, 0-based, to (ra, dec) in deg: the same as the astropy WCS of `cards`."""
        plane = self.plane(x, y)
        return to_sky(plane[..., 0], plane[..., 1], self.ra0, self.dec0)

    def pixels(self, ra: ArrayLike, dec: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Sky positions in deg to 0-based pixels, by Newton's method with the linear terms' slope; NaN where it does not converge."""
        xi, eta = to_plane(np.atleast_1d(ra), np.atleast_1d(dec), self.ra0, self.dec0)
        wanted = np.stack([xi, eta], axis=-1)
        inverse = np.linalg.inv(self.cd).T
        x, y = self.linear_pixels(wanted)
        for _ in range(_ITERATIONS):
            step = (wanted - self.plane(x, y)) @ inverse
            x, y = x + step[:, 0], y + step[:, 1]
            if not np.any(np.abs(step) > _CONVERGED_PX):
                break
        found = np.all(np.abs(step) <= _CONVERGED_PX, axis=1)
        return np.where(found, x, np.nan), np.where(found, y, np.nan)

    @classmethod
    def of_header(cls, header: Mapping[str, Any]) -> Distortion | None:
        """Read the cards of `cards`, fifty times faster than a general reader; None for a header of any other kind."""
        if (header.get("CTYPE1"), header.get("CTYPE2")) != ("RA---TPV", "DEC--TPV") or header.get(
            "LONPOLE", 180.0
        ) != 180.0:
            return None
        kind = "CD" if "CD1_1" in header else "PC"
        scaled = kind == "PC" and (header.get("CDELT1", 1.0), header.get("CDELT2", 1.0)) != (1.0, 1.0)
        names = [f"{kind}{i}_{j}" for i in (1, 2) for j in (1, 2)]
        if scaled or any(name not in header for name in ("CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2", *names)):
            return None
        if any(header.get(f"PV{axis}_{k}") for axis in (1, 2) for k in range(40) if k not in PV_INDEX):
            return None
        coefficients = np.zeros((len(TERMS), 2))
        for axis in (0, 1):
            for k, (i, j) in enumerate(TERMS):
                source = k if axis == 0 else TERMS.index((j, i))
                coefficients[source, axis] = header.get(f"PV{axis + 1}_{PV_INDEX[k]}", 1.0 if k == 1 else 0.0)
        cd = np.array([header[name] for name in names], float).reshape(2, 2)
        if np.linalg.det(cd) == 0:
            return None
        x0, y0 = float(header["CRPIX1"]) - 1.0, float(header["CRPIX2"]) - 1.0
        return cls(x0, y0, float(header["CRVAL1"]), float(header["CRVAL2"]), cd, coefficients)

    def cards(self) -> dict[str, float | int | str]:
        """WCS cards in the form of the archive's headers, 1-based reference pixel, PV terms as TPV defines them.

        Axis 2 of TPV counts its powers with u and v exchanged; terms above the order are left out.
        """
        cards: dict[str, float | int | str] = {
            "WCSAXES": 2, "CRPIX1": self.x0 + 1.0, "CRPIX2": self.y0 + 1.0,
            "CD1_1": float(self.cd[0, 0]), "CD1_2": float(self.cd[0, 1]),
            "CD2_1": float(self.cd[1, 0]), "CD2_2": float(self.cd[1, 1]),
            "CUNIT1": "deg", "CUNIT2": "deg", "CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV",
            "CRVAL1": float(self.ra0), "CRVAL2": float(self.dec0), "LONPOLE": 180.0, "LATPOLE": float(self.dec0),
            "WCSNAME": "ZTF", "RADESYS": "ICRS", "EQUINOX": 2000.0,
        }  # fmt: skip
        used = len(self.coefficients)
        for axis in (0, 1):
            for k in range(used):
                i, j = TERMS[k]
                source = k if axis == 0 else TERMS.index((j, i))
                cards[f"PV{axis + 1}_{PV_INDEX[k]}"] = float(self.coefficients[source, axis])
        return cards

    def wcs(self) -> WCS:
        """Astropy WCS of the cards: its inverse (`all_world2pix`, `wcs_world2pix`) is the sky-to-pixel transform."""
        return WCS(fits.Header(self.cards()))
