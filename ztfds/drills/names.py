"""Names of the contingencies that are drilled, and what each is in words; imports nothing."""

TITLES = {
    "database_down": "operations database down",
    "broker_down": "Kafka down",
    "store_full": "archive store full, then lagging",
    "link_backlog": "link down, then a back-log at full rate in any order",
    "worker_killed": "worker killed in mid-quadrant",
    "scheduler_restarted": "scheduler, inbox watcher and api-server restarted in mid-night",
    "bad_files": "raw files truncated, unreadable, mislabelled, doubled, late, incomplete",
    "wrong_metadata": "program id or pointing wrong",
    "calibration_missing": "calibration missing",
    "reference_missing": "reference missing",
    "night_resent": "operator re-sends a night",
    "detection_repeated": "runs repeated, worker killed, broker away: one alert a detection",
}
"""In the order in which `ztfds drill` runs them."""
