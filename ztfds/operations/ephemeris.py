"""Known Solar-System objects in operation: refreshing their orbits, preparing nights, rolling back, looking up an image.

A set of orbits (or observatories) is used when it has passed every check of `ztfds.solarsystem.judge`; else the last good one
stays. Sets and prepared nights are files of the archive under ``ephemerides/`` with names that are never used twice.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ztfds.config.solarsystem import SolarSystemConfig
from ztfds.formats.arrays import read_arrays, write_arrays
from ztfds.formats.atomic import write_atomic
from ztfds.operations import download
from ztfds.operations.context import Context
from ztfds.operations.day.outcomes import Outcome
from ztfds.registry import ephemerides as registry
from ztfds.registry.ephemerides import KINDS
from ztfds.solarsystem import judge, mpc
from ztfds.solarsystem import night as nights
from ztfds.solarsystem.judge import Judgement
from ztfds.solarsystem.planets import PALOMAR, Site
from ztfds.survey import ids
from ztfds.survey.errors import BadData, ConfigurationError, FilesMissing, NoWork, ServiceDown

log = logging.getLogger(__name__)

FOLDER = "ephemerides"
HOURS_TO_NIGHT = 10
"""From this long before 0h UTC on, "the coming night" is the next one: the last one at Palomar has ended by 14h UTC."""
SOURCES = {
    "mpcorb": "https://www.minorplanetcenter.net/iau/MPCORB/MPCORB.DAT.gz",
    "comets": "https://www.minorplanetcenter.net/iau/MPCORB/CometEls.txt",
    "obscodes": "https://www.minorplanetcenter.net/Extended_Files/obscodes_extended.json.gz",
}
"""Where the Minor Planet Center publishes them."""
UNITS = {"mpcorb": "orbits", "comets": "comets", "obscodes": "observatories"}


class Verdict(StrEnum):
    """What became of an offered set."""

    new = "new"
    unchanged = "unchanged"
    refused = "refused"
    withdrawn = "withdrawn"
    unreachable = "unreachable"


@dataclass(frozen=True)
class Refreshed:
    """What became of one kind.

    Attributes
    ----------
    kind : str
    verdict : Verdict
    set_id : int or None
        The set that is in use afterwards.
    records : int
        Of the set offered.
    reason : str
        Why it was not taken.
    """

    kind: str
    verdict: Verdict
    set_id: int | None
    records: int = 0
    reason: str = ""

    @property
    def line(self) -> str:
        """For a person."""
        if self.verdict in (Verdict.new, Verdict.unchanged):
            return f"{self.records} {UNITS[self.kind]} ({self.verdict})"
        left = f"set {self.set_id} stays in use" if self.set_id else "there is no earlier one"
        return f"{self.kind} {self.verdict}: {self.reason}; {left}"


@dataclass(frozen=True)
class Known:
    """Known objects on an image, and what they rest on.

    Attributes
    ----------
    table : (n,) array of `night.KNOWN`
    figures : dict of float
        For the quality metrics: ``known_objects``, ``ephemeris_age_d`` (night of the exposure minus newest observation of the
        orbits), ``ephemeris_stale`` (1: older than the limit), ``ephemeris_missing`` (1: nothing was searched).
    note : str
        The same in words.
    """

    table: np.ndarray
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ""


def coming_night(now: datetime | None = None) -> str:
    """UT date of the night that comes or is under way."""
    return ((now or datetime.now(UTC)) + timedelta(hours=HOURS_TO_NIGHT)).strftime("%Y%m%d")


# -- refresh -----------------------------------------------------------------------------------------------------------


def refresh(
    context: Context,
    sources: Mapping[str, str],
    night: str = "",
    run_id: str | None = None,
    now: datetime | None = None,
) -> Outcome:
    """Get, check and take over new sets, then prepare a night from those in use.

    Parameters
    ----------
    context : Context
    sources : mapping
        URL or absolute path by kind (``mpcorb``, ``comets``, ``obscodes``); kinds without one stay as they are.
    night : str
        UT date, ``YYYYMMDD``; empty: the coming one.
    run_id : str
        Of the orchestrator, for the record.
    now : datetime, optional
        Time that ages are counted to, if the night has not passed before; default now.

    Returns
    -------
    Outcome
        Failed where a set was refused, with the reason; the last good one is in use then.

    Raises
    ------
    ServiceDown
        A source cannot be had now (everything else was done), or the database or archive cannot be reached.
    NoWork
        No source is named, and there is no orbit to prepare a night from.
    """
    if unknown := set(sources) - set(KINDS):
        raise ConfigurationError(f"no kind of ephemerides: {', '.join(sorted(unknown))}")
    now = now or datetime.now(UTC)
    night = night or coming_night(now)
    nid = ids.nid_of_date(night)
    today = min(now.date(), ids.NID_ZERO_DATE + timedelta(days=nid))
    done = [_refresh_one(context, kind, sources[kind].strip(), today, nid, run_id)
            for kind in KINDS if sources.get(kind, "").strip()]  # fmt: skip
    line = _prepared_line(context, night)
    taken = [one.line for one in done if one.verdict in (Verdict.new, Verdict.unchanged)]
    failures = [one.line for one in done if one.verdict in (Verdict.refused, Verdict.unreachable)]
    outcome = Outcome.of(
        "; ".join([*taken, line]),
        failures=failures,
        warnings=[one.line for one in done if one.verdict is Verdict.withdrawn],
        night=night,
        sets={one.kind: one.set_id for one in done},
    )
    if any(one.verdict is Verdict.unreachable for one in done):
        raise ServiceDown(outcome.line)
    return outcome


def _prepared_line(context: Context, night: str) -> str:
    """Prepare a night; in words what was made."""
    row = prepare_night(context, night)
    return f"night {night} prepared with {row['objects']} objects"


def _refresh_one(context: Context, kind: str, source: str, today: date, nid: int, run_id: str | None) -> Refreshed:
    """One kind: get, compare checksums, parse, judge, store."""
    config = context.config.solarsystem.refresh
    before = registry.current(context.dsn, kind)
    used = int(before["set_id"]) if before else None
    values: dict[str, Any] = {"kind": kind, "source": source, "run_id": run_id}
    try:
        content = download.get(source, config)
    except (ServiceDown, BadData) as error:
        registry.refuse(context.dsn, {**values, "reason": f"{error.code}: {error.message}"})
        verdict = Verdict.unreachable if isinstance(error, ServiceDown) else Verdict.refused
        return Refreshed(kind, verdict, used, reason=error.message)
    values |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    seen = registry.of_content(context.dsn, kind, values["sha256"])
    if seen and seen["state"] == registry.WITHDRAWN:
        return Refreshed(kind, Verdict.withdrawn, used, seen["records"], seen["reason"] or "rolled back by an operator")
    if seen and before and seen["set_id"] == used and (context.archive / before["path"]).is_file():
        registry.checked(context.dsn, seen["set_id"])
        return Refreshed(kind, Verdict.unchanged, used, before["records"])
    return _take(context, kind, content, values, before, today, nid)


def _take(
    context: Context,
    kind: str,
    content: bytes,
    values: dict[str, Any],
    before: Mapping[str, Any] | None,
    today: date,
    nid: int,
) -> Refreshed:
    """Parse and judge fetched content; store it if it is good."""
    used = int(before["set_id"]) if before else None
    try:
        parsed, judgement, bad = _judged(context, kind, content, before, today, nid)
    except BadData as error:
        registry.refuse(context.dsn, {**values, "reason": f"{error.code}: {error.message}"})
        return Refreshed(kind, Verdict.refused, used, reason=error.message)
    values |= {
        "records": len(parsed), "bad_lines": len(bad) and int(judgement.figures["bad_lines"]),
        "figures": {**judgement.figures, **({"bad": bad} if bad else {})},
        "data_date": judgement.data_date or today,
    }  # fmt: skip
    if judgement.reason:
        registry.refuse(context.dsn, {**values, "reason": judgement.reason})
        return Refreshed(kind, Verdict.refused, used, len(parsed), judgement.reason)
    suffix = "json" if kind == "obscodes" else "npy"
    path = f"{FOLDER}/sets/{kind}/{today:%Y%m%d}_{values['sha256'][:16]}.{suffix}"
    if kind == "obscodes":
        write_atomic(context.archive / path, download.unpacked(content, context.config.solarsystem.refresh.max_bytes))
    else:
        write_arrays(context.archive / path, {"source": values["source"], "sha256": values["sha256"]}, [parsed])
    set_id = registry.record(context.dsn, {**values, "state": registry.GOOD, "path": path})
    _remove(context, registry.forget_files(context.dsn, kind, context.config.solarsystem.refresh.keep_sets))
    log.info("ephemerides: %s set %d with %d records", kind, set_id, len(parsed))
    return Refreshed(kind, Verdict.new, set_id, len(parsed))


def _judged(
    context: Context, kind: str, content: bytes, before: Mapping[str, Any] | None, today: date, nid: int
) -> tuple[Any, Judgement, list[str]]:
    """Parsed content, its judgement and the first of its bad lines."""
    config = context.config.solarsystem
    text = download.unpacked(content, config.refresh.max_bytes)
    if kind == "obscodes":
        sites = mpc.parse_obscodes(text)
        old = mpc.parse_obscodes((context.archive / before["path"]).read_bytes()) if before else None
        return sites, judge.judge_sites(sites, old, config.site, config.refresh), []
    parsed = mpc.parse_mpcorb(text) if kind == "mpcorb" else mpc.parse_comets(text)
    used = read_orbits(context, before) if before else None
    tt = ids.NID_ZERO_JD + nid
    return parsed.orbits, judge.judge_orbits(kind, parsed, used, today, tt, config.refresh), parsed.named


def read_orbits(context: Context, row: Mapping[str, Any]) -> np.ndarray:
    """Orbits of a set, as a memory map.

    Raises
    ------
    FilesMissing
        Its file is not there.
    """
    path = context.archive / row["path"]
    if not path.is_file():
        raise FilesMissing(f"the file of ephemeris set {row['set_id']} is missing: {row['path']}; refresh or roll back")
    orbits: np.ndarray = read_arrays(path, 1)[1][0]
    return orbits


def _remove(context: Context, paths: list[str]) -> None:
    """Remove files that the registry has let go; who has them mapped keeps them."""
    for path in paths:
        (context.archive / path).unlink(missing_ok=True)


# -- nights ------------------------------------------------------------------------------------------------------------


def prepare_night(context: Context, night: str) -> dict[str, Any]:
    """Carry the orbits in use to a night; nothing is done where that was done before.

    Parameters
    ----------
    context : Context
    night : str
        UT date, ``YYYYMMDD``.

    Returns
    -------
    dict
        The row of `ephemeris_nights`.

    Raises
    ------
    NoWork
        There are no orbits.
    FilesMissing
        The file of the set in use is gone.
    """
    nid, config = ids.nid_of_date(night), context.config.solarsystem
    sets = {kind: registry.current(context.dsn, kind) for kind in KINDS}
    orbits = [row for kind in ("mpcorb", "comets") if (row := sets[kind])]
    if not orbits:
        raise NoWork("there is no good set of orbits: the ephemerides have never been refreshed")
    numbers = {f"{kind}_id": row["set_id"] if row else None for kind, row in sets.items()}
    path = f"{FOLDER}/nights/{night}_{'_'.join(str(number or 0) for number in numbers.values())}.npy"
    standing = registry.night(context.dsn, nid)
    if standing and standing["path"] == path and (context.archive / path).is_file():
        return standing
    began, site = time.process_time(), _site(context, sets["obscodes"])
    made = nights.prepare([read_orbits(context, row) for row in orbits], ids.NID_ZERO_JD + nid, config, site)
    about = {"tt": made.tt, "site": vars(site), "fast_deg_per_day": config.fast_deg_per_day, **numbers}
    write_arrays(context.archive / path, about, [made.starts, made.states])
    main = sets["mpcorb"] or orbits[0]
    values = {"nid": nid, **numbers, "path": path, "objects": len(made.states), "data_date": main["data_date"]}
    registry.record_night(context.dsn, {**values, "cpu_s": time.process_time() - began})
    if standing and standing["path"] and standing["path"] != path:
        _remove(context, [standing["path"]])
    _remove(context, registry.forget_nights(context.dsn, config.refresh.keep_nights))
    log.info("ephemerides of %s: %d objects", night, len(made.states))
    return registry.night(context.dsn, nid) or values


def _site(context: Context, row: Mapping[str, Any] | None) -> Site:
    """The observatory, from the list in use; without one, the constants that the library knows."""
    code = context.config.solarsystem.site
    if row:
        sites = mpc.parse_obscodes((context.archive / row["path"]).read_bytes())
        if code in sites:
            return sites[code]
    if code == PALOMAR.code:
        return PALOMAR
    raise ConfigurationError(f"the place of the observatory {code} is not known: refresh the list of observatories")


@lru_cache(maxsize=4)
def _opened(path: Path) -> tuple[nights.Night, Site]:
    """A prepared night; files are never changed, so one process opens each once."""
    about, (starts, states) = read_arrays(path, 2)
    return nights.Night(about["tt"], starts, states, about), Site(**about["site"])


def known_objects(context: Context, ra: float, dec: float, radius: float, jd: float, exptime: float) -> Known:
    """Known objects around an image, from the nearest prepared night; having none is never an error.

    Parameters
    ----------
    context : Context
    ra, dec, radius : float
        Circle, ICRS, deg.
    jd : float
        Start of the exposure, JD, UTC.
    exptime : float
        s; places are those of its middle.

    Raises
    ------
    DatabaseDown
    """
    config = context.config.solarsystem
    nid = ids.nid(jd)
    row = registry.nearest_night(context.dsn, nid, config.max_state_age_d)
    if row is None:
        return _nothing(f"no orbits are prepared within {config.max_state_age_d:.0f} d")
    try:
        night, site = _opened(context.archive / row["path"])
    except BadData as error:
        log.error("known objects: %s", error)
        return _nothing(error.message)
    table = nights.known_objects(night, ra, dec, radius, jd + exptime / 2 / 86400.0, config, site)
    return Known(table, *_age(row, nid, len(table), config))


def _nothing(why: str) -> Known:
    """What is known without orbits."""
    return Known(np.zeros(0, nights.KNOWN), {"ephemeris_missing": 1.0}, f"known objects were not searched: {why}")


def _age(row: Mapping[str, Any], nid: int, n: int, config: SolarSystemConfig) -> tuple[dict[str, float], str]:
    """Figures and words on what the known objects of an image rest on."""
    age = float(nid - (row["data_date"] - ids.NID_ZERO_DATE).days)
    stale = age > config.stale_d or row["nid"] != nid
    figures = {"known_objects": n, "ephemeris_age_d": age, "ephemeris_stale": stale, "ephemeris_missing": 0}
    note = f"orbits of night {ids.night_date(row['nid'])}, sets {row['mpcorb_id']}, {row['comets_id']}, {age:.0f} d old"
    return {name: float(value) for name, value in figures.items()}, f"stale: {note}" if stale else note


def readiness(context: Context, night: str = "") -> list[str]:
    """What an operator should know before a night: one line for each trouble with the ephemerides; empty if there is none."""
    night = night or coming_night()
    nid, config = ids.nid_of_date(night), context.config.solarsystem
    problems = []
    for kind in KINDS:
        newest, used = registry.newest(context.dsn, kind), registry.current(context.dsn, kind)
        if used is None:
            problems.append(f"no good set of {UNITS[kind]}")
        if newest and newest["state"] == registry.REFUSED:
            problems.append(f"the last set of {UNITS[kind]} was refused: {newest['reason']}")
    row = registry.nearest_night(context.dsn, nid, config.max_state_age_d)
    if row is None or row["nid"] != nid:
        problems.append(f"known objects are not prepared for {night}")
    if row and (age := _age(row, nid, 0, config)[0]["ephemeris_age_d"]) > config.stale_d:
        problems.append(f"orbits are {age:.0f} d old, more than {config.stale_d:.0f}")
    return problems


# -- roll-back ---------------------------------------------------------------------------------------------------------


def roll_back(context: Context, set_id: int, reason: str, night: str = "") -> Outcome:
    """Use an older set again, withdraw newer ones of its kind, and prepare the night anew.

    Parameters
    ----------
    context : Context
    set_id : int
        The set to use: good or withdrawn, its file still kept.
    reason : str
        Why, for the record.
    night : str
        UT date to prepare, ``YYYYMMDD``; empty: the coming one.

    Raises
    ------
    ConfigurationError
        There is no such set, it was refused, or its file is gone; or no reason is given.
    """
    if not reason.strip():
        raise ConfigurationError("a roll-back needs a reason")
    row, withdrawn = registry.roll_back(context.dsn, set_id, reason.strip())
    if row is None:
        raise ConfigurationError(f"set {set_id} cannot be used: unknown, refused, or its file was removed")
    line = f"{row['kind']} set {set_id} of {row['fetched']:%Y-%m-%d} is in use again, {withdrawn} newer ones withdrawn"
    return Outcome.of(f"{line}; {_prepared_line(context, night or coming_night())}", set_id=set_id, withdrawn=withdrawn)


def from_form(context: Context, form: Mapping[str, Any], run_id: str, *, by_hand: bool) -> Outcome:
    """What the form of the DAG asks for: a roll-back, or a refresh from its sources; the daily run asks the usual sources.

    The usual sources are those of the setting ``ephemerides`` of the archive's Connection (a mapping as `SOURCES`, or
    ``mpc`` for just these); a site without the setting has no daily refresh.

    Raises
    ------
    NoWork
        A daily run without the setting.
    """
    if form.get("set_id"):
        return roll_back(context, int(form["set_id"]), str(form.get("reason") or ""), str(form.get("night") or ""))
    sources = {kind: str(form.get(kind) or "") for kind in KINDS}
    if not by_hand:
        usual = context.places.get("ephemerides")
        if not usual:
            raise NoWork("no sources of ephemerides are set for the daily refresh")
        sources = dict(SOURCES if usual == "mpc" else usual)
    return refresh(context, sources, str(form.get("night") or ""), run_id)
