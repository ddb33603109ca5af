"""Fixtures of the registry's tests."""

from embedded import database, postgres

__all__ = ["database", "postgres"]
