"""A lightweight HTTP client, and the images that it sends."""
