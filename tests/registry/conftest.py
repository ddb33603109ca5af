"""Fixtures of the registry's tests."""

from broker import broker
from embedded import database, postgres

__all__ = ["broker", "database", "postgres"]
