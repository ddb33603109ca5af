"""From the candidates of a difference image to named objects, packets and the outbox.

What takes time (history, stamps, everything in a packet but the object's name) is made before the registering transaction,
which names the objects while it holds locks on the sky.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ztfds.alerts.history import select_history
from ztfds.alerts.numbering import Earlier, assign
from ztfds.alerts.packet import Packet, build_packet, complete
from ztfds.config.alerts import AlertConfig
from ztfds.config.difference import CandidateConfig
from ztfds.difference.candidates import passes_trigger
from ztfds.difference.products import DifferenceProducts
from ztfds.formats.alertschema import CANDIDATE
from ztfds.reference.grid import wcs_of
from ztfds.registry import candidates, exposures, objects, outbox
from ztfds.registry.database import Cursor, transaction
from ztfds.registry.outbox import Alert
from ztfds.registry.runner import Registered
from ztfds.survey import ids
from ztfds.survey.errors import LockedByOther

log = logging.getLogger(__name__)

_NOT_OF_A_LIMIT = ("ra", "dec", "corners", "hpx", "created", "reason")
"""Columns of a difference image that would be misread as those of a detection."""


@dataclass(frozen=True)
class Past:
    """What is known of the candidates' positions before this exposure.

    Attributes
    ----------
    detections : list of list of dict
        Earlier candidates near each, within the look-back.
    limits : list of list of dict
        Difference images that covered each, within the longer look-back of history and forced photometry.
    counts : list of (ndethist, jdstarthist)
        Earlier detections on the same field and channel since the survey's start.
    ncovhist : int array
        Earlier good difference images that covered each, since the survey's start.
    numbers : list of Earlier
        Numbers of candidates that earlier versions of this very difference image gave.
    """

    detections: list[list[dict[str, Any]]]
    limits: list[list[dict[str, Any]]]
    counts: list[tuple[int, float | None]]
    ncovhist: np.ndarray
    numbers: list[Earlier]


def read_past(
    dsn: str, made: DifferenceProducts, row: Mapping[str, Any], reach_deg: float, config: AlertConfig
) -> Past:
    """Ask for the history of all candidates of a difference image at once.

    Parameters
    ----------
    dsn : str
    made : DifferenceProducts
    row : mapping
        field, rcid, jd of the exposure.
    reach_deg : float
        Distance from a quadrant's centre to its corners, deg.
    config : AlertConfig
    """
    ra, dec = made.candidates["ra"].astype(float), made.candidates["dec"].astype(float)
    jd, since = float(row["jd"]), float(row["jd"]) - config.history_days
    covered_since = float(row["jd"]) - max(config.history_days, config.forced.history_days)
    with transaction(dsn) as cursor:
        return Past(
            candidates.near(cursor, ra, dec, since, jd, config.association_radius_arcsec),
            candidates.covering(cursor, ra, dec, covered_since, jd, reach_deg),
            candidates.detection_counts(
                cursor, ra, dec, row["field"], row["rcid"], jd, config.association_radius_arcsec
            ),
            candidates.coverage_counts(cursor, ra, dec, jd, reach_deg),
            candidates.earlier(cursor, ids.nid(jd), ids.pid(jd, int(row["rcid"]))),
        )


def numbers(made: DifferenceProducts, earlier: Sequence[Earlier], config: AlertConfig) -> list[int]:
    """Candidate numbers of a difference image: detections that earlier versions of it made keep theirs."""
    table = made.candidates
    if not len(table):
        return []
    pid = ids.pid(float(table["jd"][0]), int(table["rcid"][0]))
    positive = [str(sign) == "t" for sign in table["isdiffpos"]]
    return assign(positive, table["x"], table["y"], earlier, pid, config.processing_version, config.same_detection_px)


def facts(made: DifferenceProducts, past: Past, filename: str, config: AlertConfig) -> list[dict[str, Any]]:
    """What packets say about each candidate besides its measurements: numbers, names and history counts."""
    found = []
    for i, (row, candid) in enumerate(zip(made.candidates, numbers(made, past.numbers, config), strict=True)):
        jd, (number, first) = float(row["jd"]), past.counts[i]
        found.append(
            {
                "pid": candid // 1_000_000,
                "candid": candid,
                "tblid": ids.split_candid(candid)[3],
                "nid": ids.nid(jd),
                "pdiffimfilename": filename,
                "ndethist": number + 1,
                "jdstarthist": first if first is not None else jd,
                "jdendhist": jd,
                "ncovhist": int(past.ncovhist[i]) + 1,
            }
        )
    return found


def prepare(
    made: DifferenceProducts,
    known: Sequence[Mapping[str, Any]],
    past: Past,
    wanted: Sequence[int],
    forced: Mapping[int, Sequence[Mapping[str, Any]]],
    config: AlertConfig,
) -> dict[int, Packet]:
    """Make the packets of a difference image, complete but for the names of the objects.

    Parameters
    ----------
    made : DifferenceProducts
    known : sequence of mapping
        `facts` of each candidate.
    past : Past
    wanted : sequence of int
        Rows of the candidates that become alerts (`triggered`).
    forced : mapping of int to rows
        Forced photometry by row; candidates that have no entry get none.
    config : AlertConfig

    Returns
    -------
    dict of int to Packet
        By row of the candidates.
    """
    return {i: _packet(made, known[i], past, i, forced.get(i), config) for i in wanted}


def triggered(made: DifferenceProducts, trigger: CandidateConfig) -> list[int]:
    """Rows of the candidates that become alerts."""
    return [i for i, row in enumerate(made.candidates) if passes_trigger(row, trigger)]


def register_alerts(
    cursor: Cursor,
    exposure: str,
    made: DifferenceProducts,
    known: Sequence[Mapping[str, Any]],
    packets: Mapping[int, Packet],
    config: AlertConfig,
) -> tuple[int, int]:
    """Name, register and queue the candidates of a difference image, in the place of those of an earlier version of it.

    Returns
    -------
    n_candidates, n_alerts : int
        Rows of `candidates`, and how many of them are packets in the outbox.

    Raises
    ------
    LockedByOther
        Another version was registered since the candidates were numbered, and their numbers would now be others.
    """
    table, jd = made.candidates, float(made.header["OBSJD"])
    nid, pid = ids.nid(jd), ids.pid(jd, int(made.header["RCID"]))
    candidates.lock(cursor, pid)
    earlier = candidates.earlier(cursor, nid, pid)
    if numbers(made, earlier, config) != [fact["candid"] for fact in known]:
        raise LockedByOther("another version of the difference image was registered in the meantime")
    candidates.remove(cursor, nid, pid)
    before = {entry.candid for entry in earlier if entry.alerted}
    if not len(table):
        return 0, 0
    exposures.ensure_night(cursor, int(known[0]["nid"]))
    candids = [int(fact["candid"]) for fact in known]
    names = objects.associate(
        cursor,
        table["ra"].astype(float),
        table["dec"].astype(float),
        candids,
        float(table["jd"][0]),
        config.association_radius_arcsec,
    )
    alerted = [i in packets or candids[i] in before for i in range(len(table))]
    records = [complete(CANDIDATE, {**_mapping(row), **fact}) for row, fact in zip(table, known, strict=True)]
    candidates.insert_candidates(cursor, exposure, records, names, alerted)
    alerts = [
        _alert(exposure, int(table["rcid"][i]), int(known[i]["nid"]), names[i], packet) for i, packet in packets.items()
    ]
    queued = outbox.queue(cursor, alerts)
    if queued < len(alerts):
        log.warning("%s: %d of %d alerts had been made before", exposure, len(alerts) - queued, len(alerts))
    return len(table), len(alerts)


def _mapping(row: np.void) -> dict[str, Any]:
    """A row as the packet names it: 1-based positions."""
    values = dict(zip(row.dtype.names or (), row.tolist(), strict=True))
    return {**values, "xpos": values["x"] + 1.0, "ypos": values["y"] + 1.0}


def _packet(
    made: DifferenceProducts,
    fact: Mapping[str, Any],
    past: Past,
    i: int,
    forced: Sequence[Mapping[str, Any]] | None,
    config: AlertConfig,
) -> Packet:
    """One packet, of an object without a name yet."""
    row = made.candidates[i]
    history = select_history(
        past.detections[i],
        [{k: v for k, v in limit.items() if k not in _NOT_OF_A_LIMIT} for limit in past.limits[i]],
        ra=float(row["ra"]),
        dec=float(row["dec"]),
        jd=float(row["jd"]),
        programid=int(row["programid"]),
        days=config.history_days,
        radius_arcsec=config.association_radius_arcsec,
    )
    return build_packet(
        _mapping(row),
        fact,
        objectid="",
        prv_candidates=history or None,
        fp_hists=forced or None,
        cutouts=made.cutouts[int(row["tblid"])],
        config=config,
    )


def _alert(exposure: str, rcid: int, nid: int, objectid: str, packet: Packet) -> Alert:
    """A packet with the name of its object, for the outbox."""
    return Alert(
        packet.candid, objectid, exposure, rcid, packet.topic, nid, packet.programid, packet.encoded.named(objectid)
    )


def register_difference(
    cursor: Cursor,
    exposure: str,
    made: DifferenceProducts,
    registered: Registered,
    reference_id: int,
    counts: tuple[int, int],
) -> None:
    """Row of the difference image, from which later upper limits and coverage counts are made."""
    header = made.header
    product = registered.products["scimrefdiffimg"]
    ny, nx = made.pixels.shape
    wcs = wcs_of(header)
    x, y = np.array([0, nx, nx, 0, nx / 2]) - 0.5, np.array([0, 0, ny, ny, ny / 2]) - 0.5
    ra, dec = wcs.all_pix2world(x, y, 0)
    corners = np.column_stack([ra[:4], dec[:4]]).ravel().tolist()
    jd, rcid = float(header["OBSJD"]), int(header["RCID"])
    cards = {
        "programpi": "PROGRMPI",
        "exptime": "EXPTIME",
        "magzpsci": "MAGZP",
        "magzpsciunc": "MAGZPUNC",
        "magzpscirms": "MAGZPRMS",
        "clrcoeff": "CLRCOEFF",
        "clrcounc": "CLRCOUNC",
    }
    candidates.register_difference(
        cursor,
        {
            "pid": ids.pid(jd, rcid),
            "provenance_id": registered.provenance_id,
            "product_id": product["product_id"],
            "exposure": exposure,
            "nid": ids.nid(jd),
            "field": int(header["FIELDID"]),
            "fid": int(header["FILTERID"]),
            "rcid": rcid,
            "jd": jd,
            "programid": int(header["PROGRMID"]),
            "status": made.status,
            "reason": made.reason or None,
            "reference_id": reference_id,
            "diffmaglim": made.qa.get("diffmaglim"),
            "pdiffimfilename": product["filename"],
            **{column: header.get(keyword) for column, keyword in cards.items()},
            "rbversion": str(made.candidates["rbversion"][0]) if len(made.candidates) else None,
            "ra": float(ra[4]),
            "dec": float(dec[4]),
            "corners": corners,
            "ncandidates": counts[0],
            "nalertpackets": counts[1],
        },
    )
