"""Pixel corrections of one quadrant: overscan and linearity, then bias and flat."""
