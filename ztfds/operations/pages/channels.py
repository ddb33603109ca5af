"""The page *Channels*: how each readout channel is now, and what departs from its history."""

from __future__ import annotations

from ztfds.operations.pages.render import page
from ztfds.registry import database

SHOWN = (
    "overscan_mean_dn",
    "overscan_drift_dn",
    "read_noise_dn",
    "median_dn",
    "row_structure_dn",
    "saturated_percent",
    "n_dead",
)
TRENDED = ("gain_e_per_dn", "gain_error_e_per_dn", "read_noise_e", "saturation_dn", "unsaturated_to_dn")

_LATEST = """
    select distinct on (rcid) rcid, exposure, jd, metrics, flags, reasons from split_quality order by rcid, jd desc"""
_FLAGGED = """
    select q.rcid, q.exposure, q.reasons, q.created from split_quality q where q.flags <> 0 order by q.created desc limit 100"""
_TRENDS = """
    select distinct on (rcid, caltype, fid) rcid, caltype, fid, nid, metrics, accepted, flags, reasons
      from channel_trends order by rcid, caltype, fid, jd desc"""


def channels_page(dsn: str) -> str:
    """The newest figures of every channel, and the newest departures from their history."""
    with database.transaction(dsn) as cursor:
        latest, flagged, trends = (database.rows(cursor, query) for query in (_LATEST, _FLAGGED, _TRENDS))
    return page(
        "channels",
        latest=latest,
        flagged=flagged,
        trends=trends,
        columns=[name for name in SHOWN if any(name in row["metrics"] for row in latest)],
        trended=[name for name in TRENDED if any(name in row["metrics"] for row in trends)],
    )
