"""When to raise an alarm: rules on the figures of the watch, which operators can change without a deploy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ztfds.config.base import StepConfig


class AlarmRule(StepConfig):
    """One rule: a figure of the watch on the wrong side of a limit for some time."""

    name: str = Field(pattern="^[a-z][a-z0-9_]*$", description="Name of the rule, and of its section in the runbook.")
    metric: str = Field(
        description="Figure of the watch, e.g. ztfds_outbox_oldest_seconds (ztfds/operations/watch/metrics.py)."
    )
    above: float | None = Field(None, description="Alarm when the figure is greater, in its own unit.")
    below: float | None = Field(None, description="Alarm when the figure is less, in its own unit.")
    hold_s: float = Field(60.0, ge=0, description="It must last so long, s: short spikes wake nobody.")
    severity: Literal["warning", "critical"] = Field("warning", description="critical: somebody must act tonight.")
    words: str = Field(min_length=5, description="What is wrong, in words; {value} and {subject} are filled in.")

    @model_validator(mode="after")
    def _has_one_limit(self) -> AlarmRule:
        """Exactly one of the two limits."""
        if (self.above is None) == (self.below is None):
            raise ValueError("give one of above and below")
        return self

    @model_validator(mode="after")
    def _words_can_be_filled(self) -> AlarmRule:
        """Nothing but the figure and what it is about is known when it is raised."""
        try:
            self.words.format(value=1.0, subject="x")
        except (KeyError, IndexError) as error:
            raise ValueError(f"words hold something that is not known: {error}") from error
        return self

    def broken_by(self, value: float) -> bool:
        """Whether a value is on the wrong side."""
        return value > self.above if self.above is not None else value < (self.below or 0.0)


def _rule(name: str, metric: str, words: str, **more: object) -> AlarmRule:
    return AlarmRule.model_validate({"name": name, "metric": metric, "words": words, **more})


DEFAULT = (
    _rule("service_down", "ztfds_component_up", "{subject} does not answer", below=1, hold_s=10, severity="critical"),
    _rule("queue_growing", "ztfds_backlog_oldest_seconds", "an exposure is unfinished after {value:.0f} s", above=900, severity="critical"),
    _rule("inbox_stuck", "ztfds_inbox_oldest_seconds", "a file lies in the inbox for {value:.0f} s", above=600),
    _rule("outbox_old", "ztfds_outbox_oldest_seconds", "an alert waits for the broker for {value:.0f} s", above=600, severity="critical"),
    _rule("disk_full_soon", "ztfds_disk_full_hours", "{subject} will be full in {value:.1f} h", below=24, hold_s=600),
    _rule("disk_low", "ztfds_disk_free_fraction", "{subject} has {value:.3f} of its space left", below=0.05, severity="critical"),
    _rule("calibration_stale", "ztfds_calibration_age_days", "the newest {subject} is {value:.1f} d old", above=3),
    _rule("references_failing", "ztfds_references_failed", "{value:.0f} references failed in 24 h", above=10),
    _rule("differences_bad", "ztfds_differences_bad_fraction", "{value:.2f} of the night's differences are bad", above=0.2, hold_s=300),
    _rule("files_failed", "ztfds_files_failed", "{value:.0f} files of the night failed", above=0, hold_s=0),
    _rule("nothing_arrives", "ztfds_arrival_gap_seconds", "nothing arrived for {value:.0f} s", above=1800, severity="critical"),
    _rule("manifest_missing", "ztfds_manifest_missing", "{value:.0f} nights were reported without their manifest", above=0, hold_s=0),
    _rule("deadline_missed", "ztfds_deadline_missed_fraction", "{value:.2f} of the last hour's exposures missed 10 minutes", above=0.05),
    _rule("backup_old", "ztfds_backup_age_days", "the last good backup is {value:.1f} d old", above=2),
    _rule("telling_failed", "ztfds_telling_failed", "people are not reached by {subject}", above=0, hold_s=0),
    _rule("ephemerides_old", "ztfds_ephemerides_age_days", "the orbits of known objects are {value:.1f} d old", above=3),
)  # fmt: skip
"""What a new survey begins with."""


class AlarmRules(StepConfig):
    """All rules in force."""

    rules: tuple[AlarmRule, ...] = Field(DEFAULT, description="Rules; names are unique.")

    @model_validator(mode="after")
    def _names_differ(self) -> AlarmRules:
        """A name is the key of an open alarm."""
        names = [rule.name for rule in self.rules]
        if len(set(names)) < len(names):
            raise ValueError(f"names of rules must differ: {sorted(names)}")
        return self
