"""Fields off the grid: their calibrator catalogs are prepared and counted, then their exposures are let in."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ztfds.formats.atomic import write_atomic
from ztfds.formats.catalogs import StaticCatalogs
from ztfds.operations.context import Context
from ztfds.operations.day.outcomes import Outcome
from ztfds.registry import database, exposures
from ztfds.survey import fields
from ztfds.survey.errors import BadCatalog, ConfigurationError, MissingCatalog, OffGridField

log = logging.getLogger(__name__)

KEYS = {"gaia": "source_id", "ps1": "objid"}
"""The catalogs, and the column that tells their rows apart."""
MARGIN_DEG = 0.2
LOWEST, HIGHEST = 2000, 9999
"""Numbers of fields off the grid."""
_QUARANTINED = """
    select distinct on (r.filename) r.filename, r.path from receipts r
      left join ccdfiles c on c.filename = r.filename
     where r.verdict = 'quarantined' and r.error_code = %s and r.filename ~ %s and coalesce(c.state, 'quarantined') = 'quarantined'
     order by r.filename, r.receipt_id desc"""


def prepare(context: Context, form: Mapping[str, Any]) -> Outcome:
    """Prepare a field off the grid, and send its quarantined files again if the form asks for it; repeating it is harmless.

    Parameters
    ----------
    context : Context
    form : mapping
        ``field`` (number), ``ra``, ``dec`` (deg), ``words``, ``source`` (folder of tables ``gaia*`` and ``ps1*`` to take stars from;
        empty: those that are there must do), ``least`` (stars that every quadrant needs in each catalog), ``release`` (bool),
        ``author``.

    Raises
    ------
    ConfigurationError
        The number is on the grid or out of range, the field exists elsewhere on the sky, or nobody signs.
    BadCatalog
        A quadrant has too few stars; nothing was added.
    """
    field, author = _field(form), str(form.get("author") or "").strip()
    if not author:
        raise ConfigurationError("a field needs somebody who prepares it")
    _check_free(context.dsn, field)
    least = int(form.get("least") or 1)
    source = StaticCatalogs(str(form["source"])) if form.get("source") else None
    added, counts = [], {}
    chosen = {kind: _missing(context, field, kind, source, least) for kind in KEYS}
    for kind, (rows, count) in chosen.items():
        counts[kind] = count
        if len(rows):
            added.append(_add(context.catalogs, field, kind, rows))
    values = {
        "field": field.fieldid, "ra": field.ra, "dec": field.dec, "words": str(form.get("words") or ""), "author": author,
        "gaia_least": counts["gaia"], "ps1_least": counts["ps1"], "catalogs": {"added": added},
    }  # fmt: skip
    tail = "on conflict (field) do update set gaia_least = excluded.gaia_least, ps1_least = excluded.ps1_least"
    with database.transaction(context.dsn) as cursor:
        database.insert(cursor, "prepared_fields", values, tail)
    again = send_again(context, field.fieldid) if form.get("release") else []
    line = f"field {field.fieldid} is ready: at least {counts['gaia']} Gaia and {counts['ps1']} PS1 stars in a quadrant"
    line += f", {sum(int(table['rows']) for table in added)} rows added" if added else ", no table was needed"
    return Outcome.of(
        line + (f"; {len(again)} files sent again" if form.get("release") else ""), added=added, again=again
    )


def _field(form: Mapping[str, Any]) -> fields.Field:
    """The field of a form."""
    number, ra, dec = int(form["field"]), float(form["ra"]), float(form["dec"])
    if number in fields.all_fields() or not LOWEST <= number <= HIGHEST:
        raise ConfigurationError(f"field {number}: numbers off the grid are {LOWEST} to {HIGHEST}")
    if not (0.0 <= ra < 360.0 and -90.0 <= dec <= 90.0):
        raise ConfigurationError(f"{ra}, {dec} is no position")
    return fields.Field(number, ra, dec)


def _check_free(dsn: str, field: fields.Field) -> None:
    """A number means one place for ever."""
    before = exposures.off_grid_fields(dsn).get(field.fieldid)
    if before and fields.separation_deg(before.ra, before.dec, field.ra, field.dec) > 1e-6:
        raise ConfigurationError(f"field {field.fieldid} is at {before.ra}, {before.dec} already: take another number")


def _missing(
    context: Context, field: fields.Field, kind: str, source: StaticCatalogs | None, least: int
) -> tuple[np.ndarray, int]:
    """Stars of the source that the folder of static catalogs lacks, and the stars in the poorest quadrant with them."""
    there = _stars(context.catalog, kind, context, field)
    count = poorest(context, field, there)
    more = there[:0]
    if count < least and source is not None:
        found = _stars(source, kind, context, field)
        more = found[~np.isin(found[KEYS[kind]], there[KEYS[kind]])]
        count = poorest(context, field, np.concatenate([there, more]))
    if count < least:
        raise BadCatalog(f"a quadrant of field {field.fieldid} has {count} {kind} stars, {least} are needed")
    return more, count


def _stars(catalogs: StaticCatalogs, kind: str, context: Context, field: fields.Field) -> np.ndarray:
    """Stars of one catalog around a field; none where there is no table."""
    radius = context.camera.radius_deg() + MARGIN_DEG
    ask = catalogs.gaia if kind == "gaia" else catalogs.ps1
    try:
        return ask(field.ra, field.dec, radius)
    except MissingCatalog:
        return StaticCatalogs.empty(kind)


def poorest(context: Context, field: fields.Field, stars: np.ndarray) -> int:
    """Stars in the quadrant that has fewest, within its inscribed circle."""
    camera = context.camera
    radius = 0.5 * min(camera.quadrant_shape) * camera.pixel_scale_arcsec / 3600.0
    vectors = fields.unit_vector(stars["ra"], stars["dec"])
    counts = []
    for ccdid in camera.ccdids:
        for qid in (1, 2, 3, 4):
            centre = fields.unit_vector(*camera.quadrant_centre_sky(field.ra, field.dec, ccdid, qid))
            counts.append(int(np.count_nonzero(vectors @ centre > np.cos(np.radians(radius)))))
    return min(counts)


def _add(folder: Path, field: fields.Field, kind: str, rows: np.ndarray) -> dict[str, Any]:
    """Put a table into the folder of static catalogs."""
    table = pa.table({name: np.ascontiguousarray(rows[name]) for name in rows.dtype.names or ()})
    path = folder / f"{kind}_field{field.fieldid:06d}.parquet"
    written = write_atomic(path, lambda part: pq.write_table(table, part))
    log.info("%s: %d rows", path.name, len(rows))
    return {"name": path.name, "rows": len(rows), "sha256": written.sha256}


def send_again(context: Context, field: int) -> list[str]:
    """Put the quarantined files of a field that was off the grid into the inbox again; returns their names.

    They arrive as new copies; what is in quarantine stays there until the cleanup finds that a good copy was accepted.
    """
    pattern = rf"^ztf_\d{{14}}_{field:06d}_"
    rows: Sequence[Mapping[str, Any]] = database.fetch_all(context.dsn, _QUARANTINED, (OffGridField.code, pattern))
    sent = []
    for row in rows:
        source, target = context.archive / row["path"], context.inbox / row["filename"]
        if source.is_file() and not target.exists():
            part = target.with_name(f"{target.name}.part")
            shutil.copyfile(source, part)
            part.rename(target)
            sent.append(str(row["filename"]))
    return sent
