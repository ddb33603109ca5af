"""Training of the real/bogus models: simulated nights in, small model files out; no part of the nightly work."""
