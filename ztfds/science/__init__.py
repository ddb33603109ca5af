"""Instrumental calibration of one quadrant: from split pixels to a calibrated image with mask and catalogs."""
