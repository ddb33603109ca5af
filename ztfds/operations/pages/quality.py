"""The pages of quality: of a night, of a field and of a readout channel, with plots over time and what departs from its history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ztfds.operations.pages.channels import SHOWN as SPLIT_SHOWN
from ztfds.operations.pages.channels import TRENDED as CHANNEL_SHOWN
from ztfds.operations.pages.plots import FILTER_COLOURS, Series, by_filter, draw
from ztfds.operations.pages.render import ROOT, page
from ztfds.operations.pages.tonight import focal_plane
from ztfds.registry import database
from ztfds.registry.summaries import HISTORY_NIGHTS
from ztfds.survey import fields, ids
from ztfds.survey.camera import Camera, ccd_qid
from ztfds.survey.errors import FilesMissing
from ztfds.survey.figures import Band, all_figures, band
from ztfds.survey.filters import FILTERS

SHOWN_DEPARTURES, SHOWN_EPOCHS, PLOTTED_EPOCHS, SHOWN_IMAGES = 100, 200, 1500, 200
TREND_NIGHTS = 120
FIELD_FIGURES = ("maglim_mag", "seeing_arcsec", "magzp", "median_background_dn", "astrom_rms_ra_mas", "scorr_width_raw")
QUADRANT_FIGURES = {
    "MAGLIM": "Limiting magnitude (mag)",
    "SEEING": "Seeing (FWHM, pixels)",
    "MAGZP": "Zero point (mag)",
}
"""Header values of a science image that are plotted for one quadrant of a field."""

_NIGHTS = "select nid, nightdate from nights order by nid desc limit 400"
_EXPOSURES = """
    select q.exposure, q.name, q.fid, q.field, q.jd, q.low, q.median, q.high, q.lowest_rcid, q.highest_rcid
      from exposure_quality q where q.nid = %s order by q.jd"""
_HISTORY = """
    select fid, name, median, scatter from night_quality
     where nid in (select nid from nights where nid < %s order by nid desc limit %s)"""
_TREND = """
    select nid, fid, name, low, median, high from night_quality
     where nid <= %s and nid > %s order by nid"""
_DEPARTING = """
    select rcid, fid, name, n, median, expected_low, expected_high from channel_quality where nid = %s and departs
     order by rcid, name, fid limit %s"""


def night_page(dsn: str, nid: int | None = None) -> str:
    """Figures of all quadrants of a night over time, night by night, and what departs; the newest night by default."""
    with database.transaction(dsn) as cursor:
        nights = database.rows(cursor, _NIGHTS)
        if not nights:
            return page("empty", title="Quality", text="No night has been opened yet: nothing has been measured.")
        nid = nid if nid is not None else nights[0]["nid"]
        rows = database.rows(cursor, _EXPOSURES, (nid,))
        history = database.rows(cursor, _HISTORY, (nid, HISTORY_NIGHTS))
        trend = database.rows(cursor, _TREND, (nid, nid - TREND_NIGHTS))
        channels = database.rows(cursor, _DEPARTING, (nid, SHOWN_DEPARTURES))
    bands = _bands(history)
    departures = _departures(rows, bands)
    return page(
        "night_quality",
        nid=nid,
        nights=nights,
        n_exposures=len({row["exposure"] for row in rows}),
        plots=_plots(rows, "jd", lambda series, name: _with_bands(series, name, bands, departures)),
        trends=_plots(trend, "nid"),
        departures=departures[:SHOWN_DEPARTURES],
        n_departures=len(departures),
        channels=channels,
        **_words(),
    )


def _words() -> dict[str, Any]:
    """What the templates of all three pages need."""
    return {"filters": FILTERS, "filter_colours": FILTER_COLOURS, "figures": {f.name: f for f in all_figures()}}


def _bands(history: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], Band]:
    """What is expected of an exposure, by figure and filter, from the nights before."""
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for row in history:
        found[row["name"], row["fid"]].append(row)
    return {
        (figure.name, item.fid): band(figure, [r["median"] for r in own], float(np.median([r["scatter"] for r in own])))
        for figure in all_figures()
        for item in FILTERS
        if (own := found.get((figure.name, item.fid)))
    }


def _departures(rows: Sequence[Mapping[str, Any]], bands: Mapping[tuple[str, int], Band]) -> list[dict[str, Any]]:
    """Exposures that are outside of the band, the farthest first, with the quadrant to look at."""
    found = []
    for row in rows:
        expected = bands.get((row["name"], row["fid"]))
        if expected is None or not expected.departs(row["median"]):
            continue
        below = row["median"] < expected.low
        beyond = (expected.low - row["median"] if below else row["median"] - expected.high) / (
            expected.high - expected.low
        )
        rcid = row["lowest_rcid"] if below else row["highest_rcid"]
        found.append({**row, "expected": expected, "beyond": beyond, "rcid": rcid, "time": _clock(row["jd"])})
    return sorted(found, key=lambda row: -row["beyond"])


def _clock(jd: float) -> str:
    """Hours and minutes UT of a Julian date."""
    minutes = int((jd + 0.5) % 1.0 * 1440)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _plots(
    rows: Sequence[Mapping[str, Any]], x: str, change: Callable[[list[Series], str], None] | None = None
) -> list[dict[str, Any]]:
    """One plot for each figure, on one common axis of time: ``label`` and ``plot``."""
    if not rows:
        return []
    places = [row[x] for row in rows]
    by_name: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_name[row["name"]].append(row)
    found = []
    for figure in all_figures():
        series = by_filter(by_name[figure.name], x)
        if not series:
            continue
        if change:
            change(series, figure.name)
        found.append({"label": figure.label, "plot": draw(series, (min(places), max(places)), figure.digits)})
    return found


def _with_bands(
    series: list[Series], name: str, bands: Mapping[tuple[str, int], Band], departures: Sequence[Mapping[str, Any]]
) -> None:
    """Add to the series of a figure what is expected, and mark what departs."""
    for one in series:
        expected = bands.get((name, one.fid))
        one.band = (expected.low, expected.high) if expected else None
        mine = [row for row in departures if row["name"] == name and row["fid"] == one.fid][:SHOWN_DEPARTURES]
        one.marked = [_mark(row, "jd", f"{row['exposure']}: {row['median']:.4g}") for row in mine]


def _mark(row: Mapping[str, Any], x: str, note: str) -> dict[str, Any]:
    """A point that leads to its exposure."""
    return {"x": row[x], "y": row["median"], "href": f"{ROOT}/exposure/{row['exposure']}", "note": note}


# -- a field -----------------------------------------------------------------------------------------------------------

_FIELD_EPOCHS = """
    select exposure, nid, fid, filtercode, programid, obsjd, state, reason from exposures
     where field = %s and imgtype = 'o' order by obsjd desc limit %s"""
_FIELD_QUALITY = """
    select q.exposure, q.name, q.fid, q.jd, q.low, q.median, q.high from exposure_quality q
     where q.field = %s and q.name = any(%s) and q.jd >= %s order by q.jd"""
_FIELD_TOTALS = (
    "select fid, programid, nights, visits, usable, depth, jd from field_totals where field = %s order by 1, 2"
)
_FIELD_REFERENCES = """
    select reference_id, rcid, fid, version, status, nframes, maglimit, fwhm_px, coalesce(remarks, reason) as reason
      from references_ where field = %s and vbest > 0 order by fid, rcid"""
_QUADRANTS = """
    select exposure, fid, status, created, meta ->> 'SEEING' as "SEEING", meta ->> 'MAGLIM' as "MAGLIM", meta ->> 'MAGZP' as "MAGZP"
      from products where field = %s and rcid = %s and fid = any(%s) and kind = 'sciimg' and vbest > 0 order by exposure desc limit %s"""


def field_page(dsn: str, camera: Camera, field: int, rcid: int | None = None) -> str:
    """All epochs of a field by filter with depth, seeing and zero point, and its references; or of one quadrant of it.

    Raises
    ------
    FilesMissing
        There is no such field: not in the grid, and never observed.
    """
    with database.transaction(dsn) as cursor:
        epochs = database.rows(cursor, _FIELD_EPOCHS, (field, PLOTTED_EPOCHS))
        since = epochs[-1]["obsjd"] if epochs else 0.0
        rows = database.rows(cursor, _FIELD_QUALITY, (field, list(FIELD_FIGURES), since))
        totals = database.rows(cursor, _FIELD_TOTALS, (field,))
        references = database.rows(cursor, _FIELD_REFERENCES, (field,))
        quadrants = [] if rcid is None else database.rows(
            cursor, _QUADRANTS, (field, rcid, [item.fid for item in FILTERS], SHOWN_EPOCHS)
        )  # fmt: skip
    known = fields.all_fields().get(field)
    if known is None and not epochs:
        raise FilesMissing(f"there is no field {field}, and none of this number was observed")
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        values[row["exposure"]][row["name"]] = row["median"]
    times = {row["exposure"]: row["obsjd"] for row in epochs}
    return page(
        "field",
        field=field,
        place=known,
        rcid=rcid,
        epochs=[
            {**row, "values": values[row["exposure"]], "time": _clock(row["obsjd"])} for row in epochs[:SHOWN_EPOCHS]
        ],
        n_epochs=len(epochs),
        totals=[{**row, "night": ids.night_date(ids.nid(row["jd"]))} for row in totals],
        plots=_plots(rows, "jd") if rcid is None else _quadrant_plots(quadrants, times),
        planes=[
            (item, _reference_plane(camera, field, [r for r in references if r["fid"] == item.fid])) for item in FILTERS
        ],
        references=[row for row in references if rcid is not None and row["rcid"] == rcid],
        quadrants=quadrants,
        **_words(),
    )


def _quadrant_plots(quadrants: Sequence[Mapping[str, Any]], times: Mapping[str, float]) -> list[dict[str, Any]]:
    """Header values of one quadrant over time; every point leads to its page."""
    rows = [{**row, "jd": times[row["exposure"]]} for row in quadrants if row["exposure"] in times]
    if not rows:
        return []
    span = (min(row["jd"] for row in rows), max(row["jd"] for row in rows))
    return [
        {
            "label": label,
            "plot": draw(by_filter([{**r, name: _number(r[name])} for r in rows], "jd", name, False), span),
        }
        for name, label in QUADRANT_FIGURES.items()
    ]


def _number(text: str | None) -> float | None:
    """A header value as a number, None where it is none."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _reference_plane(camera: Camera, field: int, references: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The focal plane with the state of the reference of every quadrant; each leads to the epochs of the quadrant."""
    known = {row["rcid"]: row for row in references}
    cells = []
    for cell in focal_plane(camera, {}):
        row = known.get(cell["rcid"])
        colour = "none" if row is None else "bad" if row["status"] != 1 else "part" if row["reason"] else "good"
        note = (
            "no reference" if row is None else f"reference of {row['nframes']} images; {row['reason'] or 'no remark'}"
        )
        link = f"{ROOT}/field/{field}?rcid={cell['rcid']}"
        cells.append({**cell, "colour": colour, "note": note, "text": row["nframes"] if row else "", "href": link})
    return cells


# -- a channel ---------------------------------------------------------------------------------------------------------

_CHANNEL = """
    select nid, fid, name, n, low, median, high, expected_low, expected_high, departs from channel_quality
     where rcid = %s and fid = any(%s) and name = any(%s) and nid > %s order by nid"""
_SPLIT = """
    select exposure, jd, fid, metrics, flags, reasons from split_quality where rcid = %s order by jd desc limit %s"""
_CALIBRATIONS = """
    select c.nid, c.jd, c.caltype, c.fid, c.metrics, c.accepted, c.flags, c.reasons
      from (values ('bias', 0), ('hifreqflat', 1), ('hifreqflat', 2), ('hifreqflat', 3)) kind (caltype, fid) cross join lateral (
        select * from channel_trends t where t.rcid = %s and t.caltype = kind.caltype and t.fid = kind.fid order by t.jd desc limit %s) c
     order by c.jd"""


def channel_page(dsn: str, rcid: int) -> str:
    """The history of a readout channel: figures of its images night by night, of its newest exposures, of its biases and flats.

    Raises
    ------
    FilesMissing
        There is no such channel.
    """
    if not 0 <= rcid < 64:
        raise FilesMissing(f"there is no readout channel {rcid}: they are 0 to 63")
    fids, names = [item.fid for item in FILTERS], [figure.name for figure in all_figures()]
    with database.transaction(dsn) as cursor:
        newest = database.rows(cursor, "select max(nid) as nid from nights")[0]["nid"] or 0
        rows = database.rows(cursor, _CHANNEL, (rcid, fids, names, newest - TREND_NIGHTS))
        images = database.rows(cursor, _SPLIT, (rcid, SHOWN_IMAGES))
        calibrations = database.rows(cursor, _CALIBRATIONS, (rcid, TREND_NIGHTS))
    ccdid, qid = ccd_qid(rcid)
    figures = {figure.name: figure for figure in all_figures()}
    return page(
        "channel",
        rcid=rcid,
        ccdid=ccdid,
        qid=qid,
        plots=_plots(rows, "nid", lambda series, name: _channel_bands(series, [r for r in rows if r["name"] == name])),
        departures=[{**row, "figure": figures[row["name"]]} for row in reversed(rows) if row["departs"]][
            :SHOWN_DEPARTURES
        ],
        image_plots=_metric_plots(images, SPLIT_SHOWN),
        flagged=[row for row in images if row["flags"]],
        n_images=len(images),
        calibration_plots=_metric_plots(calibrations, CHANNEL_SHOWN),
        refused=[row for row in calibrations if row["flags"] or not row["accepted"]],
        **_words(),
    )


def _channel_bands(series: list[Series], rows: Sequence[Mapping[str, Any]]) -> None:
    """The band of the newest night of each filter, and the nights that departed from theirs."""
    for one in series:
        own = [row for row in rows if row["fid"] == one.fid]
        if own[-1]["expected_low"] is not None:
            one.band = (own[-1]["expected_low"], own[-1]["expected_high"])
        one.marked = [
            {"x": row["nid"], "y": row["median"], "href": f"{ROOT}/quality?nid={row['nid']}",
             "note": f"{ids.night_iso(row['nid'])}: {row['median']:.4g}"}
            for row in own if row["departs"]
        ]  # fmt: skip


def _metric_plots(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Plots of figures that are kept together in one JSON column, over time."""
    if not rows:
        return []
    span = (min(row["jd"] for row in rows), max(row["jd"] for row in rows))
    found = []
    for name in names:
        here = [{"fid": row["fid"], "jd": row["jd"], name: row["metrics"].get(name)} for row in rows]
        if series := by_filter(here, "jd", name, ends=False):
            found.append({"label": name, "plot": draw(series, span, 3)})
    return found
