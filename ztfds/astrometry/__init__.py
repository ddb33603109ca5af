"""The astrometric solution: detections of one quadrant tied to Gaia, as a TPV world coordinate system."""
