"""Step 3: image folders as disjoint splits, and what a backbone answers on them."""
