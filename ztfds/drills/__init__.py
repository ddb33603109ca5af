"""Drills: each contingency of operations injected into a night of a sandbox, waited for and scored."""
