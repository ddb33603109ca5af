"""Image differencing (P6): science minus reference, significance, candidates, quality."""
