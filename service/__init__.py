"""The Tidegate service: image bytes in, a calibrated and gated class out."""
