"""Calibration frames: stacks of biases and flats, and when they are accepted."""
