"""Step 4: a backbone in another precision, and whether its answers still hold."""
