"""Step 5: fit the gate, the calibration and the drift reference."""
