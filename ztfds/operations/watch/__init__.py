"""The watch: what is measured of the running survey, when that is an alarm, and who is told."""
