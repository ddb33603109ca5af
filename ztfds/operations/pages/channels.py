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
    select q.* from generate_series(0, 63) channel cross join lateral (
        select rcid, exposure, jd, metrics, flags, reasons from split_quality where rcid = channel order by jd desc limit 1) q
     order by q.rcid"""
_FLAGGED = """
    select q.rcid, q.exposure, q.reasons, q.created from split_quality q where q.flags <> 0 order by q.created desc limit 100"""
_TRENDS = """
    select t.* from generate_series(0, 63) channel
     cross join (values ('bias', 0), ('hifreqflat', 1), ('hifreqflat', 2), ('hifreqflat', 3)) kind (caltype, fid)
     cross join lateral (select rcid, caltype, fid, nid, metrics, accepted, flags, reasons from channel_trends c
                          where c.rcid = channel and c.caltype = kind.caltype and c.fid = kind.fid order by jd desc limit 1) t
     order by t.rcid, t.caltype, t.fid"""


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
