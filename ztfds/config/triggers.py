"""What starts which work, and which work comes first: rules that operators can read and change without a deploy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from ztfds.config.base import StepConfig

NAME = "^[a-z][a-z0-9_]*$"


@dataclass(frozen=True)
class Event:
    """Something that starts work.

    Attributes
    ----------
    name, words : str
    arrives : bool
        Whether it is something that arrives in the inbox; exactly one rule says what becomes of it.
    grouped : bool
        Whether its files wait for the others of their exposure.
    """

    name: str
    words: str
    arrives: bool = True
    grouped: bool = False


EVENTS = (
    Event("calibration_frame", "biases, darks and flats", grouped=True),
    Event("calibration_manifest", "the list of the afternoon's calibration frames"),
    Event("sky_exposure", "exposures of the sky", grouped=True),
    Event("telemetry_file", "telemetry of telescope and weather"),
    Event("other_file", "files with names that nobody knows; they are looked at and put aside"),
    Event("night_manifest", "the list of the files of the night"),
    Event("night_settled", "every exposure of a night is in a final state", arrives=False),
)
"""Everything that starts work by rule; forms and timetables of DAGs start the rest."""
BY_NAME = {event.name: event for event in EVENTS}


class Trigger(StepConfig):
    """One rule: an event starts a run of a DAG."""

    name: str = Field(pattern=NAME, description="Name of the rule.")
    event: Literal[
        "calibration_frame",
        "calibration_manifest",
        "sky_exposure",
        "telemetry_file",
        "other_file",
        "night_manifest",
        "night_settled",
    ] = Field(description="What has happened (table EVENTS).")
    dag: str = Field(pattern=NAME, description="The DAG of which a run is started; it must be among the works.")
    order: int = Field(50, ge=0, le=99, description="Order of sending what waits in the inbox together: smaller first.")
    newest_first: bool = Field(True, description="Among its like the newest is sent first; false: the oldest.")
    enabled: bool = Field(True, description="False: nothing is started; what has arrived waits in the inbox.")
    patience_s: float | None = Field(
        None,
        ge=0,
        le=3600,
        description="An incomplete exposure is sent so long after its first file, s; none: as the services were started.",
    )


class Work(StepConfig):
    """How urgent the tasks of a DAG are."""

    dag: str = Field(pattern=NAME, description="The DAG.")
    weight: int = Field(
        ge=1, le=10_000, description="Of tasks that wait for the same pool, the greater weight starts first."
    )
    deadline_min: float | None = Field(
        None, gt=0, le=1440, description="A run is late so long after the arrival of its data, min; none: never."
    )
    words: str = Field("", description="What it is, for people.")


TRIGGERS = (
    Trigger(name="calibration_frames", event="calibration_frame", dag="exposure", order=0),
    Trigger(name="calibrations", event="calibration_manifest", dag="calibration", order=10),
    Trigger(name="sky", event="sky_exposure", dag="exposure", order=20),
    Trigger(name="telemetry", event="telemetry_file", dag="telemetry", order=30, newest_first=False),
    Trigger(name="others", event="other_file", dag="exposure", order=40),
    Trigger(name="end_of_night", event="night_manifest", dag="end_of_night", order=50),
    Trigger(name="references", event="night_settled", dag="reference"),
)
"""With what a survey begins. Calibrations are sent first, because science of a first night cannot begin without them."""

WORKS = (
    Work(dag="exposure", weight=1000, deadline_min=10, words="real time: from the raw file to the alert"),
    Work(dag="calibration", weight=900, words="biases and flats of the afternoon"),
    Work(dag="reference", weight=300, words="reference images"),
    Work(dag="end_of_night", weight=200, words="accountability, report, alert archive"),
    Work(dag="telemetry", weight=150, words="telemetry of telescope and weather"),
    Work(dag="reprocess_work", weight=50, words="reprocessing"),
    Work(dag="smooth_maps", weight=40, words="low-frequency flats and lamp corrections"),
    Work(dag="source_matching", weight=10, words="monthly source matching"),
)
"""Real time, calibration, references, end of night, reprocessing, monthly work: in this order on one pool of workers."""


class TriggerRules(StepConfig):
    """All rules in force."""

    triggers: tuple[Trigger, ...] = Field(TRIGGERS, description="What starts what; names are unique.")
    works: tuple[Work, ...] = Field(WORKS, description="How urgent each DAG is; DAGs are unique.")

    @model_validator(mode="after")
    def _consistent(self) -> TriggerRules:
        """Names differ, every arrival has one rule, every started DAG has a weight."""
        for what, names in (
            ("rules", [rule.name for rule in self.triggers]),
            ("works", [work.dag for work in self.works]),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"names of {what} must differ: {', '.join(twice)}")
        events: list[str] = [rule.event for rule in self.triggers]
        for event in EVENTS:
            if event.arrives and events.count(event.name) != 1:
                raise ValueError(f"{event.name} needs exactly one rule, there are {events.count(event.name)}")
        if strange := sorted({rule.dag for rule in self.triggers} - {work.dag for work in self.works}):
            raise ValueError(f"no weight is given for {', '.join(strange)}")
        return self

    def of(self, event: str) -> Trigger:
        """The rule of something that arrives."""
        return next(rule for rule in self.triggers if rule.event == event)

    def following(self, event: str) -> list[str]:
        """DAGs that an event starts."""
        return [rule.dag for rule in self.triggers if rule.event == event and rule.enabled]

    def work(self, dag: str) -> Work | None:
        """How urgent a DAG is; None for one without a rule."""
        return next((work for work in self.works if work.dag == dag), None)
