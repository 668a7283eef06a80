"""Step 3: read image folders as disjoint splits, and run a backbone over them."""
