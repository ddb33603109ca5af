"""Fixtures of the alerts' tests."""

from embedded import database, postgres

__all__ = ["database", "postgres"]
