"""Fixtures of the operations' tests."""

from embedded import database, postgres
from tiny import context, mountain

__all__ = ["context", "database", "mountain", "postgres"]
