"""From uploaded bytes to pixels: bounded decoding and preprocessing, for service and models."""
