"""Truth tables: what was put into each CCD file, and where; and the static catalogs as another survey would have made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ztfds.formats.atomic import write_atomic
from ztfds.simulator.config import SkyConfig
from ztfds.simulator.schedule import Plan
from ztfds.simulator.sky import CATALOG_EPOCH_JD, sky_patch
from ztfds.survey import camera as survey_camera
from ztfds.survey import fields as field_grid

TRUTH = np.dtype(
    [
        ("kind", "U10"),
        ("id", "i8"),
        ("rcid", "i2"),
        ("qid", "i1"),
        ("x", "f8"),
        ("y", "f8"),
        ("x2", "f8"),
        ("y2", "f8"),
        ("ra", "f8"),
        ("dec", "f8"),
        ("mag", "f4"),
        ("colour", "f4"),
        ("flux", "f4"),
        ("snr", "f4"),
        ("host_id", "i8"),
        ("on_galaxy", "?"),
        ("near_saturated", "?"),
        ("defects", "i2"),
        ("hits", "i2"),
    ]
)
"""Columns of a truth table.

kind: star, variable, galaxy, transient, asteroid, fast, trail, radiation. x, y (x2, y2 the other end of a streak):
0-based pixels at mid-exposure. ra, dec: degrees at mid-exposure (NaN for trails and radiation). mag: PS1-system
magnitude in the exposure's band; colour: g-r (g and r exposures) or r-i (i). flux: DN of a perfect detector in the
whole exposure (DN per px of length for a trail). snr: of optimal photometry over sky, read and own noise (events: over
what lies below them too). near_saturated: a saturated pixel within 12 px. defects, hits: bad pixels and radiation hits
in the central 5 x 5 px of events.
"""
_METADATA_KEY = b"ztfds_exposure"
_PS1_EPOCH_JD = 2456293.5  # 2013.0, the mean epoch of the PS1-like positions
_MAX_CATALOG_TRUE_R = 21.7


def truth_rows(n: int, kind: str) -> NDArray[np.void]:
    """n empty rows of one kind."""
    rows = np.zeros(n, TRUTH)
    rows["kind"] = kind
    for name in ("ra", "dec", "mag", "colour", "snr"):
        rows[name] = np.nan
    return rows


def to_table(array: NDArray[np.void]) -> pa.Table:
    """Structured array as an Arrow table, texts dictionary-encoded."""
    columns = {}
    for name in array.dtype.names or ():
        values = array[name]
        columns[name] = pa.array(values.tolist()).dictionary_encode() if values.dtype.kind == "U" else pa.array(values)
    return pa.table(columns)


def truth_filename(raw_filename: str) -> str:
    """Name of the truth table of a raw CCD file: ztf_<ffd>_c<CC>.parquet."""
    parts = raw_filename.split("_")
    return f"ztf_{parts[1]}_{parts[4]}.parquet"


def write_truth(folder: Path, raw_filename: str, rows: NDArray[np.void], exposure: dict[str, Any]) -> Path:
    """Write the truth of one CCD file; `exposure` (JSON types) goes to the file's metadata."""
    table = to_table(rows)
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(exposure).encode()})
    path = Path(folder) / truth_filename(raw_filename)
    write_atomic(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    return path


def read_truth(path: Path) -> tuple[NDArray[np.void], dict[str, Any]]:
    """Truth rows (dtype TRUTH) and exposure facts of one CCD file."""
    table = pq.read_table(path)
    rows = np.zeros(table.num_rows, TRUTH)
    for name in TRUTH.names or ():
        rows[name] = table[name].to_pylist() if TRUTH[name].kind == "U" else table[name].to_numpy()
    return rows, json.loads(table.schema.metadata[_METADATA_KEY])


def write_catalogs(folder: Path, plan: Plan) -> list[Path]:
    """Write gaia_<field>.parquet and ps1_<field>.parquet for the CCDs of the plan's camera.

    Errors are those of the surveys: Gaia-like positions at epoch 2015.5 (0.03 mas at the bright end to 1.5 mas at the
    limit) with proper motions, 98 % complete; PS1-like positions of epoch 2013 good to 10-60 mas and magnitudes to
    0.006-0.15 mag with saturation at r = 12.5, stars and galaxies together.
    """
    out = []
    for fieldid in plan.fields:
        stars, galaxies = _field_sky(plan, fieldid)
        rng = np.random.default_rng([plan.seed, 71, fieldid])
        for name, table in (("gaia", _gaia(rng, stars)), ("ps1", _ps1(rng, stars, galaxies))):
            path = Path(folder) / f"{name}_{fieldid:06d}.parquet"
            write_atomic(path, _writer(table))
            out.append(path)
    return out


def _writer(table: pa.Table) -> Any:
    return lambda temporary: pq.write_table(table, temporary, compression="zstd")


def _field_sky(plan: Plan, fieldid: int) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """All stars and galaxies of a field's quadrants and 3 arcmin around them, each once."""
    field, radius = field_grid.get(fieldid), plan.camera.radius_deg() + 0.05
    bright: SkyConfig = plan.config.sky
    stars, galaxies = [], []
    for rcid in plan.camera.rcids:
        centre = plan.camera.quadrant_centre_sky(field.ra, field.dec, *survey_camera.ccd_qid(rcid))
        s, g = sky_patch(plan.seed, *centre, radius, bright)
        stars.append(s[s["r"] < _MAX_CATALOG_TRUE_R])
        galaxies.append(g[g["r"] < _MAX_CATALOG_TRUE_R])
    return _unique(stars), _unique(galaxies)


def _unique(parts: list[NDArray[np.void]]) -> NDArray[np.void]:
    joined = np.concatenate(parts)
    return joined[np.unique(joined["id"], return_index=True)[1]]


def _shifted(
    rng: np.random.Generator, ra: NDArray[np.float64], dec: NDArray[np.float64], error_mas: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions (degrees) with normal errors."""
    scale = error_mas / 3.6e6
    return (ra + rng.normal(size=ra.size) * scale / np.cos(np.radians(dec))) % 360.0, dec + rng.normal(
        size=ra.size
    ) * scale


def _gaia(rng: np.random.Generator, stars: NDArray[np.void]) -> pa.Table:
    seen = stars[(stars["gaia"] < 20.8) & (rng.random(stars.size) < 0.98)]
    g = seen["gaia"].astype(float)
    error = np.interp(g, [13, 15, 17, 19, 20.8], [0.03, 0.04, 0.12, 0.4, 1.5])
    ra, dec = _shifted(rng, seen["ra"], seen["dec"], error)
    pm_error = error * 1.1
    return pa.table(
        {
            "source_id": seen["id"],
            "ra": ra,
            "dec": dec,
            "pmra": seen["pmra"] + rng.normal(size=g.size) * pm_error,
            "pmdec": seen["pmdec"] + rng.normal(size=g.size) * pm_error,
            "ra_error": error.astype("f4"),
            "dec_error": error.astype("f4"),
            "phot_g_mean_mag": (g + rng.normal(0, 0.003, g.size)).astype("f4"),
            "ref_epoch": np.full(g.size, 2015.5, "f4"),
        }
    )


def _ps1(rng: np.random.Generator, stars: NDArray[np.void], galaxies: NDArray[np.void]) -> pa.Table:
    stars = stars[(stars["r"] > 12.5) & (rng.random(stars.size) < 0.985)]
    years = (_PS1_EPOCH_JD - CATALOG_EPOCH_JD) / 365.25
    dec = stars["dec"] + stars["pmdec"] * years / 3.6e6
    ra = stars["ra"] + stars["pmra"] * years / 3.6e6 / np.cos(np.radians(dec))
    r = np.concatenate([stars["r"], galaxies["r"]]).astype(float)
    error_mas = np.interp(r, [14, 18, 20, 21.7], [10, 12, 30, 60])
    ra, dec = _shifted(rng, np.concatenate([ra, galaxies["ra"]]), np.concatenate([dec, galaxies["dec"]]), error_mas)
    score = np.concatenate([1 - rng.beta(1, 25, stars.size), rng.beta(1, 20, galaxies.size)])
    # Near the limit nobody can tell stars from galaxies.
    blur = np.interp(r, [19.5, 22], [0.0, 0.8]) * rng.random(r.size)
    columns: dict[str, Any] = {
        "objid": np.concatenate([stars["id"], galaxies["id"]]),
        "ra": ra,
        "dec": dec,
    }
    for band, limit in zip("griz", (23.3, 23.2, 23.1, 22.3), strict=True):
        mag = np.concatenate([stars[band], galaxies[band]]).astype(float)
        error = np.hypot(0.006, 0.2171 * 10 ** (0.4 * (mag - limit)))
        columns[band] = (mag + rng.normal(size=mag.size) * error).astype("f4")
        columns[f"{band}_err"] = error.astype("f4")
    columns["sgscore"] = (score * (1 - blur) + 0.5 * blur).astype("f4")
    return pa.table(columns)
