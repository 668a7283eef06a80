"""The Tidegate service: classifies images with calibrated probabilities and an OOD gate."""
