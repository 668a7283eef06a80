"""Step 1: a trained model, as its library keeps it, to a backbone and the spec of its training."""
