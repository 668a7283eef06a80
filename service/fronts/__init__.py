"""Front-end processes around the process of the engine."""
