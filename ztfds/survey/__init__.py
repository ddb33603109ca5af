"""The words of the survey: errors, states, bits, camera, fields, identifiers and names."""
