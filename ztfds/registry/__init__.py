"""The registry: what exists, where it came from and who made it, in PostgreSQL; plain SQL over short connections."""
