"""Makes bundles: checkpoints to sealed graphs, photographs to gates. Serving never imports it."""
