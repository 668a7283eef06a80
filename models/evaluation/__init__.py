"""Step 6: evaluate the sealed graph on images on which nothing was fitted."""
