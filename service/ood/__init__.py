"""Is this input like the calibration images? Scores, conformal p-values and the decision."""
