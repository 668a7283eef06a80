"""Out-of-distribution detection: scores, conformal p-values and the gate's decision."""
