"""Step 1: import a trained model as a backbone and the spec of its preprocessing in training."""
