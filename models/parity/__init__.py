"""Step 2: prove that preprocessing and graph equal those of the source library."""
