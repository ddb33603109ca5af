"""Fixtures of the tests of drills."""

from embedded import database, postgres

__all__ = ["database", "postgres"]
