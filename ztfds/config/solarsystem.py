"""Parameters of known Solar-System objects: what makes a good set of orbits, how a night is prepared and searched."""

from __future__ import annotations

from pydantic import Field

from ztfds.config.base import NON_CRITICAL, StepConfig


class RefreshConfig(StepConfig):
    """When a new set of orbits or observatories takes over; else the last good one stays."""

    timeout_s: float = Field(60.0, gt=0, description="Longest wait for an answer or for the next piece of a file, s.")
    total_timeout_s: float = Field(1800.0, gt=0, description="Longest time of one download, s: 90 MB at 50 kB/s.")
    tries: int = Field(3, ge=1, description="Downloads tried before the refresh gives up for this time.")
    pause_s: float = Field(20.0, ge=0, description="Pause before the second try, s; doubled each time.")
    max_bytes: int = Field(2_000_000_000, gt=0, description="Largest file, unpacked, bytes: MPCORB has 0.3e9 in 2026.")
    min_records: dict[str, int] = Field(
        {"mpcorb": 1, "comets": 1, "obscodes": 1}, description="Fewest records of a first set, by kind."
    )
    max_shrink: float = Field(
        0.02, ge=0, le=1, description="Largest loss of records against the last good set: a cut-off file loses more."
    )
    max_growth: float = Field(
        0.5, ge=0, description="Largest gain of records, as a share: survey releases bring a tenth, doubled files 1."
    )
    max_bad_fraction: float = Field(
        0.002, ge=0, le=1, description="Largest share of lines that cannot be read: some hyperbolic orbits are normal."
    )
    max_age_d: float = Field(
        30.0,
        gt=0,
        description="Oldest newest observation (MPCORB) of a set that is accepted, d: daily files hold last night's.",
    )
    compared: int = Field(20_000, ge=1, description="Orbits of both sets that are compared, evenly spread: 0.3 s.")
    compared_after_d: float = Field(
        30.0,
        gt=0,
        description="They are compared at the night and so long after it, d: a wrong period shows only then.",
    )
    moved_arcsec: float = Field(
        60.0, gt=0, description="Heliocentric change of place between two sets that counts as moved, arcsec."
    )
    max_moved_fraction: float = Field(
        0.05, ge=0, le=1, description="Largest share of moved orbits: poor orbits improve, well-known ones do not jump."
    )
    keep_sets: int = Field(7, ge=2, description="Good sets of each kind whose files are kept for a roll-back.")
    keep_nights: int = Field(
        30,
        ge=1,
        description="Prepared nights whose files are kept, the latest made; old ones are prepared for reprocessing.",
    )


class SolarSystemConfig(StepConfig):
    """From orbits to known objects on an image."""

    refresh: RefreshConfig = Field(
        default_factory=RefreshConfig, description="Acceptance of new sets.", json_schema_extra=NON_CRITICAL
    )
    site: str = Field("I41", description="MPC code of the observatory.")
    epoch_of_day: float = Field(
        0.375,
        ge=0,
        lt=1,
        description="Time of prepared states, d after 0h of the night's date: 9h, Palomar's midnight.",
    )
    cell_order: int = Field(5, ge=0, le=8, description="HEALPix order of the prepared file: cells of 1.8 deg.")
    fast_deg_per_day: float = Field(
        1.0, gt=0, description="Objects faster than this are tried at every place; a half per cent of all."
    )
    faintest_mag: float = Field(
        23.0, description="Faintest predicted V of a known object that is matched, mag: 1.5 below the deepest image."
    )
    max_state_age_d: float = Field(
        10.0, gt=0, description="Farthest prepared night that is used, d: two-body motion is off by 0.2 arcsec then."
    )
    stale_d: float = Field(
        7.0, gt=0, description="A set of orbits older than this is reported as stale, d: new objects are missing."
    )

    @classmethod
    def tiny(cls) -> SolarSystemConfig:
        """The same for the small camera: simulated sets have few orbits."""
        return cls()
