"""What people decide while the survey runs: degraded modes of a night, verdicts on data, reprocessing."""
