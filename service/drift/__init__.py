"""Has what arrives changed since calibration? Pure: values in, numbers out, no clock."""
