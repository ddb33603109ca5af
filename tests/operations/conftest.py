"""Fixtures of the operations' tests."""

from broker import broker
from embedded import database, postgres
from prepared import prepared, ready
from tiny import context, mountain

__all__ = ["broker", "context", "database", "mountain", "postgres", "prepared", "ready"]
