"""Letting raw files in: verification against the name, the camera, the grid and themselves."""
