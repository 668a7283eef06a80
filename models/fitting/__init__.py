"""Step 5: the gate, its calibration, and what drift is measured against."""
