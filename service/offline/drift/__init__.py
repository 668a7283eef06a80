"""The drift report of a set: what is noted of each image, kept with the parts, and reported."""
