"""Settings of the operators' day tasks: how long files are kept, and from which figures on a person has to look."""

from __future__ import annotations

from pydantic import Field

from ztfds.config.base import StepConfig


class Retention(StepConfig):
    """How long files, and what tasks said, are kept. Whatever the age: nothing goes whose content was not verified elsewhere just before.

    None: never removed. Operators set new versions with ``ztfds retention``; the newest version in the database counts.
    """

    inbox_days: float | None = Field(
        2.0,
        ge=0.5,
        description="Files left in the inbox whose identical content is in the archive (a move that was interrupted, a file"
        " put back by hand), d. Two nights, as the real system keeps its staging.",
    )
    duplicate_days: float | None = Field(
        7.0, ge=1, description="Second copies of accepted files, put aside in quarantine/duplicates, d."
    )
    quarantine_days: float | None = Field(
        60.0,
        ge=7,
        description="Unusable files of which a good copy was accepted later, d. Those without a good copy stay for ever.",
    )
    superseded_days: float | None = Field(
        30.0,
        ge=1,
        description="Files of product versions that are not served any more (vbest 0), d since the newer version; only when"
        " their content was read back from a complete backup. The registry keeps their rows.",
    )
    work_days: float | None = Field(
        1.0, ge=0.1, description="Unfinished files of processes that have died, d; they were never a product."
    )
    log_days: float | None = Field(
        30.0, ge=2, description="Airflow's task logs, d: 130 MB a night. What became of a task stays in the database."
    )
    message_days: float | None = Field(
        90.0,
        ge=7,
        description="Warnings and errors of tasks in the database, d. How each attempt ended is kept in the jobs for ever.",
    )


class Limits(StepConfig):
    """From which figures on the state of the house is a warning, or stops the night."""

    disk_free_warn: float = Field(0.10, ge=0, le=1, description="Free part of a disk below which it is a warning.")
    disk_free_stop: float = Field(
        0.03, ge=0, le=1, description="Free part of a disk below which the night cannot begin."
    )
    night_bytes: float = Field(
        4.8e12, gt=0, description="What a night of the full camera writes, bytes: 1 TB raw and 3.8 TB of products."
    )
    hours_to_full_warn: float = Field(24.0, gt=0, description="Predicted hours until a disk is full: a warning below.")
    bias_days: float = Field(7.0, gt=0, description="Age of the newest accepted bias of a channel: a warning above, d.")
    flat_days: float = Field(14.0, gt=0, description="The same for the flats of each filter in use, d.")
    ephemeris_days: float = Field(3.0, gt=0, description="Age of the orbits of the known objects: a warning above, d.")
    backup_days: float = Field(1.5, gt=0, description="Age of the newest backup: a warning above, d.")
    proof_days: float = Field(8.0, gt=0, description="Age of the last backup that was restored: a warning above, d.")
    outbox_minutes: float = Field(60.0, gt=0, description="Age of the oldest alert that waits: a warning above, min.")
    queue_hours: float = Field(
        12.0, gt=0, description="Age of the oldest exposure that is not closed: a warning above, h."
    )
    dead_rows: float = Field(0.2, gt=0, le=1, description="Part of the rows of a table that is dead: vacuumed above.")
    error_share: float = Field(
        0.02, gt=0, le=1, description="Part of the attempts of a day that fail: a warning above."
    )
    xid_age: int = Field(
        500_000_000,
        gt=0,
        description="Transactions since the oldest row was frozen: a warning above (the end is at 2e9).",
    )
    partitions_ahead: int = Field(7, ge=1, description="Nights for which partitions of candidates are made ahead.")
    packet_days: float = Field(
        30.0,
        ge=1,
        description="Packets of acknowledged alerts stay in the outbox for so long, d: the pages show their cutouts.",
    )


LIMITS = Limits()
