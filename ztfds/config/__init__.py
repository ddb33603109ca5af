"""Frozen, typed and documented settings of every step, and the named sets that bundle them."""
