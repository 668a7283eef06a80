"""Step 2: proof that preprocessing and graph are those of the source library."""
