"""Known Solar-System objects: orbits read, carried to a night, and found on an image."""
