"""Step 6: the sealed graph on images that nothing was fitted on."""
