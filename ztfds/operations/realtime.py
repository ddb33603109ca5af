"""Real time: from one raw CCD file to alerts in the outbox (P1, P2, P5, P6), and the closing of an exposure.

Re-running anything here changes nothing that is finished: a file in a final state is left alone, products of an execution exist
once, a detection is alerted once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from ztfds.config.base import StepConfig
from ztfds.config.detrend import SplitConfig
from ztfds.config.photometry import ScienceConfig
from ztfds.detrend.history import Departure, flags, judge
from ztfds.detrend.split import split
from ztfds.difference import run as difference
from ztfds.difference.products import CalibratedImage, DifferenceInputs, DifferenceProducts
from ztfds.formats.raw import RawCcd, RawQuadrant, read_raw
from ztfds.operations import alerting, ephemeris, storage
from ztfds.operations.afternoon import read_calibration, read_flat
from ztfds.operations.context import Context
from ztfds.operations.control.modes import under_modes
from ztfds.operations.forced import forced_photometry
from ztfds.operations.memory import give_back_freed_memory
from ztfds.operations.receive import Verdict, receive
from ztfds.registry import calibrations, exposures, products, references, streaks, summaries
from ztfds.registry.calibrations import BIAS, FLAT
from ztfds.registry.database import Cursor, session, transaction
from ztfds.registry.products import Parent, Step, Subject
from ztfds.registry.publisher import Published, Publisher
from ztfds.registry.runner import Executed, Outputs, Registered, Runner
from ztfds.science import run as science
from ztfds.science.pointing import centre_of, pointing
from ztfds.science.run import ScienceInputs, ScienceProducts
from ztfds.survey import ids
from ztfds.survey.errors import (
    BadData,
    BadDifference,
    BugOrConfiguration,
    FilesMissing,
    ReferenceMissing,
    RetryLater,
    ServiceDown,
    ZtfdsError,
)
from ztfds.survey.names import RawName
from ztfds.survey.states import CcdState, ExposureState

log = logging.getLogger(__name__)

SCIENCE_STEP, DIFFERENCE_STEP = Step("science", "3"), Step("difference", "5")
CATALOG_MARGIN_DEG = 0.15
"""Catalogs are read this far beyond a quadrant: pointing errors of 2 arcmin, and bright stars that throw light into it."""


class CalibrateConfig(StepConfig):
    """What determines a calibrated image: splitting and instrumental calibration together."""

    split: SplitConfig = Field(description="Overscan and linearity.")
    science: ScienceConfig = Field(description="Detrending and instrumental calibration.")


@dataclass(frozen=True)
class Quadrant:
    """What became of one quadrant.

    Attributes
    ----------
    rcid : int
    state : CcdState
        ``processed`` (difference made, good or not), ``calibrated`` (no reference), or ``bad``.
    reason : str
        Why bad or only calibrated, or why the difference is bad; else empty.
    code : str or None
        Code of the error class behind it.
    alerts : int
        Packets made now.
    """

    rcid: int
    state: CcdState
    reason: str = ""
    code: str | None = None
    alerts: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a CCD file.

    Attributes
    ----------
    filename : str
    exposure : str or None
        None for a file whose name says nothing.
    state : CcdState
    reason : str or None
    quadrants : tuple of Quadrant
        Empty when nothing was computed now.
    """

    filename: str
    exposure: str | None
    state: CcdState
    reason: str | None = None
    quadrants: tuple[Quadrant, ...] = ()


def process_ccd(
    context: Context,
    ccd_filename: str,
    arrival: datetime | str | None = None,
    run_id: str | None = None,
    attempt: int = 1,
    *,
    final: bool = False,
) -> Outcome:
    """Receive a CCD file, calibrate and difference its quadrants, queue their alerts.

    Parameters
    ----------
    context : Context
    ccd_filename : str
        Name of the file in the inbox (or of one that an earlier attempt received).
    arrival : datetime or ISO 8601 str, optional
        When the exposure arrived: latencies count from it.
    run_id, attempt : str, int
        Run and try of the orchestrator, for the record.
    final : bool
        True for the last attempt: what would be tried again later becomes the state ``failed`` with its reason.

    Returns
    -------
    Outcome
        Quarantined, duplicate and bad files are outcomes, not errors.

    Raises
    ------
    RetryLater, ServiceDown
        Nothing is lost; try again. The reason is kept with the file.
    BugOrConfiguration, other exceptions
        The file is in the state ``failed``; it may be tried again after the repair.
    """
    received = receive(context, ccd_filename, arrival, run_id)
    row = received.row
    ccd_filename = str(row["filename"]) if row else ccd_filename
    exposure = row["exposure"] if row else None
    if received.verdict in (Verdict.duplicate, Verdict.quarantined) or row is None:
        state = CcdState.duplicate if received.verdict is Verdict.duplicate else CcdState.quarantined
        return Outcome(ccd_filename, exposure, state, received.reason)
    state = CcdState(row["state"])
    finished = state in (CcdState.processed, CcdState.bad, CcdState.quarantined)
    if _is_calibration(received.raw, row) or (finished and not context.again):
        log.info("%s is %s: nothing to do", ccd_filename, state)
        return Outcome(ccd_filename, exposure, state, row["reason"])
    try:
        context = under_modes(context, RawName.parse(ccd_filename).nid)
        raw = received.raw or read_raw(context.archive / row["path"], context.camera.quadrant_shape)
        quadrants = tuple(_quadrant(context, raw, q, row, run_id, attempt) for q in raw.quadrants)
    except (RetryLater, ServiceDown) as error:
        _note(context, ccd_filename, row["exposure"], CcdState.failed if final else state, error)
        raise
    except Exception as error:
        _note(context, ccd_filename, row["exposure"], CcdState.failed, error)
        raise
    return _finish(context, ccd_filename, row["exposure"], quadrants)


def _is_calibration(raw: RawCcd | None, row: Mapping[str, Any]) -> bool:
    """Whether a file is a bias, dark or flat, which is done when it is received."""
    return raw.name.is_calibration if raw else not str(row["filename"]).split(".")[0].endswith("_o")


def _note(context: Context, filename: str, exposure: str, state: CcdState, error: BaseException) -> None:
    """Keep the reason of a failed attempt with the file, if the database can be reached."""
    code = error.code if isinstance(error, ZtfdsError) else "bug"
    try:
        with transaction(context.dsn) as cursor:
            exposures.set_ccd_state(cursor, filename, state, error_code=code, reason=f"{error}"[:1000])
            exposures.refresh(cursor, exposure)
    except ServiceDown:
        log.warning("%s failed (%s) and the database is away", filename, code)


def _finish(context: Context, filename: str, exposure: str, quadrants: tuple[Quadrant, ...]) -> Outcome:
    """Derive and store the state of a file from its quadrants."""
    state = ccd_state(quadrants)
    troubled = [quadrant for quadrant in quadrants if quadrant.reason]
    reason = "; ".join(f"rcid {q.rcid}: {q.reason}" for q in troubled) or None
    codes = sorted({q.code for q in troubled if q.code and q.state is not CcdState.processed})
    with transaction(context.dsn) as cursor:
        closed = exposures.is_closed(cursor, exposure)
        exposures.set_ccd_state(cursor, filename, state, error_code=",".join(codes) or None, reason=reason)
        exposures.refresh(cursor, exposure)
    if closed and any(
        quadrant.alerts for quadrant in quadrants
    ):  # its task was cleared alone: no other one will send them
        _publish_if_possible(context)
    log.info("%s: %s, %d alerts%s", filename, state, sum(q.alerts for q in quadrants), f" ({reason})" if reason else "")
    return Outcome(filename, exposure, state, reason, quadrants)


def ccd_state(quadrants: Sequence[Quadrant]) -> CcdState:
    """State of a CCD file: bad if every quadrant is; calibrated if one has no reference; else processed."""
    states = {quadrant.state for quadrant in quadrants}
    if states == {CcdState.bad}:
        return CcdState.bad
    return CcdState.calibrated if CcdState.calibrated in states else CcdState.processed


# -- one quadrant ------------------------------------------------------------------------------------------------------


def _quadrant(
    context: Context, raw: RawCcd, quadrant: RawQuadrant, row: Mapping[str, Any], run_id: str | None, attempt: int
) -> Quadrant:
    """Calibrate and difference one quadrant; bad data of its own are a result, everything else is raised."""
    runner = context.runner(run_id, attempt)
    try:
        calibrated = _calibrate(context, runner, raw, quadrant, row)
    except BadData as error:
        return Quadrant(quadrant.rcid, CcdState.bad, f"{error.code}: {error.message}", error.code)
    image = calibrated.products["sciimg"]
    if image["status"] != 1:
        return Quadrant(quadrant.rcid, CcdState.bad, str(image["meta"].get("reasons") or "STATUS 0"), "bad_data")
    if not context.difference:
        return Quadrant(
            quadrant.rcid, CcdState.calibrated, "differencing is switched off for this night", "switched_off"
        )
    give_back_freed_memory()
    try:
        return _difference(context, runner, raw, quadrant.rcid, calibrated, row)
    except ReferenceMissing as error:
        return Quadrant(quadrant.rcid, CcdState.calibrated, "no reference", error.code)
    except BadData as error:
        return Quadrant(quadrant.rcid, CcdState.processed, f"{error.code}: {error.message}", error.code)


def _subject(kind: str, raw: RawCcd, rcid: int) -> Subject:
    """What an execution on one quadrant is about."""
    jd = float(raw.header["OBSJD"])
    return Subject(
        dataset=f"{kind}/{raw.name.exposure}/rcid{rcid:02d}",
        exposure=raw.name.exposure,
        expid=ids.expid(jd),
        nid=raw.name.nid,
        field=raw.name.field,
        fid=raw.name.fid,
        ccdid=raw.name.ccdid,
        rcid=rcid,
        pid=ids.pid(jd, rcid),
        programid=int(raw.header["PROGRMID"]),
    )


def _standing(context: Context, subject: Subject, kind: str) -> Executed[Any] | None:
    """The registered products of a dataset, if they are whole: finished work is not done again in real time."""
    rows = products.best(context.dsn, subject.dataset)
    kept = [row["path"] for row in rows.values() if row["kind"] not in storage.STREAK_KINDS]  # the depot is emptied
    whole = kind in rows and all((context.archive / path).is_file() for path in kept)
    return Executed(rows[kind]["provenance_id"], rows, True, None) if whole else None


def _calibrate(
    context: Context, runner: Runner, raw: RawCcd, quadrant: RawQuadrant, row: Mapping[str, Any]
) -> Executed[ScienceProducts]:
    """P2 and P5 of one quadrant."""
    subject = _subject("sci", raw, quadrant.rcid)
    if SCIENCE_STEP.name not in context.again and (standing := _standing(context, subject, "sciimg")):
        return standing
    jd, settings = float(raw.header["OBSJD"]), context.config
    with session(context.dsn):
        bias_row = calibrations.valid(context.dsn, BIAS, quadrant.rcid, 0, jd)
        flat_row = calibrations.valid(context.dsn, FLAT, quadrant.rcid, raw.name.fid, jd)
        low_row = calibrations.low_flat_for(context.dsn, flat_row, jd)
        quality = settings.quality
        history = calibrations.split_history(context.dsn, quadrant.rcid, jd, quality.history, quality.max_age_d)
        parent = products.find(context.dsn, int(row["product_id"] or 0))
    if parent is None:
        raise FilesMissing(f"the raw file {row['filename']} is not registered", rcid=quadrant.rcid)
    ages = {"bias_age_d": float(bias_row["age_d"]), "flat_age_d": float(flat_row["age_d"])}
    applied = {"lampid": calibrations.lamp_of(flat_row), "lowflat": low_row["calid"] if low_row else 0}
    figures: dict[str, float] = {}
    doubts: list[Departure] = []

    def gather() -> ScienceInputs:
        camera = context.camera
        split_quadrant = split(quadrant, raw.header, settings.split)
        figures.update(split_quadrant.qa)
        doubts[:] = judge(figures, history, quality.split_rules, quality)
        sky = pointing(raw.header, quadrant.header, camera, raw.name.ccdid, quadrant.qid)
        with storage.reading("the bias, the flat or a catalog", quadrant.rcid):
            return ScienceInputs(
                split=split_quadrant,
                primary=raw.header,
                bias=read_calibration(context, bias_row, errors=False),
                flat=read_flat(context, flat_row, low_row),
                gaia=sky.catalog(partial(context.catalog.gaia, epoch_jd=jd), CATALOG_MARGIN_DEG),
                ps1=sky.catalog(context.catalog.ps1, CATALOG_MARGIN_DEG),
                camera=camera,
            )

    def compute() -> ScienceProducts:
        return science.run(gather(), settings.science)  # which alone holds the inputs, and lets their pixels go

    place = storage.science_place(raw.name, quadrant.qid)
    return runner.execute(
        SCIENCE_STEP,
        subject,
        [Parent.of(parent), *(Parent.of(used["data"]) for used in (bias_row, flat_row, low_row) if used)],
        CalibrateConfig(split=settings.split, science=settings.science),
        compute,
        lambda made: Outputs(
            storage.science_files(made, place),
            made.status,
            made.infobits,
            {**made.qa, **ages, "calibration_age_d": max(ages.values()), "split_flags": float(flags(doubts))},
            {
                **storage.header_values(made.header),
                **applied,
                "reasons": "; ".join(made.reasons),
                "doubts": "; ".join(map(str, doubts)),
            },
            partial(_register_calibrated, str(row["filename"]), subject, jd, figures, doubts),
        ),
    )


def _register_calibrated(
    filename: str,
    subject: Subject,
    jd: float,
    figures: Mapping[str, float],
    doubts: Sequence[Departure],
    cursor: Cursor,
    made: Registered,
) -> None:
    """When the file was calibrated, and the figures of its split quadrant for the history of the channel."""
    exposures.stamp(cursor, filename, "calibrated")
    about = {"exposure": subject.exposure, "rcid": subject.rcid, "fid": subject.fid, "jd": jd}
    verdict = {"flags": flags(doubts), "reasons": "; ".join(map(str, doubts)) or None}
    calibrations.record_split(
        cursor, {**about, "provenance_id": made.provenance_id, "metrics": dict(figures), **verdict}
    )


def _difference(
    context: Context,
    runner: Runner,
    raw: RawCcd,
    rcid: int,
    calibrated: Executed[ScienceProducts],
    row: Mapping[str, Any],
) -> Quadrant:
    """P6 of one quadrant, with candidates, names, packets and outbox in the registering transaction."""
    subject = _subject("diff", raw, rcid)
    with session(context.dsn):
        again = DIFFERENCE_STEP.name in context.again
        if not again and (standing := _standing(context, subject, "scimrefdiffimg")):
            return _judged(rcid, standing.products["scimrefdiffimg"], 0)
        reference = references.usable(context.dsn, raw.name.field, rcid, raw.name.fid)
    settings, alerts = context.config, [0]
    known: list[ephemeris.Known] = []

    def compute() -> DifferenceProducts:
        with storage.reading("the calibrated image", rcid):
            made = calibrated.value or storage.read_science(
                context.archive, calibrated.products, settings.science.photometry
            )
        if made.psf is None or made.psfcat is None:
            raise BadDifference("the calibrated image has no PSF", rcid=rcid)
        ra, dec = centre_of(made.header, made.pixels.shape)
        radius, jd = context.camera.radius_deg() + CATALOG_MARGIN_DEG, float(raw.header["OBSJD"])
        known[:] = [ephemeris.known_objects(context, ra, dec, radius, jd, float(raw.header["EXPTIME"]))]

        def inputs() -> DifferenceInputs:
            with storage.reading("the reference or a catalog", rcid):
                return DifferenceInputs(
                    science=cast(CalibratedImage, made),
                    reference=storage.read_reference(context.archive, reference["products"], whole=False),
                    gaia=context.catalog.gaia(ra, dec, radius, jd),
                    ps1=context.catalog.ps1(ra, dec, radius),
                    known=known[0].table,
                )

        return difference.run(inputs(), settings.difference)

    def outputs(made: DifferenceProducts) -> Outputs:
        place = storage.science_place(raw.name, rcid % 4 + 1)
        files = storage.difference_files(made, place)
        image = next(Path(file.path(1)).name for file in files if file.kind == "scimrefdiffimg")
        files += storage.streak_files(made, raw.name, rcid % 4 + 1, image)
        return Outputs(
            files,
            made.status,
            0,
            {**made.qa, **known[0].figures},
            {
                "reason": made.reason,
                "rfid": reference["rfid"],
                "reference_id": reference["reference_id"],
                "known_objects": known[0].note,
                "streaks": made.streaks.note,
            },
            _registrar(context, made, raw, rcid, reference, image, str(row["filename"]), alerts),
        )

    parents = [*calibrated.parents, Parent.of(reference["products"]["refimg"])]
    done = runner.execute(DIFFERENCE_STEP, subject, parents, settings.difference, compute, outputs)
    return _judged(rcid, done.products["scimrefdiffimg"], alerts[0])


def _judged(rcid: int, image: Mapping[str, Any], alerts: int) -> Quadrant:
    """The outcome of a registered difference image: a bad one makes no alerts, and says why."""
    if image["status"] == 1:
        return Quadrant(rcid, CcdState.processed, alerts=alerts)
    return Quadrant(rcid, CcdState.processed, f"bad difference: {image['meta'].get('reason')}", "bad_difference")


def _registrar(
    context: Context,
    made: DifferenceProducts,
    raw: RawCcd,
    rcid: int,
    reference: Mapping[str, Any],
    image: str,
    filename: str,
    alerts: list[int],
) -> Any:
    """The function that adds the rows of a difference image, whose file is called `image`, in its registering transaction."""
    config, trigger = context.config.alerts, context.config.difference.candidates
    where = {"field": raw.name.field, "rcid": rcid, "jd": float(raw.header["OBSJD"])}
    past = alerting.read_past(context.dsn, made, where, context.camera.radius_deg() * 1.1, config)
    known = alerting.facts(made, past, image, config)
    wanted = alerting.triggered(made, trigger) if context.alerts else []
    measured = forced_photometry(context.dsn, context.archive, made, wanted, past.limits, config.forced)
    packets = alerting.prepare(made, known, past, wanted, measured, config)

    def register(cursor: Cursor, registered: Registered) -> None:
        if registered.products["scimrefdiffimg"]["vbest"] == 0:  # an operator has locked an older version
            return
        counts = alerting.register_alerts(cursor, raw.name.exposure, made, known, packets, config)
        streaks.replace(cursor, raw.name.exposure, ids.pid(where["jd"], rcid), made.streaks.table)
        streaks.retire_files(cursor, registered.products["scimrefdiffimg"], storage.STREAK_KINDS)
        alerting.register_difference(
            cursor, raw.name.exposure, made, registered, int(reference["reference_id"]), counts
        )
        exposures.stamp(cursor, filename, "differenced")
        alerts[0] = counts[1]

    return register


# -- closing -----------------------------------------------------------------------------------------------------------


def close_exposure(context: Context, exposure: str, run_id: str | None = None) -> ExposureState | None:
    """Settle the state of an exposure whose files have all been tried, and publish what waits in the outbox.

    Parameters
    ----------
    context : Context
    exposure : str
        ``ztf_<ffd>``; any other name (of a run about unnamed files) only publishes.
    run_id : str, optional
        The run that ends with this call: what it received and did not finish, for whatever reason, is failed.

    Returns
    -------
    ExposureState or None
        None for an unknown exposure.

    Raises
    ------
    BrokerDown, DatabaseDown
        Try again later: the alerts stay in the outbox, the state is stored.
    """
    state = None
    with transaction(context.dsn) as cursor:
        cursor.execute("select 1 from exposures where exposure = %s", (exposure,))
        if cursor.fetchone():
            _give_up(cursor, exposure, run_id)
            state = exposures.refresh(cursor, exposure, closed=True)
            exposures.note_published(cursor, exposure)
    log.info("exposure %s: %s", exposure, state)
    try:
        publish_waiting(context)
    finally:
        summaries.renew_exposure(context.dsn, exposure)
    return state


def _give_up(cursor: Cursor, exposure: str, run_id: str | None) -> None:
    """Files whose last attempt ended with an error that was worth a retry are failed now, with that reason.

    Files of the run that ends without any reason are those whose worker was killed in every attempt: they are failed too.
    """
    cursor.execute(
        "update ccdfiles f set state = 'failed', error_code = coalesce(f.error_code, %(code)s),"
        " reason = case when f.error_code is null then %(reason)s else f.reason end"
        " from exposures e where e.exposure = f.exposure and e.imgtype = 'o' and f.exposure = %(exposure)s"
        " and f.state in ('received', 'ingested') and (f.error_code is not null or f.run_id = %(run_id)s)",
        {
            "exposure": exposure,
            "run_id": run_id,
            "code": BugOrConfiguration.code,
            "reason": "every attempt ended without a word: its worker was killed (out of memory?)",
        },
    )


def _publish_if_possible(context: Context) -> None:
    """Send what waits; where the broker is away it goes out with the next exposure."""
    try:
        publish_waiting(context)
    except ServiceDown as error:
        log.warning("alerts wait: %s", error)


def publish_waiting(context: Context) -> Published | None:
    """Send everything that waits in the outbox; None where no broker is configured (alerts wait).

    Raises
    ------
    BrokerDown
        Alerts wait and the broker does not answer.
    """
    if not context.kafka:
        log.info("no broker is configured: alerts wait in the outbox")
        return None
    return Publisher(context.dsn, context.kafka, fault=context.fault).publish()
