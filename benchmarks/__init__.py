"""What each step costs and how good it is, beside the tools that astronomers use for it, on full-size simulated quadrants."""
