"""The operators' pages: what runs now, one exposure, one quadrant, the references; HTML from the database, read-only."""
