"""The states of CCD files and of exposures: every exposure is in exactly one of them at any time."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class CcdState(StrEnum):
    """State of one CCD file of an exposure."""

    received = "received"
    """The file came and is being looked at."""
    ingested = "ingested"
    """Verified, archived and registered; nothing computed from it yet."""
    quarantined = "quarantined"
    """Unusable as a file (truncated, mislabelled, ...): kept aside with a named reason."""
    duplicate = "duplicate"
    """The same file came before; this copy is not used."""
    processed = "processed"
    """Science and difference products of all its good quadrants exist."""
    calibrated = "calibrated"
    """Science products exist but no difference, for example because there is no reference yet."""
    bad = "bad"
    """The data are too bad: the calibration of every quadrant failed for a named reason."""
    failed = "failed"
    """A bug or a configuration mistake stopped it: a person has to look."""
    missing = "missing"
    """In the manifest of the night but never came."""

    @property
    def final(self) -> bool:
        """Whether nothing more is expected to happen by itself."""
        return self not in {CcdState.received, CcdState.ingested}


class ExposureState(StrEnum):
    """State of one exposure, derived from its CCD files."""

    arriving = "arriving"
    """Some of its CCD files have come, none is processed."""
    processing = "processing"
    """Work is going on."""
    processed = "processed"
    """Every CCD has science and difference products."""
    calibrated = "calibrated"
    """Every CCD has science products, at least one has no difference."""
    incomplete = "incomplete"
    """Some CCDs have products, others are missing, quarantined, bad or failed."""
    bad = "bad"
    """No CCD has products and the data are the reason."""
    failed = "failed"
    """No CCD has products, and at least one failed for a bug or a configuration mistake."""
    missing = "missing"
    """In the manifest of the night, and no CCD file ever came."""
    calibration = "calibration"
    """A bias, dark or flat whose files are ingested; the afternoon's pipelines use it."""


_SETTLED = {CcdState.processed, CcdState.calibrated}


def exposure_state(ccds: Sequence[CcdState], expected: int, *, calibration: bool = False) -> ExposureState:
    """Derive the state of an exposure from those of its CCD files.

    Parameters
    ----------
    ccds : sequence of CcdState
        One per CCD file that came or that the manifest named; duplicates are ignored.
    expected : int
        Number of CCD files that a whole exposure of this camera has.
    calibration : bool
        True for biases, darks and flats, which are done when they are ingested.

    Returns
    -------
    ExposureState
        Fewer files than `expected` count as files still to come.
    """
    states = [state for state in ccds if state is not CcdState.duplicate]
    if calibration:
        return _calibration_state(states, expected)
    if any(not state.final for state in states) or (states and len(states) < expected):
        waiting = all(state in {CcdState.received, CcdState.ingested} for state in states)
        return ExposureState.arriving if waiting else ExposureState.processing
    if not states:
        return ExposureState.arriving
    return _closed_state(states)


def _closed_state(states: Sequence[CcdState]) -> ExposureState:
    """State when every CCD is in a final state."""
    done = [state for state in states if state in _SETTLED]
    if len(done) == len(states):
        every = all(state is CcdState.processed for state in states)
        return ExposureState.processed if every else ExposureState.calibrated
    if done:
        return ExposureState.incomplete
    if all(state is CcdState.missing for state in states):
        return ExposureState.missing
    return ExposureState.failed if CcdState.failed in states else ExposureState.bad


def _calibration_state(states: Sequence[CcdState], expected: int) -> ExposureState:
    """State of a bias, dark or flat exposure."""
    good = [state for state in states if state in _SETTLED | {CcdState.ingested}]
    if good:
        return ExposureState.calibration if len(good) >= expected else ExposureState.arriving
    if states and all(state is CcdState.missing for state in states):
        return ExposureState.missing
    if states and len(states) >= expected and all(state.final for state in states):
        return ExposureState.failed if CcdState.failed in states else ExposureState.bad
    return ExposureState.arriving


class TelemetryState(StrEnum):
    """State of one file of telemetry."""

    ingested = "ingested"
    """Verified, archived, its readings are in the database."""
    late = "late"
    """The same, but it came after the manifest of its night."""
    duplicate = "duplicate"
    """The same file came before; this copy is in quarantine, the first one counts."""
    truncated = "truncated"
    """It ends too early: in quarantine."""
    mislabelled = "mislabelled"
    """It is not what its name says, or differs from an accepted file of its name: in quarantine."""
    unreadable = "unreadable"
    """It is no table of telemetry: in quarantine."""
    missing = "missing"
    """In the manifest of the night but never came."""

    @property
    def usable(self) -> bool:
        """Whether its readings are in the database."""
        return self in {TelemetryState.ingested, TelemetryState.late}
