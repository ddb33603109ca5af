"""Verdicts of people on data: an exposure or a quadrant is blessed or defective, and what follows from that.

A defective image is not served as usable: it makes no reference, references that hold it are made anew, its differences count as bad.
A blessed one is usable whatever the limits said. Withdrawing a verdict puts back what it changed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ztfds.registry import database, references, summaries
from ztfds.registry.database import Cursor
from ztfds.survey.errors import ConfigurationError

log = logging.getLogger(__name__)

KINDS = ("sciimg", "scimrefdiffimg")
"""Images whose usability a verdict changes."""

_IMAGES = """
    select product_id, kind, status, rcid from products
     where exposure = %s and (%s::smallint is null or rcid = %s) and kind = any(%s) and vbest > 0 order by product_id for update"""
_MEMBERS = """
    select distinct r.reference_id, r.rfid from references_ r join reference_members m using (reference_id)
     where r.vbest > 0 and m.product_id = any(%s) order by r.rfid"""


@dataclass(frozen=True)
class Verdict:
    """A verdict that was given.

    Attributes
    ----------
    verdict_id : int
    images : int
        Images whose usability it changed.
    references : tuple of int
        Numbers of the references that are made anew because of it.
    """

    verdict_id: int
    images: int
    references: tuple[int, ...]

    def __str__(self) -> str:
        anew = f"; references made anew: {', '.join(map(str, self.references))}" if self.references else ""
        return f"verdict {self.verdict_id}: {self.images} images changed{anew}"


def give(dsn: str, exposure: str, rcid: int | None, verdict: str, analyst: str, comment: str) -> Verdict:
    """Bless an exposure or quadrant, or call it defective, with all that follows.

    Parameters
    ----------
    dsn : str
    exposure : str
        ``ztf_<ffd>``.
    rcid : int or None
        Readout channel; None: all of the exposure.
    verdict : {'blessed', 'defective'}
    analyst, comment : str
        Who, and why.

    Raises
    ------
    ConfigurationError
        The exposure or quadrant has no images, or something is missing.
    """
    if verdict not in ("blessed", "defective"):
        raise ConfigurationError(f"{verdict!r} is not a verdict: blessed or defective")
    if not analyst.strip() or not comment.strip():
        raise ConfigurationError("a verdict needs a name and a comment")
    with database.transaction(dsn) as cursor:
        images = database.rows(cursor, _IMAGES, (exposure, rcid, rcid, list(KINDS)))
        if not images:
            where = exposure if rcid is None else f"{exposure}, readout channel {rcid}"
            raise ConfigurationError(f"{where} has no images")
        status = 1 if verdict == "blessed" else 0
        changed = {str(row["product_id"]): row["status"] for row in images if row["status"] != status}
        _set_status(cursor, dict.fromkeys(changed, status))
        found = database.rows(cursor, _MEMBERS, ([row["product_id"] for row in images],)) if status == 0 else []
        values = {
            "exposure": exposure, "rcid": rcid, "verdict": verdict, "analyst": analyst, "comment": comment,
            "effects": {"status_before": changed, "references": [row["rfid"] for row in found]},
        }  # fmt: skip
        row = database.insert(cursor, "verdicts", values, "returning verdict_id")
        number = int(row["verdict_id"]) if row else 0
        summaries.of_exposure(cursor, exposure)
    for reference in found:
        references.want_again(dsn, reference["reference_id"], f"verdict {number}: {exposure} is defective ({comment})")
    given = Verdict(number, len(changed), tuple(row["rfid"] for row in found))
    log.info("%s %s by %s: %s", exposure, verdict, analyst, given)
    return given


def withdraw(dsn: str, verdict_id: int, analyst: str) -> Verdict:
    """Take a verdict back: the images are as usable as before it. References that were ordered anew are made all the same.

    Raises
    ------
    ConfigurationError
        There is no such verdict in force, or a later one on the same images is.
    """
    later = """
        select v.verdict_id from verdicts v join verdicts w on w.exposure = v.exposure and w.verdict_id > v.verdict_id
           and w.withdrawn is null and (w.rcid is null or v.rcid is null or w.rcid = v.rcid) where v.verdict_id = %s"""
    with database.transaction(dsn) as cursor:
        rows = database.rows(
            cursor, "select * from verdicts where verdict_id = %s and withdrawn is null for update", (verdict_id,)
        )
        if not rows:
            raise ConfigurationError(f"there is no verdict {verdict_id} in force")
        if database.rows(cursor, later, (verdict_id,)):
            raise ConfigurationError(
                f"a later verdict on the same images is in force: withdraw that one before {verdict_id}"
            )
        before = rows[0]["effects"]["status_before"]
        _set_status(cursor, before)
        summaries.of_exposure(cursor, rows[0]["exposure"])
        cursor.execute(
            "update verdicts set withdrawn = now(), withdrawn_by = %s where verdict_id = %s", (analyst, verdict_id)
        )
    return Verdict(verdict_id, len(before), ())


def _set_status(cursor: Cursor, status: dict[str, int]) -> None:
    """Set the usability of images, and of the rows of difference images that history reads."""
    for product, value in status.items():
        cursor.execute("update products set status = %s where product_id = %s", (value, int(product)))
        cursor.execute("update diffimages set status = %s where product_id = %s", (value, int(product)))


def of_exposure(dsn: str, exposure: str) -> list[dict[str, Any]]:
    """All verdicts on an exposure, the newest first."""
    return database.fetch_all(dsn, "select * from verdicts where exposure = %s order by verdict_id desc", (exposure,))
